"""The two Faust apps: the scorer and the monitor."""
