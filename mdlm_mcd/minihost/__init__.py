"""A small host of our own in the public layout of the Duo code base.

Names, signatures, config keys and the DiT's parameter names are those of the public
repository, so the adapter that serves Duo serves this host too, and weights pass between
them. It imports no distiller: `main` resolves whatever class the `algo` config names.
"""
