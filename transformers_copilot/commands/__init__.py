"""The command line `transformers-copilot`: a module a command. The library does not import them."""
