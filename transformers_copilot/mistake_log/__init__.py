"""The Mistake Log: what a round keeps, the log in memory, a record in files, and both as tables."""
