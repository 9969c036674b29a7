"""What people would write with other tools for what the scorer does: events in, labels out, nothing lost.

Each is a program of its own that reads JSON events from one topic and writes a label for each to another, at least
once, in the way that its documentation shows. All have the same encoder in full precision, as a Hugging Face pipeline,
and the same head. `benchmarks.performance.throughput` measures them; they have an environment of their own, `uv.lock` beside this.
"""
