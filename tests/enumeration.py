"""A vocabulary so small that a sampler's law can be summed over all its paths."""

import itertools
import math

import pytest
import scipy.stats
import torch

from mdlm_mcd import sampling

VOCAB, MASK, LENGTH = 4, 3, 3
EMPTY = (MASK,) * LENGTH


def alpha(t):
    return 1 - (1 - 1e-3) * t


def table(seed=0):
    """A denoiser that is a table: logits for each state and position."""
    g = torch.Generator().manual_seed(seed)
    shape = (VOCAB,) * LENGTH + (LENGTH, VOCAB)
    return 1.5 * torch.randn(shape, generator=g).double()


def hosts(t):
    """Not 0 at t = 1, as in the hosts, and by far more."""
    return 1 - 0.8 * t


def denoiser(logits, calls=None):
    """The table as a network; calls: the sizes of its batches."""

    def denoise(z, rows):
        if calls is not None:
            calls.append(len(z))
        return logits[tuple(z.T)][rows].clone()

    return denoise


def timed(asked=None):
    """A denoiser conditioned on time: between two tables, by alpha_t."""
    one, other = table(0), table(7)

    def denoise(z, rows, alpha_t):
        assert alpha_t.shape == z.shape[:1] and alpha_t.dtype == torch.float64
        if asked is not None:
            asked.append((alpha_t, z))
        a = alpha_t[:, None, None]
        z = tuple(z.T)
        return ((1 - a) * one[z] + 2 * a * other[z])[rows]

    denoise.time_conditioned = True
    return denoise


def timed_table(alpha_t):
    """The table that `timed` is at alpha_t."""
    return (1 - alpha_t) * table(0) + 2 * alpha_t * table(7)


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def sample(name, steps, n=5_000, logits=None, denoise=None, length=LENGTH, **how):
    how = dict(generator=generator(), alpha=alpha, mask_index=MASK, vocab_size=VOCAB) | how
    denoise = denoise or denoiser(table() if logits is None else logits)
    return sampling.sample(name, denoise, n, length, steps, **how)


def draw(*args, **how):
    return sample(*args, **how).tokens


def draw_on(device, name, **how):
    """Samples on a device, of a network that looks at a token's place alone."""
    logits = torch.randn(12, VOCAB, generator=generator(0))

    def denoise(z, rows):
        return logits.to(z.device)[rows.nonzero()[:, 1]]

    how = dict(generator=None, n=5, length=12, denoise=denoise, device=device) | how
    return draw(name, 4, **how)


def chances(logits, temperature=1.0, top_p=1.0, greedy=False):
    """One row's probabilities, from the definitions."""
    p = (logits[:MASK] / temperature).softmax(-1).tolist()
    kept, total = [], 0.0
    for v in sorted(range(MASK), key=lambda v: -p[v]):
        if not kept or (total < top_p and not greedy):
            kept.append(v)
            total += p[v]
    return [p[v] / total if v in kept else 0.0 for v in range(MASK)]


def open_one(law, logits, chosen, **how):
    """The law after position chosen(z) -> {position: chance} of each state opens."""
    following: dict = {}
    for z, mass in law.items():
        for i, share in chosen(z).items():
            for v, q in enumerate(chances(logits[z][i], **how)):
                state = (*z[:i], v, *z[i + 1 :])
                following[state] = following.get(state, 0.0) + mass * share * q
    return following


def comb_law(tables):
    """The law under u_step=1/LENGTH: three rotations, forwards or backwards.

    tables: of each step.
    """
    law: dict = {}
    for order in itertools.permutations(range(LENGTH)):  # of three, these are all
        one = {EMPTY: 1 / 6}
        for logits, i in zip(tables, order, strict=True):
            one = open_one(one, logits, lambda z, i=i: {i: 1.0})
        for z, mass in one.items():
            law[z] = law.get(z, 0.0) + mass
    return law


def exact_law(logits, levels, start=EMPTY, how=lambda step: {}, remask=0.0):
    """P(sample), by summing over every path of the reverse chain.

    logits: a table, or one for each step; remask: ReMDM's eta_cap, or one for each step.
    """
    law, tables = {start: 1.0}, logits
    for step, (before, after) in enumerate(itertools.pairwise(levels)):
        logits = tables[step] if isinstance(tables, list) else tables
        cap = remask[step] if isinstance(remask, list) else remask
        sigma = min(cap, (1 - after) / before) if before else 0.0
        opens = (after - (1 - sigma) * before) / (1 - before)
        following: dict = {}
        for z, mass in law.items():
            options = [[(token, 1.0)] for token in z]
            for i in (i for i in range(LENGTH) if sigma and start[i] == MASK != z[i]):
                options[i] = [(z[i], 1 - sigma), (MASK, sigma)]
            for i in (i for i in range(LENGTH) if z[i] == MASK):
                p = chances(logits[z][i], **how(step))
                options[i] = [(MASK, 1 - opens), *((v, opens * p[v]) for v in range(MASK))]
            for path in itertools.product(*options):
                state, weights = zip(*path, strict=True)
                following[state] = following.get(state, 0.0) + mass * math.prod(weights)
        law = following
    return {z: m for z, m in law.items() if m > 0}


def assert_law(drawn, law):
    assert sum(law.values()) == pytest.approx(1.0)
    states = [z for z, m in law.items() if MASK not in z and m > 0]
    assert sum(law[z] for z in states) == pytest.approx(1.0)  # nothing stays masked
    counts = [(drawn == torch.tensor(z)).all(-1).sum().item() for z in states]
    assert sum(counts) == len(drawn)  # and nothing impossible was drawn
    if len(states) > 1:
        expected = [law[z] * len(drawn) for z in states]
        assert scipy.stats.chisquare(counts, expected).pvalue > 1e-3


def uniform(steps):
    return [n / steps for n in range(steps + 1)]
