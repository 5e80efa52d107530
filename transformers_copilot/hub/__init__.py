"""Pairs and Copilots on the Hub: their files, cards and pushes, and which Pilot a Copilot belongs to."""
