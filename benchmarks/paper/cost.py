"""`--dry-run`: every config of a table composed, its parameters and FLOPs counted.

Nothing is allocated (torch's meta device) and nothing is timed. Operations are counted by torch's
`FlopCounterMode` (matrix products, two FLOPs a multiply-add) on the embedded host's
DIT, which has the hosts' sizes and parameter names. Optimizer, norms, softmax and the
float64 draws of sampling are not in it.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from mdlm_mcd.models.dit import DIT

from .chain import TEACHER_STEPS, TRAIN, Chain, row
from .compose import composed
from .experiments import METHODS, Method, Table

GPT2_TOKENS = 50_257
A100 = 312e12  # bfloat16, dense, by its data sheet


@dataclass(frozen=True)
class Counted:
    """One sequence through a network: FLOPs of a forward pass.

    trunk: up to the output projection. head: that projection, of every row. A backward pass
    costs twice the forward.
    """

    parameters: int
    length: int
    trunk: int
    head: int

    def step(self, batch: int, method: Method) -> float:
        """Return the FLOPs of an optimizer step: student both ways, teacher forward."""
        heads = 3 + bool(method.teacher_passes)  # the teacher's rows are projected once
        trunks = 3 + method.teacher_passes
        return batch * (trunks * self.trunk + method.head_rows * heads * self.head)


def count(model: Mapping, *, uniform: bool = False) -> Counted:
    """Count a network of the config section `model` over GPT-2's vocabulary.

    A masked model has one token more than GPT-2, its mask; a uniform-state one has not.
    """
    sizes = ("hidden_size", "cond_dim", "n_blocks", "n_heads", "dropout", "length")
    return _count(tuple((key, model[key]) for key in sizes), GPT2_TOKENS + (not uniform))


@cache
def _count(sizes: tuple, vocab: int) -> Counted:
    model = dict(sizes)
    with torch.device("meta"):
        network = DIT({"model": model, "algo": {"causal_attention": False}}, vocab)
        tokens = torch.zeros(1, model["length"], dtype=torch.long)
        sigma, hidden = torch.zeros(1), torch.zeros(1, model["length"], model["hidden_size"])
    with FlopCounterMode(display=False) as counter:
        network.output_layer.linear(hidden)
        head = counter.get_total_flops()
        network(tokens, sigma)
        trunk = counter.get_total_flops() - 2 * head
    parameters = sum(p.numel() for p in network.parameters())
    return Counted(parameters, model["length"], trunk, head)


def hours(flops: float, given: Namespace) -> float:
    """Return the hours of FLOPs on --devices of --peak each, of which --mfu is used."""
    return flops / (given.devices * given.peak * given.mfu) / 3600


def text(table: Table, given: Namespace) -> str:
    """Return the table of costs, as Markdown. Raises ConfigError for what does not compose."""
    chain = Chain(table, given)
    hardware = f"{given.devices} devices of {given.peak / 1e12:.0f} TFLOP/s at {given.mfu:.0%} MFU"
    head = ("training", "host", "parameters", "batch", "steps", "FLOP/step", "FLOP", "hours")
    lines = [
        f"# {table.title}: what it costs\n",
        f"Counted on the meta device, not measured; hours are FLOPs over {hardware}.\n",
        row(*head),
        "| --- " * len(head) + "|",
    ]
    runs = []  # (name, method, host, overrides) of every training
    if given.teacher == TRAIN:
        recipe = table.teacher_recipe
        overrides = [f"+recipe={recipe}", f"trainer.max_steps={TEACHER_STEPS[recipe]}"]
        runs.append((recipe, METHODS["mdlm"], None, ["algo=mdlm", *overrides, *chain.common()]))
    for run in table.trained:
        overrides = [*chain.overrides(run, given.teacher or "TEACHER"), *chain.length(run)]
        overrides.append(f"trainer.max_steps={chain.max_steps}")
        hosts = (None, given.host) if given.host else (None,)
        runs += [(run.name, run.method, host, overrides) for host in hosts]
    flops = {}
    for name, method, host, overrides in runs:
        if given.host and not host:  # the user's own may be meant for the clone
            overrides = [x for x in overrides if x not in given.overrides]
        config = composed(overrides, host)
        counted = count(config.model, uniform=method.uniform)
        batch, steps = config.loader.global_batch_size, config.trainer.max_steps
        step = counted.step(batch, method)
        flops[name] = step * steps
        cells = [name, host.name if host else "minihost", f"{counted.parameters / 1e6:.1f}M"]
        cells += [f"{batch}", f"{steps:,}", f"{step:.2e}", f"{flops[name]:.2e}"]
        lines.append(row(*cells, f"{hours(flops[name], given):.1f}"))
    whole = sum(flops.values())
    lines.append(
        f"\nIn all {whole:.2e} FLOP, {hours(whole, given):.1f} hours; sampling is not in it."
    )
    return "\n".join(lines)
