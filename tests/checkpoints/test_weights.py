"""Weights from files, folders and the Hub, and models filled with them."""

import collections
import json
import logging
import os

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

from mdlm_mcd.checkpoints import formats, weights
from mdlm_mcd.errors import CheckpointError
from mdlm_mcd.models import dit

MODEL = {"hidden_size": 16, "cond_dim": 8, "n_blocks": 2, "n_heads": 2, "dropout": 0.0}


def net(**changes):
    config = {"model": {**MODEL, **changes}, "algo": {"causal_attention": False}}
    model = dit.DIT(config, vocab_size=11)
    for p in model.parameters():  # away from the zero start, where all are alike
        torch.nn.init.normal_(p)
    return model


def prefixed(model, prefix="backbone."):
    return {prefix + k: v.clone() for k, v in model.state_dict().items()}


def lightning_like(model, prefix="backbone.", **extra):
    return {
        "state_dict": prefixed(model, prefix),
        "ema": {
            "decay": 0.9,
            "num_updates": 5,
            "shadow_params": [p.detach() + 1 for p in model.parameters()],
        },
        "global_step": 17,
        **extra,
    }


def load(path, which="ema", **changes):
    """A fresh model filled from `path`, and what was taken."""
    model = net(**changes)
    content = weights.read_weights(str(path))
    taken = weights.load_weights(
        model, model.named_parameters(), content, which, f"algo.teacher_path={path}"
    )
    return model, taken


def same(a, b, shift=0.0):
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return all(torch.equal(p, q + shift) for p, q in pairs)


# Lightning checkpoints ------------------------------------------------------------


@pytest.mark.parametrize(
    "prefix",
    [
        "backbone.",
        "backbone.backbone.",
        "_orig_mod.backbone.",
        "backbone.module.",
        "module.",
        "_orig_mod.module.backbone._orig_mod.backbone.module.",
        "module.module.backbone._fsdp_wrapped_module.",
    ],
)
def test_a_training_checkpoint_opens_by_either_weights(tmp_path, prefix):
    """MDLM and Duo; SDTT on a Hugging Face model (nested); compiled, DDP, or both."""
    model = net()
    torch.save(lightning_like(model, prefix), tmp_path / "x.ckpt")
    ema, taken = load(tmp_path / "x.ckpt")
    assert same(ema, model, 1.0) and taken == "ema weights of step 17"
    raw, taken = load(tmp_path / "x.ckpt", "raw")
    assert same(raw, model) and taken == "raw weights of step 17"


def test_what_is_not_the_backbone_is_skipped_and_named(tmp_path, caplog):
    model = net()
    content = lightning_like(model)
    content["state_dict"] |= {
        "noise.sigma": torch.ones(1),
        "teacher.0.backbone.vocab_embed.embedding": torch.ones(1),
        "backbone_extra": 3,
    }
    torch.save(content, tmp_path / "x.ckpt")
    with caplog.at_level(logging.INFO, "mdlm_mcd"):
        assert same(load(tmp_path / "x.ckpt", "raw")[0], model)
    for name in ("noise.sigma", "teacher.0.backbone", "backbone_extra"):
        assert name in caplog.text


def test_words_within_a_name_stay():
    names = ["module_list.0", "a.submodule.b", "a.modules.b", "a.module2", "module", ""]
    named = dict.fromkeys(names, 1)
    assert formats.unwrapped(named, "x") == named
    # And parts of a model's own, whatever they are called.
    own = ["a.module.b", "a.b", "module.c", "_orig_mod.d"]
    found = formats.unwrapped(dict.fromkeys([*own[:2], "c", "module.d"]), "x", own)
    assert list(found) == own


def twice(content):
    content["state_dict"] |= prefixed(net(), "module.backbone.")


def not_finite(content):
    content["state_dict"]["backbone.blocks.0.norm1.weight"][0] = torch.nan


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda content: content.pop("ema"), "holds no EMA: set algo.init_from=raw"),
        (twice, "algo.teacher_path=.*x.ckpt holds backbone.* twice, .* another copy"),
        (not_finite, "weights that are not finite"),
        (lambda content: content["state_dict"].clear(), "holds no `state_dict`"),
        (lambda content: content.clear(), "holds no `state_dict`"),
        (lambda c: c.update(state_dict=collections.UserDict(w=1)), "holds no `state_dict`"),
    ],
)
def test_checkpoints_without_the_weights_are_refused(tmp_path, change, words):
    content = lightning_like(net())
    change(content)
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match=words):
        load(tmp_path / "x.ckpt", "raw" if change is not_finite else "ema")


# One set of weights: safetensors, bare tensors, folders ---------------------------


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_safetensors_open_and_ema_is_what_they_hold(tmp_path, prefix, caplog):
    model, path = net(), tmp_path / "x.safetensors"
    metadata = {"global_step": "40", "mdlm_mcd": '{"loss": "hybrid"}'}
    save_file(prefixed(model, prefix), path, metadata)
    caplog.set_level(logging.INFO, "mdlm_mcd")
    found, taken = load(path, "raw")
    assert same(found, model) and "EMA" not in caplog.text
    found, taken = load(path)
    assert same(found, model) and taken == "the only weights of step 40"
    assert "one set of weights, with no EMA beside it" in caplog.text
    content = weights.read_weights(str(path))
    assert content.mdlm_mcd == {"loss": "hybrid"} and content.is_final


def test_damaged_safetensors_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({}, path)
    with pytest.raises(CheckpointError, match="holds no tensors"):
        weights.read_weights(str(path))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="read as safetensors.*another copy"):
        weights.read_weights(str(path))


def a_folder(path, kind, model):
    path.mkdir()
    tensors = prefixed(model)
    if kind == "bin":
        torch.save(tensors, path / "pytorch_model.bin")
    elif kind == "one":
        save_file(tensors, path / "model.safetensors")
    else:
        half = len(tensors) // 2
        table = {}
        for i, names in enumerate((list(tensors)[:half], list(tensors)[half:])):
            name = f"model-0000{i + 1}-of-00002.safetensors"
            save_file({k: tensors[k] for k in names}, path / name)
            table |= dict.fromkeys(names, name)
        text = json.dumps({"metadata": {}, "weight_map": table})
        (path / "model.safetensors.index.json").write_text(text)
    (path / "config.json").write_text('{"n_heads": 2, "hidden_dim": 16}')
    return path


@pytest.mark.parametrize("kind", ["one", "sharded", "bin"])
def test_a_hugging_face_folder_opens(tmp_path, kind):
    model = net()
    folder = a_folder(tmp_path / "hf", kind, model)
    read, taken = load(folder)
    assert same(read, model) and taken == "the only weights"
    assert weights.read_weights(str(folder)).config["n_heads"] == 2


def test_incomplete_folders_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="a folder without model.safetensors"):
        weights.read_weights(str(tmp_path))
    folder = a_folder(tmp_path / "hf", "sharded", net())
    table = folder / "model.safetensors.index.json"
    for text, words in (
        (table.read_text(), "lacks model-00002-of-00002"),
        ('{"weight_map": {"a": "../../x.safetensors"}}', "points out of its folder"),
        ("{", "is no JSON"),
    ):
        table.write_text(text)
        (folder / "model-00002-of-00002.safetensors").unlink(missing_ok=True)
        with pytest.raises(CheckpointError, match=words):
            weights.read_weights(str(folder))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_in_a_folder_is_not_waited_for(tmp_path):
    folder = a_folder(tmp_path / "hf", "bin", net())
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    with pytest.raises(CheckpointError, match="it is no file"):
        weights.read_weights(str(folder))


@pytest.mark.parametrize(
    "metadata",
    [
        {"global_step": "\u00b2"},
        {"global_step": "9" * 5000},
        {"mdlm_mcd": "[1]"},
        {"mdlm_mcd": "[" * 100_000},
    ],
)
def test_odd_metadata_in_safetensors_is_left_out(tmp_path, metadata):
    save_file({"w": torch.ones(1)}, tmp_path / "x.safetensors", metadata)
    found = weights.read_weights(str(tmp_path / "x.safetensors"))
    assert found.global_step is None and found.mdlm_mcd == {}


def test_missing_rotary_frequencies_are_the_models_own(tmp_path, caplog):
    """They are computed, and only they show the number of heads in a file."""
    model = net()
    folder = a_folder(tmp_path / "hf", "one", model)
    tensors = prefixed(model)
    own = tensors.pop("backbone.rotary_emb.inv_freq")
    save_file(tensors, folder / "model.safetensors")
    with caplog.at_level(logging.INFO, "mdlm_mcd"):
        read, _ = load(folder)
    assert same(read, model) and torch.equal(read.rotary_emb.inv_freq, own)
    assert "holds no rotary_emb.inv_freq: computed for heads of 8" in caplog.text
    # A file cast to bfloat16 rounds them: a radian off at position 1,000.
    half = {name: x.bfloat16() for name, x in prefixed(model).items()}
    save_file(half, tmp_path / "half.safetensors")
    assert torch.equal(load(tmp_path / "half.safetensors")[0].rotary_emb.inv_freq, own)
    with pytest.raises(CheckpointError, match="2 attention heads, and this model has 4"):
        load(folder, n_heads=4)
    del tensors["backbone.vocab_embed.embedding"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="Missing key.*vocab_embed.embedding"):
        load(folder)


def test_sizes_are_read_in_any_hosts_words():
    hf = {"hidden_dim": 4, "model_length": 9, "time_conditioning": False, "model": "x"}
    assert weights.model_sizes(hf) == {
        "hidden_dim": 4,
        "model_length": 9,
        "time_conditioning": False,
    }
    mdlm = {"model": {"hidden_size": 4, "length": "${a}"}, "time_conditioning": True}
    assert weights.model_sizes(mdlm) == {"hidden_dim": 4, "time_conditioning": True}
    duo = {"model": {"length": 8}, "algo": {"time_conditioning": True}}
    assert weights.model_sizes(duo) == {"model_length": 8, "time_conditioning": True}
    assert weights.model_sizes({}) == {}


# The Hub --------------------------------------------------------------------------


@pytest.mark.parametrize("kind, fetches", [("bin", 2), ("one", 1)])
def test_a_hub_model_is_fetched_without_its_code(tmp_path, monkeypatch, kind, fetches):
    model, asked = net(), []
    folder = a_folder(tmp_path / "hf", kind, model)

    def fetch(repo, revision, allow_patterns):
        asked.append((repo, revision, tuple(allow_patterns)))
        wanted = [p for p in allow_patterns if p != "config.json"]
        return str(folder if any((folder / p).exists() for p in wanted) else tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert same(load("jdeschena/sdtt@baselines_kld_step_70000")[0], model)
    assert [call[:2] for call in asked] == [
        ("jdeschena/sdtt", "baselines_kld_step_70000")
    ] * fetches
    patterns = {p for *_, patterns in asked for p in patterns}
    assert "config.json" in patterns and "model.safetensors" in patterns
    assert not any(p.endswith((".py", "*")) for p in patterns)


def test_the_disk_goes_before_the_hub(tmp_path, monkeypatch):
    fetch = "huggingface_hub.snapshot_download"
    monkeypatch.setattr(fetch, lambda *a, **k: pytest.fail("the Hub was asked"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org").mkdir()
    model = net()
    a_folder(tmp_path / "org" / "name", "one", model)
    assert same(load("org/name")[0], model)
    # A mistyped path is a path.
    with pytest.raises(CheckpointError, match="org/last.ckpt is no file"):
        weights.read_weights("org/last.ckpt")


def test_what_cannot_be_fetched_is_refused_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError) as error:
        weights.read_weights("no-such-org/no-such-model@v1")
    message = str(error.value)
    assert "algo.teacher_path=no-such-org/no-such-model@v1" in message
    assert "neither on this disk nor" in message and "\n" not in message


# Fitting --------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["surplus", "lack", "shape"])
def test_what_does_not_fit_is_refused(change):
    content, name = net().state_dict(), "blocks.0.norm1.weight"
    if change == "lack":
        del content[name]
    else:
        content[name + "x" * (change == "surplus")] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=rf"a\.ckpt does not fit this model .*{name}"):
        weights.load_strictly(net(), content, "algo.teacher_path=a.ckpt")


@pytest.mark.parametrize("change", [lambda s: s[:3], lambda s: [*s[:-1], torch.zeros(9)]])
def test_an_average_that_does_not_fit_is_refused(change):
    model = net()
    shadow = change([p.detach() for p in model.parameters()])
    with pytest.raises(CheckpointError, match=f"EMA of {len(shadow)} tensors that are not of this"):
        weights.load_average(model.named_parameters(), shadow, "a.ckpt")


def test_a_long_prefix_takes_no_time(tmp_path):
    name = "backbone." * 100_000 + "w"  # taken off one by one, it would
    torch.save({name: torch.ones(2)}, tmp_path / "x.ckpt")
    (found,) = weights.read_weights(str(tmp_path / "x.ckpt")).state_dict
    assert len(found) == len(name) - 18
