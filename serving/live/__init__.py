"""State of a running loop, accumulated from its topics, and the thread that follows them."""
