"""Differences, verdicts and sentences on rows whose answer is known."""

import math

import pytest
from bench import page
from bench.methods import MCD, METHODS, TEACHER
from bench.verdict import FRONTIER, Figures, Place, interval, paired
from hypothesis import given
from hypothesis import strategies as st

AT8 = Place(8)
SEEDS = (1, 2, 3)
NOISE = {1: -0.01, 2: 0.0, 3: 0.012}
EQUAL = "perplexity at equal entropy"
TEMPERATURES = {m.name: m.temperatures[0] for m in METHODS if m.frontier}


def row(method, seed, perplexity, entropy, bound=3.0, steps=8):
    metrics = {
        "perplexity": perplexity,
        "entropy": entropy,
        "corpus_entropy": entropy,
        "bigram_entropy": entropy - 1,
        "n_step_nelbo": bound,
    }
    return {
        "method": method,
        "model": method,
        "seed": seed,
        "steps": steps,
        "u_law": "iid",
        "round": None,
        "corpus": {"perplexity": 3.0},
        "machine": {"cores": 2},
        "versions": {"torch": "0"},
        "metrics": {name: {"value": value} for name, value in metrics.items()},
    }


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


def figures(*rows):
    return Figures([r for part in rows for r in part])


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=6))
def test_intervals_are_students_t(values):
    stats = pytest.importorskip("scipy.stats")
    found = interval(values)
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    assert found.mean == pytest.approx(sum(values) / len(values), abs=1e-9)
    assert found.high - found.mean == pytest.approx(half, abs=1e-9)
    assert found.low + found.high == pytest.approx(2 * found.mean, abs=1e-9)


def test_one_seed_has_no_interval_and_no_verdict():
    assert interval([]) is None
    found = interval([0.3])
    assert (found.mean, found.low, found.sign) == (0.3, None, None)
    text = "\n".join(page.tables(figures(frontier((1,)), student(MCD, 1.0, seeds=(1,)))))
    assert "win |" not in text and "loss |" not in text and "tie |" not in text


def test_differences_are_paired_by_seed():
    found = paired({1: 5.0, 2: 9.0, 3: 1.0, 7: 100.0}, {1: 4.0, 2: 8.0, 3: 0.0, 9: -100.0})
    assert found.seeds == 3 and found.low == found.high == 1.0


@pytest.mark.parametrize("ratio", [0.8, 1.0, 1.25])
@pytest.mark.parametrize("axis", ["entropy", "bigram_entropy"])
def test_the_ratio_at_equal_entropy_is_found(ratio, axis):
    found = figures(frontier(), student(MCD, ratio)).relative(axis, MCD, AT8)
    assert found == pytest.approx(dict.fromkeys(SEEDS, math.log(ratio)), abs=1e-9)


@pytest.mark.parametrize("entropy", [2.4, 3.1])
def test_nothing_is_extrapolated(entropy):
    found = figures(frontier(), student(MCD, 1.0, entropy))
    assert found.relative("entropy", MCD, AT8) == {}
    assert "equal entropy" not in "\n".join(page.headline("language", found))


def test_the_teacher_is_its_own_frontier():
    found = figures(frontier(), student(MCD, 1.0))
    for name in FRONTIER:
        values = found.relative("entropy", name, AT8)
        assert values == pytest.approx(dict.fromkeys(SEEDS, 0.0), abs=1e-12)


@pytest.mark.parametrize(
    "ratio, spread, verdict",
    [(0.9, 0.0, "loss"), (1.1, 0.0, "win"), (1.0, 0.05, "tie"), (1.03, 0.3, "tie")],
)
def test_a_verdict_is_whether_the_interval_excludes_zero(ratio, spread, verdict):
    found = figures(frontier(), student(MCD, 1.0), student("sdtt", ratio, 2.6, 3.0, spread))
    method = next(m for m in METHODS if m.name == "sdtt")
    assert page.against(found, EQUAL, method, AT8).endswith(f" {verdict}")


def test_a_lower_bound_is_better():
    found = figures(frontier(), student(MCD, 1.0, bound=3.0), student("sdtt", 1.0, bound=2.9))
    method = next(m for m in METHODS if m.name == "sdtt")
    assert page.against(found, "n_step_nelbo", method, AT8) == "-0.100 [-0.100, -0.100] loss"


@pytest.mark.parametrize("ratio, words", [(1.2, "behind it at 8 steps: +20%"), (0.8, "ahead of")])
def test_sentences_follow_the_figures(ratio, words):
    first, *_ = page.headline("language", figures(frontier(), student(MCD, ratio)))
    assert "equal entropy" in first and words in first


def test_the_page_has_the_figures_and_no_sentence_where_none_is_supported():
    found = figures(frontier(), student(MCD, 1.0), student("sdtt", 1.1))
    text = page.page("full", {"language": found, "text": found}, "abc")
    assert "| sdtt | +10% [+10, +10] win |" in text and "| **mcd** |" in text
    half = text.split(f"## {page.TITLES['text']}: outcome")[1].partition("## ")[0].strip()
    assert half == page.INCONCLUSIVE["text"]
    # The frontier against itself is no row of a table at equal entropy.
    assert "T 0.8 |" not in text.split("### ")[2]
    level = math.exp(sum(found.of("perplexity", MCD, AT8).values()) / 3)
    assert f"| {page.number(level)}; 3.000; 2.75 / 2.75 / 1.75 |" in text


def test_rows_for_the_report_are_means_over_seeds():
    made = list(page.means(figures(frontier(), student(MCD, 1.0))))
    assert {r["model"] for r in made} == {MCD, *FRONTIER} and TEACHER in FRONTIER
    mcd = next(r for r in made if r["model"] == MCD)
    figure = mcd["metrics"]["perplexity"]
    assert figure["low"] < figure["value"] < figure["high"] and mcd["seed"] == 1
