"""Time Eq. 14 alone, dense and gathered, from hidden states to their gradient."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import torch

from mdlm_mcd import coupling, losses
from mdlm_mcd import head as gathered_head

from .gate import clock
from .worker import Size

TAU = 0.96


def head(size: Size, tiny: bool) -> Iterator[dict]:
    """Yield a row for each masked share, vocabulary and way, the ways in turn."""
    torch.set_num_threads(size.threads)
    shares, vocabs = (0.25, 0.5, 1.0), (1000, 8000, 50_257, 128_000)
    if tiny:
        shares, vocabs = (0.5,), (size.vocab,)
    tokens = size if tiny else replace(size, batch=1)
    for share, vocab in itertools.product(shares, vocabs):
        ways = Problem(replace(tokens, vocab=vocab), share).ways()
        losses_, times = {}, {name: [] for name in ways}
        for _ in range(2 if tiny else 4):
            for name, run in ways.items():
                start = clock(torch.device(size.device))
                loss = run()
                loss.backward()
                times[name].append(clock(torch.device(size.device)) - start)
                losses_[name] = float(loss.detach())
        dense = min(times["dense"][1:])
        for name in ways:
            if abs(losses_[name] / losses_["dense"] - 1) > 1e-4:
                raise RuntimeError(f"{name} gives {losses_[name]}, dense {losses_['dense']}")
            best = min(times[name][1:])
            of = {"share": share, "vocab": vocab, "way": name}
            yield {"part": "head", **of, "seconds": best, "ratio": best / dense}


class Problem:
    """Hidden states and projections of student and teacher, and a pair of views."""

    def __init__(self, size: Size, share: float):
        generator = coupling.counter_generator(0)
        self.mask_index, shape = size.vocab, (size.batch, size.length)
        device, self.rows = size.device, size.batch * size.length
        self.x0 = torch.randint(0, size.vocab, shape, generator=generator).to(device)
        u = torch.rand(shape, generator=generator).to(device)
        self.masked_t, self.masked_s = u < share, u < 0.97 * share
        make = (torch.nn.Linear(size.width, size.vocab + 1).to(device) for _ in range(2))
        self.linears = tuple(make)
        self.linears[1].requires_grad_(False)
        self.hidden = [
            torch.randn(*shape, size.width, generator=generator).to(device) for _ in range(2)
        ]
        self.hidden[0].requires_grad_(True)

    def ways(self):
        """Return the ways of computing the loss, by name."""
        ways = {"dense": self.dense}
        for chunk in (128, 1024, 4096):
            if chunk == 128 or chunk // 2 < self.rows:
                ways[f"gathered {chunk}"] = lambda chunk=chunk: self.gathered(chunk)
        return ways

    def dense(self):
        with torch.no_grad():
            logits = losses.temper(self.linears[1](self.hidden[1]), TAU)
            teacher = losses.subs_masked(logits, self.mask_index)
        student = losses.subs_masked(self.linears[0](self.hidden[0]), self.mask_index)
        masks = self.masked_t, self.masked_s
        return losses.per_token("hybrid", student, teacher, self.x0, *masks).sum()

    def gathered(self, chunk: int):
        states = (
            gathered_head.HiddenStates(hidden, linear)
            for hidden, linear in zip(self.hidden, self.linears, strict=True)
        )
        masks, how = (self.masked_t, self.masked_s), {"tau": TAU, "chunk": chunk}
        return gathered_head.supervise(
            "hybrid", *states, self.x0, *masks, mask_index=self.mask_index, **how
        ).loss
