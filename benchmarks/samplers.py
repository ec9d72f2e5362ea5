"""Samplers: what each costs, what a law of u is worth, what one latent saves.

    python benchmarks/samplers.py [--vocab 50257] [--length 256] [--width 256]
                                  [--steps 16] [--threads 1]

Three tables of one run. The first times the head's part of sampling (projection,
softmax, draw), the backbone left out. The others sample an exact language, a Markov
chain whose denoiser is computed, not learned, so that all error is the sampler's:
perplexity is that of the samples under the chain itself, and entropy, in nats, that of
a sample's tokens.
"""

import argparse
import math
import time

import torch

from mdlm_mcd import laws
from mdlm_mcd.coupling import counter_generator
from mdlm_mcd.sampling import Latent, sample

KINDS, LENGTH, BATCH = 32, 64, 512


def alpha(t):
    return 1 - (1 - 1e-3) * t


def draw(name, denoise, batch, length, steps, vocab, generator, **how):
    return sample(
        name,
        denoise,
        batch,
        length,
        steps,
        alpha=alpha,
        mask_index=vocab - 1,
        vocab_size=vocab,
        generator=generator,
        **how,
    )


def head(args):
    """Print seconds and projected rows of one sequence's head, each way."""
    g = counter_generator(0)
    hidden = torch.randn(1, args.length, args.width, generator=g)
    weight = torch.randn(args.vocab, args.width, generator=g) / args.width**0.5
    print(
        f"head's part of a sequence: vocabulary {args.vocab}, length {args.length}, "
        f"width {args.width}, {args.steps} steps, {args.threads} thread(s)\n"
        f"{'sampler':<14}{'seconds':>9}{'ratio':>8}{'rows':>8}{'evaluations':>13}"
    )
    first = None
    for name in ("ancestral", "sparse", "locked", "first_hitting"):
        rows_seen = []

        def denoise(z, rows, seen=rows_seen):
            seen.append(int(rows.sum()))
            return hidden[rows] @ weight.T

        start = time.perf_counter()
        drawn = draw(name, denoise, 1, args.length, args.steps, args.vocab, counter_generator(1))
        seconds = time.perf_counter() - start
        first = first or seconds
        print(
            f"{name:<14}{seconds:>9.2f}{seconds / first:>8.3f}{sum(rows_seen):>8}"
            f"{drawn.evaluations:>13}"
        )


class Language:
    """`lag` interleaved Markov chains: x_i depends on x_{i - lag}."""

    def __init__(self, lag=1, sharpness=1.0):
        g = counter_generator("language")
        logits = 2.5 * torch.randn(KINDS, KINDS, generator=g, dtype=torch.float64)
        self.lag, self.p = lag, (sharpness * logits).softmax(-1)
        self.start = torch.linalg.matrix_power(self.p, 1000)[0]
        powers = [torch.linalg.matrix_power(self.p, k) for k in range(LENGTH)]
        # Beyond either end nothing is visible.
        self.left = torch.stack([*powers, self.start.expand(KINDS, -1)]).log()
        self.right = torch.stack([*powers, torch.ones_like(self.p)]).log()

    def strands(self, x):
        return x.view(len(x), -1, self.lag).transpose(1, 2)

    def denoise(self, z, rows):
        """Return log p(x_i | nearest visible neighbours): exact by the Markov property."""
        shape = (len(z), self.lag, -1)
        z, rows_in = self.strands(z), self.strands(rows)
        n = z.shape[-1]
        at = torch.arange(n).expand(z.shape)
        before = torch.where(z < KINDS, at, -1).cummax(-1).values
        after = torch.where(z < KINDS, at, n).flip(-1).cummin(-1).values.flip(-1)
        a = torch.where(before < 0, LENGTH, at - before)
        b = torch.where(after == n, LENGTH, after - at)
        known = [z.gather(-1, i.clamp(0, n - 1)).clamp(max=KINDS - 1) for i in (before, after)]
        # Position by position, in the order of `rows` on the whole sequence.
        order = torch.arange(rows.numel()).view_as(rows)
        order = self.strands(order).reshape(shape)[rows_in].argsort()
        logits = self.left[a[rows_in], known[0][rows_in]]
        logits = logits + self.right[b[rows_in], :, known[1][rows_in]]
        return torch.nn.functional.pad(logits[order], (0, 1))

    def nll(self, x):
        """Return nats a token of each sequence, (batch,)."""
        x = self.strands(x)
        first = -self.start.log()[x[..., 0]].sum(-1)
        rest = -self.p.log()[x[..., :-1], x[..., 1:]].sum((-1, -2))
        return (first + rest) / LENGTH

    def information(self):
        """Return the mutual information by lag, as `laws.mutual_information` estimates it."""
        mi = torch.zeros(LENGTH - 1, dtype=torch.float64)
        for k in range(1, (LENGTH - 1) // self.lag + 1):
            joint = self.start[:, None] * self.left[k].exp()
            ratio = (joint / (self.start[:, None] * self.start)).log()
            mi[k * self.lag - 1] = (joint * ratio).sum()
        return mi

    def entropy(self):
        """Return the entropy in nats a token, the first of a sequence included."""
        step = self.start @ torch.special.entr(self.p).sum(-1)
        first = torch.special.entr(self.start).sum()
        return float((first + (LENGTH - 1) * step) / LENGTH)


def tokens(language, name, steps, **how):
    how = {"generator": counter_generator(3)} | how
    return draw(name, language.denoise, BATCH, LENGTH, steps, KINDS + 1, **how).tokens


def entropy(x):
    share = torch.nn.functional.one_hot(x, KINDS).double().mean(1)
    return torch.special.entr(share).sum(-1).mean()


def of_laws(steps=4):
    near, table = Language(), Language(lag=steps)
    fitted = {id(x): laws.fit_step(x.information(), LENGTH, steps) for x in (near, table)}
    ways = {
        "iid": {},
        "iid, stratified": dict(stratified=True),
        "lattice, golden": dict(u_law="lattice"),
        "lattice, golden, stratified": dict(u_law="lattice", stratified=True),
        f"lattice, 1/{steps}": dict(u_law="lattice", u_step=1 / steps),
        "lattice, auto": dict(u_law="lattice", u_step="auto"),
        "halton": dict(u_law="halton"),
        "dilated": dict(u_law="dilated"),
    }
    print(
        f"\n{steps} evaluations, {KINDS} kinds of token, {BATCH} samples of {LENGTH}: "
        "perplexity under the language / entropy of a sample\n"
        f"{'':<30}{'chain':>16}{f'chains of lag {steps}':>20}"
    )

    def line(label, name, n, **how):
        cells = []
        for language in (near, table):
            auto = how.get("u_step") == "auto"
            given = how | {"u_step": fitted[id(language)]} if auto else how
            x = tokens(language, name, n, **given)
            cells.append(f"{language.nll(x).mean().exp():.2f} / {entropy(x):.3f}")
        print(f"{label:<30}{cells[0]:>16}{cells[1]:>20}", flush=True)

    for label, how in ways.items():
        line(label, "sparse", steps, **how)
    for ends in ((1.1, 0.7), (0.7, 1.1)):
        line(f"iid, T {ends[0]} -> {ends[1]}", "sparse", steps, temperature=ends)
    line("confidence, max", "confidence", steps)
    line("confidence, max, noise 1", "confidence", steps, score_noise=1.0)
    line("first_hitting (64 evaluations)", "first_hitting", None)
    print("fitted steps:", ", ".join(f"{s:.4f}" for s in fitted.values()))


def of_a_latent(steps=8):
    """Print the variance of the difference of two models' nats a token, by sequence."""
    truth, other = Language(), Language(sharpness=1.1)
    print(
        f"\nvariance of a difference in nats a token, {BATCH} sequences, by what the "
        f"two samples share\n{'difference':<30}{'nothing':>10}{'generator':>11}"
        f"{'latent':>9}{'saved':>8}"
    )
    pairs = {
        f"model, {steps} steps": ((truth, steps), (other, steps)),
        "model, 64 steps": ((truth, 64), (other, 64)),
        f"{steps} against 64 steps": ((truth, steps), (truth, 64)),
    }
    for label, ((one, few), (two, many)) in pairs.items():
        spread = []
        for how in (
            [dict(generator=counter_generator(i)) for i in (3, 4)],
            [dict(generator=counter_generator(3)) for _ in range(2)],
            [dict(latent=Latent(3)) for _ in range(2)],
        ):
            name = "locked" if "latent" in how[0] else "sparse"
            a = tokens(one, name, few, **how[0])
            b = tokens(two, name, many, **how[1])
            spread.append(float((truth.nll(a) - truth.nll(b)).var()))
        print(
            f"{label:<30}{spread[0]:>10.4f}{spread[1]:>11.4f}{spread[2]:>9.4f}"
            f"{spread[0] / spread[2]:>7.1f}x",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    sizes = dict(vocab=50257, length=256, width=256, steps=16, threads=1)
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    head(args)
    of_laws()
    of_a_latent()
    print(f"\nthe language itself: perplexity {math.exp(Language().entropy()):.2f}")


if __name__ == "__main__":
    main()
