"""The package's version, said once: packaging, the package and the code that travels with a checkpoint read it here."""

__version__ = "0.2.0"
