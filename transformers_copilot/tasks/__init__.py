"""The tasks of the paper: loading, prompts and targets, answers and metrics."""
