"""The real hosts' models, with what is supplied here, against the embedded DiT."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from mdlm_mcd.hosts import stubs
from mdlm_mcd.models import dit

SIZES = {
    "hidden_size": 16,
    "n_heads": 2,
    "n_blocks": 2,
    "cond_dim": 8,
    "length": 9,
    "dropout": 0.0,
    "scale_by_sigma": True,
    "tie_word_embeddings": False,
}

# The host's own models in its own folder; its DiT's answers go to a file.
CHILD = """
import sys
from mdlm_mcd.hosts import stubs
stubs.install(sys.argv[1])
sys.path.insert(0, sys.argv[1])
import torch
from omegaconf import OmegaConf
import models
import models.dit
given = torch.load(sys.argv[2], weights_only=True)
found = {"mamba": hasattr(models, "dimamba")}
for causal, case in given["cases"].items():
    if causal and "causal_attention" not in open(models.dit.__file__).read():
        continue
    net = models.dit.DIT(OmegaConf.create(case["config"]), vocab_size=11).eval()
    net.load_state_dict(case["weights"])
    out = net(given["x"], given["sigma"])
    # Backwards too, through the stand-in's rotary and attention.
    (out * given["direction"]).sum().backward()
    found[causal] = [out.detach(), net.blocks[0].attn_qkv.weight.grad]
# The devices they name, each from a module of its own kind.
import inspect, os
found["devices"] = []
if os.path.exists(os.path.join(sys.argv[1], "metrics.py")):
    import metrics
    measure = inspect.signature(metrics.Metrics.record_generative_perplexity)
    found["devices"].append(measure.parameters["device"].default)
if hasattr(models, "unet"):
    net = models.unet.UNet
    code = net._truncated_logistic_output.__code__
    found["devices"] += [c for c in code.co_consts if c in ("cuda", "cpu")]
code = stubs.compiled(os.path.join(sys.argv[1], "main.py"))
(loads,) = [c for c in code.co_consts
            if getattr(c, "co_name", "") == "_load_from_checkpoint"]
found["devices"] += [c for c in loads.co_consts if c in ("cuda", "cpu")]
torch.save(found, sys.argv[3])
"""


def case(causal):
    config = {"model": SIZES, "algo": {"causal_attention": causal}}
    net = dit.DIT(OmegaConf.create(config), vocab_size=11).eval()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return net, {"config": {**config, "parameterization": "subs"}, "weights": net.state_dict()}


@pytest.mark.hosts
def test_every_hosts_dit_equals_the_embedded_one(tmp_path):
    where = os.environ.get("MDLM_MCD_HOSTS")
    clones = sorted(Path(where).glob("*/models/dit.py")) if where else []
    clones = [p.parents[1] for p in clones if (p.parents[1] / "main.py").exists()]
    if not clones:
        pytest.skip("0 hosts found: set MDLM_MCD_HOSTS to a folder with clones")
    nets, cases = zip(*(case(causal) for causal in (False, True)), strict=True)
    given = {
        "cases": dict(enumerate(cases)),
        "x": torch.randint(0, 11, (3, 9)),
        "sigma": torch.rand(3),
        "direction": torch.randn(3, 9, 11),
    }
    torch.save(given, tmp_path / "given.pt")
    expected = []
    for net in nets:  # in float64; the hosts run in float32 only
        out = net.double()(given["x"], given["sigma"].double())
        (out * given["direction"]).sum().backward()
        expected.append([out.detach(), net.blocks[0].attn_qkv.weight.grad])
    root = Path(stubs.__file__).resolve().parents[3]
    path = [str(root), os.environ.get("PYTHONPATH", "")]
    skipped = {}
    for clone in clones:
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(clone), "given.pt", f"{clone.name}.pt"],
            cwd=tmp_path,
            text=True,
            capture_output=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        )
        last = done.stderr.strip().rpartition("\n")[2]
        if last.startswith("ModuleNotFoundError") and "flash" not in last:
            skipped[clone.name] = last
            continue
        assert done.returncode == 0, f"{clone.name}: {done.stderr[-2000:]}"
        found = torch.load(tmp_path / f"{clone.name}.pt", weights_only=True)
        assert found.pop("mamba") is (clone / "models" / "dimamba.py").exists()
        devices = found.pop("devices")
        assert devices and set(devices) == {"cpu"}, (clone.name, devices)
        assert set(found) == ({0} if (clone / "diffusion.py").exists() else {0, 1})
        for causal, answers in found.items():
            for got, exact in zip(answers, expected[causal], strict=True):
                assert got.dtype == torch.float32 and exact.abs().max() > 1
                torch.testing.assert_close(got.double(), exact, rtol=1e-4, atol=1e-4)
    if skipped:
        pytest.skip(f"{len(skipped)} of {len(clones)} hosts lack packages: {skipped}")
