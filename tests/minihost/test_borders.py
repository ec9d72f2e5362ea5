"""What a library raises over a file of the user's is one sentence with its name."""

import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from texts import config_of, tiny_gpt2, word_tokenizer

from mdlm_mcd import errors
from mdlm_mcd.commands import export
from mdlm_mcd.errors import CheckpointError, ConfigError
from mdlm_mcd.evaluation import candidates
from mdlm_mcd.evaluation.evaluators import CausalLM
from mdlm_mcd.minihost import corpus, dataloader, metrics
from mdlm_mcd.minihost import main as minihost

# The border itself --------------------------------------------------------------------


def raised(error):
    with pytest.raises(BaseException) as found, errors.border("a=b fails", "do"):
        raise error
    return found.value


@given(st.sampled_from([Exception, KeyError, OSError, RuntimeError, StopIteration]), st.text())
def test_any_exception_is_one_line(kind, text):
    error = kind(text)
    found = raised(error)
    assert type(found) is ConfigError and found.__cause__ is error
    assert str(found).startswith(f"a=b fails ({kind.__name__}")
    assert str(found).endswith("): do.")
    assert len(str(found).splitlines()) == 1 and str(found).isprintable()


@pytest.mark.parametrize(
    "error",
    [ConfigError("x"), CheckpointError("x"), MemoryError(), KeyboardInterrupt(), SystemExit(1)],
    ids=lambda error: type(error).__name__,
)
def test_what_passes(error):
    assert raised(error) is error


# Data files ---------------------------------------------------------------------------


def row(text):
    return json.dumps({"text": text})


MANY = "\n".join(row(f"the cat sat on mat {i}") for i in range(40))
FILES = {
    "cut": MANY + '\n{"text": "cut sho',
    "columns": MANY.replace("}", ', "url": 1}'),
    "null": f"{MANY}\n{row(None)}\n{MANY}",
    "number": row(5),
    "words": row(["a", "b"]),
    "lists": '["a"]\n["b"]\n',
    "other": json.dumps({"body": "a"}),
    "binary": b"\xff\xfe\x00a\n",
    "latin": row("caf").replace("caf", "caf\xe9").encode("latin-1"),
    "empty": b"",
    "archive": b"PK\x03\x04" + b"\0" * 40,
}


@pytest.fixture
def hf(tmp_path):
    pytest.importorskip("datasets").utils.disable_progress_bar()

    def make(files, name="json", **data):
        keys = {"train": name, "data_files": {"train": files}, **data}
        return config_of("huggingface", tmp_path / "cache", length=8, **keys)

    return make


@pytest.fixture(scope="module")
def bpe(module_compose):
    return dataloader.get_tokenizer(module_compose())


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("kind", FILES)
def test_data_files(hf, bpe, tmp_path, kind, streaming):
    content = FILES[kind]
    content = content if isinstance(content, bytes) else content.encode()
    (tmp_path / f"{kind}.jsonl").write_bytes(content)
    (tmp_path / "fine.jsonl").write_text(MANY)
    # After the others the package makes texts of numbers, and of no rows no fault.
    alone = kind in ("number", "words", "empty")
    names = (kind,) if alone else ("fine", kind)
    files = [str(tmp_path / f"{name}.jsonl") for name in names]
    config = hf(files, streaming=streaming)
    with pytest.raises(ConfigError) as error:
        rows = dataloader.get_dataset(config, bpe, "train")
        assert sum(1 for _ in rows) < 0  # a stream fails when it gets there
    said = str(error.value)
    assert said.startswith("data.train=json (data.data_files=['") and kind in said
    assert len(said.splitlines()) == 1
    if kind in ("null", "number", "words"):
        assert f"row {80 if kind == 'null' else 0} (the first is 0) has " in said
        assert "data.text_key=text, which is no text" in said
    else:
        assert error.value.__cause__ is not None


def test_a_text_column_is_text(hf, bpe, tmp_path):
    """A byte order mark and line ends of Windows are no part of it."""
    text = "\ufeff" + MANY.replace("\n", "\r\n")
    (tmp_path / "marked.jsonl").write_text(text, "utf-8", newline="")
    (tmp_path / "plain.jsonl").write_text(MANY)
    (tmp_path / "words.txt").write_text("\ufeffthe cat\r\n" * 9, "utf-8", newline="")
    (tmp_path / "plain.txt").write_text("the cat\n" * 9)
    for names, loader in (
        (("marked.jsonl", "plain.jsonl"), "json"),
        (("words.txt", "plain.txt"), "text"),
    ):
        one, other = (
            list(dataloader.get_dataset(hf(str(tmp_path / n), loader), bpe, "train")) for n in names
        )
        if loader == "text":  # the mark of a later line is the line's own
            one, other = one[:1], other[:1]
        assert [x["input_ids"].tolist() for x in one] == [x["input_ids"].tolist() for x in other]


@pytest.mark.parametrize("name", ["scripted", "nowhere/at_all", "no-loader"])
def test_datasets_that_cannot_be_opened(hf, bpe, tmp_path, monkeypatch, name):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scripted").mkdir()
    (tmp_path / "scripted" / "scripted.py").write_text("# as older datasets had\n")
    with pytest.raises(ConfigError, match=rf"^data\.train={name}.* cannot be read"):
        dataloader.get_dataset(hf(None, name), bpe, "train")


@pytest.mark.parametrize("text", ["", "{", "\0"])
@pytest.mark.parametrize("kind", ["bpe", "stdlib"])
def test_files_of_the_cache(compose, tmp_path, kind, text):
    config = compose(f"data.cache_dir={tmp_path}")
    if kind == "bpe":
        dataloader.get_tokenizer(config)
    else:
        corpus.stdlib_documents(tmp_path, 100_000)
    (path,) = tmp_path.glob(f"{kind}-*.json")
    path.write_text(text)
    words = rf"data\.cache_dir=.*{kind}-.* cannot be read .*: delete that file"
    with pytest.raises(ConfigError, match=words):
        if kind == "bpe":
            dataloader.get_tokenizer(config)
        else:
            corpus.stdlib_documents(tmp_path, 100_000)


# Tokenizers and evaluators ------------------------------------------------------------


def of_another_release(folder):
    text = json.loads((folder / "tokenizer.json").read_text())
    text["model"]["merges"] = [{"a": 1}]
    (folder / "tokenizer.json").write_text(json.dumps(text))


def of_no_class(folder):
    text = json.loads((folder / "tokenizer_config.json").read_text())
    text["tokenizer_class"] = "NobodysTokenizer"
    (folder / "tokenizer_config.json").write_text(json.dumps(text))
    (folder / "tokenizer.json").unlink()


def gone(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()


BROKEN = [of_another_release, of_no_class, gone]


@pytest.fixture(scope="module")
def judge(bpe, tmp_path_factory):
    """A tiny evaluator with its tokenizer, whose files are whole."""
    folder = tmp_path_factory.mktemp("judge")
    bpe.save_pretrained(folder)
    tiny_gpt2(folder, 300)
    return folder


@pytest.fixture(params=BROKEN, ids=lambda change: change.__name__)
def broken(request, judge, tmp_path):
    shutil.copytree(judge, tmp_path / "broken")
    request.param(tmp_path / "broken")
    return tmp_path / "broken"


def one_line(error, start):
    assert str(error.value).startswith(start), str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_broken_tokenizers(compose, broken):
    with pytest.raises(ConfigError) as error:
        minihost.run(compose(f"data.tokenizer_name_or_path={broken}"))
    one_line(error, f"data.tokenizer_name_or_path={broken} cannot be loaded (")


def test_broken_evaluators(broken):
    with pytest.raises(ConfigError) as error:
        metrics.Metrics(str(broken)).load_evaluator()
    one_line(error, f"eval.gen_ppl_eval_model_name_or_path={broken} cannot be loaded (")
    with pytest.raises(ConfigError) as error:
        CausalLM.load(str(broken))
    one_line(error, f"evaluator={broken} cannot be loaded (")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_evaluators_with_a_broken_model(judge, tmp_path, name):
    shutil.copytree(judge, tmp_path / "broken")
    (tmp_path / "broken" / name).write_text("[1]")
    for load in (metrics.Metrics(str(tmp_path / "broken")).load_evaluator, CausalLM.load):
        with pytest.raises(ConfigError, match="cannot be loaded"):
            load(*([str(tmp_path / "broken")] if load == CausalLM.load else []))


def test_tokenizers_of_the_commands(runs, broken, tmp_path):
    """The flag is to blame, not the checkpoint."""
    start, checkpoint = f"--tokenizer {broken} cannot be loaded (", str(runs["mdlm"])
    with pytest.raises(ConfigError) as error:
        candidates.open_model(candidates.Source("a", checkpoint, tokenizer=str(broken)))
    one_line(error, start)
    with pytest.raises(ConfigError) as error:
        export.export(checkpoint, tmp_path / "out", tokenizer=str(broken))
    one_line(error, start)
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_cannot_encode(compose, judge, tmp_path):
    """It opens, and has no token for what it does not know."""
    vocab, ends = {"<s>": 0, "</s>": 1, "cat": 2}, {"bos_token": "<s>", "eos_token": "</s>"}
    name = word_tokenizer(tmp_path / "words", vocab, unk_token=None, **ends)
    with pytest.raises(ConfigError) as error:
        minihost.run(compose(f"data.tokenizer_name_or_path={name}"))
    one_line(error, f"data.tokenizer_name_or_path={name} cannot encode the text (")
    shutil.copytree(judge, tmp_path / "judge")
    shutil.copytree(name, tmp_path / "judge", dirs_exist_ok=True)
    with pytest.raises(ConfigError, match="evaluator=.* cannot encode the text"):
        CausalLM.load(str(tmp_path / "judge")).nll(["a dog"])
