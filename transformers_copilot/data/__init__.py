"""Training data as people have it: files and folders of every usual kind, and every usual layout of their rows."""
