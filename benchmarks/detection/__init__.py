"""Detection: delay and false alarms of drift detectors."""
