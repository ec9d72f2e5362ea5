"""Where a resumed run believes it is: Lightning's counts of batches."""

import copy

import pytest
from runs import Stop, Watch, fit

from mdlm_mcd.distillers import loop_state
from mdlm_mcd.errors import UnfinishedError


def count(ready, completed):
    return {"ready": ready, "started": ready, "processed": ready, "completed": completed}


def written(steps, total, current, last=False, completed=-1):
    """A checkpoint after `current` batches of the second epoch."""
    return {
        "global_step": steps,
        "loops": {
            "fit_loop": {
                loop_state.BATCHES: {
                    "total": count(total, total + completed),
                    "current": count(current, current + completed),
                    "is_last_batch": last,
                },
                loop_state.LOGGED: {"_batches_that_stepped": steps - 1},
                "epoch_progress": {
                    "total": {**count(2, 1), "processed": 1},
                    "current": {**count(2, 1), "processed": 1},
                },
            }
        },
    }


def mended(monkeypatch, version, checkpoint, accumulate=4):
    monkeypatch.setattr(loop_state, "LIGHTNING", version)
    counted = loop_state.counts(checkpoint)
    loop = checkpoint["loops"]["fit_loop"]
    loop[loop_state.BATCHES] = "a host's"
    loop[loop_state.LOGGED] = {"_batches_that_stepped": "a host's"}
    again = loop_state.mend(checkpoint, counted, accumulate)
    batches = loop[loop_state.BATCHES]
    return again, batches, loop[loop_state.LOGGED], loop["epoch_progress"]["current"]


@pytest.mark.parametrize("last", [False, True])
def test_lightnings_own_counts_are_kept(monkeypatch, last):
    given = written(5, 18, 8 if not last else 7, last)
    kept = copy.deepcopy(given["loops"]["fit_loop"][loop_state.BATCHES])
    again, batches, logged, _ = mended(monkeypatch, (2, 6), given)
    assert (again, batches, logged) == (0, kept, {"_batches_that_stepped": 4})


@pytest.mark.parametrize("version, behind", [((2, 6), 1), ((2, 2), 0)])
def test_a_checkpoint_within_a_step_is_turned_back(monkeypatch, version, behind):
    # After a validation: all batches are counted, and the last step is logged.
    given = written(5, 20, 10, completed=0)
    again, batches, logged, _ = mended(monkeypatch, version, given)
    assert again == 2
    assert batches["current"] == count(8, 8 - behind)
    assert batches["total"] == count(18, 18 - behind)
    assert logged == {"_batches_that_stepped": 5 - behind}


@pytest.mark.parametrize("version", [(2, 6), (2, 2)])
def test_within_the_first_step_of_an_epoch(monkeypatch, version):
    given = written(5, 13, 3, completed=0)
    again, batches, logged, epoch = mended(monkeypatch, version, given)
    assert again == 3 and batches["current"] == count(0, 0)
    assert batches["total"] == count(10, 10)
    assert logged == {"_batches_that_stepped": 5} and epoch["processed"] == 1


def test_before_2_5_the_end_of_an_epoch_is_the_start_of_the_next(monkeypatch):
    given = written(5, 17, 7, last=True)
    again, batches, logged, epoch = mended(monkeypatch, (2, 2), given)
    assert again == 0 and not batches["is_last_batch"]
    assert batches["current"] == count(0, 0) and batches["total"] == count(17, 17)
    assert logged == {"_batches_that_stepped": 5}
    assert (epoch["processed"], epoch["completed"], epoch["ready"]) == (2, 2, 2)


def test_weights_alone_have_no_counts():
    assert loop_state.counts({"state_dict": {}}) == {}
    assert loop_state.mend({"state_dict": {}}, {}, 4) == 0


def test_other_micro_batches_end_an_epoch_with_its_rows(config, tmp_path):
    """Rows of 30 in steps of 8, stopped after 16: one more step of 8, one of 6."""
    path = tmp_path / "small.txt"
    line = "the cat sat on a mat and saw one old dog run by its red house at dawn " * 3
    other = "the dog run by its red house at dawn and sat "
    path.write_text("\n".join([line] * 30) + "\n\n\n" + other * 40)
    given = ("algo.init_from=scratch", f"data.files=[{path}]")
    with pytest.raises(UnfinishedError):
        fit(config(*given, "loader.batch_size=8"), Stop(2))
    steps = []

    class Steps(Watch):
        def on_train_batch_start(self, trainer, module, *args):
            super().on_train_batch_start(trainer, module, *args)
            steps.append(trainer.global_step)

    last = tmp_path / "checkpoints" / "last.ckpt"
    _, trainer = fit(config(*given, "loader.batch_size=2"), Steps(), last)
    assert trainer.num_training_batches == 15
    assert [steps.count(s) for s in (2, 3, 4)] == [4, 3, 4]
