"""What a library raises over a file of the user's is one sentence with its name."""

import json
import shutil

import pytest
from texts import config_of, tiny_gpt2, word_tokenizer

from mdlm_mcd import errors
from mdlm_mcd.errors import CheckpointError, ConfigError
from mdlm_mcd.evaluation.evaluators import CausalLM
from mdlm_mcd.minihost import dataloader, metrics

# The border itself --------------------------------------------------------------------


def raised(error):
    with pytest.raises(BaseException) as found, errors.border("a=b fails", "do"):
        raise error
    return found.value


@pytest.mark.parametrize("kind", [Exception, KeyError, OSError, StopIteration])
@pytest.mark.parametrize("text", ["plain", "", "two\nlines\x00\u202e"])
def test_any_exception_is_one_line(kind, text):
    error = kind(text)
    found = raised(error)
    assert type(found) is ConfigError and found.__cause__ is error
    assert str(found).startswith(f"a=b fails ({kind.__name__}")
    assert str(found).endswith("): do.") and str(found).isprintable()


def test_what_passes():
    for error in (CheckpointError("x"), MemoryError(), KeyboardInterrupt(), SystemExit(1)):
        assert raised(error) is error


# Data files ---------------------------------------------------------------------------


def row(text):
    return json.dumps({"text": text})


MANY = "\n".join(row(f"the cat sat on mat {i}") for i in range(40))
FILES = {
    "cut": MANY + '\n{"text": "cut sho',
    "null": f"{MANY}\n{row(None)}\n{MANY}",
    "number": row(5),
    "empty": "",
}


@pytest.fixture
def hf(tmp_path):
    pytest.importorskip("datasets").utils.disable_progress_bar()

    def make(files, name="json", **data):
        keys = {"train": name, "data_files": files, **data}
        return config_of("huggingface", tmp_path / "cache", length=8, **keys)

    return make


@pytest.fixture(scope="module")
def bpe(module_compose):
    return dataloader.get_tokenizer(module_compose())


@pytest.mark.parametrize("kind", FILES)
def test_data_files(hf, bpe, tmp_path, kind):
    (tmp_path / f"{kind}.jsonl").write_text(FILES[kind])
    (tmp_path / "fine.jsonl").write_text(MANY)
    # After the other file the package makes texts of numbers, and of no rows no fault.
    names = (kind,) if kind in ("number", "empty") else ("fine", kind)
    files = [str(tmp_path / f"{name}.jsonl") for name in names]
    with pytest.raises(ConfigError) as error:
        dataloader.get_dataset(hf(files), bpe, "train")
    words = str(error.value)
    assert words.startswith("data.train=json (data.data_files=['") and kind in words
    assert len(words.splitlines()) == 1
    if kind in ("null", "number"):
        assert f"row {80 if kind == 'null' else 0} (the first is 0) has " in words
        assert "data.text_key=text, which is no text" in words


def test_datasets_that_cannot_be_opened(hf, bpe, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"^data\.train=nowhere/at_all.* cannot be read"):
        dataloader.get_dataset(hf(None, "nowhere/at_all"), bpe, "train")


# Tokenizers and evaluators ------------------------------------------------------------


@pytest.fixture(scope="module")
def judge(bpe, tmp_path_factory):
    """A tiny evaluator with its tokenizer, whose files are whole."""
    folder = tmp_path_factory.mktemp("judge")
    bpe.save_pretrained(folder)
    tiny_gpt2(folder, 300)
    return folder


@pytest.mark.parametrize("file", ["tokenizer.json", "config.json"])
def test_broken_folders(module_compose, judge, tmp_path, file):
    name = str(tmp_path / "broken")
    shutil.copytree(judge, name)
    content = json.loads((judge / file).read_text())
    if file == "tokenizer.json":  # of another release
        content["model"]["merges"] = [{"a": 1}]
    (tmp_path / "broken" / file).write_text(json.dumps(content if "model" in content else [1]))
    config = module_compose(f"data.tokenizer_name_or_path={name}")
    calls = {
        "data.tokenizer_name_or_path": lambda: dataloader.get_tokenizer(config),
        "eval.gen_ppl_eval_model_name_or_path": metrics.Metrics(name).load_evaluator,
        "evaluator": lambda: CausalLM.load(name),
    }
    for key, call in list(calls.items())[file == "config.json" :]:
        with pytest.raises(ConfigError, match=f"^{key}={name} cannot be loaded \\(") as error:
            call()
        assert len(str(error.value).splitlines()) == 1


def test_a_tokenizer_that_cannot_encode(module_compose, judge, tmp_path):
    """It opens, and has no token for what it does not know."""
    vocab, ends = {"<s>": 0, "</s>": 1, "cat": 2}, {"bos_token": "<s>", "eos_token": "</s>"}
    name = word_tokenizer(tmp_path / "words", vocab, unk_token=None, **ends)
    config = module_compose(f"data.tokenizer_name_or_path={name}")
    with pytest.raises(ConfigError, match="cannot encode the text"):
        dataloader.get_dataset(config, dataloader.get_tokenizer(config), "train")
    shutil.copytree(judge, tmp_path / "judge")
    shutil.copytree(name, tmp_path / "judge", dirs_exist_ok=True)
    with pytest.raises(ConfigError, match="evaluator=.* cannot encode the text"):
        CausalLM.load(str(tmp_path / "judge")).nll(["a dog"])
