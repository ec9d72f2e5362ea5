"""What the documents say is so."""

import importlib
import re
from pathlib import Path

import hydra
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

from mdlm_mcd.hosts import stubs
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
        words = [word.strip("'") for word in re.findall(r"'[^']*'|[^\s\\]+", command)]
        GlobalHydra.instance().clear()
        with hydra.initialize_config_module("mdlm_mcd.minihost.configs", version_base=None):
            given = [word for word in words if not word.startswith("hydra.")]
            assert hydra.compose("config", given).algo.name in ("mdlm", "mcd")


def keys(file, section):
    text = (ROOT / file).read_text("utf-8").partition(f"\n{section}:\n")[2]
    text = re.split(r"^\w|^# All rounds", text, maxsplit=1, flags=re.MULTILINE)[0]
    return set(re.findall(r"^  (\w+):", text, re.MULTILINE))


def test_every_key_of_the_algo_is_in_the_readme():
    ours = keys("configs/algo/mcd.yaml", "algo")
    assert {"loss", "u_law", "head_chunk", "guard"} <= ours
    for key in ours - {"_target_", "name"}:
        assert f"`algo.{key}`" in README, key


@pytest.mark.parametrize("path", sorted(ROOT.glob("docs/*.md")), ids=lambda p: p.name)
def test_names_in_the_documents_exist(path):
    """`module.name` in backticks is a thing of this package, or a key of `sampling`."""
    known = {"semi_ar"} | keys("configs/sampler/sparse.yaml", "sampling")  # a real host's; ours
    known |= keys("mdlm_mcd/minihost/configs/config.yaml", "sampling")
    assert {"predictor", "u_law", "use_float64"} <= known
    modules = "coupling|curriculum|losses|laws|duality|uniform|head|teacher|weights|sampling"
    for module, name in re.findall(rf"`({modules})\.(\w+)", path.read_text("utf-8")):
        if module != "sampling" or name not in known:
            assert hasattr(importlib.import_module(f"mdlm_mcd.{module}"), name), name


def test_what_is_said_about_machines_without_cuda_is_so():
    text = (ROOT / "docs" / "without_cuda.md").read_text("utf-8")
    assert set(re.findall(r"stubs\.(\w+)\(", text)) <= set(stubs.__all__)
    for override in stubs.default_overrides():
        assert f"`{override.partition('=')[0]}`" in text, override
