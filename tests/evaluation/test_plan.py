"""The plan of a sweep: its grid, and what is refused."""

from dataclasses import replace

import pytest

from mdlm_mcd.errors import ConfigError
from mdlm_mcd.evaluation.plan import Plan, Setting, grid


def test_the_grid_holds_each_point_once():
    points = grid([8, 4, 8], [1.0, 1.0])
    assert [p.steps for p in points] == [4, 8]


def test_the_cheap_points_come_first():
    points = grid([8, 2], [1.0, 0.5], laws=[("iid", None), ("lattice", 1 / 8)])
    assert len(points) == 8 and [p.steps for p in points] == 4 * [2] + 4 * [8]
    assert points[1] == Setting(u_law="lattice", u_step=1 / 8, steps=2)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"bound_rows": 1}, "--bound-rows 1"),
        ({"num_samples": 1}, "--num-samples 1 and"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"points": (Setting(steps=0),)}, "--steps 0"),
        ({"points": (Setting(temperature=0.0),)}, "temperature positive"),
        ({"points": (Setting(top_p=0.0),)}, "--top-p 0.0"),
        ({"points": (Setting(dtype="float16"),)}, "float16 is unknown: choose one of float64"),
        ({"points": (Setting(u_law="comb"),)}, "comb"),
        ({"points": (Setting(temperature=float("inf")),)}, "--temperature inf"),
    ],
)
def test_what_cannot_be_measured_is_refused(change, words):
    plan = Plan((Setting(), Setting(u_law="lattice", u_step="auto")))
    plan.check()
    with pytest.raises(ConfigError, match=words):
        replace(plan, **change).check()
