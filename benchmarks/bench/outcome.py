"""Sentences made of the figures, losses first; nothing here knows the result."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .methods import MCD, TEACHER
from .tables import nats, number, percent
from .verdict import AXES, MEASURES, SAID, Figures, Interval, Place, interval, tally

WORDS = {"loss": "loses to", "tie": "ties with", "win": "wins against"}


def places(found: Sequence[Place]) -> str:
    """Places as `4 to 32 steps`-like text, laws apart."""
    parts = []
    for law in dict.fromkeys(p.law for p in found):
        steps = ", ".join(str(p.steps) for p in found if p.law == law)
        parts.append(steps if law == "iid" else f"{steps} on the {law}")
    return "; ".join(parts)


def of_part(figures: Figures) -> list[str]:
    """Markdown: by verdict, then by measure, whom MCD loses to, ties with, beats."""
    tallies = {measure: tally(figures, measure) for measure in MEASURES}
    lines = []
    for verdict, verb in WORDS.items():
        said = []
        for measure, found in tallies.items():
            names = found[verdict]
            if names:
                listed = "; ".join(f"{label(n, measure)} ({places(p)})" for n, p in names.items())
                said.append(f"- by {SAID[measure]}: {listed}.")
        lines.append(
            f"**MCD {verb}** (sampling steps in brackets):"
            if said
            else f"**MCD {verb}** nothing that was measured."
        )
        lines += ["", *said, ""] if said else [""]
    return lines


def label(name: str, measure: str) -> str:
    return "the tempered teacher" if name == TEACHER and measure in AXES else name


def headline(figures: Figures) -> list[str]:
    """A few sentences on the comparisons that the tables bury, bad news first."""
    said = [*_tempered(figures), *_bound(figures), *_raw(figures), *_law(figures)]
    return [f"- {sentence}" for sentence in said]


WORSE = {1: "behind", 0: "level with", -1: "ahead of"}


def _places_by_verdict(found: dict[Place, Interval], show) -> str:
    """`behind it at 4 steps: +3%; level with it at 8: ...`, bad news first."""
    parts = []
    for sign, word in WORSE.items():
        there = [f"{p.said}: {show(x)}" for p, x in found.items() if x.sign == sign]
        parts += [f"{word} it at {', '.join(there)}"] if there else []
    there = [f"{p.said}: {show(x)}" for p, x in found.items() if x.sign is None]
    parts += [f"not told from it by one seed at {', '.join(there)}"] if there else []
    return "; ".join(parts)


def _tempered(figures: Figures):
    """MCD against its own teacher, only sampled at a lower temperature."""
    for measure, axis in AXES.items():
        found, out = {}, []
        for place in figures.places:
            here = interval(figures.relative(axis, MCD, place).values())
            if here is not None:
                found[place] = here
            elif figures.of(axis, MCD, place):
                out.append(place)
        equal = measure.removeprefix("perplexity ")
        if found:
            yield (
                f"MCD and its teacher at a lower temperature, {equal}, by perplexity "
                f"of MCD over the teacher's: {_places_by_verdict(found, percent)}."
            )
        if out:
            yield (
                f"No temperature of the teacher reaches MCD's {axis.replace('_', ' ')} "
                f"at {', '.join(p.said for p in out)}."
            )


def _bound(figures: Figures):
    found = {
        place: figures.against("n_step_nelbo", MCD, TEACHER, place) for place in figures.places
    }
    found = {place: x for place, x in found.items() if x is not None}
    if found:
        yield (
            "MCD and its teacher by the N-step NELBO, nats a token, which does not "
            f"reward sharpness: {_places_by_verdict(found, nats)}."
        )


def _raw(figures: Figures):
    iid = [p for p in figures.places if p.law == "iid"]
    have = [p for p in iid if figures.of("perplexity", MCD, p)]
    if not have or not figures.of("perplexity", TEACHER, have[-1]):
        return
    most = have[-1]
    target = _level(figures, TEACHER, most)
    reach = [p for p in have if _level(figures, MCD, p) <= target]
    entropies = "entropy {:.2f} against {:.2f} nats".format(
        *(
            interval(figures.of("entropy", name, p).values()).mean
            for name, p in ((MCD, (reach or have)[0]), (TEACHER, most))
        )
    )
    if reach:
        yield (
            f"Raw, MCD at {reach[0]} steps ({number(_level(figures, MCD, reach[0]))}) "
            f"is at or below its teacher at {most} ({number(target)}); {entropies}."
        )
    else:
        yield (
            f"Raw, MCD does not reach its teacher's perplexity at {most} steps "
            f"({number(target)}) at any number of steps; {entropies}."
        )


def _law(figures: Figures):
    """What the sampler's law of u is worth beside all distillation."""
    for place in figures.places:
        iid = Place(place.steps)
        base = figures.of("perplexity", TEACHER, iid)
        if place.law == "iid" or not base:
            continue
        law = figures.against("perplexity", TEACHER, TEACHER, place, iid)
        mcd = figures.against("perplexity", MCD, TEACHER, iid)
        if law and mcd:
            yield (
                f"At {place.steps} steps the {place.law} in the sampler changes the "
                f"teacher's perplexity by {percent(law)}, MCD under iid u by "
                f"{percent(mcd)}."
            )


def _level(figures: Figures, method: str, place: Place) -> float:
    return math.exp(interval(figures.of("perplexity", method, place).values()).mean)
