"""Serving: the API, the dashboard, the terminal views, the reports and the audit of a stream."""
