"""Differences, verdicts and sentences on rows whose answer is known."""

import json
import math
import random
import statistics

import pytest
from bench import page
from bench.methods import MCD, METHODS, TEACHER
from bench.summary import AXES, FRONTIER, Figures, half_width, interval, summary

AT8, SEEDS = (8, "iid"), (1, 2, 3)
NOISE = {1: -0.01, 2: 0.0, 3: 0.012}
EQUAL = page.EQUAL
TEMPERATURES = {m.name: m.temperatures[0] for m in METHODS if m.frontier}


def row(method, seed, perplexity, entropy, bound=3.0):
    metrics = dict.fromkeys(("entropy", "corpus_entropy"), entropy)
    metrics |= {"perplexity": perplexity, "bigram_entropy": entropy - 1, "n_step_nelbo": bound}
    own = dict(method=method, seed=seed, steps=8, u_law="iid", round=None)
    return own | {"metrics": {name: {"value": value} for name, value in metrics.items()}}


def frontier(seeds=SEEDS):
    """The teacher: log perplexity = 1 + entropy, entropy = 2 + T."""
    return [
        row(name, s, math.exp(3 + t + NOISE[s]), 2 + t)
        for name, t in TEMPERATURES.items()
        for s in seeds
    ]


def student(method, ratio, entropy=2.75, bound=3.0, spread=0.0, seeds=SEEDS):
    """`ratio` times the tempered teacher's perplexity at its own entropy."""
    return [
        row(method, s, ratio * math.exp(1 + entropy + NOISE[s] + spread * (s - 2)), entropy, bound)
        for s in seeds
    ]


def summed(*rows, part="language"):
    return {r["method"]: r for r in summary(part, [r for given in rows for r in given])}


def test_intervals_are_students_t():
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((2, 2 - 2.48414, 2 + 2.48414, 0), abs=1e-5)
    assert interval([0.5]) == (0.5, None, None, None) and interval([]) is None
    assert interval([0.1, 0.1], percent=True)[3] == 1


@pytest.mark.parametrize("ratio", [0.8, 1.0, 1.25])
@pytest.mark.parametrize("measure", AXES)
def test_the_ratio_at_equal_entropy_is_found(ratio, measure):
    figures = Figures([*frontier(), *student(MCD, ratio), *student("sdtt", 1.0)])
    found = figures.of(measure, MCD, AT8)
    assert found == pytest.approx(dict.fromkeys(SEEDS, math.log(ratio)), abs=1e-9)
    for name in FRONTIER:  # which is its own
        assert figures.of(measure, name, AT8) == pytest.approx(dict.fromkeys(SEEDS, 0.0), abs=1e-9)
    paired = figures.against(measure, "sdtt", AT8)["mcd"]
    assert paired.mean == pytest.approx(100 * (1 / ratio - 1)) and paired.low == paired.high


def drawn_again(draw, ratio=1.0):
    """A frontier, and its T = 1 with noise of its own, at `ratio` times the perplexity."""
    rng = random.Random(draw)

    def noisy(name, s, t, factor=1.0):
        own = rng.gauss(0, 0.01)  # of entropy, and most of the error of log perplexity
        log_p = 1 + (2 + t) ** 2 / 4 + 2 * own + rng.gauss(0, 0.01)  # convex
        return row(name, s, factor * math.exp(log_p), 2 + t + own)

    curve = [noisy(name, s, t) for name, t in TEMPERATURES.items() for s in range(5)]
    return Figures(curve + [noisy("sdtt", s, 1.0, ratio) for s in range(5)])


@pytest.mark.parametrize("ratio", [1.0, 0.95])
def test_the_teacher_against_itself_is_level_and_one_that_is_better_is_found(ratio):
    """60 draws: the interval holds the truth in nine of ten, and no seed is dropped."""
    measure = "perplexity at equal entropy"
    found = [
        drawn_again(draw, ratio).against(measure, "sdtt", AT8)["teacher"] for draw in range(60)
    ]
    truth = 100 * (ratio - 1)
    assert sum(f.low <= truth <= f.high for f in found) >= 54
    assert statistics.fmean(f.mean for f in found) == pytest.approx(truth, abs=0.5)
    assert ratio == 1 or sum(f.sign == -1 for f in found) >= 50


@pytest.mark.parametrize(
    "entropies", [(2.75, 2.75, 3.3), (2.4, 2.75, 2.75), (2.4,) * 3, (3.2,) * 3]
)
def test_nothing_is_extrapolated(entropies):
    """One seed beyond the curve leaves the cell empty."""
    own = [r for s, x in zip(SEEDS, entropies, strict=True) for r in student(MCD, 1, x, seeds=[s])]
    found = summed(frontier(), own)[MCD]
    assert EQUAL not in found["against"] and page.outcome(found) == page.GAP


def test_rows_of_held_out_text_are_a_sample_too():
    def bound(method, by_row):
        rows = student(method, 1.0)
        for r, shift in zip(rows, (-0.01, 0.0, 0.01), strict=True):
            nats = [shift + x for x in by_row]
            r["metrics"]["n_step_nelbo"] = {"value": statistics.fmean(nats), "by_row": nats}
        return rows

    teacher = [3.0, 3.2, 2.9, 3.1]
    even, apart = (
        summed(frontier(), bound(TEACHER, teacher), bound("sdtt", nats))["sdtt"]["against"]
        for nats in ([x + 0.1 for x in teacher], [3.3, 3.2, 2.9, 3.2])
    )
    # Each row 0.1 worse: nothing is left to chance. The same on average, on two rows of four.
    assert even["n_step_nelbo"]["teacher"][:3] == pytest.approx((0.1, 0.1, 0.1))
    mean, low, high, sign = apart["n_step_nelbo"]["teacher"]
    assert mean == pytest.approx(0.1) and sign == 0
    assert high - mean == pytest.approx(half_width([0.3, 0.0, 0.0, 0.1])) == mean - low


@pytest.mark.parametrize(
    "ratio, spread, verdict",
    [(0.9, 0.0, "loss"), (1.1, 0.0, "win"), (1.0, 0.05, "tie"), (1.03, 0.3, "tie")],
)
def test_a_verdict_is_whether_the_interval_excludes_zero(ratio, spread, verdict):
    found = summed(frontier(), student(MCD, 1.0), student("sdtt", ratio, 2.6, 3.0, spread))
    assert page.outcome(found["sdtt"]).endswith(f" {verdict}")


@pytest.mark.parametrize("ratio, words", [(1.2, "behind it at 8 steps: +20%"), (0.8, "ahead of")])
def test_sentences_follow_the_figures(ratio, words):
    first, *_ = page.headline(summed(frontier(), student(MCD, ratio)).values())
    assert "equal entropy" in first and words in first


@pytest.mark.parametrize("teacher", [4.9, 3.2])
def test_the_page_has_the_figures_and_no_verdict_of_an_untaught_teacher(tmp_path, teacher):
    rows = [
        r
        for part in ("language", "text")
        for r in summed(frontier(), student(MCD, 1.0), student("sdtt", 1.1), part=part).values()
    ]
    rows = json.loads(json.dumps(rows))  # as they lie beside the page
    tables = {"part": "text", "method": "tables", "rows": 512, "unigram": 5.2, "bigram": 3.62}
    tables |= {"teacher": teacher, "judge": 3.1}
    text = page.page([*rows, tables], ["- on a Tuesday"])
    assert "| sdtt | +10% [+10, +10] win |" in text and "| **mcd** |" in text
    half = text.split(f"## {page.TITLES['text']}\n")[1].partition("## ")[0].strip()
    assert half.startswith("Nats a token on 512 held-out rows: a unigram table 5.200, a bigram")
    assert half.endswith(page.NO_VERDICT) == (teacher > 3.62)
    assert ("MCD and its teacher" in half) == (teacher < 3.62)
    # The frontier against itself is no row of a table at equal entropy.
    assert "T 0.8 |" not in text.split("### ")[2].partition("## ")[0]
    level = next(r["perplexity"] for r in rows if r["method"] == MCD)
    assert f"| {page.number(level)}; 3.000; 2.75 / 2.75 / 1.75 |" in text and TEACHER in FRONTIER
    page.figure([*rows, tables], tmp_path / "page.svg")
    assert "sdtt" in (tmp_path / "page.svg").read_text("utf-8")
