"""Checkpoints of networks conditioned on time: opened and exported alike."""

import json
import re

import hosted
import pytest
import torch
from transformers import AutoModelForMaskedLM

from mdlm_mcd.commands import export
from mdlm_mcd.errors import CheckpointError
from mdlm_mcd.evaluation import candidates
from mdlm_mcd.hosts import duo
from mdlm_mcd.minihost import main as minihost


@pytest.fixture(scope="module")
def timed(module_compose):
    """A model conditioned on time, in which time shows."""
    config = module_compose("trainer.max_steps=1", "algo.time_conditioning=true")
    minihost.run(config)
    path = f"{config.checkpointing.save_dir}/checkpoints/last.ckpt"
    content, generator = torch.load(path, weights_only=True), torch.Generator()
    state = content["state_dict"]
    names = [n for n in state if n.startswith("backbone.") and not n.endswith("inv_freq")]
    for name in names:
        state[name].normal_(std=0.3, generator=generator)
    content["ema"]["shadow_params"] = [state[name] for name in names]
    torch.save(content, path)
    return path


def test_it_opens_with_its_time(timed, tmp_path, monkeypatch):
    z = torch.randint(0, 250, (3, 16), generator=torch.Generator().manual_seed(2))
    rows = torch.rand(3, 16, generator=torch.Generator().manual_seed(3)) < 0.5
    z, alpha_t = z.masked_fill(rows, 300), torch.tensor([0.9, 0.3, 1e-3]).double()
    opened = candidates.open_model(candidates.Source.parse(timed))
    host, _ = hosted.open_model(timed)
    got = opened.denoise(z, rows, alpha_t)
    torch.testing.assert_close(got, duo.denoiser(host)(z, rows, alpha_t))
    with torch.no_grad():
        whole = host(z, -alpha_t.log().float()[:, None])[rows]
    masked = got.index_fill(-1, torch.tensor([300]), -1e6).log_softmax(-1)
    torch.testing.assert_close(masked, whole, rtol=1e-4, atol=1e-4)
    other = opened.denoise(z, rows, alpha_t.flip(0))
    assert not torch.allclose(got, other, atol=0.1)
    # What is exported opens alike, by the hosts' call and by that of transformers.
    export.export(timed, tmp_path / "out", tokenizer="bpe")
    again = candidates.open_model(candidates.Source.parse(str(tmp_path / "out")))
    torch.testing.assert_close(again.denoise(z, rows, alpha_t), got)
    assert again.provenance["sha256"] == opened.provenance["sha256"]
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "out", trust_remote_code=True)
    sigma = -alpha_t.log().float()
    with torch.no_grad():
        for logits in (model(z, sigma), model(input_ids=z, timesteps=sigma).logits):
            torch.testing.assert_close(logits[rows], got)
    # The card's example gives the time, too.
    (code,) = re.findall(r"```python\n(.*?)```", (tmp_path / "out/README.md").read_text(), re.S)
    monkeypatch.chdir(tmp_path)
    exec(code, scope := {})
    assert scope["logits"].shape == (1, 16, 301)
    # A released uniform-state model has names and shapes of a masked one, and a time.
    path = tmp_path / "out" / "config.json"
    for kind in ("duo", "DUO", "udlm"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": kind}))
        with pytest.raises(CheckpointError, match="parameterization=mean, and a masked mo"):
            candidates.open_model(candidates.Source.parse(str(tmp_path / "out")))


@pytest.mark.parametrize(
    "noise, root",
    [
        ({"type": "cosine", "eps": 0.01}, {}),
        ({"type": "log-linear"}, {}),
        ({"type": "cosine", "eps": 0.01}, {"parameterization": "subs"}),
        ({"type": "linear", "sigma_min": 1e-3, "sigma_max": 3.0}, {"parameterization": "subs"}),
    ],
)
def test_the_schedule_is_exported(timed, tmp_path, noise, root):
    """Duo's, and MDLM's, of which one has the same name; the folder is read alike."""
    content = torch.load(timed, weights_only=True)
    noise = noise | {"file": "/home/me"}
    content["hyper_parameters"]["config"] |= {"noise": noise, **root}
    torch.save(content, tmp_path / "x.ckpt")
    export.export(str(tmp_path / "x.ckpt"), tmp_path / "out", tokenizer="bpe")
    export.export(str(tmp_path / "out"), tmp_path / "again", tokenizer=None)
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    wanted = candidates.schedule({"noise": noise, **root}, "x")(t)
    for folder in ("out", "again"):
        text = (tmp_path / folder / "config.json").read_text()
        assert "/home/me" not in text
        assert torch.equal(candidates.schedule(json.loads(text), "x")(t), wanted)
