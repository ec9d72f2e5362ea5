"""What the documents say is so."""

import re
from pathlib import Path

import hydra
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

from mdlm_mcd.minihost import main as minihost

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def test_the_readmes_library_example_runs():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    scope: dict = {}
    exec(code, scope)
    assert scope["loss"].shape == (8, 128) and scope["loss"].isfinite().all()
    assert scope["round_"].index == 1
    assert torch.equal(scope["loss"] == 0, ~scope["pair"].masked_t)


def test_the_readmes_commands_compose():
    commands = re.findall(r"mdlm_mcd\.minihost\.main ((?:[^\n`]|\\\n)*)", README)
    assert len(commands) >= 3
    minihost.register_resolvers()
    for command in commands:
        overrides = [
            part.strip("'")
            for part in re.findall(r"'[^']*'|[^\s\\]+", command)
            if not part.startswith("hydra.")
        ]
        GlobalHydra.instance().clear()
        with hydra.initialize_config_module("mdlm_mcd.minihost.configs", version_base=None):
            config = hydra.compose("config", overrides=overrides)
        assert config.algo.name in ("mdlm", "mcd")


def test_every_key_of_the_algo_is_in_the_readme():
    text = (ROOT / "configs" / "algo" / "mcd.yaml").read_text("utf-8")
    ours = text.split("# All rounds")[0].split("algo:\n")[1]
    keys = re.findall(r"^  (\w+):", ours, re.MULTILINE)
    assert {"loss", "u_law", "head_chunk", "guard"} <= set(keys)
    for key in set(keys) - {"_target_", "name"}:
        assert f"`algo.{key}`" in README, key


@pytest.mark.parametrize("path", sorted(ROOT.glob("docs/*.md")), ids=lambda p: p.name)
def test_names_in_the_documents_exist(path):
    """`module.name` in backticks is a thing of this package, or a key of `sampling`."""
    import importlib

    keys = {"semi_ar"}  # of the real hosts
    for yaml in ("configs/sampler/sparse.yaml", "mdlm_mcd/minihost/configs/config.yaml"):
        sampling = (ROOT / yaml).read_text("utf-8").partition("\nsampling:\n")[2]
        sampling = re.split(r"^\w", sampling, maxsplit=1, flags=re.MULTILINE)[0]
        keys |= set(re.findall(r"^  (\w+):", sampling, re.MULTILINE))
    assert {"predictor", "u_law", "use_float64"} <= keys

    for module, name in re.findall(
        r"`(coupling|curriculum|losses|laws|duality|uniform|head|teacher|weights|sampling)"
        r"\.(\w+)",
        path.read_text("utf-8"),
    ):
        if module == "sampling" and name in keys:
            continue
        assert hasattr(importlib.import_module(f"mdlm_mcd.{module}"), name), name


def test_what_is_said_about_machines_without_cuda_is_so():
    from mdlm_mcd.hosts import stubs

    text = (ROOT / "docs" / "without_cuda.md").read_text("utf-8")
    for name in re.findall(r"stubs\.(\w+)\(", text):
        assert name in stubs.__all__, name
    for override in stubs.default_overrides():
        assert f"`{override.partition('=')[0]}`" in text, override
