"""A run holds on to nothing; the long one is `make longrun`."""

import os

import longrun
import pytest

pytestmark = pytest.mark.skipif(
    not os.path.exists("/proc/self/statm"), reason="needs Linux's /proc"
)


@pytest.mark.slow
def test_a_run_holds_on_to_nothing(tmp_path):
    """Over rounds, validations and checkpoints; counts are the same each time.

    By step 60 there was a round's end, a validation and a checkpoint.
    """
    readings = longrun.run(tmp_path, 150, 10)
    assert [r.step for r in readings] == list(range(10, 151, 10))
    assert longrun.verdict(readings, 60) == [] and readings[-1].tensors > 50
    assert len({(r.tensors, r.files) for r in readings[6:]}) == 1
    pace = (readings[-1].log - readings[6].log) / (readings[-1].step - readings[6].step)
    assert 20 < pace < 400  # one line a step


@pytest.mark.parametrize(
    "name, per_step, words",
    [
        ("memory", 200_000, "resident memory grew from"),
        ("tensors", 1, "tensors grew from"),
        ("files", 0.02, "files grew from"),
        ("log", None, "the log's bytes per step grew"),
    ],
)
def test_what_grows_is_seen(name, per_step, words):
    flat = [longrun.Reading(s, 10**9, 500, 12, 150 * s) for s in range(100, 2401, 100)]
    assert longrun.verdict(flat, 600) == []
    grown = [
        r._replace(**{name: getattr(r, name) + r.step * (per_step or r.step / 100)}) for r in flat
    ]
    (found,) = longrun.verdict(grown, 600)
    assert words in found
