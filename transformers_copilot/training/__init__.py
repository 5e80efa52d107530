"""The trainer of a pair, its arguments, its optimizers and checkpoints, and how λ is chosen."""
