"""Tokenizers, rows and batches of the minihost."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from texts import WORDS, config_of, word_tokenizer

from mdlm_mcd.errors import ConfigError
from mdlm_mcd.minihost import corpus, dataloader
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


@given(st.text(st.characters(codec="utf-8", exclude_characters="|")))  # no special tokens
def test_tokens_give_the_text_back(bpe, string):
    """Special tokens are the first three of `data.vocab_size`."""
    ids = bpe(string, add_special_tokens=False)["input_ids"]
    assert all(3 <= i < len(bpe) == bpe.vocab_size == 300 for i in ids)
    assert bpe.decode(ids) == string and bpe.mask_token is None


def test_bpe_sees_the_training_documents_only(text, monkeypatch):
    seen = []
    train = dataloader._train_bpe
    monkeypatch.setattr(
        dataloader, "_train_bpe", lambda texts, n: seen.extend(texts) or train(texts, n)
    )
    config = textfile(text, vocab_size=280)
    for _ in range(2):  # the second time it is cached
        dataloader.get_tokenizer(config)
        assert seen == corpus.documents(config.data, "train")


def test_tokenizers_that_are_none(text, tmp_path):
    named = "tokenizer_name_or_path"
    no_bos, no_eos = (
        word_tokenizer(tmp_path / name, **{f"{name}_token": "[X]"}) for name in ("sep", "cls")
    )
    for key, value, words in (
        ("train", "lm1b", r"=bpe is not trained on data\.train=lm1b"),
        ("vocab_size", 258, r"vocab_size=258.* at least 259"),
        (named, "/nowhere", r"data\.tokenizer_name_or_path=/nowhere can"),
        (named, no_bos, "neither a bos nor a cls token"),
        (named, no_eos, "neither a eos nor a sep token"),
    ):
        with pytest.raises(ConfigError, match=words):
            dataloader.get_tokenizer(textfile(text, **{key: value}))


@pytest.mark.parametrize(
    "specials, pad",
    [
        ({"cls_token": "[CLS]", "sep_token": "[SEP]"}, None),  # nothing is added
        ({"bos_token": "<s>", "eos_token": "</s>", "pad_token": "_"}, "_"),
    ],
)
def test_pretrained_tokenizers_are_repaired(text, tmp_path, specials, pad):
    name = word_tokenizer(tmp_path, **specials)
    tokenizer = dataloader.get_tokenizer(textfile(text, tokenizer_name_or_path=name))
    assert [tokenizer.bos_token, tokenizer.eos_token] == list(specials.values())[:2]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1)
    assert tokenizer.pad_token == pad


# Rows


@pytest.mark.parametrize("plain", ["none", "train", "valid"])
def test_wrapped_rows_have_the_documents_in_order(text, bpe, plain):
    """Each is followed by EOS, unless that is not wanted."""
    config = textfile(text, **{f"insert_{plain}_eos": False})
    loaders = dataloader.get_dataloaders(config, bpe)
    for loader, mode, size in zip(loaders, ("train", "valid"), (4, 3), strict=True):
        rows = torch.stack([row["input_ids"] for row in loader.dataset])
        assert (rows[:, 0] == bpe.bos_token_id).all()
        assert (rows[:, -1] == bpe.eos_token_id).all()
        end = [bpe.eos_token_id] * (mode != plain)
        documents = bpe(corpus.documents(config.data, mode), add_special_tokens=False)
        flat = [token for ids in documents["input_ids"] for token in [*ids, *end]]
        body = rows[:, 1:-1].flatten().tolist()
        assert body == flat[: len(body)] and 0 <= len(flat) - len(body) < 14
        ids, masks = ([b[k] for b in loader] for k in ("input_ids", "attention_mask"))
        assert ids[0].shape == (size, 16) and ids[0].dtype == masks[0].dtype == torch.int64
        assert all((mask == 1).all() for mask in masks)
        assert mode == "train" or torch.equal(torch.cat(ids), rows)  # in their order


def test_unwrapped_rows_are_padded_documents(text, bpe):
    config = textfile(text, wrap=False)
    rows = dataloader.get_dataset(config, bpe, "train")
    seen = set()
    for row, document in zip(rows, corpus.documents(config.data, "train"), strict=True):
        assert row["input_ids"].dtype == row["attention_mask"].dtype == torch.int64
        body = bpe(document, add_special_tokens=False)["input_ids"][:14]
        filled = [bpe.bos_token_id, *body, bpe.eos_token_id]
        rest = 16 - len(filled)
        assert row["input_ids"].tolist() == filled + [bpe.pad_token_id] * rest
        assert row["attention_mask"].tolist() == [1] * len(filled) + [0] * rest
        seen.add(rest)
    assert 0 in seen and len(seen) > 3


@pytest.mark.parametrize("mode", ["train", "valid"])
@pytest.mark.parametrize("keys", [{"length": 10**6}, {"files": []}])
def test_too_little_text(text, bpe, mode, keys):
    with pytest.raises(ConfigError, match=rf"data\.{mode}=textfile .* has 0 rows .*, too few"):
        dataloader.get_dataset(textfile(text, **keys), bpe, mode)


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


@pytest.mark.parametrize("wrap, workers", [(True, 0), (True, 3), (False, 0)])
def test_huggingface_rows_are_made_as_those_of_text_files(tmp_path, wrap, workers):
    """However many workers there are."""
    pytest.importorskip("datasets").utils.disable_progress_bar()
    name = word_tokenizer(tmp_path / "bert", cls_token="[CLS]", sep_token="[SEP]")
    files = {}
    for part in ("train", "validation"):
        texts = [f"{part} {i} " + " ".join(WORDS[: 1 + i % 13]) for i in range(60)]
        (tmp_path / f"{part}.txt").write_text("\n".join(texts))
        files[part] = str(tmp_path / f"{part}.jsonl")
        Path(files[part]).write_text("\n".join(json.dumps({"text": x}) for x in texts))
    keys = {"tokenizer_name_or_path": name, "wrap": wrap, "length": 8}
    given = {"train": "json", "data_files": files, "workers": workers}
    config = config_of("huggingface", tmp_path, **given, **keys)
    keys |= {"files": [f"{tmp_path}/train.txt"], "valid_files": [f"{tmp_path}/validation.txt"]}
    tokenizer = dataloader.get_tokenizer(config)
    loaders = dataloader.get_dataloaders(config, tokenizer)
    others = dataloader.get_dataloaders(config_of("textfile", tmp_path, **keys), tokenizer)
    assert isinstance(loaders[0], ResumableLoader)
    for loader, other in zip(loaders, others, strict=True):
        for row, expected in zip(loader.dataset, other.dataset, strict=True):
            assert row["input_ids"].dtype == torch.int64
            assert all(torch.equal(row[k], expected[k]) for k in expected)
            # For want of a padding token.
            padding = row["input_ids"][row["attention_mask"] == 0]
            assert (padding == tokenizer.eos_token_id).all() and len(padding) < 7 - 6 * wrap
