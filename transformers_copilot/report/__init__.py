"""Seeing the mistakes: the analysis of a log, pictures, and the page that `transformers-copilot report` writes."""
