"""What the config inside a checkpoint may decide, and what it may not."""

import json
import os
import re
from pathlib import Path

import pytest
import torch

import mdlm_mcd
from mdlm_mcd import errors
from mdlm_mcd.checkpoints import checkpoint_config, sanitize
from mdlm_mcd.commands import export
from mdlm_mcd.errors import CheckpointError, ConfigError
from mdlm_mcd.evaluation import candidates
from mdlm_mcd.minihost import dataloader

ROOT = Path(mdlm_mcd.__file__).resolve().parents[1]


def config(content):
    """The config in a checkpoint of the embedded host."""
    return content["hyper_parameters"]["config"]


def model_of(content):
    return config(content)["model"]


def opened(path):
    return candidates.open_model(candidates.Source("x", str(path), which="raw"))


def test_its_interpolations_are_text(shell, monkeypatch):
    monkeypatch.setenv("SECRET", "s3cret")
    asked = []

    def ask(name, **kwargs):
        asked.append((name, kwargs))
        raise OSError

    monkeypatch.setattr(dataloader.transformers.AutoTokenizer, "from_pretrained", ask)
    given = {"tokenizer_name_or_path": "attacker/${oc.env:SECRET}"}
    with pytest.raises(ConfigError):
        opened(shell.changed(lambda c: config(c)["data"].update(given)))
    ((name, how),) = asked
    assert "s3cret" not in name and how["trust_remote_code"] is False


def test_it_names_no_folder_to_write_to(shell, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    theirs = tmp_path / "ssh"
    theirs.mkdir()
    for folder in (theirs, tmp_path / "new"):
        given = {"cache_dir": str(folder)}
        opened(shell.changed(lambda c, given=given: config(c)["data"].update(given)))
        assert not folder.exists() or not os.listdir(folder)
    assert os.listdir(tmp_path / "home" / ".cache" / "mdlm_mcd")
    # A cache that is one already is used: tokenizers take minutes to train.
    mine = config(torch.load(shell.teacher, weights_only=True))["data"]["cache_dir"]
    assert checkpoint_config.cache_of(str(mine)) == str(mine)
    assert {checkpoint_config.cache_of(x) for x in (5, "a\0b")} == {checkpoint_config.CACHE}


EMBEDDING = "backbone.vocab_embed.embedding"


def embedding(*shape):
    return lambda content: content["state_dict"].update({EMBEDDING: torch.zeros(shape)})


@pytest.mark.parametrize(
    "open_model, change, words",
    [
        (opened, lambda c: model_of(c).update(length=10**30), "does not say its model_length"),
        # The memory that a model takes is the file's.
        (opened, embedding(0, 1 << 40), "vocabulary of 0"),
        (opened, embedding(301, 1 << 12), "a model of"),
        (opened, embedding(301), "no vocab_embed"),
    ],
)
def test_sizes_are_those_of_the_tensors(shell, open_model, change, words):
    with pytest.raises((CheckpointError, ConfigError), match=words):
        open_model(shell.changed(change))


def test_sizes_in_a_config_are_not_asked_where_tensors_have_them(shell):
    huge = dict.fromkeys(("hidden_size", "n_heads", "n_blocks"), 10**9)
    assert opened(shell.changed(lambda c: model_of(c).update(huge))).vocab_size


def test_a_schedule_that_is_none_is_refused():
    odd = [{"type": "log-linear", "eps": eps} for eps in ("${oc.env:HOME}", float("nan"))]
    for noise in ({"type": ["x"]}, {"type": "cosine", "eps": -9}, *odd):
        with pytest.raises(ConfigError, match="noise.type"):
            candidates.schedule({"noise": noise}, "CKPT=x")


def test_our_configs_call_no_eval():
    """The hosts register a resolver `eval`; in our configs it would run their text."""
    folders = (ROOT / "configs", ROOT / "mdlm_mcd" / "minihost" / "configs")
    found = [path.read_text("utf-8") for folder in folders for path in folder.rglob("*.yaml")]
    assert len(found) > 40 and "${" in "".join(found)
    assert not re.search(r"\$\{\s*eval\s*:", "".join(found))


def test_remote_code_is_run_for_hf_dit_alone():
    found = [
        str(path.relative_to(ROOT / "mdlm_mcd"))
        for path in (ROOT / "mdlm_mcd").rglob("*.py")
        if re.search(r"(?<!\{name!r\}, )trust_remote_code=True", path.read_text("utf-8"))
    ]
    assert found == ["minihost/backbone.py"]


def test_a_model_card_escapes_what_the_file_says(shell, tmp_path):
    evil = "x\n---\n<script>|[a](http://b)\ud800"
    noted = {"loss": evil, "round": [evil], "teacher_path": 5, "settings": 7}
    export.export(str(shell.changed(lambda c: c.update(mdlm_mcd=noted))), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert card.splitlines().count("---") == 2 and "<script>" not in card
    noted = json.loads((tmp_path / "out" / "config.json").read_text())["mdlm_mcd"]
    assert noted["teacher_path"] is None


def test_copies_are_plain():
    value = {"a": (1, "\ud800"), 5: 1, "b": {2}, "c": 2**63, "d": [True, 0.5, None]}
    assert sanitize.copy(value) == {"a": [1, "?"], "b": None, "c": None, "d": [True, 0.5, None]}


def test_values_are_shown_on_one_line():
    assert errors.shown("a\nb") == "a" and errors.shown(10**5000) == "a int"
    assert errors.shown("x" * 99) == "x" * 79 + "\u2026"
    assert errors.shown("\x1b[31m\r") == "\\x1b[31m"
