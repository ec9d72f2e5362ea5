import itertools
import json
import logging
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import OmegaConf

from mdlm_mcd.errors import ConfigError
from mdlm_mcd.minihost import corpus, dataloader
from mdlm_mcd.minihost import resumable_loader as row_order
from mdlm_mcd.minihost.resumable_loader import EpochSampler, RankSampler, ResumableLoader

CONFIGS = Path(dataloader.__file__).parent / "configs" / "data"

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*when using `ckpt_path`, callbacks"),
    pytest.mark.filterwarnings("ignore:.*but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:You requested to overfit"),
]

WORDS = "the model reads a row of tokens and says which of them were masked".split()


def config_of(name, cache_dir, length=16, workers=0, **keys):
    data = OmegaConf.merge(
        OmegaConf.load(CONFIGS / f"{name}.yaml"), {"cache_dir": str(cache_dir)}, keys
    )
    loader = {"batch_size": 4, "eval_batch_size": 3, "num_workers": workers}
    return OmegaConf.create(
        {
            "data": data,
            "loader": {**loader, "pin_memory": True},
            "model": {"length": length},
            "seed": 7,
        }
    )


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A folder with a cache and a file of 400 documents of one to 30 words."""
    folder = tmp_path_factory.mktemp("text")
    rng = np.random.default_rng(0)
    documents = [f"{i} " + " ".join(rng.choice(WORDS, rng.integers(1, 30))) for i in range(400)]
    (folder / "a.txt").write_text("\n\n\n".join(documents), encoding="utf-8")
    return folder


def textfile(text, **keys):
    keys = {"files": [str(text / "a.txt")], "vocab_size": 300, **keys}
    return config_of("textfile", text / "cache", **keys)


@pytest.fixture(scope="module")
def bpe(text):
    return dataloader.get_tokenizer(textfile(text))


# Tokenizers


def test_bpe_counts_its_special_tokens_and_has_no_mask(bpe):
    assert bpe.vocab_size == len(bpe) == 300
    specials = {bpe.bos_token_id, bpe.eos_token_id, bpe.pad_token_id}
    assert len(specials) == 3 and max(specials) < bpe.vocab_size
    assert bpe.mask_token is None
    assert sorted(bpe.get_vocab().values()) == list(range(300))


def test_bpe_of_little_text_has_only_the_ids_in_use(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("ab\n\nab\n\nac\n\nad", encoding="utf-8")
    config = config_of("textfile", tmp_path, files=[str(file)])
    tokenizer = dataloader.get_tokenizer(config)
    assert 259 <= tokenizer.vocab_size == len(tokenizer) < 270


@given(st.text(st.characters(codec="utf-8")))
@settings(deadline=None, max_examples=100)
def test_tokens_give_the_text_back(bpe, string):
    ids = bpe(string, add_special_tokens=False)["input_ids"]
    assert all(3 <= i < 300 for i in ids)
    assert bpe.decode(ids) == string


def test_bpe_sees_the_training_documents_only(text, monkeypatch):
    seen = []
    train = dataloader._train_bpe
    monkeypatch.setattr(
        dataloader, "_train_bpe", lambda texts, n: seen.extend(texts) or train(texts, n)
    )
    config = textfile(text, vocab_size=280)
    dataloader.get_tokenizer(config)
    assert seen == corpus.documents(config.data, "train")
    assert not set(seen) & set(corpus.documents(config.data, "valid"))
    dataloader.get_tokenizer(config)
    assert len(seen) == len(corpus.documents(config.data, "train"))  # cached


def test_bpe_that_is_too_small(text):
    with pytest.raises(ConfigError, match=r"data\.vocab_size=258 is too small: .* 259"):
        dataloader.get_tokenizer(textfile(text, vocab_size=258))


def test_bpe_of_a_hub_dataset(text):
    config = textfile(text, train="lm1b")
    with pytest.raises(ConfigError, match=r"=bpe is not trained on data\.train=lm1b"):
        dataloader.get_tokenizer(config)


def pretrained(folder, **specials):
    """A saved word-level tokenizer with these special tokens, and its name."""
    vocab = {token: i for i, token in enumerate([*specials.values(), "[UNK]", *WORDS])}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]", **specials
    ).save_pretrained(folder)
    return str(folder)


def test_pretrained_tokenizers_are_repaired(text, tmp_path):
    name = pretrained(tmp_path / "bert", cls_token="[CLS]", sep_token="[SEP]")
    tokenizer = dataloader.get_tokenizer(textfile(text, tokenizer_name_or_path=name))
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("[CLS]", "[SEP]")
    assert tokenizer.pad_token is None  # nothing is added to the vocabulary
    name = pretrained(tmp_path / "gpt", bos_token="<s>", eos_token="</s>", pad_token="_")
    tokenizer = dataloader.get_tokenizer(textfile(text, tokenizer_name_or_path=name))
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1)
    assert tokenizer.pad_token == "_"


@pytest.mark.parametrize(
    "specials, message",
    [
        ({"sep_token": "[SEP]"}, "neither a bos nor a cls token"),
        ({"cls_token": "[CLS]"}, "neither a eos nor a sep token"),
    ],
)
def test_tokenizers_without_ends(text, tmp_path, specials, message):
    name = pretrained(tmp_path / "t", **specials)
    with pytest.raises(ConfigError, match=message):
        dataloader.get_tokenizer(textfile(text, tokenizer_name_or_path=name))


def test_a_tokenizer_that_is_not_there(text, tmp_path, monkeypatch):
    name = str(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"data\.tokenizer_name_or_path=.*nowhere can"):
        dataloader.get_tokenizer(textfile(text, tokenizer_name_or_path=name))


# Rows


def test_wrapped_rows_hold_the_documents_in_order(text, bpe):
    config = textfile(text)
    train, valid = dataloader.get_dataloaders(config, bpe)
    for loader, mode in ((train, "train"), (valid, "valid")):
        assert loader.tokenizer is bpe
        rows = torch.stack([row["input_ids"] for row in loader.dataset])
        assert rows.dtype == torch.int64 and rows.shape[1] == 16
        assert (rows[:, 0] == bpe.bos_token_id).all()
        assert (rows[:, -1] == bpe.eos_token_id).all()
        documents = corpus.documents(config.data, mode)
        flat = [
            token
            for ids in bpe(documents, add_special_tokens=False)["input_ids"]
            for token in [*ids, bpe.eos_token_id]
        ]
        body = rows[:, 1:-1].flatten().tolist()
        assert body == flat[: len(body)] and 0 <= len(flat) - len(body) < 14


def test_batches(text, bpe):
    train, valid = dataloader.get_dataloaders(textfile(text), bpe)
    for loader, size in ((train, 4), (valid, 3)):
        batches = list(loader)
        assert len(batches) == len(loader)
        for batch in batches[:-1]:
            assert set(batch) == {"input_ids", "attention_mask"}
            for value in batch.values():
                assert value.shape == (size, 16) and value.dtype == torch.int64
            assert (batch["attention_mask"] == 1).all()
    assert len(batches[-1]["input_ids"]) == len(valid.dataset) % 3 or 3
    assert len(train) == len(train.dataset) // 4


@pytest.mark.parametrize("mode", ["train", "valid"])
def test_eos_between_documents_is_optional(text, bpe, mode):
    config = textfile(text, **{f"insert_{mode}_eos": False})
    loaders = dataloader.get_dataloaders(config, bpe)
    for loader, plain in zip(loaders, [mode == "train", mode == "valid"], strict=True):
        bodies = torch.stack([row["input_ids"][1:-1] for row in loader.dataset])
        assert (bodies == bpe.eos_token_id).any() != plain


def test_unwrapped_rows_are_padded_documents(text, bpe):
    config = textfile(text, wrap=False)
    train, _ = dataloader.get_dataloaders(config, bpe)
    documents = corpus.documents(config.data, "train")
    assert len(train.dataset) == len(documents)
    seen = set()
    for row, document in zip(train.dataset, documents, strict=True):
        ids, mask = row["input_ids"], row["attention_mask"]
        assert ids.dtype == mask.dtype == torch.int64 and len(ids) == len(mask) == 16
        body = bpe(document, add_special_tokens=False)["input_ids"][:14]
        filled = [bpe.bos_token_id, *body, bpe.eos_token_id]
        assert ids[: len(filled)].tolist() == filled
        assert (ids[len(filled) :] == bpe.pad_token_id).all()
        assert mask.tolist() == [1] * len(filled) + [0] * (16 - len(filled))
        seen.add(len(filled))
    assert 16 in seen and len(seen) > 3


@pytest.mark.parametrize("mode", ["train", "valid"])
def test_too_little_text_for_a_row(text, bpe, mode):
    config = textfile(text, length=10**6)
    message = rf"data\.{mode}=textfile .* has 0 rows of model\.length=1000000, too few"
    with pytest.raises(ConfigError, match=message):
        dataloader.get_dataloaders(
            config, bpe, skip_train=mode == "valid", skip_valid=mode == "train"
        )


def test_rows_without_room(text, bpe):
    with pytest.raises(ConfigError, match=r"model\.length=2 has no room"):
        dataloader.get_dataloaders(textfile(text, length=2), bpe)


def test_skipped_loaders(text, bpe):
    config = textfile(text)
    assert dataloader.get_dataloaders(config, bpe, skip_train=True)[0] is None
    assert dataloader.get_dataloaders(config, bpe, skip_valid=True)[1] is None


def test_validation_order(text, bpe):
    config = textfile(text)

    def rows(seed):
        _, valid = dataloader.get_dataloaders(config, bpe, skip_train=True, valid_seed=seed)
        passes = [torch.cat([b["input_ids"] for b in valid]).tolist() for _ in range(2)]
        assert passes[0] == passes[1]
        return passes[0], [row["input_ids"].tolist() for row in valid.dataset]

    plain, dataset = rows(None)
    assert plain == dataset
    shuffled, _ = rows(3)
    assert shuffled != plain and sorted(shuffled) == sorted(plain)
    assert rows(3)[0] == shuffled != rows(4)[0]


def test_global_generator_is_left_alone(text, bpe):
    state = torch.random.get_rng_state()
    for loader in dataloader.get_dataloaders(textfile(text), bpe):
        next(iter(loader))
    assert torch.equal(state, torch.random.get_rng_state())


# Hugging Face datasets


@pytest.fixture
def hf(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.utils.disable_progress_bar()
    for part, count in (("train", 120), ("validation", 20)):
        lines = (json.dumps({"text": " ".join(WORDS[: 1 + i % 14])}) for i in range(count))
        (tmp_path / f"{part}.jsonl").write_text("\n".join(lines))
    files = {p: str(tmp_path / f"{p}.jsonl") for p in ("train", "validation")}
    name = pretrained(tmp_path / "bert", cls_token="[CLS]", sep_token="[SEP]")

    def make(**keys):
        keys = {"train": "json", "data_files": files, **keys}
        keys["tokenizer_name_or_path"] = name
        return config_of("huggingface", tmp_path / "cache", **keys)

    return make


@pytest.mark.parametrize("wrap", [True, False])
@pytest.mark.parametrize("streaming", [True, False])
def test_huggingface_rows(hf, wrap, streaming):
    config = hf(wrap=wrap, streaming=streaming, length=8)
    tokenizer = dataloader.get_tokenizer(config)
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    train, valid = dataloader.get_dataloaders(config, tokenizer)
    assert isinstance(train, ResumableLoader) != streaming
    counts = [1 + i % 14 for i in range(120)]
    rows = list(train)
    for batch in rows:
        for value in batch.values():
            assert value.dtype == torch.int64 and value.shape[1] == 8
    ids = torch.cat([batch["input_ids"] for batch in rows])
    mask = torch.cat([batch["attention_mask"] for batch in rows])
    assert (ids[:, 0] == bos).all()
    if wrap:
        whole = (sum(counts) + 120) // 6
        assert len(ids) == (whole if streaming else whole - whole % 4)
        assert (ids[:, -1] == eos).all() and (mask == 1).all()
    else:
        lengths = Counter(min(count, 6) + 2 for count in counts)
        assert Counter(mask.sum(1).tolist()) == lengths
        assert (ids[mask == 0] == eos).all()
    first = next(iter(valid))["input_ids"][0].tolist()
    body = tokenizer(WORDS[0])["input_ids"]
    assert first[:3] == [bos, *body, eos]


def test_huggingface_with_too_little_text(hf):
    config = hf(length=5000)
    tokenizer = dataloader.get_tokenizer(config)
    with pytest.raises(ConfigError, match=r"data\.train=json .* has 0 rows of .* too few"):
        dataloader.get_dataloaders(config, tokenizer)


def test_streams_are_dealt_to_the_processes(hf, monkeypatch):
    config = hf(wrap=False, streaming=True)
    tokenizer = dataloader.get_tokenizer(config)

    def rows():
        loader, _ = dataloader.get_dataloaders(config, tokenizer, skip_valid=True)
        return [row for b in loader for row in b["input_ids"].tolist()]

    everything, dealt = rows(), []
    for rank in range(2):
        monkeypatch.setattr(row_order, "rank_and_world", lambda rank=rank: (rank, 2))
        dealt.append(rows())
    assert list(itertools.chain(*zip(*dealt, strict=True))) == everything


# The order, and going on with it


class Numbers(torch.utils.data.Dataset):
    """Row i is the number i."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return {"input_ids": torch.tensor([index])}


def numbers(batch):
    return batch["input_ids"].flatten().tolist()


def order(loader):
    return [numbers(batch) for batch in loader]


def run_of(rows, batch_size, epochs, seed=0):
    loader = ResumableLoader(Numbers(rows), batch_size, seed)
    return [order(loader) for _ in range(epochs)]


def test_epochs_are_permutations_of_seed_and_epoch():
    first = run_of(20, 4, 3)
    assert first == run_of(20, 4, 3)
    flat = [sum(epoch, []) for epoch in first + run_of(20, 4, 2, seed=1)]
    assert all(sorted(epoch) == list(range(20)) for epoch in flat)
    assert len({tuple(epoch) for epoch in flat}) == 5


@pytest.mark.parametrize(
    "rows, batch_size, batches", [(20, 4, 5), (23, 4, 5), (3, 4, 1), (4, 4, 1)]
)
def test_only_a_last_incomplete_batch_is_dropped(rows, batch_size, batches):
    loader = ResumableLoader(Numbers(rows), batch_size)
    assert len(loader) == len(order(loader)) == batches
    if rows < batch_size:
        assert sorted(order(loader)[0]) == list(range(rows))


@given(
    rows=st.integers(1, 40),
    batch_size=st.integers(1, 9),
    seed=st.integers(0, 2**32 - 1),
    epoch=st.integers(0, 3),
    data=st.data(),
)
@settings(deadline=None, max_examples=80)
def test_resuming_anywhere_gives_the_tail(rows, batch_size, seed, epoch, data):
    whole = run_of(rows, batch_size, epoch + 3, seed)
    stop = data.draw(st.integers(0, len(whole[epoch])))
    loader = ResumableLoader(Numbers(rows), batch_size, seed)
    for _ in range(epoch):
        order(loader)
    for _ in itertools.islice(loader, stop):
        pass
    state = json.loads(json.dumps(loader.state_dict()))
    other = ResumableLoader(Numbers(rows), batch_size, seed)
    next(iter(other))  # what it did before does not matter
    other.load_state_dict(state)
    assert other.state_dict() == state
    if stop == len(whole[epoch]):
        epoch, stop = epoch + 1, 0
    assert order(other) == whole[epoch][stop:]
    assert order(other) == whole[epoch + 1]
    assert len(other) == len(whole[0])


def test_state_counts_batches_handed_out_not_prefetched():
    whole = run_of(24, 2, 3)
    loader = ResumableLoader(
        Numbers(24), 2, num_workers=2, persistent_workers=True, prefetch_factor=4
    )
    seen = []
    for batch in loader:
        seen.append(numbers(batch))
        assert loader.state_dict()["batch"] == len(seen)
        if len(seen) == 5:
            break
    other = ResumableLoader(Numbers(24), 2, num_workers=2, persistent_workers=True)
    other.load_state_dict(loader.state_dict())
    assert seen + order(other) == whole[0]
    assert order(other) == whole[1]
    assert order(loader) == whole[1]  # a pass that was left counts as one


def test_a_finished_epoch_is_followed_by_the_next():
    whole = run_of(12, 4, 2)
    loader = ResumableLoader(Numbers(12), 4)
    iterator = iter(loader)
    for _ in range(3):
        next(iterator)  # the end itself is not reached
    other = ResumableLoader(Numbers(12), 4)
    other.load_state_dict(loader.state_dict())
    assert order(other) == whole[1]


def test_an_epoch_that_is_named_is_that_epoch():
    whole = run_of(12, 4, 4)
    loader = ResumableLoader(Numbers(12), 4)
    next(iter(loader))
    loader.sampler.set_epoch(0)
    assert order(loader) == whole[0]
    loader.sampler.set_epoch(3)
    assert order(loader) == whole[3]
    loader.load_state_dict({"epoch": 1, "batch": 1, "rows_per_batch": 4})
    loader.sampler.set_epoch(1)  # the one restored: it goes on
    assert order(loader) == whole[1][1:]
    loader.load_state_dict({"epoch": 1, "batch": 1, "rows_per_batch": 4})
    loader.sampler.set_epoch(2)
    assert order(loader) == whole[2]


def test_another_batch_size_goes_on_after_the_same_rows():
    (whole,) = run_of(24, 4, 1)
    loader = ResumableLoader(Numbers(24), 2)
    loader.load_state_dict({"epoch": 0, "batch": 3, "rows_per_batch": 4})
    assert sum(order(loader), []) == sum(whole[3:], [])


@given(rows=st.integers(4, 60), batch_size=st.integers(1, 8), world=st.integers(1, 4))
@settings(deadline=None, max_examples=50)
def test_processes_share_a_permutation(rows, batch_size, world):
    whole = EpochSampler(range(rows), batch_size, 5).order(2).tolist()
    dealt = []
    with pytest.MonkeyPatch.context() as patch:
        for rank in range(world):
            patch.setattr(row_order, "rank_and_world", lambda r=rank: (r, world))
            loader = ResumableLoader(Numbers(rows), batch_size, 5)
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
    monkeypatch.setattr(row_order, "rank_and_world", lambda: (0, 8))
    with pytest.raises(ConfigError, match=r"data\.train has 3 rows for 8 processes"):
        len(ResumableLoader(Numbers(3), 1))


# Under Lightning


class Recorder(L.LightningModule):
    """Writes down the rows it is trained on."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.seen = []

    def training_step(self, batch, _):
        self.seen.append(numbers(batch))
        return self.weight**2

    def validation_step(self, batch, _):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(folder, ckpt_path=None, workers=0, save=None, **kwargs):
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    kwargs = {"max_epochs": -1, "limit_val_batches": 0, **kwargs}
    model = Recorder()
    callbacks = [ModelCheckpoint(folder, "{step}", save_top_k=-1, **save)] if save else []
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        callbacks=callbacks,
        enable_checkpointing=bool(save),
        enable_progress_bar=False,
        enable_model_summary=False,
        **kwargs,
    )
    # 22 rows of 4: five batches an epoch.
    train = ResumableLoader(
        Numbers(22), 4, seed=3, num_workers=workers, persistent_workers=workers > 0
    )
    valid = torch.utils.data.DataLoader(Numbers(3))
    trainer.fit(model, train, valid, ckpt_path=ckpt_path)
    return model.seen


LIGHTNING = tuple(map(int, L.__version__.split(".")[:2]))
EVERY_STEP = {"every_n_train_steps": 1}


@pytest.mark.filterwarnings("error:.*before the epoch ended")
@pytest.mark.parametrize(
    "save, kwargs",
    [
        (EVERY_STEP, {"max_steps": 13}),
        (EVERY_STEP, {"max_epochs": 3}),
        (EVERY_STEP, {"max_steps": 8, "limit_train_batches": 3}),
        (EVERY_STEP, {"max_steps": 6, "accumulate_grad_batches": 2}),
        (
            EVERY_STEP,
            {
                "max_steps": 11,
                "limit_val_batches": 1,
                "val_check_interval": 2,
                "check_val_every_n_epoch": None,
                "num_sanity_val_steps": 1,
            },
        ),
        (  # checkpoints after validation
            {"monitor": None, "save_on_train_epoch_end": False},
            {"max_steps": 13, "limit_val_batches": 1, "val_check_interval": 5}
            | {"check_val_every_n_epoch": None},
        ),
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
        if LIGHTNING < (2, 5) and (batches % epoch == 0 or epoch < 5):
            continue  # these miscount the batches of a resumed epoch
        assert fit(tmp_path, str(file), **kwargs) == whole[batches:], file.stem


def test_a_resumed_fit_with_workers(tmp_path):
    whole = fit(tmp_path, save=EVERY_STEP, max_steps=8)
    assert fit(tmp_path, workers=2, max_steps=8) == whole
    file = str(tmp_path / "step=3.ckpt")
    assert fit(tmp_path, file, workers=2, max_steps=8) == whole[3:]


def test_peeking_at_a_batch_does_not_shift_the_run(text, bpe):
    train, _ = dataloader.get_dataloaders(textfile(text), bpe, skip_valid=True)
    first = numbers(next(iter(train)))
    model = Recorder()
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, train)
    assert model.seen == [first]


def test_lightning_may_overfit(tmp_path):
    seen = fit(tmp_path, max_steps=4, overfit_batches=1)
    assert seen == [[0, 1, 2, 3]] * 4


# Two processes

# By itself, and not a function of this file, which takes long to import.
DIGEST = """
import hashlib, itertools, sys
from omegaconf import OmegaConf
from mdlm_mcd.minihost import dataloader

def digest(config):
    tokenizer = dataloader.get_tokenizer(config)
    train, valid = dataloader.get_dataloaders(config, tokenizer)
    digest = hashlib.sha256(str(len(tokenizer)).encode())
    for loader in (train, valid):
        digest.update(loader.dataset.tokens.numpy().tobytes())
    for batch in itertools.islice(train, 20):
        digest.update(batch["input_ids"].numpy().tobytes())
    return digest.hexdigest()
"""


@pytest.mark.slow
def test_processes_agree_with_cold_and_warm_caches(tmp_path):
    def config(cache):
        return config_of("stdlib", tmp_path / cache, max_chars=300_000)

    def start(hash_seed):
        file = tmp_path / "config.yaml"
        OmegaConf.save(config("a"), file)
        program = f"{DIGEST}\nprint(digest(OmegaConf.load(sys.argv[1])))"
        return subprocess.Popen(
            [sys.executable, "-c", program, str(file)],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            stdout=subprocess.PIPE,
            text=True,
        )

    # Both start at the same cold cache.
    processes = [start(seed) for seed in "12"]
    found = {process.communicate(timeout=120)[0].strip() for process in processes}
    exec(DIGEST, names := {})
    for cache in ("a", "b"):  # warm, cold
        found.add(names["digest"](config(cache)))
    assert len(found) == 1 and len(found.pop()) == 64
    files = os.listdir(tmp_path / "a")
    assert sorted(files) == sorted(os.listdir(tmp_path / "b")) and len(files) == 2


DISTRIBUTED = """
import json, sys
import lightning as L
import test_dataloader as tests
import torch
from mdlm_mcd.minihost import order as row_order

class Recorder(tests.Recorder):
    def validation_step(self, batch, _):
        self.seen.append(tests.numbers(batch))

    def on_fit_end(self):
        name = f"{self.trainer.default_root_dir}/{flag}-{self.global_rank}.json"
        with open(name, "w") as file:
            json.dump(self.seen, file)

for flag in (True, False):
    trainer = L.Trainer(
        accelerator="cpu", devices=2, strategy="ddp_fork", max_epochs=2,
        use_distributed_sampler=flag, num_sanity_val_steps=0, logger=False,
        enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=sys.argv[1],
    )
    valid = tests.Numbers(5)
    trainer.fit(
        Recorder(),
        row_order.ResumableLoader(tests.Numbers(23), 4, seed=3),
        torch.utils.data.DataLoader(valid, sampler=row_order.RankSampler(valid)),
    )
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_ranks_of_a_real_fit_share_the_rows(tmp_path):
    subprocess.run(
        [sys.executable, "-c", DISTRIBUTED, str(tmp_path)],
        cwd=Path(__file__).parent,
        check=True,
        timeout=120,
    )
    sampler = EpochSampler(Numbers(23), 4, 3)
    for rank, held_out in enumerate([[0, 2, 4], [1, 3, 0]]):
        expected = []
        for epoch in range(2):
            rows = sampler.order(epoch)[rank::2][:8].tolist()
            expected += [rows[:4], rows[4:], *([row] for row in held_out)]
        # Whether or not Lightning is left to put in samplers of its own.
        for flag in (True, False):
            file = tmp_path / f"{flag}-{rank}.json"
            assert json.loads(file.read_text()) == expected
