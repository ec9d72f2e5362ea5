"""Comparisons at equal entropy and by steps: exact on the laws they assume, silent beyond."""

import math
import statistics

import pytest
import scipy.interpolate
import torch
from hypothesis import given
from hypothesis import strategies as st
from synthetic import estimate, row, write

from mdlm_mcd.errors import ConfigError
from mdlm_mcd.evaluation import frontier, intervals, metrics, results
from mdlm_mcd.evaluation.report import view

POINTS = st.lists(
    st.tuples(st.floats(3.0, 6.0), st.floats(5.0, 5000.0)),
    min_size=1,
    max_size=8,
    unique_by=lambda point: round(point[0], 3),
)


@given(POINTS, st.floats(2.0, 7.0))
def test_it_is_scipys_monotone_cubic_or_nothing(points, target):
    xs, ys = zip(*sorted(points), strict=True)
    found = frontier.at_equal(xs, ys, target)
    assert (found is None) == (not min(xs) <= target <= max(xs))
    if found is not None and len(points) > 1:
        pchip = scipy.interpolate.PchipInterpolator(xs, [math.log(y) for y in ys])
        assert found == pytest.approx(math.exp(pchip(target)), rel=1e-6)
    assert found == pytest.approx(frontier.at_equal(xs[::-1], ys[::-1], target), nan_ok=True)
    assert [frontier.at_equal(xs, ys, x) for x in xs] == pytest.approx(ys)


def test_no_number_and_a_folded_curve_are_none():
    assert frontier.at_equal([4, float("nan")], [10, 20], 4) is None
    assert frontier.at_equal([4, 5], [10, 0.0], 4.5) is None
    assert frontier.at_equal([], [], 4.5) is None
    # Bigram entropies of the first teacher of text, T = 1 to 0.5: two perplexities for one.
    folded = [3.19, 3.22, 3.25, 3.24, 3.19, 3.01]
    assert frontier.at_equal(folded, [1756, 1600, 1400, 1100, 724, 400], 3.195) is None
    assert frontier.at_equal([4, 4], [10, 1000], 4) is None


CURVE = [(4, 400.0), (16, 100.0), (64, 25.0)]
GAP = [(4, 400.0), (16, None), (64, 25.0)]  # nothing is interpolated over it


@pytest.mark.parametrize(
    "curve, target, kind, steps",
    [
        (CURVE, 200.0, "at", 8),
        (CURVE[::-1], 200.0, "at", 8),
        (CURVE, 100.0, "at", 16),
        (CURVE, 400.0, "within", 4),
        (CURVE, 500.0, "within", 4),
        (CURVE, 20.0, "not", 64),
        ([(4, 1.0), (8, 0.0)], 0.0, "at", 8),
        ([(4, None), (8, None)], 1.0, "apart", 0),
        (GAP, 100.0, "within", 64),
        (GAP[:2], 100.0, "apart", 0),
    ],
)
def test_reach(curve, target, kind, steps):
    assert frontier.reach(curve, target) == (kind, pytest.approx(steps))


# Rows against the reference -----------------------------------------------------------


def point(model, steps, temperature, perplexity, entropy):
    metrics = {"perplexity": estimate(perplexity, 0.01), "entropy": estimate(entropy)}
    metrics["perplexity"]["correlation"] = 0.9
    return row(model, steps, temperature, metrics=metrics)


def matched(tmp_path, rows):
    """The results, and the student in 8 steps against the teacher."""
    found = results.read([write(tmp_path / "r.jsonl", rows)])
    return found, frontier.match(found, found.at("MCD round 1", 1.0, 8), "teacher")


def test_a_sharper_model_is_no_better_one(tmp_path):
    """The student is the tempered teacher: half the perplexity, nothing gained."""
    rows = []
    for n in (4, 8, 16):
        rows += [point("teacher", n, t, 800 / n * 4 ** (5 * t - 5), 3 + t) for t in (0.8, 1.0)]
        rows += [point("MCD round 1", n, 1.0, 800 / n / 2, 3.9)]
    found, match = matched(tmp_path, rows)
    student = found.at("MCD round 1", 1.0, 8)
    assert match.ratio.value == pytest.approx(1.0) and match.verdict == "a tie"
    plain = frontier.steps_at_equal("perplexity", found, student, "teacher")
    both = frontier.steps_at_equal("frontier", found, student, "teacher")
    assert plain.steps == pytest.approx(16.0) and both.steps == pytest.approx(8.0)


def test_the_reference_is_the_students_teacher_by_its_label_or_file(tmp_path):
    def of(*rows):
        return frontier.reference_of(results.read([write(tmp_path / "r.jsonl", rows)]))

    other = row("continued", checkpoint="last.ckpt", teacher=None)
    big = row("big", checkpoint="big.ckpt", teacher=None)
    assert of(other, big, row("MCD 1", teacher="big.ckpt")) == "big"
    assert of(other, big, row("MCD 1", teacher="big")) == "big"
    # Two files of that name: none can be meant.
    twin = row("twin", checkpoint="big.ckpt", teacher=None)
    assert of(other, big, twin, row("MCD 1", teacher="big.ckpt")) == "continued"
    # A student whose file is called as its teacher's was.
    own = row("MCD 1", checkpoint="last.ckpt", teacher="last.ckpt")
    assert of(row("exported", checkpoint="folder", teacher=None), own) == "exported"
    assert of(row("MCD 1", teacher="gone.ckpt"), other) == "continued"
    with pytest.raises(ConfigError, match="--reference luck is no model of these results"):
        frontier.reference_of(results.read([tmp_path / "r.jsonl"]), "luck")


def test_a_student_gets_no_credit_for_its_law(tmp_path):
    """The teacher itself, under a law that halves the perplexity: a tie under either."""
    rows, laws = [], ({}, {"u_law": "lattice"})
    for model in ("teacher", "MCD round 1"):
        for factor, law in zip((1, 2), laws, strict=True):
            for t in (0.8, 1.0):
                rows.append(point(model, 8, t, 100 / factor * 4 ** (5 * t - 5), 3 + t) | law)
    found = results.read([write(tmp_path / "r.jsonl", rows)])
    ratios = {
        name: frontier.match(found, found.at(name, 1.0, 8), "teacher").ratio.value
        for name in found.names
    }
    gain = pytest.approx(0.5)  # of the law, which the teacher's own curve shows
    assert ratios == {**dict.fromkeys(found.names, pytest.approx(1)), "teacher, u lattice": gain}
    assert view.subject(found, "teacher")[0].name == "MCD round 1"
    student = found.at("MCD round 1, u lattice", 1.0, 8)
    assert frontier.steps_at_equal("perplexity", found, student, "teacher") == ("within", 8)
    del rows[2:4]  # without the teacher's lattice there is nothing else to compare with
    found = results.read([write(tmp_path / "r.jsonl", rows)])
    assert frontier.match(found, student, "teacher").ratio.value == gain


def test_beyond_the_temperatures_it_is_not_reached(tmp_path):
    rows = [point("teacher", 8, t, 100.0 * t, 3 + t) for t in (0.9, 1.0)]
    rows += [point("MCD round 1", 8, 1.0, 50.0, 3.5)]
    _, match = matched(tmp_path, rows)
    assert match.other is None and match.verdict == "not reached"


def drawn(law, temperature, seed, samples=128, length=48):
    """Samples of independent tokens at a temperature, measured as a sweep does.

    law: (topics, vocab); each sample is of one topic, so that samples differ.
    """
    generator = torch.Generator().manual_seed(seed)
    q = law ** (1 / temperature)
    topic = torch.randint(len(law), (samples,), generator=generator)
    x = torch.multinomial(q[topic], length, replacement=True, generator=generator)
    log_p = law.log()[:, x].sum(-1).logsumexp(0)
    scores = intervals.Scores(-log_p, torch.full((samples,), float(length)).double())
    entropies = metrics.sample_entropy(x)
    how = dict(seed=seed, resamples=200)
    perplexity = scores.estimate(intervals.perplexity, **how)._asdict()
    perplexity["correlation"] = intervals.correlation(scores, entropies)
    entropy = intervals.mean(entropies, **how)._asdict()
    return row("m", 8, temperature, metrics={"perplexity": perplexity, "entropy": entropy})


def test_the_interval_at_equal_entropy_holds_the_truth():
    """One law, so no difference; for independent errors it was 3 times too wide."""
    generator = torch.Generator().manual_seed(0)
    law = torch.empty(8, 50).exponential_(generator=generator).pow(2).double()
    law /= law.sum(-1, keepdim=True)
    errors, spreads = [], []
    for seed in range(0, 300, 4):
        *curve, own = (
            results.Point(drawn(law, t, seed + i), "") for i, t in enumerate((0.7, 0.85, 1.0, 0.9))
        )
        curve, own = [frontier.place(p) for p in curve], frontier.place(own)
        errors.append(math.log(own.y / frontier.at_entropy(curve, own.x)))
        spreads.append(frontier.log_ratio_error(own, curve))
    share = sum(abs(e) <= s for e, s in zip(errors, spreads, strict=True)) / len(errors)
    assert 0.88 <= share <= 0.99
    assert statistics.mean(spreads) == pytest.approx(1.96 * statistics.stdev(errors), rel=0.25)


def test_without_a_correlation_there_is_no_verdict(tmp_path):
    rows = [point("teacher", 8, t, 100.0 * t, 3 + t) for t in (0.8, 1.0)]
    rows += [point("MCD round 1", 8, 1.0, 80.0, 3.9)]
    for found_there in (None, "high", 2.0):
        rows[0]["metrics"]["perplexity"]["correlation"] = found_there
        _, match = matched(tmp_path, rows)
        assert match.ratio.value < 1 and match.verdict == "no interval"
