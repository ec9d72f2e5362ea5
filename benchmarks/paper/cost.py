"""`--dry-run`: every config of a table composed, its parameters and FLOPs counted.

By torch's own count of the embedded host's network on the meta device: matrix products, two FLOPs a
multiply-add. Optimizer, norms, softmax and the float64 draws of sampling are not in it.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from mdlm_mcd.models.dit import DIT

from .chain import TEACHER_STEPS, TRAIN, Chain, header, row
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


def count(model: Mapping, vocab: int = GPT2_TOKENS + 1) -> Counted:
    """Count a network of the config section `model` over `vocab` tokens, the mask one of them.

    A uniform-state model has no mask: one token less, below every digit that is shown.
    """
    length = model["length"]
    with torch.device("meta"):
        network = DIT({"model": model, "algo": {"causal_attention": False}}, vocab)
        inputs = torch.zeros(1, length, dtype=torch.long), torch.zeros(1)
    with FlopCounterMode(display=False) as counter:
        network(*inputs)
    head = 2 * model["hidden_size"] * vocab * length
    parameters = sum(p.numel() for p in network.parameters())
    return Counted(parameters, counter.get_total_flops() - head, head)


def hours(flops: float, devices: int = 2) -> float:
    """Return the hours that A100s take at MFU of their peak."""
    return flops / (devices * A100 * MFU) / 3600


def text(table: Table, given: Namespace) -> str:
    """Return the table of costs, as Markdown. Raises Hydra's error for what does not compose."""
    chain, whole = Chain(table, given), 0.0
    lines = [
        f"# {table.title}: what it costs\n",
        f"Counted on the meta device, not measured; hours are FLOPs over {given.devices} devices "
        f"of {A100 / 1e12:.0f} TFLOP/s at {MFU:.0%} MFU.\n",
        *header("training", "parameters", "batch", "steps", "FLOP/step", "FLOP", "hours"),
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
        counted = count(config.model)
        batch, steps = config.loader.global_batch_size, config.trainer.max_steps
        step = counted.step(batch, method)
        flop = step * steps
        whole += flop
        cells = [name, f"{counted.parameters / 1e6:.1f}M", f"{batch}", f"{steps:,}"]
        lines.append(row(*cells, f"{step:.2e}", f"{flop:.2e}", f"{hours(flop, given.devices):.1f}"))
    total = f"{whole:.2e} FLOP, {hours(whole, given.devices):.1f} hours"
    return "\n".join([*lines, f"\nIn all {total}; sampling is not in it."])
