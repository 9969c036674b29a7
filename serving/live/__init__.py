"""Live state: what the topics say now, for the page, the terminal and Prometheus."""
