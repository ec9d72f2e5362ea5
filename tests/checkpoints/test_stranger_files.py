"""Configs, tables, results and settings that come with a file."""

import json
import os
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import mdlm_mcd
from mdlm_mcd import errors
from mdlm_mcd.checkpoints import checkpoint_config, sanitize, weights
from mdlm_mcd.commands import export, main
from mdlm_mcd.errors import CheckpointError, ConfigError, MCDError
from mdlm_mcd.evaluation import candidates, embedded, report, results, sweep
from mdlm_mcd.evaluation.rows import OPTIONAL
from mdlm_mcd.minihost import algo, dataloader

ROOT = Path(mdlm_mcd.__file__).resolve().parents[1]


@pytest.fixture
def held(random_mdlm):
    """A checkpoint as the embedded host writes it."""
    return {
        "state_dict": random_mdlm.state_dict(),
        "hyper_parameters": dict(random_mdlm.hparams),
        "global_step": 3,
        "pytorch-lightning_version": "2.2.0",
    }


def saved(held, tmp_path):
    torch.save(held, tmp_path / "x.ckpt")
    return tmp_path / "x.ckpt"


def opened(path):
    return candidates.open_model(candidates.Source("x", str(path), which="raw"))


# What a checkpoint's config may decide ---------------------------------------------


def test_an_evaluator_does_not_choose_its_code(held, tmp_path, monkeypatch):
    """`algo.backbone=hf_dit` in its config had the host run a Hub model's Python."""
    import transformers

    def never(*args, **kwargs):
        raise AssertionError("a model was fetched, and its code run")

    monkeypatch.setattr(transformers.AutoModelForMaskedLM, "from_pretrained", never)
    config = held["hyper_parameters"]["config"]
    config["algo"]["backbone"] = "hf_dit"
    config["eval"]["checkpoint_path"] = "attacker/model"
    config["training"]["ema"] = 0
    model, _ = embedded.open_model(saved(held, tmp_path))
    assert type(model) is algo.MDLM and type(model.backbone).__name__ == "DIT"


def test_its_interpolations_are_text(held, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "s3cret")
    asked = []

    def ask(name, **kwargs):
        asked.append((name, kwargs))
        raise OSError

    monkeypatch.setattr(dataloader.transformers.AutoTokenizer, "from_pretrained", ask)
    data = held["hyper_parameters"]["config"]["data"]
    data["tokenizer_name_or_path"] = "attacker/${oc.env:SECRET}"
    with pytest.raises(ConfigError):
        opened(saved(held, tmp_path))
    ((name, how),) = asked
    assert "s3cret" not in name and how["trust_remote_code"] is False


def test_it_names_no_folder_to_write_to(held, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    data = held["hyper_parameters"]["config"]["data"]
    mine, theirs = data["cache_dir"], tmp_path / "ssh"
    theirs.mkdir()
    for folder in (theirs, tmp_path / "new"):
        data["cache_dir"] = str(folder)
        opened(saved(held, tmp_path))
        assert not folder.exists() or not os.listdir(folder)
    assert os.listdir(tmp_path / "home" / ".cache" / "mdlm_mcd")
    # A cache that is one already is used: tokenizers take minutes to train.
    assert checkpoint_config.cache_of(str(mine)) == str(mine)
    assert (
        checkpoint_config.cache_of(5)
        == checkpoint_config.cache_of("a\0b")
        == checkpoint_config.CACHE
    )


@pytest.mark.parametrize(
    "key,value,words",
    [
        ("hidden_size", 10**9, None),  # the tensors have the say
        ("n_heads", 10**9, None),
        ("length", 10**30, "does not say its model_length"),
        ("length", "x", "does not say its model_length"),
    ],
)
def test_sizes_are_those_of_the_tensors(held, tmp_path, key, value, words):
    config = held["hyper_parameters"]["config"]
    config["model"][key] = value
    path = saved(held, tmp_path)
    if words is None:
        assert opened(path).vocab_size
        return
    with pytest.raises(ConfigError, match=words):
        opened(path)


def test_no_model_is_made_that_the_file_does_not_hold(held, tmp_path):
    state = held["state_dict"]
    vocab = len(state["backbone.vocab_embed.embedding"])
    state["backbone.vocab_embed.embedding"] = torch.zeros(0, 1 << 40)
    with pytest.raises(CheckpointError, match="vocab_size = 0, of which no model"):
        opened(saved(held, tmp_path))
    state["backbone.vocab_embed.embedding"] = torch.zeros(vocab, 1 << 12)
    with pytest.raises(CheckpointError, match="model of .* parameters and holds"):
        opened(saved(held, tmp_path))
    state["backbone.vocab_embed.embedding"] = torch.zeros(vocab)
    with pytest.raises(CheckpointError, match="no vocab_embed.embedding of two dim"):
        opened(saved(held, tmp_path))


def test_an_evaluators_sizes_are_those_of_its_tensors(held, tmp_path):
    held["hyper_parameters"]["config"]["model"]["n_blocks"] = 10**6
    with pytest.raises(CheckpointError, match="describes a model of"):
        embedded.open_model(saved(held, tmp_path))
    del held["hyper_parameters"]["config"]["model"]
    with pytest.raises(CheckpointError, match="a config that cannot be used"):
        embedded.open_model(saved(held, tmp_path))


@pytest.mark.parametrize(
    "noise",
    [
        {"type": ["x"]},
        {"type": "log-linear", "eps": "${oc.env:HOME}"},
        {"type": "log-linear", "eps": float("nan")},
        {"type": "cosine", "eps": -9},
    ],
)
def test_a_schedule_that_is_none_is_refused(noise):
    with pytest.raises(ConfigError, match="noise.type"):
        candidates.schedule({"noise": noise}, "CKPT=x")


def test_our_configs_call_no_eval():
    """The hosts register a resolver `eval`; in our configs it would run their text."""
    folders = (ROOT / "configs", ROOT / "mdlm_mcd" / "minihost" / "configs")
    found = [path for folder in folders for path in folder.rglob("*.yaml")]
    called = {
        name
        for path in found
        for name in re.findall(r"\$\{\s*([\w.]+)\s*:", path.read_text("utf-8"))
    }
    allowed = {
        "cwd",
        "device_count",
        "div_up",
        "mul",
        "oc.select",
        "now",
        "hydra",
        "mdlm_mcd_unpatched_host",
    }
    assert len(found) > 40 and called and called <= allowed
    registered = re.compile(r"new_resolver\(\s*[\"']eval")
    for folder in ("mdlm_mcd", "hydra_plugins"):
        for path in (ROOT / folder).rglob("*.py"):
            assert not registered.search(path.read_text("utf-8")), path


def test_remote_code_is_run_for_hf_dit_alone():
    said = [
        str(path.relative_to(ROOT / "mdlm_mcd"))
        for path in (ROOT / "mdlm_mcd").rglob("*.py")
        if re.search(r"(?<!\{name!r\}, )trust_remote_code=True", path.read_text("utf-8"))
    ]
    assert said == ["minihost/backbone.py"]


# Folders and safetensors ------------------------------------------------------------


@pytest.mark.parametrize(
    "text,words",
    [
        ("[" * 100_000, "nested beyond reason"),
        ('{"a": ' + "9" * 5000 + "}", None),
        ('{"weight_map": {"a": ".."}}', "lacks"),
        ('{"weight_map": {"a": 5}}', "points out of its folder"),
        ('{"weight_map": [["model.safetensors"]]}', "points out of its folder"),
        ('{"weight_map": {"a": "\\u001b[31m"}}', r"lacks \\x1b"),
        ("\xff", "is no JSON"),
    ],
)
def test_tables_of_shards(tmp_path, text, words):
    save_file({"w": torch.ones(1)}, tmp_path / "model.safetensors")
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(text.encode("latin1"))
    try:
        assert weights.read_weights(str(tmp_path)).state_dict and words is None
    except CheckpointError as error:
        assert re.search(words or "is no JSON", str(error)) and "\n" not in str(error)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_in_a_folder_is_not_waited_for(tmp_path):
    save_file({"w": torch.ones(1)}, tmp_path / "model.safetensors")
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match="it is no file"):
        weights.read_weights(str(tmp_path))


@pytest.mark.parametrize(
    "said",
    [
        {"global_step": "\u00b2"},
        {"global_step": "9" * 5000},
        {"mdlm_mcd": "[1]"},
        {"mdlm_mcd": "[" * 100_000},
    ],
)
def test_odd_words_in_safetensors(tmp_path, said):
    save_file({"w": torch.ones(1)}, tmp_path / "x.safetensors", said)
    found = weights.read_weights(str(tmp_path / "x.safetensors"))
    assert found.global_step is None and found.mdlm_mcd == {}


def test_a_card_keeps_strangers_words_in_their_place(held, tmp_path):
    evil = "x\n---\n<script>|[a](http://b)\ud800"
    held["mdlm_mcd"] = {"loss": evil, "round": [evil], "teacher_path": 5, "settings": 7}
    export.export(str(saved(held, tmp_path)), tmp_path / "out", "raw")
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert card.splitlines().count("---") == 2 and "<script>" not in card
    noted = json.loads((tmp_path / "out" / "config.json").read_text())["mdlm_mcd"]
    assert noted["teacher_path"] is None


# Results ------------------------------------------------------------------------------


def row(**changes):
    return {
        "model": "m",
        "steps": 4,
        "temperature": 1.0,
        "sampler": "sparse",
        "dtype": "float64",
        "seed": 1,
        "num_samples": 8,
        "length": 16,
        "metrics": {"perplexity": {"value": 9.0, "low": 8.0, "high": 10.0}},
        "sha256": "ab",
        **changes,
    }


@pytest.mark.parametrize("bad", ["[" * 100_000, '{"a": ' + "9" * 5000 + "}", '"'])
def test_lines_that_are_none_are_passed_over(tmp_path, bad):
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps(row()) + "\n" + bad)
    assert len(results.read([path]).points) == 1
    assert sweep.existing(path) == [row()]


def test_numbers_beyond_all_reason(tmp_path, capsys):
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps(row(steps=10**400)))
    assert main.main(["report", str(path), "--out", str(tmp_path / "o.html")]) == 1
    assert "steps = None is of the wrong kind" in capsys.readouterr().err


@pytest.mark.parametrize("value", [1e-320, 1e-200, 1e200, 1.7e308])
def test_figures_beyond_all_reason_have_a_page(tmp_path, value):
    path, figure = tmp_path / "r.jsonl", {"value": value, "low": value, "high": value}
    figures = {name: figure for name in ("perplexity", "entropy", "nelbo")}
    rows = [row(), row(steps=8, metrics=figures), row(steps=16, temperature=0.5)]
    path.write_text("\n".join(map(json.dumps, rows)))
    report.write([path], tmp_path / "o.html")
    assert "<svg" in (tmp_path / "o.html").read_text("utf-8")


def test_a_setting_that_is_null_is_the_usual_one(tmp_path):
    path = tmp_path / "r.jsonl"
    rows = [row(top_p=None), row(top_p=0.9, steps=8)]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert results.read([path]).names == ["m", "m, top-p 0.9"]


def test_a_line_end_of_another_script_is_no_line_end(tmp_path):
    """A sweep that went on took such rows for cut short, and out of the file."""
    path = tmp_path / "r.jsonl"
    rows = [row(texts=["a\u2028b", "c\x85d"]), row(steps=8)]
    for one in rows:
        sweep.append(path, one)
    assert sweep.existing(path) == rows
    assert len(results.read([path]).points) == 2


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


@settings(max_examples=40)
@given(
    changes=st.dictionaries(st.sampled_from(sorted(row())), JSON, max_size=2),
    others=st.dictionaries(st.sampled_from(sorted(OPTIONAL)), JSON, max_size=2),
)
def test_any_row_ends_in_a_page_or_our_own_error(changes, others, tmp_path_factory):
    path = tmp_path_factory.mktemp("any") / "r.jsonl"
    lines = (row(), {**row(), **others, **changes})
    path.write_text("\n".join(map(json.dumps, lines)))
    try:
        report.write([path], path.with_name("o.html"), force=True)
    except MCDError as error:
        assert "\n" not in str(error)


# Values -------------------------------------------------------------------------------


def test_copies_are_plain_and_bounded():
    value = {"a": (1, "\ud800"), 5: 1, "b": {2}, "c": 2**63, "d": [True, 0.5, None]}
    assert sanitize.copy(value) == {"a": [1, "?"], "b": None, "c": None, "d": [True, 0.5, None]}
    wide = [0]
    for _ in range(40):
        wide = [wide] * 10
    with pytest.raises(ValueError, match="repeats itself"):
        sanitize.copy(wide)
    assert errors.shown("a\nb") == "a" and errors.shown(10**5000) == "a int"
    assert errors.shown("x" * 99) == "x" * 79 + "\u2026"
    assert errors.shown("\x1b[31m\r") == "\\x1b[31m"
