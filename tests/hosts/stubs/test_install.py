"""Stand-ins against real packages, and what `install` says and leaves alone."""

import importlib.metadata
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from mdlm_mcd.hosts import stubs
from mdlm_mcd.hosts.stubs import packages

ROOT = Path(stubs.__file__).resolve().parents[3]

without_cuda = pytest.mark.skipif(
    torch.cuda.is_available(), reason="what is supplied where there is no CUDA"
)
without_flash = pytest.mark.skipif(
    any(d.lower().startswith("flash") for d in importlib.metadata.packages_distributions()),
    reason="flash-attn is installed",
)


def python(code, *path, cwd=None, **env):
    """The output of `code` in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning:host", "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*path, ROOT))), **env},
        cwd=cwd,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_importing_the_package_loads_no_framework():
    out = python(
        "import sys, mdlm_mcd.hosts.stubs\n"
        "print([n for n in ('torch', 'lightning', 'transformers') if n in sys.modules])"
    )
    assert out.strip() == "[]"


@without_flash
def test_the_stand_ins_are_found_and_fool_nobody():
    out = python(
        r"""
import importlib.util, sys
from mdlm_mcd.hosts import stubs
said = stubs.install()
assert stubs.install() == said and len(set(said)) == len(said)
finders = [f for f in sys.meta_path if type(f).__name__ == "Finder"]
assert len(finders) == 1 and sys.meta_path[-1] is finders[0]
assert importlib.util.find_spec("flash_attn.layers.rotary") is not None
from transformers.utils import import_utils
import re
asking = [
    name for name in dir(import_utils)
    if re.fullmatch(r"is_(flash_attn|mamba|causal_conv1d)\w*_available", name)
    and "fallback" not in name
]
assert "is_flash_attn_2_available" in asking
def believed():
    return [name for name in asking if getattr(import_utils, name)()]
assert not believed(), believed()
import flash_attn, flash_attn.layers.rotary
from mdlm_mcd.hosts.stubs import flash_attn as ours
flash = flash_attn.flash_attn_interface
assert flash.flash_attn_varlen_qkvpacked_func is ours.flash_attn_varlen_qkvpacked_func
assert flash_attn.layers.rotary.apply_rotary_emb_qkv_ is ours.apply_rotary_emb_qkv_
def ask_anew():
    for cached in vars(import_utils).values():
        getattr(cached, "cache_clear", lambda: None)()
    return believed()
assert not ask_anew(), believed()
import torch
torch.cuda.is_available = lambda: True  # with a GPU and without flash-attn
torch.version.cuda = "12.4"
assert not [name for name in ask_anew() if "flash" in name], believed()
assert import_utils.is_torch_cuda_available()
assert importlib.util.find_spec("flash_attn") is flash_attn.__spec__
assert not hasattr(flash_attn, "__file__") and not hasattr(flash_attn, "__version__")
for line in said: print(line)
"""
    )
    assert "flash-attn is not installed" in out and "mamba-ssm is not" in out


@without_flash
def test_names_of_mamba_can_be_imported_and_not_called():
    out = python(
        """
from mdlm_mcd.hosts.stubs import packages
packages.supply()
from causal_conv1d import causal_conv1d_fn, causal_conv1d_update
from mamba_ssm.ops.selective_scan_interface import mamba_inner_fn, selective_scan_fn
from mamba_ssm.ops.triton.selective_state_update import selective_state_update
try:
    from mamba_ssm.ops.triton.layernorm import RMSNorm
except ImportError:
    print("as MDLM expects it")
for function in (causal_conv1d_fn, causal_conv1d_update, mamba_inner_fn,
                 selective_scan_fn, selective_state_update):
    try:
        function(1, option=2)
    except NotImplementedError as error:
        print(error)
"""
    ).splitlines()
    assert out[0] == "as MDLM expects it" and len(out) == 6
    assert all("install" in line and "backbone=dit" in line for line in out[1:])
    assert "mamba_inner_fn is not here: install mamba-ssm" in out[3]


def package(folder, name, text="", **modules):
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(text)
    for module, content in modules.items():
        (folder / name / f"{module}.py").write_text(content)


def test_a_real_package_wins_and_is_not_completed(tmp_path):
    package(tmp_path, "flash_attn", "real = True", flash_attn_interface="real = True")
    package(tmp_path / "later", "mamba_ssm", "real = True")
    out = python(
        """
import sys
from mdlm_mcd.hosts.stubs import packages
said = " ".join(packages.supply())
assert "flash-attn" not in said and "mamba-ssm is" in said and "causal" in said, said
import flash_attn, flash_attn.flash_attn_interface
assert flash_attn.real and flash_attn.flash_attn_interface.real
try:
    import flash_attn.layers.rotary
except ModuleNotFoundError as error:
    print(error)
sys.path.append(sys.argv[1] if len(sys.argv) > 1 else LATER)
import mamba_ssm
assert mamba_ssm.real
""".replace("LATER", repr(str(tmp_path / "later"))),
        tmp_path,
    )
    assert "No module named 'flash_attn.layers'" in out


def test_nothing_is_supplied_where_nothing_is_missing(tmp_path):
    for name in packages.SENTENCES:
        package(tmp_path, name)
    python(
        """
import sys, warnings
import torch
torch.cuda.is_available = lambda: True
torch.__version__ = "2.5.1"
before = torch.load, torch.cuda.device_count, list(sys.meta_path), warnings.filters[:]
from mdlm_mcd.hosts import stubs
assert stubs.install() == []
after = torch.load, torch.cuda.device_count, list(sys.meta_path), warnings.filters[:]
assert before == after
assert stubs.default_overrides() == []
""",
        tmp_path,
    )


HOST = """
import warnings
import torch
def count(config=None):
    return torch.cuda.device_count()
def measure(samples, retokenize=True, device='cuda'):
    return torch.zeros(2).to(device).device.type
def place(module):
    return module.to('cuda')
def regions(x):
    with torch.cuda.amp.autocast(dtype=torch.bfloat16):
        y = x @ x
    with torch.amp.autocast('cuda', dtype=torch.bfloat16):
        return y + x @ x
"""


@without_cuda
def test_a_host_runs_on_the_cpu_and_others_still_see_no_gpu(tmp_path):
    host = tmp_path / "host"
    package(host, "models", "from . import net", net=HOST)
    (host / "dataloader.py").write_text(HOST)
    nested = host / ".venv" / "lib" / "site-packages"
    nested.mkdir(parents=True)
    (nested / "installed_there.py").write_text(HOST)
    (tmp_path / "elsewhere.py").write_text(HOST)
    out = python(
        """
import sys, warnings
from mdlm_mcd.hosts import stubs
said = stubs.install(sys.path[1])
import torch, omegaconf
import dataloader, models, installed_there, elsewhere
omegaconf.OmegaConf.register_new_resolver("device_count", torch.cuda.device_count)
config = omegaconf.OmegaConf.create({"devices": "${device_count:}"})
assert config.devices == 1
assert dataloader.count() == models.net.count() == 1
for asked, counted in ((2, 2), ("2", 2), (1, 1), (0, 1), ("auto", 1), (None, 1)):
    config = omegaconf.OmegaConf.create({"trainer": {"devices": asked}})
    omegaconf.OmegaConf.set_struct(config, True)
    assert dataloader.count(config) == counted, asked
    assert elsewhere.count(config) == 0
omegaconf.OmegaConf.set_struct(config.trainer, False)
del config.trainer["devices"]
assert dataloader.count(config) == dataloader.count({}) == 1
config = omegaconf.OmegaConf.create({"trainer": {"devices": "${device_count:}"}})
assert dataloader.count(config) == 1
assert elsewhere.count() == installed_there.count() == torch.cuda.device_count() == 0
from lightning.fabric.accelerators import CUDAAccelerator
assert CUDAAccelerator.auto_device_count() == 0
for module in (dataloader, models.net):
    assert module.measure([1]) == "cpu"
    assert module.place(torch.nn.Linear(2, 2)).weight.device.type == "cpu"
    x = torch.rand(3, 3)
    with warnings.catch_warnings(record=True) as caught:
        got = module.regions(x)
    assert not caught and got.dtype == torch.float32
    assert torch.equal(got, 2 * (x @ x))
for module in (elsewhere, installed_there):
    try:
        module.measure([1])
    except (AssertionError, RuntimeError) as error:
        assert "CUDA" in str(error) or "NVIDIA" in str(error), error
    else:
        raise SystemExit("a module of no host was changed")
print(said[-1])
""",
        host,
        nested,
        tmp_path,
    )
    assert "CUDA is not available" in out
    assert not list(host.glob("**/dataloader*.pyc")), "the host's cache was written"


def test_only_devices_are_renamed(tmp_path):
    path = tmp_path / "main.py"
    path.write_text(
        "# -*- coding: latin-1 -*-\n"
        "def f(a, device='cuda', *, kind='cuda', backend='cuda'):\n"
        "    '''cuda'''\n"
        "    return a.to('cuda:0'), g('cuda', device='cuda'), {'cuda': 'cuda'}, h(\n"
        "        device=device), torch.device('cuda', 0), kind, 'd\xe9j\xe0'\n"
        "def k(*, device='cuda:1', x): return device\n"
        "l = lambda x, device='cuda': device\n",
        encoding="latin-1",
    )
    seen = []
    torch_ = types.SimpleNamespace(device=lambda *a: a)
    scope = {"g": lambda *a, **k: (a, k), "h": lambda device: device, "torch": torch_}
    exec(stubs.sources.compiled(path), scope)
    a = types.SimpleNamespace(to=lambda d: seen.append(d))
    _, g, plain, device, named, kind, text = scope["f"](a)
    assert seen == ["cpu"] and g == (("cuda",), {"device": "cpu"})
    assert plain == {"cuda": "cuda"} and device == "cpu" and kind == "cuda"
    assert named == ("cpu", 0) and text == "déjà"
    assert scope["k"](x=1) == "cpu" and scope["l"](1) == "cpu"
    assert scope["f"].__doc__ == "cuda"
    assert scope["f"].__code__.co_firstlineno == 2
    assert scope["f"].__code__.co_filename == str(path)


@without_cuda
def test_overrides_leave_the_users_alone():
    every = stubs.default_overrides()
    assert {"trainer.accelerator=cpu", "trainer.devices=1", "trainer.precision=32"} <= (set(every))
    rest = stubs.default_overrides(
        ["++trainer.precision=bf16", "trainer.accelerator", "algo=mcd", "seed=2"]
    )
    assert rest == [e for e in every if "precision" not in e and "accele" not in e]


@without_cuda
def test_workers_are_not_counted_where_the_hosts_cannot(monkeypatch):
    with_linux = stubs.default_overrides()
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert "loader.num_workers=1" in stubs.default_overrides()
    assert "loader.num_workers=1" not in with_linux or sys.platform != "linux"


@without_cuda
def test_lightning_takes_the_overrides():
    import lightning as L

    values = dict(o.split("=") for o in stubs.default_overrides() if "trainer" in o)
    trainer = L.Trainer(
        accelerator=values["trainer.accelerator"],
        devices=int(values["trainer.devices"]),
        precision=int(values["trainer.precision"]),
        logger=False,
    )
    assert trainer.precision == "32-true" and trainer.num_devices == 1
