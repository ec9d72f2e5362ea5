"""Tokenizers, rows and batches of the minihost."""

import itertools
import json
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from texts import WORDS, config_of, word_tokenizer

from mdlm_mcd.errors import ConfigError
from mdlm_mcd.minihost import corpus, dataloader, resumable_loader
from mdlm_mcd.minihost.resumable_loader import ResumableLoader


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


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"vocab_size": 258}, r"data\.vocab_size=258 is too small: .* 259"),
        ({"train": "lm1b"}, r"=bpe is not trained on data\.train=lm1b"),
        ({"tokenizer_name_or_path": "/nowhere"}, r"data\.tokenizer_name_or_path=/nowhere can"),
    ],
)
def test_tokenizers_that_are_none(text, keys, message):
    with pytest.raises(ConfigError, match=message):
        dataloader.get_tokenizer(textfile(text, **keys))


def test_pretrained_tokenizers_are_repaired(text, tmp_path):
    name = word_tokenizer(tmp_path / "bert", cls_token="[CLS]", sep_token="[SEP]")
    tokenizer = dataloader.get_tokenizer(textfile(text, tokenizer_name_or_path=name))
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("[CLS]", "[SEP]")
    assert tokenizer.pad_token is None  # nothing is added to the vocabulary
    name = word_tokenizer(tmp_path / "gpt", bos_token="<s>", eos_token="</s>", pad_token="_")
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
    name = word_tokenizer(tmp_path / "t", **specials)
    with pytest.raises(ConfigError, match=message):
        dataloader.get_tokenizer(textfile(text, tokenizer_name_or_path=name))


# Rows


def test_wrapped_rows_have_the_documents_in_order(text, bpe):
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


@pytest.mark.parametrize(
    "length, skipped, message",
    [
        (10**6, "valid", r"data\.train=textfile .* has 0 rows of model\.length=1000000, too few"),
        (10**6, "train", r"data\.valid=textfile .* has 0 rows of model\.length=1000000, too few"),
        (2, "valid", r"model\.length=2 has no room"),
    ],
)
def test_too_little_text_or_room_for_a_row(text, bpe, length, skipped, message):
    with pytest.raises(ConfigError, match=message):
        dataloader.get_dataloaders(textfile(text, length=length), bpe, **{f"skip_{skipped}": True})


def test_validation_rows_keep_their_order(text, bpe):
    _, valid = dataloader.get_dataloaders(textfile(text), bpe, skip_train=True)
    rows = [row["input_ids"].tolist() for row in valid.dataset]
    for _ in range(2):
        assert torch.cat([b["input_ids"] for b in valid]).tolist() == rows


def test_a_look_at_a_batch_changes_nothing(text, bpe):
    """Neither the global generator, nor the rows of a later epoch."""
    state = torch.random.get_rng_state()
    loaders = dataloader.get_dataloaders(textfile(text), bpe)
    for loader in loaders:
        next(iter(loader))
    assert torch.equal(state, torch.random.get_rng_state())
    loaders[0].sampler.set_epoch(0)  # as Lightning does
    train, _ = dataloader.get_dataloaders(textfile(text), bpe, skip_valid=True)
    assert torch.equal(*(next(iter(x))["input_ids"] for x in (loaders[0], train)))


# Hugging Face datasets


@pytest.fixture
def hf(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.utils.disable_progress_bar()
    for part, count in (("train", 120), ("validation", 20)):
        lines = (json.dumps({"text": " ".join(WORDS[: 1 + i % 14])}) for i in range(count))
        (tmp_path / f"{part}.jsonl").write_text("\n".join(lines))
    files = {p: str(tmp_path / f"{p}.jsonl") for p in ("train", "validation")}
    name = word_tokenizer(tmp_path / "bert", cls_token="[CLS]", sep_token="[SEP]")

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


def test_streams_are_dealt_to_the_processes(hf, monkeypatch):
    config = hf(wrap=False, streaming=True)
    tokenizer = dataloader.get_tokenizer(config)

    def rows():
        loader, _ = dataloader.get_dataloaders(config, tokenizer, skip_valid=True)
        return [row for b in loader for row in b["input_ids"].tolist()]

    everything, dealt = rows(), []
    for rank in range(2):
        monkeypatch.setattr(resumable_loader, "rank_and_world", lambda rank=rank: (rank, 2))
        dealt.append(rows())
    assert list(itertools.chain(*zip(*dealt, strict=True))) == everything


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
