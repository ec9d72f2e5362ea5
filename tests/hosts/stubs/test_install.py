"""Stand-ins beside real packages, and what `install` supplies and leaves alone.

Each child process is a machine; what is imported in it cannot be taken back.
"""

import importlib
import importlib.metadata
import os
import subprocess
import sys
import types
import warnings
from pathlib import Path

import pytest
import torch

from mdlm_mcd.hosts import stubs
from mdlm_mcd.hosts.stubs import cpu

ROOT = Path(stubs.__file__).resolve().parents[3]
installed = importlib.metadata.packages_distributions()

without_cuda = pytest.mark.skipif(
    torch.cuda.is_available(), reason="what is supplied where there is no CUDA"
)


def python(code, *path):
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:host", "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*path, ROOT)))},
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def write(folder, **modules):
    folder.mkdir(parents=True, exist_ok=True)
    for module, content in modules.items():
        (folder / f"{module}.py").write_text(content)


HOST = """
import warnings
import torch
def count(config=None):
    return torch.cuda.device_count()
def place(x, device='cuda'):
    return x.to(device).device.type
def regions(x):
    with torch.cuda.amp.autocast(dtype=torch.bfloat16):
        y = x @ x
    with torch.amp.autocast('cuda', dtype=torch.bfloat16):
        return y + x @ x
counter = torch.cuda.device_count
"""

BARE = """
import sys
from mdlm_mcd.hosts import stubs
supplied = stubs.install(sys.path[1])
assert stubs.install() == supplied and len(set(supplied)) == len(supplied)
for words in ("flash-attn is not installed", "mamba-ssm is not", "CUDA is not available"):
    assert words in " ".join(supplied), words

# transformers believes that flash-attn is absent, also on a machine with CUDA.
import torch
from transformers.utils import is_flash_attn_2_available
real = torch.cuda.is_available, torch.version.cuda
torch.cuda.is_available, torch.version.cuda = lambda: True, "12.4"
assert not is_flash_attn_2_available()
torch.cuda.is_available, torch.version.cuda = real
import flash_attn, flash_attn.layers.rotary
assert flash_attn.flash_attn_interface.flash_attn_varlen_qkvpacked_func
assert flash_attn.layers.rotary.apply_rotary_emb_qkv_

# What MDLM imports, and expects to be absent.
from causal_conv1d import causal_conv1d_fn, causal_conv1d_update
from mamba_ssm.ops.selective_scan_interface import mamba_inner_fn, selective_scan_fn
from mamba_ssm.ops.triton.selective_state_update import selective_state_update
assert causal_conv1d_fn is mamba_inner_fn is selective_state_update is None
try:
    from mamba_ssm.ops.triton.layernorm import RMSNorm
    raise SystemExit("mamba_ssm has a layernorm")
except ImportError:
    pass

# The host counts devices and finds the CPU; all others see what is there.
import warnings, omegaconf
import dataloader, models.net, installed_there, elsewhere
OmegaConf = omegaconf.OmegaConf
OmegaConf.register_new_resolver("device_count", dataloader.counter)
counted, x = "${device_count:}", torch.rand(3, 3)
assert OmegaConf.create({"trainer": {"devices": counted}}).trainer.devices == 1
for config, found in (
    (None, 1), ({}, 1), *((OmegaConf.create({"trainer": {"devices": asked}}), found) for
    asked, found in ((2, 2), ("2", 2), (0, 1), ("auto", 1), (None, 1), (counted, 1))),
):
    assert dataloader.count(config) == models.net.count(config) == found, config
    assert elsewhere.count(config) == installed_there.count(config) == 0
for module in (dataloader, models.net):
    assert module.place(x) == "cpu"
    with warnings.catch_warnings(record=True) as caught:
        got = module.regions(x)
    assert not caught and torch.equal(got, 2 * (x @ x))
for module in (elsewhere, installed_there):
    try:
        module.place(x)
    except (AssertionError, RuntimeError) as error:
        assert "CUDA" in str(error) or "NVIDIA" in str(error), error
    else:
        raise SystemExit("a module of no host was changed")
"""


@without_cuda
@pytest.mark.skipif("flash_attn" in installed, reason="flash-attn is installed")
def test_a_machine_that_has_nothing(tmp_path):
    host = tmp_path / "host"
    nested = host / ".venv" / "lib" / "site-packages"
    write(host, dataloader=HOST)
    write(host / "models", net=HOST)
    write(nested, installed_there=HOST)
    write(tmp_path, elsewhere=HOST)
    python(BARE, host, nested, tmp_path)
    assert not list(host.glob("**/dataloader*.pyc")), "the host's cache was written"


def test_nothing_is_supplied_where_nothing_is_missing(tmp_path, monkeypatch):
    """An installed package is found first, and is not completed where it is not whole."""
    for name in stubs.PACKAGES:
        write(tmp_path / name, __init__="real = True")
        for module in [m for m in sys.modules if m.partition(".")[0] == name]:
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "__version__", "2.5.1")
    monkeypatch.setattr(cpu, "_folders", [])
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    stubs._supply.cache_clear()

    def state():
        return torch.load, list(sys.path), list(sys.path_hooks), warnings.filters[:]

    before = state()
    assert stubs.install() == [] and before == state()
    assert stubs.default_overrides() == []
    stubs._supply.cache_clear()
    # Where what stands in for a missing one is on the path as well:
    sys.path.append(str(Path(stubs.__file__).parent / "packages"))
    importlib.invalidate_caches()
    assert importlib.import_module("flash_attn").real
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("flash_attn.layers.rotary")
    del sys.modules["flash_attn"]


@without_cuda
def test_only_devices_are_renamed_and_only_without_cuda(tmp_path, monkeypatch):
    path = tmp_path / "main.py"
    path.write_text(
        "# -*- coding: latin-1 -*-\n"
        "def f(a, device: str = 'cuda', *, kind='cuda', backend_device='cuda'):\n"
        "    '''cuda'''\n"
        "    return a.to('cuda:0'), g('cuda', device=\"cuda\"), {'cuda': 'cuda'}, h(\n"
        "        device=device), torch.device(\n'cuda', 0), kind, 'd\xe9j\xe0'\n"
        "def k(*, device='cuda:1', x): return device, device == 'cuda'\n"
        "l = lambda x, device='cuda': device\n",
        encoding="latin-1",
    )
    torch_ = types.SimpleNamespace(device=lambda *a: a)
    scope = {"g": lambda *a, **k: (a, k), "h": lambda device: device, "torch": torch_}
    exec(stubs.compiled(path), scope)
    of_g, pair = (("cuda",), {"device": "cpu"}), {"cuda": "cuda"}
    found = scope["f"](types.SimpleNamespace(to=lambda device: device))
    assert found == ("cpu", of_g, pair, "cpu", ("cpu", 0), "cuda", "d\xe9j\xe0")
    assert scope["k"](x=1) == ("cpu", False) and scope["l"](1) == "cpu"
    assert scope["f"].__code__.co_firstlineno == 2 and scope["f"].__doc__ == "cuda"
    assert scope["f"].__code__.co_filename == str(path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    exec(stubs.compiled(path), as_it_is := {})
    assert as_it_is["k"](x=1) == ("cuda:1", False) and cpu.supply() == []


@without_cuda
def test_overrides_leave_the_users_alone(monkeypatch):
    # Workers are not counted where the hosts cannot.
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    every = stubs.default_overrides()
    assert {"trainer.accelerator=cpu", "trainer.devices=1", "loader.num_workers=1"} <= set(every)
    rest = stubs.default_overrides(["++trainer.precision=bf16", "trainer.accelerator", "seed=2"])
    assert rest == [e for e in every if "precision" not in e and "accele" not in e]
