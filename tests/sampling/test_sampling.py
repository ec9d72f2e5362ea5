"""The samplers' laws against exact enumeration on a tiny vocabulary."""

import itertools
import math
from functools import partial

import pytest
import scipy.stats
import torch
from enumeration import (
    EMPTY,
    LENGTH,
    MASK,
    VOCAB,
    assert_law,
    chances,
    comb_law,
    draw,
    exact_law,
    generator,
    hosts,
    open_one,
    sample,
    table,
    timed,
    timed_table,
    uniform,
)

from mdlm_mcd import laws, sampling

STEPWISE = ("ancestral", "sparse", "locked")


def at(level):
    """`hosts` where this share of the tokens is open."""
    return 0.2 + 0.8 * level


@pytest.mark.parametrize("name", STEPWISE)
@pytest.mark.parametrize("steps, how", [(1, {}), (4, {}), (4, dict(temperature=0.7, top_p=0.6))])
def test_law_is_exact(name, steps, how):
    assert_law(draw(name, steps, **how), exact_law(table(), uniform(steps), how=lambda step: how))


@pytest.mark.parametrize("name", STEPWISE)
@pytest.mark.parametrize("steps", [1, 3])
def test_step_k_is_asked_at_alpha_k(name, steps):
    asked, late = ([timed_table(at((k + j) / steps)) for k in range(steps)] for j in (0, 1))
    law, wrong = (exact_law(tables, uniform(steps)) for tables in (asked, late))
    assert_law(draw(name, steps, denoise=timed(), alpha=hosts), law)
    # The draws would not fit other times, such as each step's end.
    assert sum(abs(law[z] - wrong.get(z, 0.0)) for z in law) / 2 > 0.05


@pytest.mark.parametrize("name", STEPWISE)
def test_law_with_everything_at_once(name):
    """Time, falling temperature, nucleus, greedy tail, cosine shares, a given token."""
    levels, start = laws.levels("cosine", 4), (MASK, 1, MASK)
    law = exact_law(
        [timed_table(at(level)) for level in levels[:-1]],
        levels,
        start,
        lambda step: dict(
            temperature=1.3 - 0.8 * levels[step] / levels[-2], top_p=0.9, greedy=step == 3
        ),
    )
    given = torch.tensor(start).expand(5_000, -1)
    how = dict(schedule="cosine", temperature=(1.3, 0.5), top_p=0.9, greedy_tail=1)
    drawn = draw(name, 4, prompt=given, denoise=timed(), alpha=hosts, **how)
    assert (drawn[:, 1] == 1).all() and given[0, 0] == MASK
    assert_law(drawn, law)


@pytest.mark.parametrize("name, stratified", [("sparse", True), ("locked", False)])
def test_a_comb_opens_in_one_of_its_orders(name, stratified):
    how = dict(u_law="lattice", u_step=1 / 3, stratified=stratified)
    assert_law(draw(name, 3, **how), comb_law([table()] * 3))
    tables = [timed_table(at(k / 3)) for k in range(3)]
    assert_law(draw(name, 3, denoise=timed(), alpha=hosts, **how), comb_law(tables))


def any_masked(z):
    masked = [i for i, token in enumerate(z) if token == MASK]
    return {i: 1 / len(masked) for i in masked}


def limit_law(start=EMPTY, chosen=any_masked, greedy=0, logits=None, **how):
    """One by one; in a random order `ancestral` with infinitely many steps."""
    law = {start: 1.0}
    for left in range(start.count(MASK), 0, -1):
        logits = table() if logits is None else logits
        law = open_one(law, logits, chosen, greedy=left <= greedy, **how)
    return law


@pytest.mark.parametrize(
    "name,steps,how,law",
    [
        ("first_hitting", None, {}, {}),
        ("first_hitting", 7, dict(temperature=0.6, top_p=0.8), dict(temperature=0.6, top_p=0.8)),
        ("first_hitting", None, dict(greedy_tail=1), dict(greedy=1)),
        ("sparse", LENGTH, dict(stratified=True), {}),
        # Noise falls to 0 at the last step, which has nothing left to choose.
        ("confidence", LENGTH, dict(score_noise=1e6), {}),
    ],
)
def test_random_orders(name, steps, how, law):
    assert_law(draw(name, steps, **how), limit_law(**law))


COMB = dict(u_law="lattice", u_step=1 / 2)


@pytest.mark.parametrize(
    "name, steps, how, law",
    [
        *((name, 3, {}, partial(exact_law, table(), uniform(3))) for name in STEPWISE),
        ("first_hitting", None, {}, limit_law),
        ("confidence", LENGTH, dict(score_noise=1e6), limit_law),
        ("sparse", LENGTH, dict(stratified=True), limit_law),
        # Of two free tokens, however far apart, each step opens one.
        ("sparse", 2, COMB, limit_law),
        ("locked", 2, COMB | dict(stratified=True), limit_law),
    ],
)
def test_each_row_has_the_law_of_its_own_prompt(name, steps, how, law):
    prompts = [(2, MASK, MASK), (MASK, 1, MASK), (0, MASK, 1), (0, 1, 2)]
    given = torch.tensor(prompts).repeat_interleave(2_000, 0)
    drawn = draw(name, steps, n=len(given), prompt=given, **how)
    for start, rows in zip(prompts, drawn.split(2_000), strict=True):
        assert_law(rows, law(start))


def test_first_hitting_draws_its_times_by_the_schedule():
    """The j-th of m opening levels is the j-th order statistic of m uniforms."""
    seen = []

    def temperature(level):
        seen.append(level.clone())
        return 1 + 0 * level

    draw("first_hitting", None, n=4000, temperature=temperature)
    assert len(seen) == LENGTH
    for j, level in enumerate(seen, 1):
        law = scipy.stats.beta(j, LENGTH + 1 - j)
        assert scipy.stats.kstest(level.numpy(), law.cdf).pvalue > 1e-3


def certainty(score, p):
    if score == "entropy":
        return -scipy.stats.entropy(p)
    top = sorted(p)
    return top[-1] - top[-2] if score == "margin" else top[-1]


@pytest.mark.parametrize("score", ["max", "margin", "entropy"])
def test_confidence_opens_the_most_certain_token(score):
    logits = table(3)

    def surest(z):
        masked = [i for i in range(LENGTH) if z[i] == MASK]
        return {max(masked, key=lambda i: certainty(score, chances(logits[z][i]))): 1}

    law = limit_law(chosen=surest, logits=logits)
    assert_law(draw("confidence", LENGTH, logits=logits, score=score), law)


@pytest.mark.parametrize("score, first", [("max", 1), ("margin", 0), ("entropy", 2)])
def test_scores_that_disagree(score, first):
    p = torch.tensor([[0.5, 0.25, 0.25], [0.54, 0.45, 0.01], [0.505, 0.495, 0.0]]).double()
    logits, seen = torch.nn.functional.pad(p.clamp(min=1e-9), (0, 1)).log(), []
    sample(
        "confidence",
        3,
        n=1,
        score=score,
        denoise=lambda z, rows: logits.expand(len(z), -1, -1)[rows],
        callback=lambda step, z: seen.append(z),
    )
    assert (seen[0][0] != MASK).nonzero().flatten().tolist() == [first]


@pytest.mark.parametrize(
    "score, how", [("drawn", {}), ("drawn", dict(temperature=2.0)), ("raw", dict(temperature=2.0))]
)
def test_confidence_opens_the_drawn_token_of_largest_probability(score, how):
    law: dict = {EMPTY: 1.0}
    for _ in range(LENGTH):
        following: dict = {}
        for z, mass in law.items():
            left = [i for i in range(LENGTH) if z[i] == MASK]
            p = {i: chances(table(3)[z][i], **how) for i in left}
            q = {i: chances(table(3)[z][i]) for i in left} if score == "raw" else p
            for values in itertools.product(range(MASK), repeat=len(left)):
                drawn = dict(zip(p, values, strict=True))
                i = max(q, key=lambda i: q[i][drawn[i]])
                state = (*z[:i], drawn[i], *z[i + 1 :])
                chance = math.prod(p[j][drawn[j]] for j in p)
                following[state] = following.get(state, 0.0) + mass * chance
        law = following
    assert_law(draw("confidence", LENGTH, logits=table(3), score=score, **how), law)


@pytest.mark.parametrize("name", list(sampling.SAMPLERS))
def test_the_same_generator_gives_the_same_sample(name):
    runs = [draw(name, 4, n=50, generator=generator(7)) for _ in range(2)]
    assert torch.equal(*runs) and (runs[0] != MASK).all()
    assert not torch.equal(runs[0], draw(name, 4, n=50, generator=generator(8)))


# The times at which a network is asked ----------------------------------------------


def recorded(name, steps=None, **how):
    """Each evaluation's (alpha_t, z), and how many tokens each sequence was to fill."""
    asked = []
    given = torch.full((4, LENGTH), MASK)
    given[1, 0], given[2, :2], given[3] = 0, 1, 2
    drawn = sample(name, steps, n=4, denoise=timed(asked), alpha=hosts, prompt=given, **how)
    assert drawn.evaluations == len(asked)
    return asked, (given == MASK).sum(-1)


def test_first_hitting_asks_each_sequence_at_its_own_level():
    """That at which its token opens, which the temperature sees as well."""
    levels, earlier = [], torch.zeros(4)

    def temperature(level):
        levels.append(level.clone())
        return 1 + 0 * level

    asked, _ = recorded("first_hitting", temperature=temperature)
    assert len(asked) == LENGTH
    for (alpha_t, z), level in zip(asked, levels, strict=True):
        active = (z == MASK).any(-1)
        torch.testing.assert_close(alpha_t[active], at(level))
        assert (earlier < alpha_t)[active].all() and len(alpha_t.unique()) > 1
        earlier = alpha_t


@pytest.mark.parametrize("threshold", [None, 0.6])
def test_confidence_asks_at_the_share_of_open_tokens(threshold):
    asked, start = recorded("confidence", 5, threshold=threshold)
    for alpha_t, z in asked:
        open_share = 1 - (z == MASK).sum(-1) / start.clamp(min=1)
        torch.testing.assert_close(alpha_t, at(open_share.double()))


def test_ancestral_keeps_no_prediction_of_another_time():
    seen: list = []
    how = dict(n=1, denoise=timed(), alpha=hosts)
    how["callback"] = lambda step, z: seen.append((z == MASK).any())
    drawn = sample("ancestral", 400, **how)
    assert drawn.evaluations == 1 + sum(map(int, seen)) > LENGTH
    assert VOCAB == MASK + 1 and not (drawn.tokens == MASK).any()
