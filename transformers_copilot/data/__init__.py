"""Training data as people have it: files and folders of every usual kind, and every usual layout of their rows."""

from .training_data import TrainingData, load_training_data


__all__ = ["TrainingData", "load_training_data"]
