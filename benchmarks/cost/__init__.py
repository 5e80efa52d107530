"""What a Copilot costs: `python -m benchmarks.cost.speed` prints time and memory as ratios to the Pilot alone."""
