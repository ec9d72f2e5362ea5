"""What `confidence` opens when, by hand and against a loop over one sequence."""

import math

import pytest
import scipy.stats
import torch
from enumeration import MASK, VOCAB, chances, generator, sample
from hypothesis import example, given, settings
from hypothesis import strategies as st

# The largest probability at each place; three are sure, and their neighbours.
CHANCE = [0.99, 0.5, 0.97, 0.96, 0.4, 0.6, 0.98, 0.45]
EOS = 2


def network(chance, token, asked=None):
    """Logits that give `token[i]` the probability `chance[i]`, whatever else is visible."""
    p = torch.tensor(chance, dtype=torch.float64)
    logits = ((1 - p) / (VOCAB - 2)).log()[:, None].repeat(1, VOCAB)
    logits[torch.arange(len(p)), token] = p.log()

    def denoise(z, rows):
        if asked is not None:
            asked.append(rows.clone())
        return logits.expand(len(z), -1, -1)[rows]

    return denoise


def opened(chance=CHANCE, token=0, steps=20, prompt=None, asked=None, **how):
    """Return the places that open in each step of one sequence; the likely token is drawn."""
    token = torch.as_tensor(token).expand(len(chance))
    seen = [torch.full((1, len(chance)), MASK) if prompt is None else prompt]
    how |= dict(n=1, length=len(chance), denoise=network(chance, token, asked), prompt=prompt)
    how |= dict(greedy_tail=steps, callback=lambda step, z: seen.append(z))
    drawn = sample("confidence", steps, **how).tokens
    assert torch.equal(drawn[0], torch.where(seen[0][0] == MASK, token, seen[0][0]))
    pairs = zip(seen, seen[1:], strict=False)
    return [set((a != b)[0].nonzero().flatten().tolist()) for a, b in pairs]


@pytest.mark.parametrize(
    "how, steps",
    [
        ({}, [{0, 2, 3, 6}, {5}, {1}, {7}, {4}]),
        (dict(max_tokens=2), [{0, 6}, {2, 3}, {5}, {1}, {7}, {4}]),
        (dict(block=4), [{0, 2, 3}, {1}, {6}, {5}, {7}, {4}]),
        # Gaps of 4 * 8 / 8, 4 * 6 / 8 and 2.
        (dict(spacing=4), [{0, 6}, {2}, {3}, {5}, {1}, {7}, {4}]),
        (dict(steps=3, spacing=4), [{0, 6}, {2}, {1, 3, 4, 5, 7}]),
        (dict(threshold=None, steps=3, block=4), [{0, 2, 3}, {1, 6}, {4, 5, 7}]),
        (dict(eos_after=0.3), [{2, 3, 6}, {0}, {5}, {1}, {7}, {4}]),
        (dict(eos_after=1.0, block=4), [{2, 3}, {1}, {0}, {6}, {5}, {7}, {4}]),
    ],
)
def test_order(how, steps):
    """By hand; `test_against_a_loop` has all else."""
    token = [EOS] + 7 * [0]
    assert opened(token=token, eos_index=EOS, **dict(threshold=0.95) | how) == steps


def test_places_that_rounding_alone_tells_apart_open_in_a_random_order():
    """All of an empty sequence, to a network of rotary positions."""
    seen: list = []
    how = dict(n=4_000, length=8, callback=lambda step, z: seen.append(z))
    even = [0.5 + 1e-6 * i for i in range(8)]
    net = network(even, torch.zeros(8, dtype=torch.long))
    sample("confidence", 8, denoise=lambda z, rows: net(z, rows).float(), **how)
    counts = (seen[0] != MASK).sum(0)
    assert counts.sum() == 4_000 and scipy.stats.chisquare(counts).pvalue > 1e-3
    # In float64 that is no rounding.
    assert opened(even, threshold=None, steps=8) == [{i} for i in reversed(range(8))]


def test_blocks_begin_where_the_prompt_ends():
    """As in CD4LM and DUS: a completion has the blocks that it would have alone."""
    how = dict(threshold=0.95, block=4, spacing=4)
    alone = opened(**how)
    for n in (1, 3, 4):
        prompt = torch.tensor([[1] * n + [MASK] * len(CHANCE)])
        after = opened([0.5] * n + CHANCE, prompt=prompt, **how)
        assert after == [{i + n for i in step} for step in alone]


def test_temperature_goes_by_what_is_open_under_a_threshold():
    """By each sequence's own share, and not by the steps that it might have taken."""
    seen, prompt = [], torch.tensor([[MASK] * 4, [1, 1, MASK, MASK]])

    def temperature(share):
        seen.append(share.tolist())
        return 1 + 0 * share

    how = dict(denoise=network([0.9, 0.5, 0.9, 0.4], torch.zeros(4).long()), greedy_tail=100)
    how |= dict(n=2, length=4, threshold=0.8, prompt=prompt, temperature=temperature)
    sample("confidence", 100, **how)
    assert seen == [[0.0] * 6, [0.5, 0.5, 0.5], [0.75]]


@pytest.mark.parametrize(
    "how, sure", [(dict(temperature=0.5), {0, 1}), (dict(top_p=0.4), {0, 1, 2})]
)
def test_a_raw_score_is_without_temperature_and_nucleus(how, sure):
    assert opened([0.9, 0.97, 0.5], threshold=0.95, **how)[0] == sure
    assert opened([0.9, 0.97, 0.5], threshold=0.95, score="raw", **how)[0] == {1}


def test_a_raw_score_is_that_of_the_drawn_token():
    """The likely token reaches the threshold; where another one is drawn, it waits."""
    seen: list = []
    how = dict(n=4_000, length=2, score="raw", threshold=0.8, temperature=4.0)
    net = network([0.9, 0.9], torch.zeros(2).long())
    sample("confidence", 2, denoise=net, callback=lambda step, z: seen.append(z), **how)
    both = (seen[0] != MASK).all(-1)
    assert (seen[0][both] == 0).all() and (seen[0] != MASK).any(-1).all()
    logits = torch.tensor([0.9, 0.05, 0.05, 0.0]).double().log()
    assert both.double().mean().item() == pytest.approx(chances(logits, 4.0)[0] ** 2, abs=0.03)


# A loop over one sequence -----------------------------------------------------------


def naive(chance, token, masked, steps, threshold, max_tokens, block, spacing, eos_after):
    left, out = sorted(masked), []
    size, start = block or len(chance), len(masked)
    of = {i: (i - left[0]) // size for i in left}  # blocks begin with what is to be filled
    for step in range(steps):
        if not left:
            break
        level = 1 - len(left) / start
        if step == steps - 1:
            opens = left
        elif threshold is None:
            count = math.floor(start * ((step + 1) / steps) + 0.5) - (start - len(left))
            opens = left[:0]
        else:
            count = 1
        if step < steps - 1 and count:
            last = of[left[count - 1]]  # the block of the count-th masked token
            rows = [i for i in left if of[i] <= last]
            early = {i for i in rows if token[i] == EOS and level < eos_after}
            rows.sort(key=lambda i: (i in early, -chance[i]))
            sure = [i for i in rows if i not in early and chance[i] >= (threshold or 0)]
            chosen = sure if sure and sure[0] == rows[0] else [rows[0], *sure]
            if spacing:
                gap, kept = max(2, spacing * min(len(rows), size) // size), []
                for i in chosen:
                    if all(abs(i - j) >= gap for j in kept):
                        kept.append(i)
                chosen = kept
            if threshold is None:
                chosen = sorted(rows, key=lambda i: (of[i], i not in chosen, rows.index(i)))
            opens = chosen[: (max_tokens or len(left)) if threshold else count]
        out.append(set(opens))
        left = [i for i in left if i not in opens]
    return out


@settings(max_examples=60, deadline=None)
@given(
    st.permutations([0.34 + 0.05 * k for k in range(13)]).flatmap(
        lambda x: st.integers(2, 13).map(lambda n: x[:n])
    ),
    st.lists(st.sampled_from([0, 1, EOS]), min_size=13, max_size=13),
    st.sets(st.integers(0, 12)),
    st.integers(1, 15),
    st.none() | st.sampled_from([0.5, 0.7, 0.9]),
    st.none() | st.integers(1, 4),
    st.none() | st.integers(1, 6),
    st.none() | st.integers(1, 9),
    st.sampled_from([0.0, 0.35, 1.0]),
)
@example([0.9, 0.8, 0.7, 0.6], [0] * 13, {0}, 2, None, None, 2, 3, 0.0)
def test_against_a_loop(chance, token, given_, steps, threshold, most, block, spacing, eos_after):
    n = len(chance)
    token, most = token[:n], most if threshold else None
    masked = [i for i in range(n) if i not in given_] or [0]
    prompt = torch.full((1, n), MASK)
    prompt[0, [i for i in range(n) if i not in masked]] = 1
    how = dict(threshold=threshold, max_tokens=most, block=block, spacing=spacing)
    how |= dict(eos_after=eos_after)
    asked: list = []
    found = opened(chance, token, steps, prompt, asked, eos_index=EOS, schedule="uniform", **how)
    assert found == naive(chance, token, masked, steps, **how)
    if block and threshold and len(asked) < steps:
        # The network's head runs for the masked tokens of one block.
        assert all(len({(int(i) - masked[0]) // block for i in r[0].nonzero()}) == 1 for r in asked)
    if not block:  # for all that are masked, where any are to open
        left = [len(masked) - sum(map(len, found[:k])) for k in range(len(found))]
        assert [int(r.sum()) for r in asked] == [
            n for n, opens in zip(left, found, strict=True) if opens
        ]


@pytest.mark.parametrize("threshold", [None, 0.6])
def test_batches_equal_sequences_one_by_one(threshold):
    """Sequences with other prompts, in other blocks at the same step."""
    table = 3 * torch.randn(30, VOCAB, generator=generator(4)).double()

    def denoise(z, rows):
        # What is open, and where, counts: by a weight of its own at each place.
        weight = torch.linspace(0.5, 1.5, 12).double()
        shift = ((z != MASK) * (z + 1) * weight).sum(-1).long()
        place = torch.arange(12)
        return table[(shift[:, None] * 7 + place * 3) % 30][rows]

    prompt = torch.where(torch.rand(6, 12, generator=generator(5)) < 0.4, 1, MASK)
    how = dict(threshold=threshold, block=5, spacing=3, eos_after=0.5, eos_index=EOS)
    how |= dict(length=12, denoise=denoise, greedy_tail=5)

    def run(prompt):
        return sample("confidence", 5, n=len(prompt), prompt=prompt, **how).tokens

    assert torch.equal(run(prompt), torch.cat([run(row[None]) for row in prompt]))
