"""MDLM's adapter: its names, its config keys, the same arithmetic as Duo's."""

import sys
import types

import hydra
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

from mdlm_mcd import distillers, hosts, sampling
from mdlm_mcd.distillers.rng import StepNoise
from mdlm_mcd.errors import ConfigError
from mdlm_mcd.hosts import specs
from mdlm_mcd.hosts.specs import MDLM
from mdlm_mcd.minihost import algo, dataloader

SCRATCH = ("algo=mcd", "algo.init_from=scratch")


class Schedule(torch.nn.Module):
    """MDLM's log-linear schedule: (sigma, dsigma) instead of (dalpha, alpha)."""

    def forward(self, t):
        return -torch.log1p(-(1 - 1e-3) * t), (1 - 1e-3) / (1 - (1 - 1e-3) * t)


class Diffusion(algo.MDLM):
    """The minihost's model behind MDLM's names, its config at the root."""

    def _validate_configuration(self):
        """MDLM takes any predictor's name, and does not look at it."""

    def __init__(self, config, tokenizer):
        super().__init__(config, tokenizer)
        del self.ignore_bos
        self.noise = Schedule()

    def _process_sigma(self, sigma):
        assert sigma.ndim == 1
        return sigma if self.time_conditioning else torch.zeros_like(sigma)

    def _maybe_sub_sample(self, x0, attention_mask):
        length = self.config.model.length
        return x0[:, :length], None, attention_mask[:, :length]

    def _subs_parameterization(self, logits, xt):
        raise NotImplementedError

    def _sample(self, num_steps=None, eps=1e-5):
        return "the host's own"


@pytest.fixture
def module(monkeypatch):
    module = types.ModuleType("diffusion")
    module.Diffusion = Diffusion
    monkeypatch.setitem(sys.modules, "diffusion", module)
    return module


class Trainer:
    accumulate_grad_batches, world_size = 1, 1


def step(cls, config, monkeypatch, batch):
    """Loss and gradients of one step at round 1's start."""
    monkeypatch.setattr(cls, "trainer", property(lambda self: Trainer))
    monkeypatch.setattr(cls, "global_step", property(lambda self: 0))
    monkeypatch.setattr(cls, "global_rank", property(lambda self: 0))
    torch.manual_seed(3)
    model = cls(config, dataloader.get_tokenizer(config))
    torch.nn.init.normal_(model.backbone.output_layer.linear.weight, std=0.3)
    model.teacher.snapshot(model.backbone, 0)
    noise = StepNoise(model, 8, 0)
    parts = model.distil(model.curriculum.at(0), *model.host_inputs(batch, noise.uniform), noise)
    parts.loss.backward()
    return parts, [p.grad for p in model.backbone.parameters()]


def test_the_same_step_as_in_the_other_layout(module, compose, monkeypatch):
    config = compose(*SCRATCH, "+parameterization=subs", "model.dropout=0")
    found = hosts.detect()
    assert found == (MDLM, module)
    ours = hosts.distiller("MCD", *found)
    assert issubclass(ours, Diffusion) and issubclass(ours, distillers.MCD)
    duo = hosts.distiller("MCD", specs.DUO, algo)
    x0 = torch.randint(0, 250, (8, 16))
    batch = {"input_ids": x0, "attention_mask": torch.ones_like(x0)}
    # As in `data=text8-crop`: rows of twice the length, of which the host takes some.
    twice = {k: v.repeat(1, 2) for k, v in batch.items()}
    one, slopes = step(ours, config, monkeypatch, twice)
    other, wanted = step(duo, config, monkeypatch, batch)
    assert one.distil_rows == other.distil_rows > 20
    torch.testing.assert_close(one.loss, other.loss, rtol=1e-6, atol=0)
    for a, b in zip(slopes, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", [*sampling.SAMPLERS, "ddpm_cache"])
def test_samples_by_our_samplers_or_the_hosts_own(module, compose, name):
    config = compose(
        *SCRATCH, "+parameterization=subs", f"sampling.predictor={name}", "loader.eval_batch_size=7"
    )
    model = hosts.MCD(config, dataloader.get_tokenizer(config)).eval()
    torch.nn.init.normal_(model.backbone.output_layer.linear.weight, std=0.3)
    torch.manual_seed(5)
    drawn = model._sample(num_steps=4)
    if name not in sampling.SAMPLERS:
        assert drawn == "the host's own"
        return
    torch.manual_seed(5)
    wanted = sampling.sample(
        name,
        hosts.mdlm.denoiser(model),
        7,
        16,
        4,
        mask_index=model.mask_index,
        alpha=lambda t: torch.exp(-Schedule()(t)[0]),
        vocab_size=model.vocab_size,
    )
    assert torch.equal(drawn, wanted.tokens) and (drawn != model.mask_index).all()


@pytest.mark.parametrize("name", ["ancestral", "sparse", "locked"])
def test_the_times_of_the_hosts_own_sampler(module, compose, monkeypatch, name):
    """`Diffusion._sample` of MDLM: sigma of `linspace(1, eps, steps + 1)`."""
    config = compose(
        *SCRATCH,
        "+parameterization=subs",
        f"sampling.predictor={name}",
        "algo.time_conditioning=true",
        "loader.eval_batch_size=16",
    )
    model = hosts.MCD(config, dataloader.get_tokenizer(config)).eval()
    seen, process = [], Diffusion._process_sigma
    monkeypatch.setattr(
        Diffusion,
        "_process_sigma",
        lambda self, sigma: seen.append(process(self, sigma)) or seen[-1],
    )
    model._sample(num_steps=4)
    wanted = Schedule()(torch.linspace(1, 1e-5, 5))[0][:-1]
    assert len(seen) == 4
    for sigma, theirs in zip(seen, wanted, strict=True):
        torch.testing.assert_close(sigma.unique(), theirs[None], rtol=0, atol=1e-4)


def test_a_predictor_that_the_host_would_take_for_another(module, compose):
    config = compose(*SCRATCH, "+parameterization=subs", "sampling.predictor=ancestral_cache")
    with pytest.raises(ConfigError, match="sampling.predictor=ancestral_cache is not"):
        hosts.MCD(config, dataloader.get_tokenizer(config))


def test_settings_are_named_where_the_host_keeps_them(module, compose):
    config = compose(*SCRATCH, "+parameterization=d3pm")
    with pytest.raises(ConfigError, match="^parameterization=d3pm does not fit algo"):
        hosts.MCD(config, dataloader.get_tokenizer(config))


def test_a_schedule_that_does_not_hide_everything(module, compose, monkeypatch):
    def linear(self, t):
        return 1e-4 + t * 0.5, torch.full_like(t, 0.5)

    monkeypatch.setattr(Schedule, "forward", linear)
    config = compose(*SCRATCH, "+parameterization=subs")
    with pytest.raises(ConfigError, match=r"noise\.type=.*to 0\.606 at t=1"):
        hosts.MCD(config, dataloader.get_tokenizer(config))


@pytest.fixture
def folder(tmp_path):
    """The keys of MDLM's config that ours meet; patched (an `algo` entry)."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "config.yaml").write_text(
        "defaults:\n- _self_\n- /algo: null\n"
        "\nparameterization: sedd\nbackbone: dit\nT: 100\nsampling:\n"
        "  predictor: analytic\n  steps: 128\ntraining:\n  ema: 0.9999\n"
        "trainer:\n  max_steps: 1\n"
    )
    (tmp_path / "diffusion.py").touch()
    (tmp_path / "main.py").write_text("hydra.utils.get_class(config.algo._target_)\n")
    return tmp_path


def composed(folder, *overrides):
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(folder / "configs"), version_base=None):
        return hydra.compose("config", overrides=list(overrides))


def test_the_config_speaks_the_hosts_keys(folder):
    config = composed(folder, "algo=mcd")
    assert config.algo._target_ == "mdlm_mcd.hosts.MCD"
    assert (config.parameterization, config.T) == ("subs", 0)
    assert config.sampling.predictor == "sparse" and config.sampling.use_float64
    assert "loss_precision" not in config.training
    assert "backbone" not in config.algo and config.trainer.max_steps == 50_000
    # The command line still wins, and without `algo` nothing of ours is there.
    assert composed(folder, "algo=mcd", "T=5").T == 5
    plain = composed(folder)
    assert "algo" not in plain and plain.sampling.predictor == "analytic"


def test_an_unpatched_host_is_stopped_when_its_config_is_read(folder, monkeypatch):
    (folder / "main.py").write_text("import diffusion\n")
    config = composed(folder, "algo=mcd")
    assert config.sampling.predictor == "sparse"
    with pytest.raises(SystemExit, match="mdlm-mcd patch"):
        _ = config.algo.unpatched_host
    monkeypatch.setenv("MDLM_MCD_PATCHED", str(folder.resolve()))
    assert "unpatched_host" not in composed(folder, "algo=mcd").algo


def test_a_folder_that_is_no_host_is_let_be(folder):
    """Some other application with a main.py: it may resolve classes in its own way."""
    (folder / "diffusion.py").unlink()
    (folder / "main.py").write_text("print()\n")
    assert "unpatched_host" not in composed(folder, "algo=mcd").algo
