"""What people see: the live view, the summary."""
