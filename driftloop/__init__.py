"""driftloop: streaming inference that notices drift, retrains and swaps in the better model live."""

__version__ = "0.1.0"
