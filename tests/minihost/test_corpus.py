import json
import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from texts import config_of

from mdlm_mcd.errors import ConfigError
from mdlm_mcd.minihost import corpus, prose


def data(name, tmp_path, **keys):
    return config_of(name, tmp_path / "cache", **keys).data


def paragraphs(count, start=0):
    return [f"Paragraph number {i}, of its own kind." for i in range(start, count)]


def write(path, texts, between="\n\n"):
    path.write_text(between.join(texts) + "\n", encoding="utf-8")
    return str(path)


# Splits


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=3), max_size=60))
def test_split_is_a_partition_that_keeps_equal_documents_together(documents):
    train, valid = corpus.split(documents)
    assert sorted(train + valid) == sorted(documents)
    assert not set(train) & set(valid)
    assert (train and valid) or len(set(documents)) < 2


def test_split_of_a_document_depends_on_it_alone():
    _, few = corpus.split(paragraphs(200))
    _, many = corpus.split(paragraphs(4000))
    assert few == [text for text in many if text in set(paragraphs(200))]
    assert len(few) > 1 and 150 < len(many) < 250  # one in twenty


# The standard library


def test_stdlib_is_real_text_cached_and_capped(tmp_path, monkeypatch):
    documents = corpus.stdlib_documents(tmp_path, 400_000)
    text = "".join(documents)
    assert len(set(documents)) == len(documents) > 50 and 300_000 < len(text) <= 400_000
    assert min(map(len, documents)) >= corpus.MIN_CHARS
    letters = sum(c.isascii() and (c.isalpha() or c == " ") for c in text)
    assert letters > 0.75 * len(text)
    monkeypatch.setattr(prose, "sources", None)  # warm: nothing is parsed
    assert corpus.stdlib_documents(tmp_path, 400_000) == documents


def test_docstrings_come_in_source_order_and_survive_broken_sources():
    source = b'"""m"""\nclass A:\n  """a"""\n  def f(): "f"\nasync def g(): """g\\d"""\n'
    assert [text for text in prose.docstrings(source) if text] == ["m", "a", "f", "g\\d"]
    assert list(prose.docstrings(b"def (")) == []
    text = "Title\n    *****\n\n\n\n    Body  \n      ‘more’\n    a == b\ud800\n"
    assert corpus.normalise(text) == "Title\n\nBody\n  'more'\na == b"


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
    (tmp_path / "cut.json").write_text("{")
    for folder, name in ((tmp_path / "a/b/x.json", "y.json"), (tmp_path, "cut.json")):
        with pytest.raises(ConfigError, match=r"data\.cache_dir=.*json cannot be read or writ"):
            corpus.cached(folder, name, lambda: "text", json.loads)


# Text files


@pytest.mark.parametrize(
    "texts, between, separator",
    [
        (["First.\n\nSecond of the same.", *paragraphs(19)], "\n\n \n", None),  # wide gaps
        (["Two\nlines.", *paragraphs(5)], "\r\n\r\n\r\n", None),  # too few: paragraphs
        (paragraphs(5), "\n", None),  # a single one: lines
        (["a ***\n\n\n\nb", "c"], "\n *** \n***\n", "***"),
        (["a 5", "b"], "\n5\n", 5),  # a number, to Hydra
    ],
)
def test_where_documents_end(tmp_path, texts, between, separator):
    file = write(tmp_path / "a.txt", texts, between)
    assert corpus.textfile_documents("files", [file], separator) == texts


def test_files_of_a_document_a_line_and_files_that_are_documents(tmp_path):
    few = [write(tmp_path / f"{n}.txt", [f"{n}{i}" for i in range(40)], "\n") for n in "ab"]
    empty = write(tmp_path / "empty.txt", [])
    assert len(corpus.textfile_documents("files", [*few, empty])) == 80
    train, valid = corpus.split(corpus.textfile_documents("files", few))
    assert len(train) > 60 and valid
    many = [write(tmp_path / f"{i}.txt", [f"{i}", "more"]) for i in range(corpus.MIN_DOCUMENTS)]
    assert len(corpus.textfile_documents("files", many)) == len(many)
    two = write(tmp_path / "two.txt", ["One\nparagraph.", "Two."])
    assert len(corpus.textfile_documents("files", [two, empty])) == 2


def test_globs_are_ordered_and_name_a_file_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "ba":
        write(tmp_path / f"{name}.txt", [f"\ufefftext {name} 1", f"text {name} 2"])
    write(tmp_path / "[c].txt", ["text c"])
    found = corpus.textfile_documents("files", ["*.txt", "./a.txt", "[c].txt"])
    assert [text[5] for text in found] == ["c", "a", "a", "b", "b"]


def test_unusable_files(tmp_path):
    file = tmp_path / "a.txt"
    config = data("textfile", tmp_path, files=[str(file)])
    for words in ("matches no file", "cannot be read as UTF-8"):
        with pytest.raises(ConfigError, match=rf"data\.files: .*a\.txt {words}"):
            corpus.documents(config, "train")
        file.write_bytes(b"ab\xff")


def test_valid_files_are_kept_out_of_training(tmp_path, caplog):
    files = [write(tmp_path / "a", paragraphs(50))]
    held_out = [write(tmp_path / "b", paragraphs(60, start=40))]
    config = data("textfile", tmp_path, files=files, valid_files=held_out)
    assert corpus.documents(config, "valid") == paragraphs(60, start=40)
    assert corpus.documents(config, "train") == paragraphs(40)
    assert "10 documents of data.files are also in data.valid_files" in caplog.text


@pytest.mark.parametrize("kept", [5, 25])
def test_held_out_text_is_broken_as_training_text_is(tmp_path, kept):
    """Documents of several paragraphs, of which few are a file of paragraphs by itself."""
    texts = [f"Document {i}.\n\nIts second paragraph, {i}." for i in range(40)]
    held = write(tmp_path / "held.txt", texts[:kept], "\n\n\n")
    files = [write(tmp_path / "a.txt", texts, "\n\n\n")]
    config = data("textfile", tmp_path, files=files, valid_files=[held])
    assert corpus.documents(config, "valid") == texts[:kept]
    assert corpus.documents(config, "train") == texts[kept:]
    # A file of both lists, by whatever name.
    (tmp_path / "link.txt").symlink_to(held)
    more = write(tmp_path / "b.txt", texts[kept:], "\n\n\n")
    config.files = [str(tmp_path / "link.txt"), more]
    assert corpus.documents(config, "train") == texts[kept:]
    config.files = []  # as where a checkpoint is evaluated
    assert len(corpus.documents(config, "valid")) == (10 if kept == 5 else 25)


def test_train_and_valid_may_come_from_different_places(tmp_path):
    given = {"valid_files": [write(tmp_path / "a", paragraphs(30))], "max_chars": 100_000}
    config = data("textfile", tmp_path, train="stdlib", **given)
    assert corpus.documents(config, "valid") == paragraphs(30)
    assert sum(map(len, corpus.documents(config, "train"))) > 10_000


# Hugging Face datasets


def test_datasets_are_read_from_files_and_folders(tmp_path):
    hf = pytest.importorskip("datasets")
    hf.utils.disable_progress_bar()
    train = hf.Dataset.from_dict({"body": ["a", "b"], "n": [1, 2]})
    for name, made in (("both", hf.DatasetDict(train=train)), ("bare", train)):
        made.save_to_disk(tmp_path / name)
        config = data("huggingface", tmp_path, train=str(tmp_path / name), text_key="body")
        assert corpus.huggingface_dataset(config, "train")["body"][:] == ["a", "b"]
    with pytest.raises(ConfigError, match=r"data\.valid_split=validation .* cannot be"):
        corpus.huggingface_dataset(config, "valid")
    config.text_key = "text"
    with pytest.raises(ConfigError, match=r"data\.text_key=text cannot be read .*body"):
        corpus.huggingface_dataset(config, "train")
    file = write(tmp_path / "a.jsonl", [json.dumps({"text": f"{i}", "n": i}) for i in "ab"], "\n")
    config = data("huggingface", tmp_path, train="json", data_files=file, valid_split="train[:1]")
    found = corpus.huggingface_dataset(config, "valid")
    assert found.column_names == ["text"] and found["text"][:] == ["a"]


def test_without_the_package_datasets(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"pip install mdlm-mcd\[data\]"):
        corpus.huggingface_dataset(data("huggingface", tmp_path), "train")
