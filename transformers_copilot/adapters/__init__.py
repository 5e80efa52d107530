"""Adapters of PEFT in a pair's parts."""
