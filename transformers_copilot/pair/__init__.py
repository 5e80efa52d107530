"""Everything that a checkpoint needs to load and to generate. It is flat, as transformers copies it beside the weights: what it imports
from elsewhere in the package, it imports inside a function."""
