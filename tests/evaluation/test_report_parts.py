"""What the report is made of: comparisons that never extrapolate, figures, colours."""

import math
import re
import statistics
from importlib.resources import files

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from synthetic import estimate, row, sweep, write

from mdlm_mcd.evaluation import intervals, metrics, report, results
from mdlm_mcd.evaluation.frontier import log_ratio_error
from mdlm_mcd.evaluation.report import charts, compare

# Comparisons ------------------------------------------------------------------------


def point(model, steps, temperature, perplexity, entropy):
    metrics = {"perplexity": estimate(perplexity, 0.01), "entropy": estimate(entropy)}
    metrics["perplexity"]["correlation"] = 0.9
    return row(model, steps, temperature, metrics=metrics)


def test_a_sharper_model_is_no_better_one(tmp_path):
    """The student is the tempered teacher: half the perplexity, nothing gained."""
    rows = [
        point("teacher", n, t, 800 / n * 2 ** ((t - 1) * 10), 3 + t)
        for n in (4, 8, 16)
        for t in (0.8, 1.0)
    ]
    rows += [point("MCD round 1", n, 1.0, 800 / n / 2, 3.9) for n in (4, 8, 16)]
    found = results.read([write(tmp_path / "r.jsonl", rows)])
    student = found.at("MCD round 1", 1.0, 8)
    match = compare.match(found, student, "teacher")
    assert match.ratio.value == pytest.approx(1.0) and match.verdict == "a tie"
    plain = compare.steps_at_equal("perplexity", found, student, "teacher")
    both = compare.steps_at_equal("frontier", found, student, "teacher")
    assert plain.steps == pytest.approx(16.0) and both.steps == pytest.approx(8.0)
    assert "a tie within the intervals" in report.page(found)


def test_beyond_the_temperatures_it_is_not_reached(tmp_path):
    rows = [point("teacher", 8, t, 100.0 * t, 3 + t) for t in (0.9, 1.0)]
    rows += [point("MCD round 1", 8, 1.0, 50.0, 3.5)]
    found = results.read([write(tmp_path / "r.jsonl", rows)])
    match = compare.match(found, found.at("MCD round 1", 1.0, 8), "teacher")
    assert match.other is None and match.verdict == "not reached"
    assert "not reached" in report.page(found)


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


def test_the_correlation_of_samples_of_unequal_length():
    """Few tokens weigh less in nats per token, not in entropy: the bootstrap's."""
    generator = torch.Generator().manual_seed(0)
    n = 400
    tokens = torch.randint(2, 60, (n,), generator=generator).double()
    entropies = torch.rand(n, generator=generator, dtype=torch.float64)
    noise = torch.rand(n, generator=generator, dtype=torch.float64)
    nats = tokens * (1 + entropies + 0.5 * noise + 3 / tokens)
    pick = torch.randint(n, (20_000, n), generator=generator)
    value = nats[pick].sum(-1) / tokens[pick].sum(-1)
    resampled = torch.corrcoef(torch.stack((value, entropies[pick].mean(-1))))[0, 1]
    found = intervals.correlation(intervals.Scores(nats, tokens), entropies)
    plain = torch.corrcoef(torch.stack((nats, entropies)))[0, 1]
    assert found == pytest.approx(float(resampled), abs=0.02)
    assert abs(found - plain) > 0.1


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
        curve, own = [compare.place(p) for p in curve], compare.place(own)
        errors.append(math.log(own.y / compare.at_entropy(curve, own.x)))
        spreads.append(log_ratio_error(own, curve))
    held = sum(abs(e) <= s for e, s in zip(errors, spreads, strict=True)) / len(errors)
    assert 0.88 <= held <= 0.99
    assert statistics.mean(spreads) == pytest.approx(1.96 * statistics.stdev(errors), rel=0.25)


def test_without_a_correlation_there_is_no_verdict(tmp_path):
    rows = [point("teacher", 8, t, 100.0 * t, 3 + t) for t in (0.8, 1.0)]
    rows += [point("MCD round 1", 8, 1.0, 80.0, 3.9)]
    for held in (None, "high", 2.0):
        rows[0]["metrics"]["perplexity"]["correlation"] = held
        found = results.read([write(tmp_path / "r.jsonl", rows)])
        match = compare.match(found, found.at("MCD round 1", 1.0, 8), "teacher")
        assert match.ratio.value < 1 and match.verdict == "no interval"
        assert "no interval" in report.page(found)


# Charts -----------------------------------------------------------------------------


@given(st.lists(st.floats(0, 300), min_size=1, max_size=12))
def test_labels_are_spread_without_overlap(wanted):
    places = charts.spread(wanted, 14, 10, 290)
    assert all(10 - 1e-6 <= p <= 290 + 1e-6 for p in places)
    gap = min(14, 280 / max(1, len(wanted) - 1))
    ordered = sorted(places)
    assert all(b - a >= gap - 1e-6 for a, b in zip(ordered, ordered[1:], strict=False))
    pairs = sorted(zip(wanted, places, strict=True))
    assert all(a[1] <= b[1] + 1e-6 for a, b in zip(pairs, pairs[1:], strict=False) if a[0] < b[0])


EXTREMES = [
    {"perplexity": estimate(x), "entropy": {"value": y, "low": -y, "high": y}}
    for x, y in ((1e300, 1e300), (1e-300, 0.0), (1e5, -1e-300), (10.0, 3.0))
]


@pytest.mark.parametrize("metrics", [EXTREMES[:1], EXTREMES[1:2], EXTREMES[2:3], EXTREMES])
def test_any_finite_figure_can_be_drawn(tmp_path, metrics):
    rows = [row(steps=10**k, metrics=m) for k, m in enumerate(metrics)]
    found = results.read([write(tmp_path / "r.jsonl", rows)])
    for panel in charts.over_steps(found, "teacher") + charts.frontier(found, "teacher"):
        assert not re.search(r"\b(nan|inf)\b", panel.svg)
        assert "sampling steps" in panel.svg or "entropy of a sample" in panel.svg


def test_held_out_text_far_from_the_samples_is_not_drawn(tmp_path):
    for perplexity, near in ((300.0, True), (1e6, False)):
        rows = sweep(corpus={"perplexity": perplexity, "entropy": 3.7})
        found = results.read([write(tmp_path / "r.jsonl", rows)])
        assert all(bool(p.text) == near for p in charts.frontier(found, "teacher"))
        assert ("Held-out text lies outside" in report.page(found)) != near


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_contrast_in_light_and_dark():
    style = (files(report) / "style.css").read_text("utf-8")
    themes = re.findall(r":root \{(.*?)\n\s*\}", style, re.DOTALL)[:2]
    assert len(themes) == 2
    for theme in themes:
        colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", theme))
        assert len(colours) == 8 + 8 + 5
        grounds = [luminance(colours[k]) for k in ("paper", "panel")]
        for key in set(colours) - {"paper", "panel", "rule", "grid"}:
            own = luminance(colours[key])
            for ground in grounds if key in ("ink", "soft", "warn") else grounds[:1]:
                ratio = (max(own, ground) + 0.05) / (min(own, ground) + 0.05)
                assert ratio >= 4.5, (key, colours[key], ratio)
        ramp = [luminance(colours[f"r{k}"]) for k in range(5)]
        assert ramp in (sorted(ramp), sorted(ramp, reverse=True))


def test_curves_differ_without_colour(tmp_path):
    names = ["teacher", *(f"MCD round {k}" for k in range(1, 6))]
    found = results.read([write(tmp_path / "r.jsonl", sweep(models=names))])
    look = charts.looks(found, "teacher")
    assert len({marker for _, marker in look.values()}) == 6
    assert [look[n][0] for n in names] == ["c0", "r0", "r1", "r2", "r3", "r4"]
