"""Labels: annotator trust and active learning."""
