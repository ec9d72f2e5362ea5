"""Streams that are empty or short are refused as files are, and never loop."""

import itertools
import json

import pytest
from omegaconf import OmegaConf
from torch.utils.data import DataLoader, IterableDataset

from mdlm_mcd.errors import ConfigError
from mdlm_mcd.minihost import dataloader, resumable_loader
from mdlm_mcd.minihost import main as minihost

datasets = pytest.importorskip("datasets")

pytestmark = pytest.mark.filterwarnings("ignore:Total length of")


@pytest.fixture
def settings(compose, tmp_path):
    """settings(train, valid, *overrides): a run on streams of so many documents."""
    datasets.utils.disable_progress_bar()
    name = str(tmp_path / "tokenizer")
    dataloader.get_tokenizer(compose()).save_pretrained(name)

    def make(train, valid, *overrides, streaming=True, wrap=False):
        config = compose("trainer.max_steps=3", "trainer.val_check_interval=3", *overrides)
        files = {}
        for part, count in (("train", train), ("validation", valid)):
            path = tmp_path / f"{part}-{count}.jsonl"
            lines = (json.dumps({"text": f"the cat sat {i}"}) for i in range(count))
            path.write_text("\n".join(lines) or '{"text": ""}')
            files[part] = str(path)
        OmegaConf.set_struct(config, False)
        config.data = {
            "train": "json",
            "valid": "json",
            "data_files": files,
            "text_key": "text",
            "streaming": streaming,
            "wrap": wrap,
            "tokenizer_name_or_path": name,
            "cache_dir": str(tmp_path),
        }
        return config

    return make


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize(
    "train, valid, words",
    [
        (7, 9, r"data\.train=json .* has 7 rows of .*=16, too few for a step of loader\.glob"),
        (99, 0, r"data\.valid=json .* has 0 rows of .*=16, too few for validation"),
    ],
)
def test_refused_before_a_model_is_built(settings, monkeypatch, streaming, train, valid, words):
    wrap = not valid  # an empty document is a row where documents are not joined
    config = settings(train, valid, streaming=streaming, wrap=wrap)
    monkeypatch.setattr(minihost.MODELS["mdlm"], "__init__", lambda *a: pytest.fail("built"))
    with pytest.raises(ConfigError, match=words):
        minihost.run(config)


def test_a_stream_that_suffices_is_trained_on(settings):
    assert minihost.run(settings(8, 1))["val/nll"] > 0


def test_a_process_that_gets_no_row(settings, monkeypatch):
    config = settings(8, 1)
    tokenizer = dataloader.get_tokenizer(config)
    _, valid = dataloader.get_dataloaders(config, tokenizer, skip_train=True)
    monkeypatch.setattr(resumable_loader, "rank_and_world", lambda: (1, 2))
    for _ in range(2):  # in every epoch
        with pytest.raises(ConfigError, match=r"data\.valid=.*without a row for process"):
            list(valid)
    monkeypatch.setattr(resumable_loader, "rank_and_world", lambda: (0, 2))
    assert len(list(valid)) == 1


# Under a distiller, whatever the host's loaders give ----------------------------------


class Passes(IterableDataset):
    """The batches of each pass over it; the last one again and again."""

    def __init__(self, *passes):
        self.passes = iter([*passes[:-1], *itertools.repeat(passes[-1], 9)])

    def __iter__(self):
        yield from next(self.passes)


MCD = (
    "algo=mcd",
    "algo.init_from=scratch",
    "algo.rounds=3",
    "algo.steps_per_round=1",
    "trainer.max_steps=3",
    "trainer.val_check_interval=1",
)


@pytest.mark.parametrize(
    "train, valid, split, steps",
    [
        ([[]], [2], "train", 0),
        ([2, 0], [2], "train", 2),
        ([4], [0], "valid", 0),
        ([4], [2, 2, 0], "valid", 2),
        ([], [2], "train", 0),  # a loader that says its length
    ],
)
def test_a_hosts_loader_that_gives_no_batch(compose, train, valid, split, steps):
    config = compose(*MCD)
    config.trainer.num_sanity_val_steps = 1
    tokenizer = dataloader.get_tokenizer(config)
    model = minihost.model_class(config)(config, tokenizer)
    loader, _ = dataloader.get_dataloaders(config, tokenizer, skip_valid=True)
    batches = list(itertools.islice(loader, 4))
    given = [
        DataLoader(Passes(*(batches[: n or 0] for n in some)), batch_size=None)
        if some
        else DataLoader([], batch_size=4)
        for some in (train, valid)
    ]
    with pytest.raises(
        ConfigError, match=rf"data\.{split}=textfile gives not one batch: give more"
    ):
        minihost.make_trainer(config).fit(model, *given)
    assert model.global_step == steps


def test_a_run_that_goes_on_at_an_epochs_end(compose, tmp_path):
    """Its first epoch has no batch left, which is none of the loaders' faults."""
    config = compose(
        *MCD,
        "callbacks.checkpoint_every_n_steps.every_n_train_steps=1",
        "callbacks.checkpoint_every_n_steps.save_top_k=-1",
    )
    tokenizer = dataloader.get_tokenizer(config)
    loader, _ = dataloader.get_dataloaders(config, tokenizer, skip_valid=True)
    batches = list(itertools.islice(loader, 2))

    def fit(ckpt_path=None):
        model = minihost.model_class(config)(config, tokenizer)
        given = (DataLoader(Passes(batches), batch_size=None) for _ in range(2))
        minihost.make_trainer(config).fit(model, *given, ckpt_path=ckpt_path)
        return model

    weights = fit().state_dict()
    for step in (1, 2):
        again = fit(str(tmp_path / "checkpoints" / f"step-{step}.ckpt"))
        assert again.global_step == 3 and weights.keys() == again.state_dict().keys()
