"""Where does the gain come from, if a calibrated teacher is a fixed point?"""

from __future__ import annotations

import math

from . import optimum
from .optimum import FLAT, TAUS
from .pages import Table
from .tiny import Tiny, world

DELTA0 = 1 / 64
PRODUCT = math.prod(TAUS)


def one_round(w: Tiny) -> Table:
    """Minimise each loss under each coupling, at tau = 1, from the exact denoiser."""
    rows = []
    same = "hybrid_fwd = kl_fwd"
    ways = [(loss, "shared") for loss in (same, "ce", "hybrid", "hybrid_no_ce")]
    for loss, coupling in (*ways, (same, "independent")):
        cells = []
        for delta in (1 / 512, 1 / 4):
            name = loss.partition(" = ")[2] or loss
            table = optimum.rounds(w, name, (1.0,), delta, coupling)[0]
            cells += [w.divergence(w.truth, table), w.entropy(table)]
        rows.append((f"{loss}, {coupling} u", *cells))
    return Table(
        f"One round at tau = 1 from the exact denoiser, of entropy "
        f"{w.entropy(w.truth):.4f}: KL(teacher || student) and the student's entropy, "
        "nats a masked token",
        " | KL, delta = 1/512 | entropy | KL, delta = 1/4 | entropy",
        rows,
    )


def compounding(w: Tiny) -> Table:
    """Return the temperature of the exact denoiser that is nearest to each student."""
    ways = (
        ("hybrid, the teacher sees z_t", "hybrid", 1 / 512, "none"),
        ("kl_fwd, delta0 = 1/512", "kl_fwd", 1 / 512, "shared"),
        ("hybrid, delta0 = 1/512", "hybrid", 1 / 512, "shared"),
        ("kl_fwd, delta0 = 1/64", "kl_fwd", DELTA0, "shared"),
        ("hybrid, delta0 = 1/64", "hybrid", DELTA0, "shared"),
    )
    rows = []
    products = [math.prod(TAUS[: k + 1]) for k in range(len(TAUS))]
    rows.append(("product of tau", *products, ""))
    for label, loss, delta0, coupling in ways:
        tables = optimum.rounds(w, loss, TAUS, delta0, coupling)
        found = [optimum.fitted(w, table) for table in tables]
        exact = w.tempered(w.truth, found[-1])
        rows.append((label, *found, w.divergence(tables[-1], exact)))
    return Table(
        "The temperature of the exact denoiser nearest to the student of each round, "
        "and how far it is in the end (KL, nats a masked token)",
        " | round 1 | round 2 | round 3 | round 4 | round 5 | apart",
        rows,
    )


def gain(w: Tiny, steps: int) -> Table:
    """Compare students after five rounds with the exact denoiser at their entropy."""
    tables = {
        "exact denoiser": w.truth,
        f"exact denoiser at T = {PRODUCT:.3f}": w.tempered(w.truth, PRODUCT),
        "hybrid, delta0 = 1/512": optimum.rounds(w, "hybrid", TAUS, 1 / 512)[-1],
        "hybrid": optimum.rounds(w, "hybrid", TAUS, DELTA0)[-1],
        "hybrid, tau = 1": optimum.rounds(w, "hybrid", FLAT, DELTA0)[-1],
        "kl_fwd": optimum.rounds(w, "kl_fwd", TAUS, DELTA0)[-1],
        "kl_fwd, tau = 1": optimum.rounds(w, "kl_fwd", FLAT, DELTA0)[-1],
        "hybrid_no_ce": optimum.rounds(w, "hybrid_no_ce", TAUS, DELTA0)[-1],
    }
    rows = []
    for label, table in tables.items():
        law = w.drawn(table, steps)
        t = optimum.at_entropy(w, steps, w.nats(law))
        same = w.drawn(w.tempered(w.truth, t), steps)
        ratio = w.perplexity(law) / w.perplexity(same)
        own = (w.perplexity(law), w.nats(law), w.missing(law))
        rows.append((label, *own, t, ratio, w.missing(same)))
    return Table(
        f"{steps} steps, exactly, delta0 = 1/64 unless stated: perplexity and entropy of "
        "samples, KL from the language, all a token; and the exact denoiser at the "
        "temperature of equal entropy",
        " | perplexity | entropy | KL | T | perplexity over its | its KL",
        rows,
    )


def exact() -> list[Table]:
    w = world(5)
    return [one_round(w), compounding(w), gain(w, 4)]
