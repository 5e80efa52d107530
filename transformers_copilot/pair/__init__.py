"""Everything that a checkpoint needs to load and to generate.

It is flat, as transformers copies it beside the weights. What a method needs of the rest of the package, it imports
when it is called.
"""
