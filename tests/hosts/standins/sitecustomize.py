"""What forks of the hosts import and a CPU, or this environment, lacks: first on the path.

`flex_attention` has no backward pass on CPUs: here it is plain attention, never compiled.
Packages that only measure and log (MAUVE, operations counted, wandb) are empty.
"""

import importlib.util
import runpy
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.nn.attention import flex_attention

torch_compile = torch.compile


def plain(query, key, value, block_mask=None):
    assert block_mask is None, "masks of blocks are not in these tests"
    return F.scaled_dot_product_attention(query, key, value)


def compiled(model=None, **options):
    return plain if model is plain else torch_compile(model, **options)


flex_attention.flex_attention, torch.compile = plain, compiled
for name in ("mauve", "calflops", "evaluate", "tiktoken", "wandb"):
    if importlib.util.find_spec(name) is None:
        # With a spec, by which Lightning and transformers ask whether a package is there.
        sys.modules[name] = importlib.util.module_from_spec(ModuleSpec(name, None))

# The environment's own, which this one hides.
for path in sys.path:
    own = Path(path) / "sitecustomize.py"
    if own.is_file() and own != Path(__file__):
        runpy.run_path(str(own))
        break
