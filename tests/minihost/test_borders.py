"""What a library raises over a file of the user's is one sentence with its name."""

import json
import shutil

import pytest
from texts import config_of, tiny_gpt2, word_tokenizer

from mdlm_mcd import errors
from mdlm_mcd.errors import CheckpointError, ConfigError
from mdlm_mcd.evaluation.evaluators import CausalLM
from mdlm_mcd.minihost import dataloader, metrics


@pytest.mark.parametrize("text", ["plain", "", "two\nlines\x00\u202e"])
def test_any_exception_is_one_line(text):
    def raised(error):
        with pytest.raises(BaseException) as found, errors.border("a=b fails", "do"):
            raise error
        return found.value

    found = raised(error := OSError(text))
    assert type(found) is ConfigError and found.__cause__ is error
    assert str(found).startswith("a=b fails (OSError")
    assert str(found).endswith("): do.") and str(found).isprintable()
    for error in (CheckpointError(text), MemoryError(text), KeyboardInterrupt(text)):
        assert raised(error) is error


def row(text):
    return json.dumps({"text": text})


MANY = "\n".join(row(f"the cat sat on mat {i}") for i in range(40))
CUT = "cannot be read \\("


@pytest.fixture(scope="module")
def bpe(module_compose):
    return dataloader.get_tokenizer(module_compose())


@pytest.mark.parametrize(
    "text, words",
    [
        (MANY + '\n{"text": "cut sho', CUT),
        (f"{MANY}\n{row(None)}\n{MANY}", r"row 40 \(the first is 0\) has None for .*, which is no"),
        (row(5), "row 0 .* has 5 for data.text_key=text, which is no text"),
        ("", CUT),
        (None, CUT),
    ],
)
def test_data_files(bpe, tmp_path, monkeypatch, text, words):
    pytest.importorskip("datasets").utils.disable_progress_bar()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    keys = {"train": "nowhere/at_all"}
    if text is not None:
        (tmp_path / "a.jsonl").write_text(text)
        keys = {"train": "json", "data_files": str(tmp_path / "a.jsonl")}
    config = config_of("huggingface", tmp_path / "cache", length=8, **keys)
    with pytest.raises(ConfigError, match=rf"^data\.train={keys['train']}.* {words}") as error:
        dataloader.get_dataset(config, bpe, "train")
    assert len(str(error.value).splitlines()) == 1


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
    calls = [
        ("data.tokenizer_name_or_path", lambda: dataloader.get_tokenizer(config)),
        ("eval.gen_ppl_eval_model_name_or_path", metrics.Metrics(name).load_evaluator),
        ("evaluator", lambda: CausalLM.load(name)),
    ]
    for key, call in calls[file == "config.json" :]:
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
