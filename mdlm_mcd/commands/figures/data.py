"""Compute what the pictures show, by the functions of the paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ... import coupling, duality, laws
from ...evaluation.candidates import Candidate
from ...sampling import Latent, sample

STEPS = (8, 32, 512)
VOCABULARIES = (2, 64, 1024, 50258)
SENTENCE = "one scalar u per token locks the whole path of a sentence"


def log_linear(t: Tensor) -> Tensor:
    """Return MDLM's alpha_t = 1 - t, without the offsets that hosts add at its ends."""
    return 1.0 - t


class LatentPath(NamedTuple):
    """One token along the DDIM path, T times and K classes; its id is 0, the mask's K - 1.

    t, alpha_t, token, rival: (T,), the latter its own coordinate of w_t and the largest of
    the others. u: F_Y(Y) of its noise. overtaken: the first time at which P(w_t) is the
    mask; crossed: the first at which alpha_t < u, the same by Theorem 3.3.
    """

    t: Tensor
    alpha_t: Tensor
    w_t: Tensor
    token: Tensor
    rival: Tensor
    u: float
    overtaken: float
    crossed: float


def latent_path(seed: int, num_classes: int = 24, points: int = 401) -> LatentPath:
    """Compute Eq. 9 and its projection, Eq. 8, under the calibration of Lemma 3.1."""
    generator = coupling.counter_generator(seed, "latent path")
    eps = torch.randn(num_classes, dtype=torch.float64, generator=generator)
    t = torch.linspace(0, 1, points + 2, dtype=torch.float64)[1:-1]
    alpha_t = log_linear(t)
    w_t = duality.latent(0, eps, *duality.calibrate(alpha_t, num_classes))
    masked = duality.project(w_t, 0, num_classes - 1) != 0
    u = duality.to_uniform(eps, 0, num_classes).item()
    first = (t[masked][0].item(), t[alpha_t < u][0].item())
    return LatentPath(t, alpha_t, w_t, w_t[:, 0], w_t[:, 1:].amax(1), u, *first)


class Regimes(NamedTuple):
    """A sentence of L words under a coupled pair, sorted into the cases of Eq. 14.

    u, masked_t, masked_s: (L,); alpha_t, alpha_s: levels of the student's and the teacher's
    view. cases: KL where both views are masked, CE where the teacher's alone is open, none
    where both are.
    """

    words: list[str]
    u: Tensor
    alpha_t: float
    alpha_s: float
    masked_t: Tensor
    masked_s: Tensor
    cases: list[str]


def regimes(sentence: str = SENTENCE, t: float = 0.65, s: float = 0.35, seed: int = 1) -> Regimes:
    """Couple the two views of a sentence, with one u drawn for each word."""
    words = sentence.split()
    generator = coupling.counter_generator(seed, "regimes")
    u = laws.draw_u(1, len(words), dtype=torch.float64, generator=generator)
    times = torch.tensor([[t], [s]], dtype=torch.float64)
    x0 = torch.arange(len(words))[None]
    pair = coupling.couple(x0, u, *times, log_linear, len(words))
    masked_t, masked_s = pair.masked_t[0], pair.masked_s[0]
    cases = [("none", "CE", "KL")[n] for n in (masked_t.int() + masked_s.int()).tolist()]
    return Regimes(words, u[0], *log_linear(times).flatten().tolist(), masked_t, masked_s, cases)


class Calibration(NamedTuple):
    """Lemma 3.1 for one vocabulary, mask included.

    ratio, alpha_t: (N,), alpha_tilde / sigma_tilde and F_Y of it; t, alpha_tilde: (T,), the
    Gaussian schedule over log-linear time.
    """

    num_classes: int
    ratio: Tensor
    alpha_t: Tensor
    t: Tensor
    alpha_tilde: Tensor


def calibration(num_classes: int, points: int = 401) -> Calibration:
    """Compute `NoiseGap.cdf` and `calibrate` for a vocabulary."""
    ratio = torch.linspace(-4, 8, points, dtype=torch.float64)
    # Evenly in log alpha_t / (1 - alpha_t): large vocabularies turn close to t = 1.
    t = torch.linspace(-12, 12, points, dtype=torch.float64).sigmoid()
    alpha_tilde, _ = duality.calibrate(log_linear(t), num_classes)
    return Calibration(num_classes, ratio, duality.NoiseGap(num_classes).cdf(ratio), t, alpha_tilde)


# One latent, three clocks -------------------------------------------------------------


class Run(NamedTuple):
    """One sequence of L tokens, drawn by `locked` in `steps` steps.

    words: decoded one by one; opened: (L,), the step, from 1, after which each token is
    visible; evaluations: calls of the network.
    """

    steps: int
    tokens: Tensor
    words: list[str]
    opened: Tensor
    evaluations: int


class Trajectories(NamedTuple):
    """The same latent at several numbers of steps; u: (L,)."""

    u: Tensor
    runs: list[Run]

    def differs(self, run: Run) -> list[bool]:
        """Return for each token whether it is not that of the most steps."""
        return (run.tokens != self.runs[-1].tokens).tolist()


def legible(word: str, most: int = 14) -> str:
    """Return a decoded token in one short line; its leading space is a dot."""
    word = "\u00b7" * word.startswith(" ") + word.strip(" ")
    word = word.replace("\n", "\u21b5").replace("\t", "\u21e5") or "\u2423"
    word = "".join(c if c.isprintable() else "\ufffd" for c in word)
    return word if len(word) <= most else word[: most - 1] + "\u2026"


def locked(model: Candidate, batch: int, length: int, steps: int, latent: Latent, **how):
    """Draw `batch` sequences of a model from one latent, in float64."""
    how |= dict(alpha=model.alpha, mask_index=model.mask_index, vocab_size=model.vocab_size)
    return sample(
        "locked", model.denoise, batch, length, steps, latent=latent, device=model.device, **how
    )


def trajectories(
    model: Candidate, length: int, seed: int, steps: Sequence[int] = STEPS
) -> Trajectories:
    """Draw one sequence of a model from one `Latent(seed)` at each number of steps.

    Each step opens an equal share of the tokens, so token i opens after step
    floor(u_i steps) + 1.
    """
    latent = Latent(seed)
    runs = []
    for count in steps:
        opened = torch.zeros(length, dtype=torch.long)

        def note(step, z, opened=opened):
            opened[(z[0] != model.mask_index).cpu() & (opened == 0)] = step + 1

        # In the uniform schedule a step ends where as large a share of the tokens is
        # open, and u, which is a share, can be drawn on the same axis.
        drawn = locked(model, 1, length, count, latent, schedule="uniform", callback=note)
        tokens = drawn.tokens[0].cpu()
        words = [legible(model.tokenizer.decode([i])) for i in tokens.tolist()]
        runs.append(Run(count, tokens, words, opened, drawn.evaluations))
    return Trajectories(latent.u(1, length)[0], runs)


# A language with an exact denoiser, for pictures without a model -------------------------

SENTENCES = """\
a tiny grey mouse crept under the kitchen door and stole a piece of cheese
a great white horse leapt over the garden gate and ate a basket of apples
a hungry black bear walked through the forest camp and found a jar of honey
a clever red fox slipped behind the wooden barn and took a nest of eggs
a sleepy brown dog lay beside the village well and hid a pile of bones
a noisy green parrot flew into the captain's cabin and cracked a bag of nuts
a young striped cat sat near the harbour wall and licked a bowl of cream
a patient old heron stood above the quiet pond and caught a pair of frogs
"""
WORDS = sorted(set(SENTENCES.split()))
MASK_INDEX = len(WORDS)
IDS = torch.tensor([[WORDS.index(w) for w in line.split()] for line in SENTENCES.splitlines()])
MISPRINT = 1e-4


def denoise(z: Tensor, rows: Tensor) -> Tensor:
    """Return log p(x0_i | visible words), by Bayes' rule; see `sampling` for z and rows.

    A sentence is one of eight, equally likely; then each word is, with probability
    MISPRINT, replaced by any of the vocabulary. As this is exact, a sampler's every error
    is its own: words that open in one step are drawn as if they were independent.
    """
    other = MISPRINT / len(WORDS)
    sequence, position = rows.nonzero(as_tuple=True)
    seen = z[sequence, None]  # (rows, 1, length) against (sentences, length)
    agrees = torch.where(seen == IDS, math.log1p(other - MISPRINT), math.log(other))
    agrees = torch.where(seen == MASK_INDEX, 0.0, agrees.double())
    p = torch.zeros(len(sequence), len(WORDS) + 1, dtype=torch.float64)
    p[:, :MASK_INDEX] = other
    p.scatter_add_(1, IDS.T[position], (1 - MISPRINT) * agrees.sum(-1).softmax(-1))
    return p.log()


class _Words:
    """As much of a tokenizer as the pictures ask for."""

    @staticmethod
    def decode(ids) -> str:
        return " ".join(WORDS[i] for i in ids)


LANGUAGE = Candidate(
    label="eight sentences",
    denoise=denoise,
    alpha=log_linear,
    mask_index=MASK_INDEX,
    vocab_size=len(WORDS) + 1,
    length=IDS.shape[1],
    tokenizer=_Words(),
)
