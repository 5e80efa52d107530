"""Two programs: `cost` measures time and memory, `experiments` measures what a Copilot gains."""
