"""The rows of the paper's tables: `python -m benchmarks.paper.run ROW`, of the descriptions in `examples/paper/`."""
