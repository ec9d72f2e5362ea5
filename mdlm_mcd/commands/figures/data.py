"""Compute what the pictures show, by the functions of the paper.

A latent path is `duality.latent` under
`duality.calibrate`, a regime is read off `coupling.couple`, a trajectory off the
states that `sampling.sample` passes its callback.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ... import coupling, duality, laws
from ...evaluation.candidates import Candidate
from ...sampling import Latent, sample

STEPS = (8, 32, 512)
VOCABULARIES = (2, 64, 1024, 50258)


def log_linear(t: Tensor) -> Tensor:
    """Return MDLM's alpha_t = 1 - t, without the offsets that hosts add at its ends."""
    return 1.0 - t


# Section 3.1: one token's latent path ------------------------------------------------


class LatentPath(NamedTuple):
    """One token along the DDIM path, T times and K classes.

    t, alpha_t: (T,); w_t: (T, K); visible: (T,) bool, where P(w_t) is the token; u:
    F_Y(Y) of its noise; x0: the token's id, the mask's being K - 1.
    """

    t: Tensor
    alpha_t: Tensor
    w_t: Tensor
    visible: Tensor
    u: float
    x0: int

    @property
    def overtaken(self) -> float:
        """Return the first time at which P(w_t) is the mask."""
        return self.t[~self.visible][0].item()

    @property
    def crossed(self) -> float:
        """Return the first time at which alpha_t < u: the same, by Theorem 3.3."""
        return self.t[self.alpha_t < self.u][0].item()

    @property
    def token(self) -> Tensor:
        """Return the token's own coordinate of w_t, (T,)."""
        return self.w_t[:, self.x0]

    @property
    def rival(self) -> Tensor:
        """Return the largest of the others, (T,)."""
        return torch.cat([self.w_t[:, : self.x0], self.w_t[:, self.x0 + 1 :]], dim=1).amax(1)


def latent_path(eps: Tensor, x0: int, t: Tensor) -> LatentPath:
    """Compute Eq. 9 and its projection, Eq. 8, under the calibration of Lemma 3.1.

    eps: (K,) noise, kept along the path; t: (T,) times in (0, 1), log-linear.
    Raises ConfigError as the functions of `duality` do.
    """
    num_classes = len(eps)
    alpha_t = log_linear(t)
    w_t = duality.latent(x0, eps, *duality.calibrate(alpha_t, num_classes))
    visible = duality.project(w_t, x0, num_classes - 1) == x0
    u = duality.to_uniform(eps, x0, num_classes).item()
    return LatentPath(t, alpha_t, w_t, visible, u, x0)


def latent_paths(
    seeds: Sequence[int] = (1, 0), num_classes: int = 24, points: int = 401
) -> list[LatentPath]:
    """Compute a path for each seed of the noise; see `latent_path`."""
    t = torch.linspace(0, 1, points + 2, dtype=torch.float64)[1:-1]
    return [
        latent_path(
            torch.randn(
                num_classes,
                dtype=torch.float64,
                generator=coupling.counter_generator(seed, "latent path"),
            ),
            0,
            t,
        )
        for seed in seeds
    ]


# Section 3.3: who sees a token, and what it costs -------------------------------------

SENTENCE = "one scalar u per token locks the whole path of a sentence"
REGIMES = ("KL", "CE", "none")


class Regimes(NamedTuple):
    """One sentence of L tokens under a coupled pair.

    alpha_t, alpha_s: levels of the student's and the teacher's view; u: (L,); pair:
    views of shape (1, L), ids counting the words; regimes: of `REGIMES`, one a word.
    """

    words: list[str]
    u: Tensor
    alpha_t: float
    alpha_s: float
    pair: coupling.CoupledPair
    regimes: list[str]


def regimes(sentence: str = SENTENCE, t: float = 0.65, s: float = 0.35, seed: int = 1) -> Regimes:
    """Sort a sentence into the three cases of Eq. 14, out of `coupling.couple`.

    KL where both views are masked, CE where the teacher's alone is open, none where
    both are.
    """
    words = sentence.split()
    u = laws.draw_u(
        1, len(words), dtype=torch.float64, generator=coupling.counter_generator(seed, "regimes")
    )
    times = torch.tensor([t, s], dtype=torch.float64)
    alpha_t, alpha_s = log_linear(times).tolist()
    pair = coupling.couple(
        torch.arange(len(words))[None], u, times[:1], times[1:], log_linear, len(words)
    )
    cases = [
        "KL" if masked_s else "CE" if masked_t else "none"
        for masked_t, masked_s in zip(
            pair.masked_t[0].tolist(), pair.masked_s[0].tolist(), strict=True
        )
    ]
    return Regimes(words, u[0], alpha_t, alpha_s, pair, cases)


# Lemma 3.1: alpha_t against the signal-to-noise ratio ---------------------------------


class Calibration(NamedTuple):
    """One vocabulary: alpha_t over the ratio, and alpha_tilde over log-linear time."""

    num_classes: int
    ratio: Tensor  # alpha_tilde / sigma_tilde, (N,)
    alpha_t: Tensor  # F_Y(ratio), (N,)
    t: Tensor  # (T,)
    alpha_tilde: Tensor  # (T,)


def calibrations(
    vocabularies: Sequence[int] = VOCABULARIES, points: int = 401
) -> list[Calibration]:
    """Compute `NoiseGap.cdf` and `calibrate` for each size of the vocabulary, mask included."""
    ratio = torch.linspace(-4, 8, points, dtype=torch.float64)
    # Evenly in log alpha_t / (1 - alpha_t): large vocabularies turn close to t = 1.
    t = torch.linspace(-12, 12, points, dtype=torch.float64).sigmoid()
    return [
        Calibration(
            k, ratio, duality.NoiseGap(k).cdf(ratio), t, duality.calibrate(log_linear(t), k)[0]
        )
        for k in vocabularies
    ]


# One latent, three clocks -------------------------------------------------------------


class Trajectory(NamedTuple):
    """One sequence of L tokens, drawn by `locked` in `steps` steps.

    words: decoded one by one; opened: (L,), the step, from 1, after which each token
    is visible; evaluations: calls of the network.
    """

    steps: int
    tokens: Tensor
    words: list[str]
    opened: Tensor
    evaluations: int


def legible(word: str, most: int = 14) -> str:
    """Return a decoded token in one short line; its leading space is a dot."""
    word = "\u00b7" * word.startswith(" ") + word.strip(" ")
    word = word.replace("\n", "\u21b5").replace("\t", "\u21e5") or "\u2423"
    word = "".join(c if c.isprintable() else "\ufffd" for c in word)
    return word if len(word) <= most else word[: most - 1] + "\u2026"


class Trajectories(NamedTuple):
    """The same latent at several numbers of steps; u: (L,)."""

    u: Tensor
    runs: list[Trajectory]

    def differs(self, run: Trajectory) -> Tensor:
        """(L,) bool: the token is not that of the most steps."""
        return run.tokens != self.runs[-1].tokens


def locked(model: Candidate, batch: int, length: int, steps: int, latent: Latent, **more):
    """Draw `batch` sequences of a model from one latent, in float64."""
    return sample(
        "locked",
        model.denoise,
        batch,
        length,
        steps,
        alpha=model.alpha,
        mask_index=model.mask_index,
        vocab_size=model.vocab_size,
        device=model.device,
        latent=latent,
        **more,
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
        runs.append(Trajectory(count, tokens, words, opened, drawn.evaluations))
    return Trajectories(latent.u(1, length)[0], runs)
