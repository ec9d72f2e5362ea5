"""Networks conditioned on time: each sampler asks at the time at which z stands."""

import itertools

import pytest
import torch
from enumeration import (
    EMPTY,
    LENGTH,
    MASK,
    VOCAB,
    assert_law,
    draw,
    exact_law,
    generator,
    open_one,
    timed,
    timed_table,
    uniform,
)

from mdlm_mcd import laws, sampling

STEPWISE = ("ancestral", "sparse", "locked")


def hosts(t):
    """Not 0 at t = 1, as in the hosts, and by far more."""
    return 1 - 0.8 * t


def at(level):
    return 0.2 + 0.8 * level


@pytest.mark.parametrize("name", STEPWISE)
@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_step_k_is_asked_at_alpha_k(name, steps):
    tables = [timed_table(hosts(1 - k / steps)) for k in range(steps)]
    law = exact_law(tables, uniform(steps))
    assert_law(draw(name, steps, denoise=timed(), alpha=hosts), law)
    # The draws would not fit other times, such as each step's end.
    wrong = exact_law(
        [timed_table(hosts(1 - (k + 1) / steps)) for k in range(steps)], uniform(steps)
    )
    assert sum(abs(law[z] - wrong.get(z, 0.0)) for z in law) / 2 > 0.05


@pytest.mark.parametrize("name", STEPWISE)
def test_a_schedule_of_shares_is_asked_at_its_levels(name):
    """With a given token and a falling temperature."""
    levels, start = laws.levels("cosine", 4), (MASK, 1, MASK)
    law = exact_law(
        [timed_table(at(level)) for level in levels[:-1]],
        levels,
        start,
        lambda step: dict(temperature=1.3 - 0.8 * levels[step] / levels[-2]),
    )
    given = torch.tensor(start).expand(10_000, -1)
    drawn = draw(
        name,
        4,
        denoise=timed(),
        alpha=hosts,
        schedule="cosine",
        temperature=(1.3, 0.5),
        prompt=given,
    )
    assert_law(drawn, law)


@pytest.mark.parametrize("name", ["sparse", "locked"])
def test_another_law_of_u_is_asked_at_its_levels(name):
    """A comb of step 1/3 in 3 steps: three rotations, forwards or backwards."""
    orders = [(0, 1, 2), (1, 2, 0), (2, 0, 1)]
    law: dict = {}
    for order in [*orders, *(o[::-1] for o in orders)]:
        one = {EMPTY: 1 / 6}
        for k, i in enumerate(order):
            one = open_one(one, timed_table(at(k / 3)), lambda z, i=i: {i: 1.0})
        for z, mass in one.items():
            law[z] = law.get(z, 0.0) + mass
    drawn = draw(name, 3, denoise=timed(), alpha=hosts, u_law="lattice", u_step=1 / 3)
    assert_law(drawn, law)


def recorded(name, steps=None, **how):
    """Each evaluation's (alpha_t, z), and the sample."""
    asked = []
    given = torch.full((4, LENGTH), MASK)
    given[1, 0], given[2, :2], given[3] = 0, 1, 2
    drawn = sampling.sample(
        name,
        timed(asked),
        4,
        LENGTH,
        steps,
        alpha=hosts,
        mask_index=MASK,
        vocab_size=VOCAB,
        generator=generator(),
        prompt=given,
        **how,
    )
    assert drawn.evaluations == len(asked)
    return asked, (given == MASK).sum(-1)


def test_first_hitting_asks_each_sequence_at_its_own_level():
    """That at which its token opens, which the temperature sees as well."""
    levels = []

    def temperature(level):
        levels.append(level.clone())
        return 1 + 0 * level

    asked, _ = recorded("first_hitting", temperature=temperature)
    assert len(asked) == LENGTH
    for (alpha_t, z), level in zip(asked, levels, strict=True):
        active = (z == MASK).any(-1)
        torch.testing.assert_close(alpha_t[active], at(level))
    for (early, _), (late, z) in itertools.pairwise(asked):
        active = (z == MASK).any(-1)
        assert (early < late)[active].all() and len(late.unique()) > 1


@pytest.mark.parametrize("threshold", [None, 0.6])
def test_confidence_asks_at_the_share_of_open_tokens(threshold):
    asked, start = recorded("confidence", 5, threshold=threshold)
    for alpha_t, z in asked:
        left = (z == MASK).sum(-1)
        open_share = 1 - left / start.clamp(min=1)
        torch.testing.assert_close(alpha_t, at(open_share.double()))


def test_ancestral_keeps_no_prediction_of_another_time():
    seen: list = []
    drawn = sampling.sample(
        "ancestral",
        timed(),
        1,
        LENGTH,
        400,
        alpha=hosts,
        mask_index=MASK,
        vocab_size=VOCAB,
        generator=generator(),
        callback=lambda step, z: seen.append((z == MASK).any()),
    )
    assert drawn.evaluations == 1 + sum(map(int, seen)) > LENGTH
