"""Differences, verdicts and sentences on rows whose answer is known."""

import math
from pathlib import Path

import pytest
from bench import outcome, results, tables
from bench.methods import MCD, TEACHER
from bench.verdict import TEMPERED, Figures, Place, interval, paired, tally
from bench.verdict import outcome as verdict_of
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
AT8 = Place(8)
SEEDS = (1, 2, 3)
NOISE = {1: -0.01, 2: 0.0, 3: 0.012}


def row(method, seed, perplexity, entropy, bound=3.0, steps=8, law="iid", round=None):
    return {
        "part": "language",
        "method": method,
        "seed": seed,
        "steps": steps,
        "law": law,
        "round": round,
        "metrics": {
            "perplexity": perplexity,
            "entropy": entropy,
            "corpus_entropy": entropy,
            "bigram_entropy": entropy - 1,
            "n_step_nelbo": bound,
        },
    }


def frontier(seeds=SEEDS, steps=8):
    """The teacher: log perplexity = 1 + entropy, entropy = 2 + T."""
    return [
        row(name, s, math.exp(3 + t + NOISE[s]), 2 + t, steps=steps)
        for t, name in TEMPERED.items()
        for s in seeds
    ]


def student(method, ratio, entropy=2.75, bound=3.0, spread=0.0, seeds=SEEDS):
    """`ratio` times the tempered teacher's perplexity at its own entropy."""
    return [
        row(method, s, ratio * math.exp(1 + entropy + NOISE[s] + spread * (s - 2)), entropy, bound)
        for s in seeds
    ]


def figures(*rows):
    return Figures([r for part in rows for r in part], "language")


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=6))
def test_intervals_are_students_t(values):
    stats = pytest.importorskip("scipy.stats")
    found = interval(values)
    assert found.mean == pytest.approx(sum(values) / len(values), abs=1e-9)
    error = stats.sem(values)
    half = stats.t.ppf(0.975, len(values) - 1) * error
    assert found.high - found.mean == pytest.approx(half, abs=1e-9)
    assert found.low + found.high == pytest.approx(2 * found.mean, abs=1e-9)


def test_one_seed_has_no_interval_and_no_verdict():
    assert interval([]) is None
    found = interval([0.3])
    assert (found.mean, found.low, found.sign) == (0.3, None, None)
    one = figures(frontier((1,)), student(MCD, 1.0, seeds=(1,)))
    assert verdict_of(one, "perplexity", TEACHER, AT8) == ""


def test_differences_are_paired_by_seed():
    a = {1: 5.0, 2: 9.0, 3: 1.0, 7: 100.0}
    b = {1: 4.0, 2: 8.0, 3: 0.0, 9: -100.0}
    found = paired(a, b)
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
    text = "\n".join(outcome.headline(found))
    assert "No temperature of the teacher reaches MCD's entropy at 8 steps." in text


def test_the_teacher_is_its_own_frontier():
    found = figures(frontier(), student(MCD, 1.0))
    for name in TEMPERED.values():
        values = found.relative("entropy", name, AT8)
        assert values == pytest.approx(dict.fromkeys(SEEDS, 0.0), abs=1e-12)


EQUAL = "perplexity at equal entropy"


@pytest.mark.parametrize(
    "ratio, spread, said",
    [(0.9, 0.0, "loss"), (1.1, 0.0, "win"), (1.0, 0.05, "tie"), (1.03, 0.3, "tie")],
)
def test_a_verdict_is_whether_the_interval_excludes_zero(ratio, spread, said):
    found = figures(frontier(), student(MCD, 1.0), student("sdtt", ratio, 2.6, 3.0, spread))
    assert verdict_of(found, EQUAL, "sdtt", AT8) == said
    assert tally(found, EQUAL)[said]["sdtt"] == [AT8]
    assert verdict_of(found, EQUAL, MCD, AT8) == ""


def test_a_lower_bound_is_better():
    found = figures(frontier(), student(MCD, 1.0, bound=3.0), student("sdtt", 1.0, bound=2.9))
    assert verdict_of(found, "n_step_nelbo", "sdtt", AT8) == "loss"


def test_sentences_follow_the_figures_losses_first():
    def text(mcd, sdtt):
        found = figures(frontier(), student(MCD, mcd), student("sdtt", sdtt, 2.6))
        return "\n".join([*outcome.headline(found), *outcome.of_part(found)])

    worse, better = text(1.2, 1.0), text(0.8, 1.0)
    assert "behind it at 8 steps: +20%" in worse and "ahead of" not in worse
    assert "ahead of it at 8 steps: -20%" in better and "behind" not in better
    order = [worse.index(f"**MCD {verb}**") for verb in outcome.WORDS.values()]
    assert order == sorted(order)
    lost = worse[order[0] : order[1]]
    assert f"by {EQUAL}: the tempered teacher (8); sdtt (8)." in lost
    won = better[better.index("**MCD wins against**") :]
    assert f"by {EQUAL}: the tempered teacher (8); sdtt (8)." in won


def test_no_sentence_is_made_of_what_supports_none(tmp_path):
    """In the generator and in the committed page, where nothing is called CD4LM."""
    rows = [*frontier(), *student(MCD, 1.2), *student("sdtt", 1.0)]
    parts = {
        name: Figures([{**r, "part": name} for r in rows], name) for name in ("language", "text")
    }
    page = results.page(tmp_path, "full", parts)
    committed = (ROOT / "docs" / "results.md").read_text("utf-8")
    for text in (page, committed):
        language, half = text.split("## The standard library's English: outcome")
        half = half.partition("## ")[0].strip()
        assert half == results.INCONCLUSIVE["text"] and "**MCD loses to**" in language
    assert "| subset consistency | +" in committed
    assert "cd4lm" not in committed.replace("`algo=cd4lm`", "")


def test_tables_hold_the_figures():
    found = figures(frontier(), student(MCD, 1.0), student("sdtt", 1.1))
    page = "\n".join(tables.part(found))
    assert "| sdtt | +10% [+10, +10] win |" in page
    assert "| **mcd** |" in page
    # The frontier against itself is no row of the table at equal entropy.
    at_equal = page.split("### ")[2]
    assert "T 0.8 |" not in at_equal and "| teacher |" in at_equal


def test_every_perplexity_stands_beside_entropies():
    found = figures(frontier(), student(MCD, 1.0))
    method = next(m for m in found.methods if m.name == MCD)
    perplexity = found.of("perplexity", MCD, AT8).values()
    level = math.exp(sum(perplexity) / 3)
    cell = tables.level(found, method, AT8)
    assert cell == f"{tables.number(level)}; 3.000; 2.75 / 2.75 / 1.75"


def test_rows_for_the_report_are_means_over_seeds():
    found = figures(frontier(steps=4), frontier(), student(MCD, 1.0))
    made = list(results.rows(found, "full"))
    assert {r["model"] for r in made} == {TEACHER, MCD}
    assert {r["temperature"] for r in made if r["model"] == TEACHER} == set(TEMPERED)
    mcd = next(r for r in made if r["model"] == MCD)
    figure = mcd["metrics"]["perplexity"]
    assert figure["low"] < figure["value"] < figure["high"]
    assert mcd["teacher"] == TEACHER and mcd["algo"] == "mcd"
