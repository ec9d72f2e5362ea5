"""Samples of a host: our samplers and their keys, the host's own, and the times of each."""

import functools
import json
import logging

import fakes
import hosted
import pytest
import torch
from fakes import DUO, MDLM, each
from shell import SHORT

from mdlm_mcd.errors import ConfigError
from mdlm_mcd.minihost import algo
from mdlm_mcd.minihost import main as minihost
from mdlm_mcd.models.dit import DIT

# As configs have what `sampling.sample` takes.
WRITTEN = {"top_p=": "p_nucleus=", "dtype=torch.float32": "use_float64=false", "0.25": "1/4"}


@each
@pytest.mark.parametrize(
    "name, how",
    [
        ("first_hitting", dict(temperature=0.9)),
        ("locked", dict(u_law="lattice", u_step=0.25, stratified=True, temperature=[1, 0.5])),
        ("sparse", dict(schedule="cosine", top_p=0.9, greedy_tail=1, dtype=torch.float32)),
        ("ancestral", dict(remask=0.5)),
        ("ancestral", dict(remask=[0, 0.5, 0.125])),
        ("confidence", dict(score="raw", threshold=0.01, max_tokens=3, block=8, spacing=4)),
        ("confidence", dict(eos_after=0.5, eos_index=7)),
    ],
)
def test_our_samplers_and_their_keys_serve_a_host(compose, family, caplog, name, how):
    given = [f"sampling.{key}={value}".replace(" ", "") for key, value in how.items()]
    given = " ".join([f"sampling.predictor={name}", "sampling.steps=3", *given])
    for ours, theirs in WRITTEN.items():
        given = given.replace(ours, theirs)
    model = family.student(compose, *given.split())
    with caplog.at_level(logging.INFO, logger="mdlm_mcd.hosts.sampling"):
        drawn = family.draw(model)
    assert torch.equal(drawn, family.expected(model, name, 3, **how))
    assert drawn.shape == (8, 16) and ((drawn >= 0) & (drawn != 300)).all()
    assert f"sampling.predictor={name}: " in caplog.text


def test_the_hosts_own_predictors_stay(compose):
    assert DUO.student(compose).sampler == MDLM.student(compose).sampler == "sparse"
    own = DUO.student(compose, "sampling.predictor=ancestral_cache", "sampling.noise_removal=none")
    drawn = DUO.draw(own, 3)
    torch.manual_seed(5)
    assert torch.equal(drawn, algo.MDLM.generate_samples(own, 8, num_steps=3))
    own = MDLM.student(compose, "sampling.predictor=ddpm_cache")
    assert MDLM.draw(own) == "the host's own"


@pytest.mark.parametrize(
    "family, override, words",
    [
        (DUO, "sampling.u_law=grid", "u_law=grid is unknown"),
        (DUO, "sampling.predictor=sparce", "=sparce is not for masked models here: choose one"),
        (DUO, "sampling.u_step=x", "sampling.u_step=x is no"),
        (MDLM, "sampling.predictor=ancestral_cache", "=ancestral_cache is not for masked"),
        # Settings are named where the host keeps them.
        (MDLM, "parameterization=d3pm", "^parameterization=d3pm does not fit algo"),
    ],
)
def test_bad_keys_are_refused(compose, family, override, words):
    with pytest.raises(ConfigError, match=words):
        family.student(compose, override)


@each
def test_what_was_never_masked_is_not_drawn(compose, family):
    model = family.student(compose)
    model.ignore_bos = True
    assert (family.draw(model)[:, 0] == model.tokenizer.bos_token_id).all()


@pytest.mark.parametrize("weight, asked", [("null", 10), ("0.0", 10), ("1.0", 3), ("2.0", None)])
def test_classes_are_given_as_the_host_gives_them(compose, monkeypatch, weight, asked):
    """Duo `main`: without a weight, or with 0, the class of none in particular."""
    model, seen = DUO.student(compose, f"+sampling.guid_weight={weight}"), []
    model.num_classes = 10
    network = model.backbone.forward
    monkeypatch.setattr(
        model.backbone,
        "forward",
        lambda z, sigma, class_cond: seen.append(class_cond) or network(z, sigma),
    )
    draw = functools.partial(model.generate_samples, 2, labels=torch.tensor([3, 3]), num_steps=2)
    if asked is None:
        with pytest.raises(ConfigError, match=r"sampling.guid_weight=2.0 guides the host"):
            draw()
    else:
        draw()
        assert seen and all(labels.tolist() == [asked, asked] for labels in seen)


def test_sample_eval_of_a_student(compose, tmp_path):
    """Trained, with samples at validation, then sampled by `algo=mcd` itself."""
    short = (*SHORT, "sampling.steps=3", "sampling.num_sample_batches=1")
    sampled = ("trainer.val_check_interval=1", "eval.generate_samples=true")
    metrics = minihost.run(compose(*short, *sampled))
    assert metrics["val/sample_entropy"] > 0
    path, out = tmp_path / "checkpoints" / "round-1.ckpt", tmp_path / "samples.json"
    how = ("mode=sample_eval", f"eval.checkpoint_path={path}", f"eval.generated_samples_path={out}")
    minihost.run(compose(*short, *how))
    assert len(json.loads(out.read_text("utf-8"))["generated_seqs"]) == 8
    # Its config names a sampler that a plain masked model does not have.
    model, _ = hosted.open_model(path)
    assert type(model) is algo.MDLM and model.sampler == "ancestral_cache"


# Networks conditioned on time: fed with the host's own sigma --------------------------

TIMED = "algo.time_conditioning=true"


@pytest.fixture
def sigmas(monkeypatch):
    """What each evaluation of a network is conditioned on."""
    seen, forward = [], DIT.forward

    def watched(self, x, sigma=None, *args, **kwargs):
        seen.append(sigma)
        return forward(self, x, sigma, *args, **kwargs)

    monkeypatch.setattr(DIT, "forward", watched)
    return seen


def test_the_times_of_mdlms_own_sampler(compose, sigmas):
    """`Diffusion._sample` of MDLM: sigma of `linspace(1, eps, steps + 1)`."""
    MDLM.draw(MDLM.student(compose, TIMED), 4)
    wanted = fakes.Schedule()(torch.linspace(1, 1e-5, 5))[0][:-1]
    ours = torch.cat([s.unique() for s in sigmas])
    torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-4)


@each
def test_no_time_and_no_signal(compose, family, sigmas):
    """A denoiser that is not given the time is refused; sigma is never infinite."""
    denoise = family.denoiser(family.student(compose, TIMED))
    z = torch.full((2, 16), 300)
    with pytest.raises(ConfigError, match="alpha_t.*time_conditioned = True"):
        denoise(z, z == 300)
    assert denoise(z, z == 300, torch.zeros(2, dtype=torch.float64)).isfinite().all()
    sigmas.clear()
    family.draw(family.student(compose), 3)  # a network without time gets zeros
    assert sigmas and all((s == 0).all() for s in sigmas)
