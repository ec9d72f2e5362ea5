"""Diversity: fast counts against naive ones, intervals against fresh draws."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdlm_mcd.evaluation import diversity, intervals


def grams(rows, n):
    return [tuple(row[i : i + n]) for row in rows for i in range(len(row) - n + 1)]


def entropy(counts):
    total = sum(counts.values())
    return -sum(c / total * math.log(c / total) for c in counts.values())


def naive_bigram_entropy(rows):
    """sum over first tokens of their share times the entropy of what follows."""
    follows: dict = {}
    for a, b in grams(rows, 2):
        follows.setdefault(a, Counter())[b] += 1
    total = len(grams(rows, 2))
    return sum(sum(c.values()) / total * entropy(c) for c in follows.values())


def naive_tv(rows, corpus):
    a, b = grams(rows, 2), grams(corpus, 2)
    most = min(len(a), len(b))
    p, q = Counter(a[:most]), Counter(b[:most])
    return sum(abs(p[g] - q[g]) for g in p | q) / most / 2


def naive_distinct(rows, n):
    return len(set(grams(rows, n))) / len(grams(rows, n))


def naive_self_bleu(rows, order):
    """BLEU by its definition, every other row a reference."""
    out = []
    for i, row in enumerate(rows):
        logs = 0.0
        for n in range(1, order + 1):
            mine = Counter(grams([row], n))
            others = [Counter(grams([r], n)) for j, r in enumerate(rows) if j != i]
            matched = sum(min(c, max(other[g] for other in others)) for g, c in mine.items())
            logs += math.log((matched or 0.1) / sum(mine.values()))
        out.append(math.exp(logs / order))
    return out


ROWS = st.integers(4, 9).flatmap(
    lambda length: st.lists(
        st.lists(st.integers(0, 4), min_size=length, max_size=length), min_size=2, max_size=7
    )
)


@settings(max_examples=40)
@given(ROWS, ROWS)
def test_fast_counts_are_the_naive_ones(rows, corpus):
    tokens = torch.tensor(rows)
    near = lambda x: pytest.approx(x, abs=1e-10)  # noqa: E731
    unigrams = Counter(grams(rows, 1))
    assert diversity.pooled_entropy(tokens).value == near(entropy(unigrams))
    assert diversity.bigram_entropy(tokens).value == near(naive_bigram_entropy(rows))
    tv = diversity.bigram_tv(tokens, torch.tensor(corpus)).value
    assert tv == near(naive_tv(rows, corpus)) and -1e-12 <= tv <= 1 + 1e-12
    for n in (1, 2, 3):
        assert diversity.distinct(tokens, n).value == near(naive_distinct(rows, n))
    for order in (1, 2, 4):
        found = diversity.self_bleu(tokens, order).tolist()
        assert found == near(naive_self_bleu(rows, order))


@settings(max_examples=25)
@given(ROWS, ROWS)
def test_intervals_leave_each_sample_out_once(rows, corpus):
    """The same interval as computing the naive statistic anew without each row."""
    tokens, text = torch.tensor(rows), torch.tensor(corpus)
    # As many bigrams as the samples have: leaving one out then moves nothing else.
    text = text.repeat(len(rows) * 9, 1)
    bigrams = grams(corpus * len(rows) * 9, 2)[: len(grams(rows, 2))]
    q = Counter(bigrams)

    def tv(kept):
        p, size = Counter(grams(kept, 2)), len(grams(kept, 2))
        return sum(abs(p[g] / size - q[g] / len(bigrams)) for g in p | q) / 2

    for found, naive in (
        (diversity.pooled_entropy(tokens), lambda r: entropy(Counter(grams(r, 1)))),
        (diversity.bigram_entropy(tokens), naive_bigram_entropy),
        (diversity.distinct(tokens, 2), lambda r: naive_distinct(r, 2)),
        (diversity.bigram_tv(tokens, text), tv),
    ):
        without = [naive(rows[:i] + rows[i + 1 :]) for i in range(len(rows))]
        expected = intervals.jackknife(naive(rows), torch.tensor(without, dtype=torch.float64))
        assert found == pytest.approx(expected, abs=1e-7)


def test_a_large_vocabulary_does_not_overflow():
    """50k ** 4 fits no table and 200k ** 4 no int64: numbers stay small."""
    g = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 200_000, (30, 60), generator=g) + 2**40
    tokens[1] = tokens[0]
    rows = tokens.tolist()
    assert diversity.self_bleu(tokens).tolist() == pytest.approx(naive_self_bleu(rows, 4))
    assert diversity.distinct(tokens, 3).value == naive_distinct(rows, 3)
    assert diversity.bigram_entropy(tokens % 200_000).value == pytest.approx(
        naive_bigram_entropy((tokens % 200_000).tolist())
    )


def test_an_entropy_by_sample_hides_what_the_pooled_one_sees():
    repeated, diverse = torch.arange(4).repeat(8, 1), torch.arange(32).view(8, 4)
    mixed = diversity.sample_entropy(torch.tensor([[1, 1, 1, 1], [5, 5, 6, 6]]))
    assert mixed.tolist() == pytest.approx([0.0, math.log(2)])
    for tokens, pooled in ((repeated, 4), (diverse, 32)):
        assert diversity.sample_entropy(tokens).tolist() == pytest.approx([math.log(4)] * 8)
        assert diversity.pooled_entropy(tokens).value == pytest.approx(math.log(pooled))
