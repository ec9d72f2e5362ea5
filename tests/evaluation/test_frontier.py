"""Interpolation: exact on the laws it assumes, silent beyond the points."""

import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mdlm_mcd.evaluation import frontier

POINTS = st.lists(st.tuples(st.floats(3.0, 6.0), st.floats(5.0, 5000.0)), min_size=1, max_size=8)


def split(points):
    return [x for x, _ in points], [y for _, y in points]


@settings(deadline=None)
@given(POINTS, st.floats(2.0, 7.0), st.randoms())
def test_between_the_neighbours_or_nothing(points, target, random):
    xs, ys = split(points)
    found = frontier.at_equal(xs, ys, target)
    assert (found is None) == (not min(xs) <= target <= max(xs))
    if found is not None:
        assert min(ys) * (1 - 1e-9) <= found <= max(ys) * (1 + 1e-9)
    random.shuffle(points)
    again = frontier.at_equal(*split(points), target)
    assert again == found or again == pytest.approx(found)


@settings(deadline=None)
@given(POINTS, st.floats(3.0, 6.0), st.floats(0.01, 100))
def test_the_scale_of_y_goes_through(points, target, scale):
    xs, ys = split(points)
    one = frontier.at_equal(xs, ys, target)
    other = frontier.at_equal(xs, [scale * y for y in ys], target)
    assume(one is not None)
    assert other == pytest.approx(scale * one)


@given(st.lists(st.floats(3.0, 6.0), min_size=2, max_size=8, unique=True))
def test_points_are_met_and_a_log_line_is_followed(xs):
    def line(x):
        return math.exp(1.0 + 0.7 * x)

    ys = [line(x) for x in xs]
    for x, y in zip(xs, ys, strict=True):
        assert frontier.at_equal(xs, ys, x) == pytest.approx(y)
    middle = (min(xs) + max(xs)) / 2
    assert frontier.at_equal(xs, ys, middle) == pytest.approx(line(middle), rel=1e-6)


@settings(deadline=None)
@given(POINTS, st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_a_rising_frontier_stays_rising(points, a, b):
    xs, ys = (sorted(v) for v in split(points))
    assume(len(set(xs)) == len(xs))
    within = [min(xs[0] + share * (xs[-1] - xs[0]), xs[-1]) for share in (a, b)]
    low, high = (frontier.at_equal(xs, ys, t) for t in sorted(within))
    assert low <= high * (1 + 1e-9)


def test_ties_count_as_their_geometric_mean_and_no_number_as_none():
    assert frontier.at_equal([4, 4], [10, 1000], 4) == pytest.approx(100)
    assert frontier.at_equal([4, float("nan")], [10, 20], 4) is None
    assert frontier.at_equal([4, 5], [10, 0.0], 4.5) is None
    assert frontier.at_equal([], [], 4.5) is None


STEPS = [4, 8, 16, 32, 64, 128]


@given(st.floats(0.1, 2.0), st.floats(4.0, 128.0))
def test_a_power_law_of_steps_is_inverted(power, steps):
    curve = [1000 * n**-power for n in STEPS]
    found = frontier.steps_to_reach(STEPS, curve, 1000 * steps**-power)
    assume(4.001 < steps < 127.9)
    assert found == pytest.approx(steps)
    assert frontier.speed_up(STEPS, curve, at=2, perplexity=1000 * steps**-power) == pytest.approx(
        steps / 2
    )


def test_steps_beyond_the_points_are_not_guessed():
    curve = [500, 400, 300, 280, 285, 270]
    assert frontier.steps_to_reach(STEPS, curve, 500) == 4
    assert frontier.steps_to_reach(STEPS, curve, 501) is None
    assert frontier.steps_to_reach(STEPS, curve, 269) is None
    assert frontier.steps_to_reach([], [], 10) is None
    # The first crossing, where noise makes two.
    assert 16 < frontier.steps_to_reach(STEPS, curve, 282) < 32
    assert frontier.steps_to_reach(STEPS, curve, 270) == pytest.approx(128)


def test_speed_up_at_equal_entropy_chooses_the_temperature_anew():
    """Perplexity exp(entropy) * 100 / steps: at entropy e, known in closed form."""
    frontiers = {
        n: (
            [h + 0.01 * n**0.1 for h in (3, 4, 5)],
            [math.exp(h + 0.01 * n**0.1) * 100 / n for h in (3, 4, 5)],
        )
        for n in STEPS
    }
    perplexity = math.exp(4.2) * 100 / 40
    found = frontier.speed_up_at_equal(frontiers, at=8, perplexity=perplexity, entropy=4.2)
    assert found == pytest.approx(5.0)
    for entropy in (2.9, 5.5):
        assert not frontier.at_entropy(frontiers, entropy)
        assert (
            frontier.speed_up_at_equal(frontiers, at=8, perplexity=perplexity, entropy=entropy)
            is None
        )
