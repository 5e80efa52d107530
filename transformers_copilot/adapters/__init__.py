"""PEFT's adapters in a pair: put into its parts, saved, loaded, merged."""
