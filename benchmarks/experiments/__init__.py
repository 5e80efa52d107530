"""What a Copilot gains: `run` makes the runs of `descriptions/`, `render` writes their tables, `quick` checks some."""
