"""Runtime: the batch loop on Faust, offsets, liveness and dead letters."""
