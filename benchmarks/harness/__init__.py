"""Harness: streams, faults, stub models and measurements that the benchmarks and tests share."""
