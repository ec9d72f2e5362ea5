"""The ancestral sampler against exact enumeration on a tiny vocabulary."""

import itertools

import pytest
import scipy.stats
import torch

from mdlm_mcd import sampling
from mdlm_mcd.errors import ConfigError

VOCAB, MASK, LENGTH = 4, 3, 2


def alpha(t):
    return 1 - (1 - 1e-3) * t


def table(seed=0):
    """A denoiser that is a table: logits for each state and position."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn((VOCAB,) * LENGTH + (LENGTH, VOCAB), generator=g).double()


def denoiser(logits):
    def denoise(z, rows):
        return logits[z[:, 0], z[:, 1]][rows].clone()

    return denoise


def exact_law(logits, steps, temperature=1.0, top_p=1.0):
    """P(sample), by summing over every path of the reverse chain."""
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    alphas = alpha(times)
    alphas[-1] = 1
    law = {(MASK,) * LENGTH: 1.0}
    for t, s in itertools.pairwise(alphas.tolist()):
        opens = (s - t) / (1 - t)
        following: dict = {}
        for z, mass in law.items():
            options = []
            for i, token in enumerate(z):
                if token != MASK:
                    options.append([(token, 1.0)])
                    continue
                p = (logits[z][i][:MASK] / temperature).softmax(-1).tolist()
                if top_p < 1:
                    order = sorted(range(MASK), key=lambda v: -p[v])
                    kept, total = [], 0.0
                    for v in order:
                        if total >= top_p:
                            break
                        kept.append(v)
                        total += p[v]
                    p = [p[v] / total if v in kept else 0.0 for v in range(MASK)]
                options.append(
                    [(MASK, 1 - opens), *((v, opens * p[v]) for v in range(MASK))]
                )
            for path in itertools.product(*options):
                state = tuple(v for v, _ in path)
                weight = mass
                for _, q in path:
                    weight *= q
                following[state] = following.get(state, 0.0) + weight
        law = following
    return {z: m for z, m in law.items() if m > 0}


@pytest.mark.parametrize("name", list(sampling.SAMPLERS))
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("temperature,top_p", [(1.0, 1.0), (0.7, 1.0), (1.0, 0.6)])
def test_law_is_exact(name, steps, temperature, top_p):
    logits, n = table(), 40_000
    drawn = sampling.sample(
        name, denoiser(logits), n, LENGTH, steps, alpha=alpha, mask_index=MASK,
        vocab_size=VOCAB, generator=torch.Generator().manual_seed(1),
        temperature=temperature, top_p=top_p,
    ).tokens  # fmt: skip
    law = exact_law(logits, steps, temperature, top_p)
    assert sum(law.values()) == pytest.approx(1.0)
    states = [z for z in law if MASK not in z]
    assert sum(law[z] for z in states) == pytest.approx(1.0)  # nothing stays masked
    counts = [(drawn == torch.tensor(z)).all(-1).sum().item() for z in states]
    assert sum(counts) == n  # and nothing impossible was drawn
    expected = [law[z] * n for z in states]
    assert scipy.stats.chisquare(counts, expected).pvalue > 1e-3


def test_evaluations_are_counted_and_bounded_by_what_can_change():
    calls = []

    def denoise(z, rows):
        calls.append(int(rows.sum()))
        return torch.zeros(int(rows.sum()), VOCAB)

    seen = []
    result = sampling.sample(
        "ancestral", denoise, 1, 5, 400, alpha=alpha, mask_index=MASK,
        vocab_size=VOCAB, generator=torch.Generator().manual_seed(0),
        callback=lambda step, z: seen.append(z.clone()),
    )  # fmt: skip
    assert result.evaluations == len(calls) <= 5
    assert calls == sorted(calls, reverse=True) and calls[0] == 5
    for before, after in itertools.pairwise(seen):
        visible = before != MASK
        assert torch.equal(before[visible], after[visible])
    assert torch.equal(seen[-1], result.tokens)


def test_sparse_asks_for_the_tokens_that_open_and_no_others():
    calls = []

    def denoise(z, rows):
        assert (z[rows] == MASK).all()
        calls.append(int(rows.sum()))
        return torch.zeros(int(rows.sum()), VOCAB)

    result = sampling.sample(
        "sparse", denoise, 3, 50, 8, alpha=alpha, mask_index=MASK, vocab_size=VOCAB,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert sum(calls) == 150 and result.evaluations == len(calls) <= 8


@pytest.mark.parametrize("name", list(sampling.SAMPLERS))
def test_the_same_generator_gives_the_same_sample(name):
    def draw(dtype=torch.float64):
        return sampling.sample(
            name, denoiser(table()), 50, LENGTH, 4, alpha=alpha,
            mask_index=MASK, vocab_size=VOCAB, dtype=dtype,
            generator=torch.Generator().manual_seed(7),
        ).tokens  # fmt: skip

    assert torch.equal(draw(), draw())


@pytest.mark.parametrize(
    "change,words",
    [
        (dict(name="ddim"), "sampler=ddim"),
        (dict(steps=0), "steps=0"),
        (dict(temperature=0.0), "temperature=0.0"),
        (dict(top_p=1.5), "top_p=1.5"),
        (dict(mask_index=9), "mask_index=9"),
    ],
)
def test_bad_settings_are_refused(change, words):
    given = dict(name="ancestral", steps=2, mask_index=MASK) | change
    name, steps = given.pop("name"), given.pop("steps")
    with pytest.raises(ConfigError, match=words):
        sampling.sample(
            name, denoiser(table()), 1, LENGTH, steps, alpha=alpha, vocab_size=VOCAB,
            **given,
        )  # fmt: skip
