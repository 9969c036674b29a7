"""Performance: throughput, latency and cost of the processes."""
