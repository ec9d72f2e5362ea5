"""Time Eq. 14 alone, dense and gathered, from hidden states to their gradient.

One step of MCD's loss: forward of student's and teacher's projections, backward to hidden
states and weights. Each way runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import itertools
import multiprocessing
import statistics
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import torch

from mdlm_mcd import coupling, losses
from mdlm_mcd import head as gathered_head

from .gate import clock, peak
from .worker import Size

TAU = 0.96
# gathered: in chunks of the default size.
WAYS = {"dense": None, "gathered": 0, "gathered 1024": 1024, "gathered 4096": 4096}


def head(size: Size, tiny: bool) -> Iterator[dict]:
    """Yield a row for each masked share, vocabulary and way."""
    shares, vocabs = (0.25, 0.5, 1.0), (1000, 8000, size.vocab, 128_000)
    if tiny:
        shares, vocabs = (0.5,), (size.vocab,)
    for share, vocab in itertools.product(shares, vocabs):
        if share != 0.5 and vocab != size.vocab:
            continue  # one axis at a time
        found = {}
        for way in WAYS:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                found[way] = pool.submit(step, way, share, replace(size, vocab=vocab)).result()
            base, row = found["dense"], found[way]
            if abs(row["loss"] / base["loss"] - 1) > 1e-5:
                raise RuntimeError(f"{way} gives {row['loss']}, dense {base['loss']}")
            ratios = {f"{k}_ratio": row[k] / base[k] for k in ("seconds", "gib")}
            of = {"share": share, "vocab": vocab, "rows": size.batch * size.length, "way": way}
            yield {"part": "head", **of, **row, **ratios}


def step(way: str, share: float, size: Size, repeats: int = 3) -> dict:
    """Measure one way in this process."""
    torch.set_num_threads(size.threads)
    torch.manual_seed(0)
    generator = coupling.counter_generator(0)
    mask_index, shape, device = size.vocab, (size.batch, size.length), torch.device(size.device)
    x0 = torch.randint(0, size.vocab, shape, generator=generator).to(device)
    u = torch.rand(shape, generator=generator).to(device)
    masks = u < share, u < 0.97 * share
    linears = [torch.nn.Linear(size.width, size.vocab + 1).to(device) for _ in range(2)]
    linears[1].requires_grad_(False)
    hidden = [torch.randn(*shape, size.width, generator=generator).to(device) for _ in range(2)]
    hidden[0].requires_grad_(True)

    def dense():
        with torch.no_grad():
            teacher = losses.subs_masked(losses.temper(linears[1](hidden[1]), TAU), mask_index)
        student = losses.subs_masked(linears[0](hidden[0]), mask_index)
        return losses.per_token("hybrid", student, teacher, x0, *masks).sum()

    def gathered(chunk):
        states = map(gathered_head.HiddenStates, hidden, linears)
        how = {"tau": TAU, "mask_index": mask_index, "chunk": chunk or None}
        return gathered_head.supervise("hybrid", *states, x0, *masks, **how).loss

    seconds = []
    for _ in range(repeats):
        start = clock(device)
        loss = dense() if way == "dense" else gathered(WAYS[way])
        loss.backward()
        seconds.append(clock(device) - start)
    return {
        "seconds": statistics.median(seconds),
        "gib": peak(device),
        "loss": float(loss.detach()),
    }
