"""Where a resumed run stands: Lightning's counts of batches, and the host's rows."""

import copy
from unittest import mock

import pytest
from runs import EVERY, Stop, Watch, fit
from torch.utils.data import DataLoader, IterableDataset

from mdlm_mcd.distillers import loop_state
from mdlm_mcd.errors import CheckpointError, ConfigError, UnfinishedError


def count(ready, completed):
    return {"ready": ready, "started": ready, "processed": ready, "completed": completed}


def written(steps, total, current, last=False, completed=-1):
    """A checkpoint after `current` batches of the second epoch."""
    loop = {
        loop_state.BATCHES: {
            "total": count(total, total + completed),
            "current": count(current, current + completed),
            "is_last_batch": last,
        },
        loop_state.LOGGED: {"_batches_that_stepped": steps - 1},
        "state_dict": {"combined_loader": [{"batch": 99}]},
        "epoch_progress": {k: {**count(2, 1), "processed": 1} for k in ("total", "current")},
    }
    return {"global_step": steps, "loops": {"fit_loop": loop}}


@pytest.mark.parametrize(
    "version, given, again, current, total, stepped",
    [
        # Lightning's own counts are kept.
        ((2, 6), written(5, 18, 8), 0, count(8, 7), count(18, 17), 4),
        # Within a step, after a validation: all batches are counted, the last step is logged.
        ((2, 6), written(5, 20, 10, completed=0), 2, count(8, 7), count(18, 17), 4),
        ((2, 2), written(5, 20, 10, completed=0), 2, count(8, 8), count(18, 18), 5),
        # Within the first step of an epoch.
        ((2, 2), written(5, 13, 3, completed=0), 3, count(0, 0), count(10, 10), 5),
        # Before 2.5 the end of an epoch is the start of the next.
        ((2, 2), written(5, 17, 7, last=True), 0, count(0, 0), count(17, 17), 5),
    ],
)
def test_counts(monkeypatch, version, given, again, current, total, stepped):
    checkpoint = copy.deepcopy(given)
    monkeypatch.setattr(loop_state, "LIGHTNING", version)
    counted = loop_state.counts(checkpoint)
    loop = checkpoint["loops"]["fit_loop"]
    ended = version == (2, 2) and counted[loop_state.BATCHES]["is_last_batch"]
    loop[loop_state.BATCHES] = loop[loop_state.LOGGED] = "a host's"
    loop_state.mend(checkpoint, counted, 4, epoch=1)
    batches = loop[loop_state.BATCHES]
    assert (batches["current"], batches["total"]) == (current, total)
    assert loop["state_dict"]["combined_loader"] == [{"batch": 99 - again}]
    assert loop[loop_state.LOGGED] == {"_batches_that_stepped": stepped}
    assert loop["epoch_progress"]["current"]["processed"] == (2 if ended else 1)
    assert not (ended and batches["is_last_batch"])


def test_other_micro_batches_end_an_epoch_with_its_rows(config, tmp_path):
    """Rows of 30 in steps of 8, stopped after 16: one more step of 8, one of 6."""
    path = tmp_path / "small.txt"
    line = "the cat sat on a mat and saw one old dog run by its red house at dawn " * 3
    other = "the dog run by its red house at dawn and sat "
    path.write_text("\n".join([line] * 30) + "\n\n\n" + other * 40)
    given = ("algo.init_from=scratch", f"data.files=[{path}]")
    with pytest.raises(UnfinishedError):
        fit(config(*given, "loader.batch_size=8"), Stop(2))
    steps, last = [], tmp_path / "checkpoints" / "last.ckpt"

    class Steps(Watch):
        def on_train_batch_start(self, trainer, *args):
            super().on_train_batch_start(trainer, *args)
            steps.append(trainer.global_step)

    _, trainer = fit(config(*given, "loader.batch_size=2"), Steps(), last)
    assert trainer.num_training_batches == 15
    assert [steps.count(s) for s in (2, 3, 4)] == [4, 3, 4]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(8))


def test_a_stream_begins_at_its_first_row_or_not_at_all():
    """The host puts a loader of its own in; a resumed run would read rows again."""
    loop = mock.Mock(_combined_loader=mock.Mock(flattened=[DataLoader(Stream())]), _data_fetcher=[])
    loop.epoch_progress.current.processed = 0
    batches = loop.epoch_loop.batch_progress
    batches.is_last_batch, batches.current.processed = False, 0
    rows = loop_state.Rows(mock.Mock(fit_loop=loop), seed=1)
    loop._combined_loader.flattened = [DataLoader(Stream())]
    rows.begin()
    rows.begin_epoch()
    assert rows.epoch == 0
    batches.current.processed = 3
    with pytest.raises(ConfigError, match="resume_ckpt_path: after 3 batches .* begin anew"):
        rows.begin()


def test_other_micro_batches_under_a_limit_that_counts_them(config, tmp_path):
    given = ("trainer.limit_train_batches=3", *EVERY)
    with pytest.raises(UnfinishedError):
        fit(config(*given), Stop(2))
    words = "with trainer.accumulate_grad_batches=1, and this one has trainer.accum.*=2: go on"
    with pytest.raises(CheckpointError, match=words):
        fit(config(*given, "loader.batch_size=4"), None, tmp_path / "checkpoints" / "last.ckpt")


@pytest.mark.parametrize("stops", [(1, 2, 3, 4, 5), (2, 5), (4,)])
@pytest.mark.parametrize("written", ["last", "step-{}"])  # as the fit ends, after its last batch
def test_a_run_stopped_anywhere_goes_on_bit_for_bit(config, tmp_path, stops, written):
    """Also at the end of an epoch, here of two steps: of two batches, and of one."""
    given = ("loader.batch_size=4", "trainer.limit_train_batches=3", *EVERY)
    given += ("model.dropout=0.2", "trainer.val_check_interval=2", "training.ema=0.9")
    fit(config(*given, f"checkpointing.save_dir={tmp_path}/whole"), whole := Watch())
    assert len(list(tmp_path.glob("whole/checkpoints/step-*"))) == 6  # without a validation, too
    losses, path = [], None
    for step in stops:
        with pytest.raises(UnfinishedError):
            fit(config(*given), watch := Stop(step), path)
        losses += watch.losses
        path = tmp_path / "checkpoints" / f"{written.format(step)}.ckpt"
    fit(config(*given), watch := Watch(), path)
    assert losses + watch.losses == whole.losses
