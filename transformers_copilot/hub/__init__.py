"""A pair or its Copilot alone in a repository: files, cards, pushes, and which Pilot belongs to it."""
