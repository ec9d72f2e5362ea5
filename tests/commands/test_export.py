"""Exported weights: what the folder says, and who opens it to the same logits."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import hosted
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mdlm_mcd.checkpoints.weights import read_weights
from mdlm_mcd.commands import export, main
from mdlm_mcd.errors import CheckpointError, ConfigError
from mdlm_mcd.minihost import main as minihost

SMALL = ("model.hidden_size=16", "model.n_blocks=1")  # as the teacher
SIZES = {"vocab_size": 301, "model_length": 16, "hidden_dim": 16, "cond_dim": 16}
SIZES |= {"n_blocks": 1, "n_heads": 2, "dropout": 0.0, "time_conditioning": False}


# A distillation that changes nothing.
FROZEN = "algo=mcd algo.rounds=1 algo.steps_per_round=1 trainer.max_steps=1 optim.lr=0".split()


@pytest.fixture(scope="module")
def student(runs, module_compose):
    """The checkpoint of a student of two rounds."""
    rounds = "algo=mcd algo.rounds=2 algo.steps_per_round=1 trainer.max_steps=2 algo.delta0=1/8"
    given = (*SMALL, *rounds.split(), f"algo.teacher_path={runs['mdlm']}", "optim.lr=0.01")
    config = module_compose(*given)
    minihost.run(config)
    return Path(config.checkpointing.save_dir) / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="module")
def out(student, tmp_path_factory):
    """The student's folder, with the embedded host's tokenizer."""
    folder = tmp_path_factory.mktemp("export") / "student"
    assert main.main(["export", str(student), str(folder), "--tokenizer", "bpe"]) == 0
    return folder


def example(path, ema=True):
    """The host's own model, tokens, and its logits for them."""
    model, tokenizer = hosted.open_model(path, ema=ema)
    ids = torch.randint(0, 301, (3, 16), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model, tokenizer, ids, model.backbone(ids, torch.zeros(3))


ALONE = """
import sys, torch

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("mdlm_mcd", "omegaconf", "lightning"):
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, Blocked())
from transformers import AutoModelForMaskedLM, AutoTokenizer
ids = torch.load("ids.pt")
zeros = torch.zeros(len(ids))
model = AutoModelForMaskedLM.from_pretrained("student", trust_remote_code=True)
assert not model.training and model.dtype == torch.float32
model.save_pretrained("again")
again = AutoModelForMaskedLM.from_pretrained("again", trust_remote_code=True)
with torch.no_grad():
    output = model(input_ids=ids)
    forms = [
        output.logits, model(input_ids=ids, return_dict=False)[0],
        model(input_ids=ids, timesteps=zeros + 3, attention_mask=ids >= 0)["logits"],
        model(ids, zeros), model(x=ids, sigma=zeros, class_cond=None, weights=None),
        again(ids, zeros),
    ]
grown = model(ids, zeros)  # with gradients, as SUBS writes into it
grown[:, :, 300] += -1e6
grown.sum().backward()
refused = []
for call in (dict(), dict(input_ids=ids, attention_mask=ids * 0)):
    try:
        model(**call)
    except ValueError as error:
        refused.append(str(error))
tokens = AutoTokenizer.from_pretrained("student")("the cat")["input_ids"]
torch.save({"forms": forms, "kind": type(output).__name__, "tokens": tokens,
            "refused": refused, "noted": model.config.mdlm_mcd}, "found.pt")
"""


def test_transformers_opens_it_without_this_package(student, out, tmp_path):
    _, tokenizer, ids, expected = example(student)
    (tmp_path / "student").symlink_to(out)
    torch.save(ids, tmp_path / "ids.pt")
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    env |= {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", ALONE], cwd=tmp_path, env=env, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    assert len(found["forms"]) == 6 and found["kind"] == "MaskedLMOutput"
    assert all(torch.equal(logits, expected) for logits in found["forms"])
    assert found["tokens"] == tokenizer("the cat")["input_ids"]
    assert found["noted"]["loss"] == "hybrid"
    assert "input_ids" in found["refused"][0] and "padding" in found["refused"][1]


def test_the_folder_knows_its_tokenizer(runs, student, out, module_compose, tmp_path):
    """As a teacher it is refused where `bpe` was trained on other text."""
    other = "\n\n\n".join(f"Other words, {i} of them." for i in range(400))
    (tmp_path / "other.txt").write_text(other)
    given = [*FROZEN, *SMALL, f"algo.teacher_path={out}", f"checkpointing.save_dir={tmp_path}"]
    minihost.run(module_compose(*given))
    given += [f"data.files=[{tmp_path}/other.txt]", "checkpointing.resume_from_ckpt=false"]
    with pytest.raises(ConfigError, match="learned the tokens of a tokenizer of SHA-256"):
        minihost.run(module_compose(*given))


def test_the_folder_says_where_it_comes_from(runs, student, out):
    config = json.loads((out / "config.json").read_text())
    assert {k: config[k] for k in SIZES} == SIZES
    assert config["model_type"] == "mdlm" and config["mask_index"] == 300
    noted = config["mdlm_mcd"]
    # The last finished step is of the second round.
    assert (noted["round"], noted["delta"], noted["tau"]) == (2, 0.25, 0.93)
    assert (noted["loss"], noted["algo"], noted["global_step"]) == ("hybrid", "mcd", 2)
    assert noted["settings"]["rounds"] == 2 and noted["training"]["optim"]["lr"] == 0.01
    assert noted["teacher_path"] == "last.ckpt" == noted["settings"]["teacher_path"]
    with safe_open(out / "model.safetensors", framework="pt") as file:
        metadata, names = file.metadata(), list(file.keys())
    assert metadata["format"] == "pt" and json.loads(metadata["mdlm_mcd"]) == noted
    state = torch.load(student, weights_only=True)["state_dict"]
    assert set(names) == {k for k in state if k.startswith("backbone.")}
    card = (out / "README.md").read_text()
    rows = ("loss | hybrid", "tau | 0.93", "weights | ema weights of step 2", "n_heads | 2")
    for text in ("distilled from last.ckpt", "rounds: 2, steps_per_round: 1", "lr: 0.01", *rows):
        assert text in card
    # Nothing of this machine goes along.
    for name in ("README.md", "config.json"):
        assert str(runs["mdlm"].parent) not in (out / name).read_text()


def test_a_card_names_the_method(out):
    config = json.loads((out / "config.json").read_text())
    for algo, words in (("mcd", "Masked Consistency Distillation"), ("sdtt", "algo=sdtt")):
        config["mdlm_mcd"]["algo"] = algo
        assert f"A student of {words}" in export._card("x", config)


def test_the_example_of_the_card_runs(out, monkeypatch):
    card = (out / "README.md").read_text()
    assert "einops" in card
    (code,) = re.findall(r"```python\n(.*?)```", card, re.S)
    monkeypatch.chdir(out.parent)
    scope: dict = {}
    exec(code, scope)
    assert scope["logits"].shape == (1, 16, 301)
    assert (scope["ids"] == 300).all()


@pytest.mark.parametrize("backbone", ["dit", "hf_dit"])
def test_the_next_distillation_starts_from_it(out, compose, tmp_path, backbone):
    """With hf_dit the student is itself a Hugging Face model, whose keys are nested."""
    opened = (f"algo.backbone={backbone}", f"eval.checkpoint_path={out}")
    minihost.run(compose(*SMALL, *FROZEN, *opened, f"algo.teacher_path={out}"))
    path = tmp_path / "checkpoints" / "round-1.ckpt"
    nested = any(
        "backbone.backbone." in k for k in torch.load(path, weights_only=True)["state_dict"]
    )
    assert nested == (backbone == "hf_dit")
    export.export(str(path), tmp_path / "again", which="raw")
    again = load_file(tmp_path / "again" / "model.safetensors")
    for name, tensor in load_file(out / "model.safetensors").items():
        assert torch.equal(again[name], tensor)


def test_the_embedded_host_opens_it_as_hf_dit(student, out, compose, tmp_path):
    model, tokenizer, ids, expected = example(student)
    config = compose(*SMALL, "algo.backbone=hf_dit", f"eval.checkpoint_path={out}")
    cls = minihost.model_class(config)
    opened = minihost.load_from_checkpoint(cls, str(out), config, tokenizer).eval()
    sigma = torch.rand(3, 1)
    with torch.no_grad():
        assert torch.equal(opened.backbone(ids, torch.zeros(3)), expected)
        assert torch.equal(opened(ids, sigma), model(ids, sigma))
    given = (*SMALL, "algo.backbone=hf_dit", f"eval.checkpoint_path={out}", "mode=ppl_eval")
    for overrides, words in (
        (["data.vocab_size=280"], "has a vocabulary of 301"),
        ([f"eval.checkpoint_path={tmp_path}"], "cannot be opened as a Hugging Face"),
        (["algo.backbone=dit"], "is a folder.*algo.backbone=hf_dit"),
    ):
        with pytest.raises(ConfigError, match=words):
            minihost.run(compose(*given, *overrides))


@pytest.mark.parametrize("which", ["ema", "raw"])
def test_a_plain_hosts_checkpoint_is_exported_by_either_weights(runs, tmp_path, which, capsys):
    out = tmp_path / "deep" / "plain"
    command = ["export", str(runs["mdlm"]), str(out), "--weights", which]
    assert main.main(command) == 0
    assert f"M parameters, {which} weights of step 2 from" in capsys.readouterr().out
    model, _, _, _ = example(runs["mdlm"], ema=which == "ema")
    tensors = load_file(out / "model.safetensors")
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(tensors[f"backbone.{name}"], tensor)
    assert "Nothing is noted of a distillation" in (out / "README.md").read_text()
    assert not list(out.parent.glob(".*"))


def test_what_a_bare_file_does_not_say_is_asked_for(runs, tmp_path, capsys):
    tensors = dict(read_weights(str(runs["mdlm"])).state_dict)
    tensors.pop("rotary_emb.inv_freq")
    path, out = tmp_path / "x.safetensors", tmp_path / "out"
    save_file(tensors, path)
    given = ["--length", "0"]  # as good as none
    for flag, value in (("--length", "16"), ("--heads", "2"), ("--no-time-conditioning", None)):
        assert main.main(["export", str(path), str(out), *given]) == 1
        assert f"give {flag}" in capsys.readouterr().err.replace("--time-conditioning or ", "")
        given += [flag] if value is None else [flag, value]
    assert main.main(["export", str(path), str(out), *given]) == 0
    config = json.loads((out / "config.json").read_text())
    assert {k: config[k] for k in SIZES} == {**SIZES, "dropout": 0.1}
    names = load_file(out / "model.safetensors")
    assert "backbone.rotary_emb.inv_freq" in names


def config(content):
    return content["hyper_parameters"]["config"]


SIGMA = "backbone.sigma_map.mlp.2.weight"
SMALLER = {"vocab_size": 280, "tokenizer_sha256": None}


@pytest.mark.parametrize(
    "change, words, more",
    [
        (lambda c: c["state_dict"].pop(SIGMA), "no sigma_map.*no masked DiT", {}),
        (lambda c: c.pop("ema"), "holds no EMA: set --weights=raw", {}),
        (lambda c: config(c)["algo"].update(parameterization="mean"), "=mean", {}),
        (lambda c: c.pop("hyper_parameters"), "give --length", {}),
        (lambda c: config(c)["data"].update(SMALLER), "vocabulary of 301", {"tokenizer": "bpe"}),
        (lambda c: None, "--tokenizer /no/such", {"tokenizer": "/no/such"}),
        (lambda c: config(c).pop("data"), "is not of that host", {"tokenizer": "bpe"}),
        (lambda c: None, "says its n_heads is .*leave that flag out", {"given": {"n_heads": 7}}),
    ],
)
def test_what_cannot_be_exported_is_refused_and_nothing_is_left(shell, change, words, more):
    path = shell.changed(change)
    with pytest.raises((CheckpointError, ConfigError), match=words):
        export.export(str(path), shell.folder / "out", **more)
    assert [*shell.folder.iterdir()] == [path]


def test_a_folder_with_files_is_left_alone(runs, tmp_path):
    ckpt, out = str(runs["mdlm"]), tmp_path / "out"
    out.mkdir()  # empty: as good as new
    export.export(ckpt, out)
    (out / "README.md").write_text("mine")
    with pytest.raises(ConfigError, match="exists: name a new folder"):
        export.export(ckpt, out)
    with pytest.raises(ConfigError, match="OUT=.*cannot be written"):
        export.export(ckpt, out / "README.md" / "student")
    assert (out / "README.md").read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
