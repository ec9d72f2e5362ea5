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


def test_reach():
    curve = [(4, 400.0), (16, 100.0), (64, 25.0)]
    there = frontier.reach(curve, 200.0)
    assert there.kind == "at" and there.steps == pytest.approx(8.0)
    assert frontier.reach(curve, 100.0).steps == pytest.approx(16.0)
    assert frontier.reach(curve, 400.0) == frontier.Reach("within", 4)
    assert frontier.reach(curve, 500.0) == frontier.Reach("within", 4)
    assert frontier.reach(curve, 20.0) == frontier.Reach("not", 64)
    assert frontier.reach([(4, 1.0), (8, 0.0)], 0.0) == frontier.Reach("at", 8)
    assert frontier.reach([(4, None), (8, None)], 1.0).kind == "apart"
    # Not interpolated over a number of steps at which nothing compares.
    gap = [(4, 400.0), (16, None), (64, 25.0)]
    assert frontier.reach(gap, 100.0) == frontier.Reach("within", 64)
    assert frontier.reach([(4, 400.0), (16, None)], 100.0).kind == "apart"
