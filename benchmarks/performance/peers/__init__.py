"""Peers: programs of other tools that do the scorer's work, events in and labels out, without loss.

Each reads JSON events from one topic and writes a label for each to another, at least once, in the way of its tool's
documentation. All have the same encoder in full precision, as a Hugging Face pipeline, and the same head.
`benchmarks.performance.throughput` measures them. They have their own environment, locked in `uv.lock` beside this.
"""
