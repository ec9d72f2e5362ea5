"""`measure` and `corpus_reference`: the row of a results file."""

import json
import math

import pytest
import torch

from mdlm_mcd.errors import ConfigError
from mdlm_mcd.evaluation import evaluators, metrics

NAMES = ["perplexity", "entropy", "corpus_entropy", "bigram_entropy", "bigram_tv"]
NAMES += ["distinct_1", "distinct_2", "distinct_3", "self_bleu"]


def text(rows, seed=0, vocab=12):
    """A walk: the next token is one to three further on."""
    g = torch.Generator().manual_seed(seed)
    return torch.randint(1, 4, (rows, 16), generator=g).cumsum(-1) % vocab


def step_nats(tokens):
    """The walk's own law as a judge, and 1e-2 for what it never does."""
    step = (tokens[:, 1:] - tokens[:, :-1]) % 12
    return torch.where((step >= 1) & (step <= 3), math.log(3.0), math.log(100.0))


AR = evaluators.CallableEvaluator(step_nats, "walk")


def test_a_row_has_the_schemas_names_and_is_json():
    row = metrics.measure(text(40), evaluator=AR, corpus_tokens=text(200, seed=1))
    assert list(row) == NAMES
    read = json.loads(json.dumps(row))
    assert -1 <= read["perplexity"].pop("correlation") <= 1
    for name in ("perplexity", "entropy"):  # beside the interval of the bootstrap
        figure, error = read[name], read[name].pop("error")
        half = (figure["high"] - figure["low"]) / 2
        assert 1.96 * error == pytest.approx(half, rel=0.3, abs=1e-9)
    for figure in read.values():
        assert set(figure) == {"value", "low", "high"}
        assert figure["low"] <= figure["value"] <= figure["high"]
    assert row["perplexity"]["value"] == pytest.approx(3)
    assert set(metrics.measure(text(4))) == set(NAMES) - {"perplexity", "bigram_tv"}


def test_the_reference_is_what_true_samples_score():
    corpus, true = text(400, seed=1), text(40, seed=2)
    reference = metrics.corpus_reference(corpus, AR, num_samples=40)
    assert sorted(reference) == sorted(NAMES)
    row = metrics.measure(true, evaluator=AR, corpus_tokens=corpus)
    for name in NAMES:
        spread = (row[name]["high"] - row[name]["low"]) / 2
        assert abs(reference[name] - row[name]["value"]) <= 3 * spread + 1e-9, name
    # What is not of this law lies far from it.
    wrong = torch.randint(0, 12, (40, 16))
    row = metrics.measure(wrong, evaluator=AR, corpus_tokens=corpus)
    assert row["bigram_tv"]["low"] > reference["bigram_tv"] + 0.2
    assert row["perplexity"]["low"] > 2 * reference["perplexity"]


@pytest.mark.parametrize("rows", [30, 31, 200])
def test_a_small_corpus_is_halved_on_both_sides(rows):
    """Sample and reference are compared at the same number of rows."""
    corpus, samples = text(rows, seed=1), text(40)
    used = min(40, rows // 2)
    found = metrics.measure(samples, corpus_tokens=corpus)["bigram_tv"]["value"]
    assert found == metrics.bigram_tv(samples[:used], corpus[:used]).value
    reference = metrics.corpus_reference(corpus, num_samples=40)
    found = reference["bigram_tv"]
    assert ("distinct_2" in reference) == (rows >= 40)  # pooled: of as many rows or none
    assert found == metrics.bigram_tv(corpus[:used], corpus[used : 2 * used]).value


@pytest.mark.parametrize(
    "samples, change, words",
    [
        (text(1), {}, "at least 2 samples of 4 tokens and have (1, 16)"),
        (text(5)[:, :3], {}, "at least 2 samples of 4 tokens and have (5, 3)"),
        (torch.full((5, 16), 7), {"eos": 7}, "all 5 samples are nothing but EOS (7)"),
        (text(5), {"corpus_tokens": text(1)}, "at least 2 rows and has 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(samples, change, words):
    with pytest.raises(ConfigError) as caught:
        metrics.measure(samples, **change)
    assert words in str(caught.value)
