"""`--dry-run`: every config of a table composed, its parameters and FLOPs counted.

By the sizes of the hosts' DIT (tests compare them with torch's `FlopCounterMode`): matrix products,
two FLOPs a multiply-add. Optimizer, norms, softmax and the float64 draws of sampling are not in it.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import NamedTuple

from .chain import TEACHER_STEPS, TRAIN, Chain, row
from .compose import embedded
from .experiments import METHODS, Method, Table

GPT2_TOKENS = 50_257
A100, MFU = 312e12, 0.4  # bfloat16, dense, by its data sheet; the share that is assumed


class Counted(NamedTuple):
    """One sequence through a network: FLOPs of a forward pass.

    trunk: up to the output projection. head: that projection, of every row. A backward pass
    costs twice the forward.
    """

    parameters: int
    trunk: int
    head: int

    def step(self, batch: int, method: Method) -> float:
        """Return the FLOPs of an optimizer step: student both ways, teacher forward."""
        # The teacher's rows are projected once.
        heads = 3 * method.losses + bool(method.teacher_passes)
        trunks = 3 + method.teacher_passes
        return batch * (trunks * self.trunk + method.head_rows * heads * self.head)


def count(model: Mapping, *, uniform: bool = False) -> Counted:
    """Count a network of the config section `model` over GPT-2's vocabulary.

    A masked model has one token more than GPT-2, its mask; a uniform-state one has not.
    """
    d, c, blocks, length = (model[k] for k in ("hidden_size", "cond_dim", "n_blocks", "length"))
    vocab, sigma = GPT2_TOKENS + (not uniform), 256 * c + c * c  # MLP of the time
    attention, mlp, adaln = 4 * d * d, 8 * d * d, 6 * c * d
    trunk = blocks * 2 * ((attention + mlp) * length + 2 * length**2 * d + adaln)
    trunk += 2 * (sigma + 2 * c * d)  # and the last layer's adaLN
    # Embedding, then blocks and last layer: two norms, biases but for the attention's.
    parameters = vocab * d + sigma + 2 * c + d + 2 * (c + 1) * d + (d + 1) * vocab
    parameters += blocks * (2 * d + attention + mlp + 5 * d + 6 * (c + 1) * d)
    return Counted(parameters, trunk, 2 * d * vocab * length)


def hours(flops: float, devices: int = 2) -> float:
    """Return the hours that A100s take at MFU of their peak."""
    return flops / (devices * A100 * MFU) / 3600


def text(table: Table, given: Namespace) -> str:
    """Return the table of costs, as Markdown. Raises Hydra's error for what does not compose."""
    chain, whole = Chain(table, given), 0.0
    head = ("training", "parameters", "batch", "steps", "FLOP/step", "FLOP", "hours")
    lines = [
        f"# {table.title}: what it costs\n",
        f"Counted on the meta device, not measured; hours are FLOPs over {given.devices} devices "
        f"of {A100 / 1e12:.0f} TFLOP/s at {MFU:.0%} MFU.\n",
        row(*head),
        "| --- " * len(head) + "|",
    ]
    runs = []  # (name, method, overrides) of every training
    if given.teacher == TRAIN:
        recipe = table.teacher_recipe
        steps = f"trainer.max_steps={TEACHER_STEPS[recipe]}"
        own = ["algo=mdlm", f"+recipe={recipe}", steps, *chain.common()]
        runs.append((recipe, METHODS["mdlm"], own))
    for run in table.trained:
        own = [*chain.overrides(run, given.teacher or "TEACHER"), *chain.length(run)]
        runs.append((run.name, run.method, [*own, f"trainer.max_steps={chain.max_steps}"]))
    for name, method, overrides in runs:
        config = embedded(overrides)
        counted = count(config.model, uniform=method.uniform)
        batch, steps = config.loader.global_batch_size, config.trainer.max_steps
        step = counted.step(batch, method)
        flop = step * steps
        whole += flop
        cells = [name, f"{counted.parameters / 1e6:.1f}M", f"{batch}", f"{steps:,}"]
        lines.append(row(*cells, f"{step:.2e}", f"{flop:.2e}", f"{hours(flop, given.devices):.1f}"))
    total = f"{whole:.2e} FLOP, {hours(whole, given.devices):.1f} hours"
    return "\n".join([*lines, f"\nIn all {total}; sampling is not in it."])
