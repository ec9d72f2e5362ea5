"""The order of rows: permutations of epochs, resumed anywhere, dealt to processes."""

import itertools
import json
import logging

import lightning as L
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel

from mdlm_mcd.errors import ConfigError
from mdlm_mcd.minihost import resumable_loader, trainer_base
from mdlm_mcd.minihost.resumable_loader import EpochSampler, RankSampler, ResumableLoader

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*when using `ckpt_path`, callbacks"),
    pytest.mark.filterwarnings("ignore:.*but have no `val_dataloader`"),
]


def numbered(count):
    """Rows, of which row i is the number i."""
    return [{"input_ids": torch.tensor([i])} for i in range(count)]


def numbers(batch):
    return batch["input_ids"].flatten().tolist()


def order(loader):
    return [numbers(batch) for batch in loader]


def run_of(rows, batch_size, epochs, seed=0):
    loader = ResumableLoader(numbered(rows), batch_size, seed)
    return [order(loader) for _ in range(epochs)]


@given(
    rows=st.integers(1, 40),
    batch_size=st.integers(1, 9),
    seed=st.integers(0, 2**32 - 1),
    epoch=st.integers(0, 3),
    data=st.data(),
)
@settings(max_examples=60)
def test_epochs_are_permutations_and_go_on_anywhere(rows, batch_size, seed, epoch, data):
    """By seed and epoch; but for a last incomplete batch."""
    whole = run_of(rows, batch_size, epoch + 3, seed)
    flat = [sum(batches, []) for batches in [*whole, *run_of(rows, batch_size, 2, seed + 1)]]
    dealt = rows - rows % batch_size or rows
    assert all(len(set(one)) == len(one) == dealt for one in flat)
    assert rows < 16 or len(set(map(tuple, flat))) == len(flat)
    stop = data.draw(st.integers(0, len(whole[epoch])))
    loader = ResumableLoader(numbered(rows), batch_size, seed)
    for _ in range(epoch):
        order(loader)
    for _ in itertools.islice(loader, stop):
        pass
    state = json.loads(json.dumps(loader.state_dict()))
    other = ResumableLoader(numbered(rows), batch_size, seed)
    next(iter(other))  # what it did before does not matter
    other.load_state_dict(state)
    assert other.state_dict() == state
    if stop == len(whole[epoch]):
        epoch, stop = epoch + 1, 0
    assert order(other) == whole[epoch][stop:]
    assert order(other) == whole[epoch + 1]
    assert len(other) == len(whole[0]) == -(-dealt // batch_size)


def test_state_counts_batches_handed_out_not_prefetched():
    whole = run_of(24, 2, 2)
    loader, other = (
        ResumableLoader(numbered(24), 2, num_workers=2, persistent_workers=True) for _ in range(2)
    )
    seen = [numbers(batch) for batch in itertools.islice(loader, 5)]
    other.load_state_dict(state := loader.state_dict())
    assert state["batch"] == 5 and seen + order(other) == whole[0]
    assert order(loader) == order(other) == whole[1]  # a pass that was left counts as one


def test_an_epoch_that_is_named_is_that_epoch():
    whole = run_of(12, 4, 4)
    loader = ResumableLoader(numbered(12), 4)
    next(iter(loader))
    loader.sampler.set_epoch(0)
    assert order(loader) == whole[0]
    loader.sampler.set_epoch(3)
    assert order(loader) == whole[3]
    for epoch, rest in ((1, whole[1][1:]), (2, whole[2])):  # the one restored goes on
        # Another batch size, which goes on after the same rows.
        loader.load_state_dict({"epoch": 1, "batch": 2, "rows_per_batch": 2})
        loader.sampler.set_epoch(epoch)
        assert order(loader) == rest


@given(rows=st.integers(4, 60), batch_size=st.integers(1, 8), world=st.integers(1, 4))
@settings(max_examples=50)
def test_processes_share_a_permutation(rows, batch_size, world):
    whole = EpochSampler(range(rows), batch_size, 5).order(2).tolist()
    dealt = []
    with pytest.MonkeyPatch.context() as patch:
        for rank in range(world):
            patch.setattr(resumable_loader, "rank_and_world", lambda r=rank: (r, world))
            loader = ResumableLoader(numbered(rows), batch_size, 5)
            loader.load_state_dict({"epoch": 2, "batch": 0, "rows_per_batch": batch_size * world})
            dealt.append(sum(order(loader), []))
            valid = list(RankSampler(range(rows)))
            assert len(valid) == len(RankSampler(range(rows))) == -(-rows // world)
            assert valid == [i % rows for i in range(rank, len(valid) * world, world)]
    share = rows // world
    share = share - share % batch_size if share >= batch_size else share
    assert [len(mine) for mine in dealt] == [share] * world
    assert [x for xs in zip(*dealt, strict=True) for x in xs] == whole[: share * world]


def test_more_processes_than_rows(monkeypatch):
    monkeypatch.setattr(resumable_loader, "rank_and_world", lambda: (0, 8))
    with pytest.raises(ConfigError, match=r"data\.train has 3 rows for 8 processes"):
        len(ResumableLoader(numbered(3), 1))


# Under Lightning


def fit(folder, ckpt_path=None, save=None, **kwargs):
    """Return the rows of each batch that a fit is trained on."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    kwargs = {"max_epochs": -1, "limit_val_batches": 0, **kwargs}
    seen = []

    class Recorder(BoringModel):
        def training_step(self, batch, _):
            seen.append(numbers(batch))
            return self.layer.weight.sum()

        def validation_step(self, batch, _):
            pass

    callbacks = [ModelCheckpoint(folder, "{step}", save_top_k=-1, **save)] if save else []
    off = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    where = dict(accelerator="cpu", devices=1, enable_checkpointing=bool(save))
    trainer = L.Trainer(callbacks=callbacks, **off, **where, **kwargs)
    # 22 rows of 4: five batches an epoch.
    train = ResumableLoader(numbered(22), 4, seed=3)
    valid = torch.utils.data.DataLoader(numbered(3))
    trainer.fit(Recorder(), train, valid, ckpt_path=ckpt_path)
    return seen


EVERY_STEP = {"every_n_train_steps": 1}
VALIDATED = {"max_steps": 13, "limit_val_batches": 1, "val_check_interval": 5}
VALIDATED |= {"check_val_every_n_epoch": None}


@pytest.mark.filterwarnings("error:.*before the epoch ended")
@pytest.mark.parametrize(
    "save, kwargs",
    [
        (EVERY_STEP, {"max_steps": 8}),
        (EVERY_STEP, {"max_steps": 5, "limit_train_batches": 3}),
        (EVERY_STEP, {"max_steps": 6, "accumulate_grad_batches": 2}),
        ({"monitor": None, "save_on_train_epoch_end": False}, VALIDATED),
        # Checkpoints at the end of epochs: Lightning restores no loader from them,
        # it only names the epoch. (With `max_steps` in place of `max_epochs` it
        # resumes them with an epoch of one batch, whatever the loader.)
        ({"save_on_train_epoch_end": True}, {"max_epochs": 3}),
    ],
)
def test_a_resumed_fit_sees_the_rows_of_an_uninterrupted_one(tmp_path, save, kwargs):
    whole = fit(tmp_path, save=save, **kwargs)
    epoch = kwargs.get("limit_train_batches", 5)
    assert len(set(map(str, whole))) == len(whole) > epoch  # no epoch like another
    files = sorted(tmp_path.glob("*.ckpt"))
    assert len(files) >= 2
    for file in files:
        progress = torch.load(file, weights_only=False)["loops"]["fit_loop"]
        batches = progress["epoch_loop.batch_progress"]["total"]["ready"]
        if trainer_base.LIGHTNING < (2, 5) and (batches % epoch == 0 or epoch < 5):
            continue  # these miscount the batches of a resumed epoch
        assert fit(tmp_path, str(file), **kwargs) == whole[batches:], file.stem
