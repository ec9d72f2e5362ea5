"""Loaders of a host: a distiller refuses those that give no batch, or ids of no token."""

import itertools

import pytest
import shell
from torch.utils.data import DataLoader, IterableDataset

from mdlm_mcd.errors import ConfigError
from mdlm_mcd.minihost import dataloader
from mdlm_mcd.minihost import main as minihost

pytestmark = pytest.mark.filterwarnings("ignore:Total length of")


class Passes(IterableDataset):
    """The batches of each pass over it; the last one again and again."""

    def __init__(self, *passes):
        self.passes = iter([*passes[:-1], *itertools.repeat(passes[-1], 9)])

    def __iter__(self):
        yield from next(self.passes)


MCD = (*shell.SHORT, "algo.rounds=3", "trainer.max_steps=3", "trainer.val_check_interval=1")


def made(config):
    """A model, and the first batches of its loader."""
    tokenizer = dataloader.get_tokenizer(config)
    loader, _ = dataloader.get_dataloaders(config, tokenizer, skip_valid=True)
    return minihost.model_class(config)(config, tokenizer), list(itertools.islice(loader, 4))


def test_a_hosts_loader_that_gives_no_batch(compose):
    config = compose(*MCD)
    model, batches = made(config)
    given = DataLoader(Passes(batches[:2], []), batch_size=None)
    with pytest.raises(ConfigError, match=r"data\.train=textfile gives not one batch: give more"):
        minihost.make_trainer(config).fit(model, given)
    assert model.global_step == 2


def test_a_run_that_goes_on_at_an_epochs_end(compose, tmp_path):
    """Its first epoch has no batch left, which is none of the loaders' faults."""
    every = "callbacks.checkpoint_every_n_steps."
    config = compose(*MCD, f"{every}every_n_train_steps=1", f"{every}save_top_k=-1")

    def fit(ckpt_path=None):
        model, batches = made(config)
        given = (DataLoader(Passes(batches[:2]), batch_size=None) for _ in range(2))
        minihost.make_trainer(config).fit(model, *given, ckpt_path=ckpt_path)
        return model.global_step

    assert fit() == fit(str(tmp_path / "checkpoints" / "step-2.ckpt")) == 3


@pytest.mark.parametrize("split", ["train", "valid"])
def test_no_step_is_taken_on_ids_of_no_token(compose, split):
    config = compose(*MCD, "trainer.num_sanity_val_steps=1")
    model, batches = made(config)
    given = {"train": batches[:2], "valid": batches[2:]}
    given[split][0]["input_ids"][0, 1] = 300
    loaders = [DataLoader(b, batch_size=None) for b in given.values()]
    with pytest.raises(ConfigError, match=rf"data\.{split}=textfile holds token 300"):
        minihost.make_trainer(config).fit(model, *loaders)
    assert model.global_step == 0
