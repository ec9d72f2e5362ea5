import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from mdlm_mcd.errors import ConfigError
from mdlm_mcd.minihost import corpus

CONFIGS = Path(corpus.__file__).parent / "configs" / "data"


def data(name, tmp_path, **keys):
    config = OmegaConf.load(CONFIGS / f"{name}.yaml")
    config.cache_dir = str(tmp_path / "cache")
    return OmegaConf.merge(config, keys)


def paragraphs(count, start=0):
    return [f"Paragraph number {i}, of its own kind." for i in range(start, count)]


def write(path, texts, between="\n\n"):
    path.write_text(between.join(texts) + "\n", encoding="utf-8")
    return str(path)


# Splits


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1), max_size=60))
@settings(deadline=None, max_examples=60)
def test_split_is_a_partition_that_keeps_equal_documents_together(documents):
    train, valid = corpus.split(documents)
    assert sorted(train + valid) == sorted(documents)
    assert not set(train) & set(valid)
    if len(set(documents)) >= 2:
        assert train and valid


def test_split_of_a_document_depends_on_it_alone():
    _, few = corpus.split(paragraphs(200))
    _, many = corpus.split(paragraphs(4000))
    assert few == [text for text in many if text in set(paragraphs(200))]
    assert len(few) > 1 and 150 < len(many) < 250  # one in twenty


# The standard library


@pytest.fixture(scope="module")
def stdlib(tmp_path_factory):
    cache = tmp_path_factory.mktemp("stdlib")
    return cache, corpus.stdlib_documents(cache, 800_000)


def test_stdlib_is_real_text_without_repeats(stdlib):
    _, documents = stdlib
    text = "".join(documents)
    assert len(documents) > 200 and len(text) > 700_000
    assert len(set(documents)) == len(documents)
    assert min(map(len, documents)) >= corpus.MIN_CHARS
    letters = sum(c.isascii() and (c.isalpha() or c == " ") for c in text)
    assert letters > 0.75 * len(text)


def test_stdlib_is_cached_and_capped(stdlib, monkeypatch):
    cache, documents = stdlib
    capped = corpus.stdlib_documents(cache, 300_000)
    assert capped == documents[: len(capped)]
    assert 100_000 < sum(map(len, capped)) <= 300_000
    monkeypatch.setattr(corpus, "_stdlib_texts", None)  # warm: nothing is parsed
    assert corpus.stdlib_documents(cache, 800_000) == documents
    assert corpus.stdlib_documents(cache, 300_000) == capped


def test_normalise():
    text = "Title\n    *****\n\n\n\n    Body  \n      ‘more’\n    a == b\ud800\n"
    assert corpus.normalise(text) == "Title\n\nBody\n  'more'\na == b"


def test_docstrings_come_in_source_order_and_survive_broken_sources():
    source = b'"""m"""\nclass A:\n  """a"""\n  def f(): "f"\nasync def g(): """g\\d"""\n'
    assert [text for text in corpus._docstrings(source) if text] == ["m", "a", "f", "g\\d"]
    assert list(corpus._docstrings(b"def (")) == []


# The cache


def test_the_cache_is_written_whole_and_once(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(corpus.os, "replace", interrupt)  # in the middle of writing
        with pytest.raises(KeyboardInterrupt):
            corpus.cached(tmp_path, "x.json", lambda: "text")
    assert os.listdir(tmp_path) == []
    monkeypatch.setenv("HOME", str(tmp_path))
    for build in (lambda: "\xe9", interrupt):
        assert corpus.cached("~/a/b", "x.json", build) == "\xe9"
    assert os.listdir(tmp_path / "a/b") == ["x.json"]
    with pytest.raises(ConfigError, match=r"data\.cache_dir=.*json cannot be read or written"):
        corpus.cached(tmp_path / "a/b/x.json", "y.json", lambda: "text")


# Text files


@pytest.mark.parametrize(
    "texts, between",
    [
        (["First.\n\nSecond of the same.", *paragraphs(19)], "\n\n \n"),  # wide gaps
        (["Two\nlines.", *paragraphs(5)], "\r\n\r\n\r\n"),  # too few: paragraphs
        (paragraphs(5), "\n"),  # a single one: lines
    ],
)
def test_where_documents_end(tmp_path, texts, between):
    file = write(tmp_path / "a.txt", texts, between)
    assert corpus.textfile_documents("files", [file]) == texts


def test_separator(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("***\na ***\n\n\n\nb\n *** \n***\nc\n***", encoding="utf-8")
    found = corpus.textfile_documents("files", [str(file)], "***")
    assert found == ["a ***\n\n\n\nb", "c"]


def test_globs_are_ordered_and_name_a_file_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "ba":
        write(tmp_path / f"{name}.txt", [f"\ufefftext {name} 1", f"text {name} 2"])
    write(tmp_path / "[c].txt", ["text c"])
    found = corpus.textfile_documents("files", ["*.txt", "./a.txt", "[c].txt"])
    assert [text[5] for text in found] == ["c", "a", "a", "b", "b"]


@pytest.mark.parametrize(
    "content, message",
    [
        (None, r"data\.files: .*a\.txt matches no file"),
        (b"ab\xff", r"data\.files: .*a\.txt cannot be read as UTF-8"),
    ],
)
def test_unusable_files(tmp_path, content, message):
    if content is not None:
        (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        corpus.documents(data("textfile", tmp_path, files=[str(tmp_path / "a.txt")]), "train")


def test_valid_files_are_kept_out_of_training(tmp_path, caplog):
    config = data(
        "textfile",
        tmp_path,
        files=[write(tmp_path / "a", paragraphs(50))],
        valid_files=[write(tmp_path / "b", paragraphs(60, start=40))],
    )
    assert corpus.documents(config, "valid") == paragraphs(60, start=40)
    assert corpus.documents(config, "train") == paragraphs(40)
    assert "10 documents of data.files are also in data.valid_files" in caplog.text


def test_train_and_valid_may_come_from_different_places(tmp_path):
    file = write(tmp_path / "a", paragraphs(30))
    config = data("textfile", tmp_path, valid_files=[file], train="stdlib")
    config.max_chars = 100_000
    assert corpus.documents(config, "valid") == paragraphs(30)
    assert sum(map(len, corpus.documents(config, "train"))) > 10_000


# Hugging Face datasets


@pytest.fixture
def hf(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    datasets.utils.disable_progress_bar()
    return datasets


def test_datasets_are_read_from_json(tmp_path, monkeypatch, hf):
    monkeypatch.chdir(tmp_path)
    for part in ("train", "validation"):
        rows = [json.dumps({"text": f"{part} {i}", "n": i}) for i in range(3)]
        write(tmp_path / f"{part}.jsonl", rows, "\n")
    files = {part: f"{part}.jsonl" for part in ("train", "validation")}
    config = data("huggingface", tmp_path, train="json", data_files=files)
    for mode, part in (("train", "train"), ("valid", "validation")):
        found = corpus.huggingface_dataset(config, mode)
        assert found.column_names == ["text"]
        assert found["text"][:] == [f"{part} {i}" for i in range(3)]
    config = data("huggingface", tmp_path, train="json", data_files="train.jsonl")
    config.valid_split = "train[:1]"
    assert corpus.huggingface_dataset(config, "valid")["text"][:] == ["train 0"]


def test_datasets_are_read_from_a_folder(tmp_path, hf):
    train = hf.Dataset.from_dict({"body": ["a", "b"], "n": [1, 2]})
    hf.DatasetDict(train=train).save_to_disk(tmp_path / "both")
    train.save_to_disk(tmp_path / "bare")
    for name in ("both", "bare"):
        config = data("huggingface", tmp_path, train=str(tmp_path / name))
        config.text_key = "body"
        assert corpus.huggingface_dataset(config, "train")["body"][:] == ["a", "b"]
    with pytest.raises(ConfigError, match=r"data\.valid_split=validation cannot be"):
        corpus.huggingface_dataset(config, "valid")
    config.text_key = "text"
    with pytest.raises(ConfigError, match=r"data\.text_key=text is no column .* body, n"):
        corpus.huggingface_dataset(config, "train")


def test_without_the_package_datasets(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    config = data("huggingface", tmp_path)
    with pytest.raises(ConfigError, match=r"pip install mdlm-mcd\[data\]"):
        corpus.huggingface_dataset(config, "train")
