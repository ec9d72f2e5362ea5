"""Compile networks in place."""

from __future__ import annotations

from torch import nn


def compile_blocks(network: nn.Module) -> None:
    """Compile each block of a network by `torch.compile`; names of parameters stay.

    Blocks, the members of its lists of modules, share one compilation, which takes seconds where
    the whole network would take minutes. A copy of the network is not compiled.
    """
    for module in network.modules():
        if isinstance(module, nn.ModuleList):
            for block in module:
                block.compile()
