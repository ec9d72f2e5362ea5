"""Weights from files, folders and the Hub, and models filled with them."""

import collections
import logging

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file
from torch_files import INDEX, folders, lightning_like, net, prefixed

from mdlm_mcd.checkpoints import formats, weights
from mdlm_mcd.errors import CheckpointError

NORM = "backbone.blocks.0.norm1.weight"


@pytest.fixture
def model():
    return net()


def load(path, which="ema", **changes):
    """A fresh model filled from `path`, and what was taken."""
    model = net(**changes)
    content = weights.read_weights(str(path))
    parameters = model.named_parameters()
    return model, weights.load_weights(model, parameters, content, which, "x.ckpt")


def same(a, b, shift=0.0):
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return all(torch.equal(p, q + shift) for p, q in pairs)


# Lightning checkpoints ------------------------------------------------------------


# MDLM and Duo; SDTT on a Hugging Face model (nested); compiled, DDP, or both.
PREFIXES = """
    backbone. backbone.backbone. _orig_mod.backbone. backbone.module. module.
    _orig_mod.module.backbone._orig_mod.backbone.module.
    module.module.backbone._fsdp_wrapped_module.
""".split()


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_training_checkpoint_opens_by_either_weights(tmp_path, model, prefix):
    torch.save(lightning_like(model, prefix), tmp_path / "x.ckpt")
    ema, taken = load(tmp_path / "x.ckpt")
    assert same(ema, model, 1.0) and taken == "ema weights of step 17"
    raw, taken = load(tmp_path / "x.ckpt", "raw")
    assert same(raw, model) and taken == "raw weights of step 17"


def test_what_is_not_the_backbone_is_skipped_and_named(tmp_path, model, caplog):
    content = lightning_like(model)
    others = ("noise.sigma", "teacher.0.backbone.vocab_embed.embedding", "backbone_extra")
    content["state_dict"] |= {**dict.fromkeys(others, torch.ones(1)), "backbone_extra": 3}
    torch.save(content, tmp_path / "x.ckpt")
    caplog.set_level(logging.INFO, "mdlm_mcd")
    assert same(load(tmp_path / "x.ckpt", "raw")[0], model)
    assert all(name in caplog.text for name in others)


def test_words_within_a_name_stay():
    names = ["module_list.0", "a.submodule.b", "a.modules.b", "a.module2", "module", ""]
    named = dict.fromkeys(names, 1)
    assert formats.unwrapped(named, "x") == named
    # And parts of a model's own, whatever they are called.
    own = ["a.module.b", "a.b", "module.c", "_orig_mod.d"]
    found = formats.unwrapped(dict.fromkeys([*own[:2], "c", "module.d"]), "x", own)
    assert list(found) == own


def put(name, value):
    """Put a tensor into a checkpoint's `state_dict`."""
    return lambda content: content["state_dict"].update({name: value})


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda c: c.pop("ema"), "holds no EMA: set algo.init_from=raw"),
        (lambda c: c["ema"]["shadow_params"].pop(), "holds no EMA of this model: set algo.init"),
        (lambda c: c["ema"]["shadow_params"].__setitem__(0, torch.ones(9)), "no EMA of this"),
        (lambda c: c["state_dict"].clear(), "holds no `state_dict`"),
        (lambda c: c.clear(), "holds no `state_dict`"),
        (lambda c: c.update(state_dict=collections.UserDict(w=1)), "holds no `state_dict`"),
        (put(f"module.{NORM}", torch.ones(16)), r"x\.ckpt holds .*norm1.* twice"),
        (put(NORM, torch.full((16,), torch.nan)), "weights that are not finite"),
        (lambda c: c["state_dict"].pop(NORM), r"x\.ckpt does not fit this model .*norm1"),
        (put(f"{NORM}x", torch.ones(1)), r"x\.ckpt does not fit this model .*norm1"),
        (put(NORM, torch.ones(1)), r"x\.ckpt does not fit this model .*norm1"),
    ],
)
def test_checkpoints_without_the_weights_are_refused(tmp_path, model, change, words):
    content = lightning_like(model)
    change(content)
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match=words):
        load(tmp_path / "x.ckpt", "ema" if "EMA" in words else "raw")


# One set of weights: safetensors, bare tensors, folders ---------------------------


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_safetensors_open_and_ema_is_what_they_hold(tmp_path, model, prefix, caplog):
    path = tmp_path / "x.safetensors"
    metadata = {"global_step": "40", "mdlm_mcd": '{"loss": "hybrid"}'}
    save_file(prefixed(model, prefix), path, metadata)
    caplog.set_level(logging.INFO, "mdlm_mcd")
    found, taken = load(path, "raw")
    assert same(found, model) and not caplog.text
    found, taken = load(path)
    assert same(found, model) and taken == "the only weights of step 40"
    assert "one set of weights, with no EMA beside it" in caplog.text
    content = weights.read_weights(str(path))
    assert content.mdlm_mcd == {"loss": "hybrid"} and content.is_final


def a_folder(path, kind, model):
    path.mkdir(parents=True)
    for name, data in folders(prefixed(model))[kind].items():
        (path / name).write_bytes(data)
    return path


def test_incomplete_folders_are_refused(tmp_path, model):
    with pytest.raises(CheckpointError, match="a folder without model.safetensors"):
        weights.read_weights(str(tmp_path))
    folder = a_folder(tmp_path / "hf", "sharded", model)
    (folder / "model-1.safetensors").unlink()
    with pytest.raises(CheckpointError, match="model-1.safetensors cannot be read .* No such file"):
        weights.read_weights(str(folder))
    (folder / INDEX).write_text('{"weight_map": {"a": "../model-0.safetensors"}}')
    with pytest.raises(CheckpointError, match="points out of its folder"):
        weights.read_weights(str(folder))


def test_odd_metadata_in_safetensors_is_left_out(tmp_path):
    for text in ("\u00b2", "9" * 5000, "[1]", "[" * 100_000):
        metadata = dict.fromkeys(("global_step", "mdlm_mcd"), text)
        save_file({"w": torch.ones(1)}, tmp_path / "x.safetensors", metadata)
        found = weights.read_weights(str(tmp_path / "x.safetensors"))
        assert found.global_step is None and found.mdlm_mcd == {}


def test_missing_rotary_frequencies_are_the_models_own(tmp_path, model, caplog):
    """They are computed, and only they show the number of heads in a file."""
    folder = a_folder(tmp_path / "hf", "one", model)
    tensors = prefixed(model)
    own = tensors.pop("backbone.rotary_emb.inv_freq")
    save_file(tensors, folder / "model.safetensors")
    caplog.set_level(logging.INFO, "mdlm_mcd")
    read, _ = load(folder)
    assert same(read, model) and torch.equal(read.rotary_emb.inv_freq, own)
    assert "holds no rotary_emb.inv_freq: computed for heads of 8" in caplog.text
    # A file cast to bfloat16 rounds them: a radian off at position 1,000.
    half = {name: x.bfloat16() for name, x in prefixed(model).items()}
    save_file(half, tmp_path / "half.safetensors")
    assert torch.equal(load(tmp_path / "half.safetensors")[0].rotary_emb.inv_freq, own)
    with pytest.raises(CheckpointError, match="2 attention heads, and this model has 4"):
        load(folder, n_heads=4)


def test_sizes_are_read_in_any_hosts_words():
    sizes, timed = weights.model_sizes, {"time_conditioning": True}
    hf = {"hidden_dim": 4, "model_length": 9, "time_conditioning": False}
    assert sizes({**hf, "model": "x"}) == hf
    mdlm = {"model": {"hidden_size": 4, "length": "${a}"}, **timed}
    assert sizes(mdlm) == {"hidden_dim": 4, **timed}
    assert sizes({"model": {"length": 8}, "algo": timed}) == {"model_length": 8, **timed}
    assert sizes({"n_heads": 0, "n_blocks": 10**30, "dropout": 1, "cond_dim": True}) == {}


# The Hub --------------------------------------------------------------------------


@pytest.mark.parametrize("kind, fetches", [("bin", 2), ("one", 1), ("sharded", 1)])
def test_a_hub_model_is_fetched_without_its_code(tmp_path, model, monkeypatch, kind, fetches):
    asked, folder = [], a_folder(tmp_path / "hf", kind, model)

    def fetch(repo, revision, allow_patterns):
        asked.append((repo, revision, *allow_patterns))
        wanted = [p for p in allow_patterns if p != "config.json"]
        return str(folder if any((folder / p).exists() for p in wanted) else tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    read, taken = load("jdeschena/sdtt@baselines_kld_step_70000")
    assert same(read, model) and taken == "the only weights"
    assert weights.read_weights(str(folder)).config["n_heads"] == 2
    file = "model.safetensors"
    for repo, revision, *patterns in asked:
        assert (repo, revision) == ("jdeschena/sdtt", "baselines_kld_step_70000")
        assert patterns == [file, file.replace(".", "-*."), f"{file}.index.json", "config.json"]
        file = "pytorch_model.bin"
    assert len(asked) == fetches


def test_the_disk_goes_before_the_hub(tmp_path, model, monkeypatch):
    fetch = "huggingface_hub.snapshot_download"
    monkeypatch.setattr(fetch, lambda *a, **k: pytest.fail("the Hub was asked"))
    monkeypatch.chdir(tmp_path)
    a_folder(tmp_path / "org/name", "one", model)
    assert same(load("org/name")[0], model)
    # A mistyped path is a path.
    with pytest.raises(CheckpointError, match="org/last.ckpt is no file"):
        weights.read_weights("org/last.ckpt")


def test_what_cannot_be_fetched_is_refused_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        CheckpointError, match="=no/such@v1 is neither on this disk nor.*:"
    ) as found:
        weights.read_weights("no/such@v1")
    assert "\n" not in str(found.value)
