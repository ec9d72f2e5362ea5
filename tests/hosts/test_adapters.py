"""The adapters: detection, names, settings and samplers, the same in every family."""

import json
import logging
import subprocess
import sys
import types
from dataclasses import dataclass

import fakes
import hydra
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

from mdlm_mcd import distillers, hosts, laws, sampling
from mdlm_mcd.errors import ConfigError
from mdlm_mcd.evaluation import embedded
from mdlm_mcd.hosts import duo, mdlm, specs
from mdlm_mcd.losses import subs
from mdlm_mcd.minihost import algo, dataloader
from mdlm_mcd.minihost import main as minihost
from mdlm_mcd.models.dit import DIT

SCRATCH = ("algo=mcd", "algo.init_from=scratch")


@dataclass
class Family:
    """A host in memory, and how its students are built and drawn from."""

    spec: specs.HostSpec
    module: types.ModuleType
    adapter: types.ModuleType
    own: str  # a predictor of the host's
    more: tuple[str, ...] = ()

    def student(self, compose, *overrides, batch=8):
        rows = f"loader.eval_batch_size={batch}"
        config = compose(*SCRATCH, *self.more, rows, *overrides)
        torch.manual_seed(3)
        cls = hosts.distiller("MCD", self.spec, self.module)
        model = cls(config, dataloader.get_tokenizer(config)).eval()
        for p in model.backbone.parameters():
            torch.nn.init.normal_(p, std=0.2)
        return model

    def draw(self, model, steps=None, seed=5):
        torch.manual_seed(seed)
        if self.spec is specs.MDLM:
            return model._sample(num_steps=steps)
        return model.generate_samples(model.config.loader.eval_batch_size, num_steps=steps)

    def expected(self, model, name, count, steps, seed=5, **how):
        """The same by the library."""
        torch.manual_seed(seed)
        return sampling.sample(
            name,
            self.adapter.denoiser(model),
            count,
            16,
            steps,
            mask_index=model.mask_index,
            alpha=lambda t: 1 - (1 - 1e-3) * t,
            vocab_size=model.vocab_size,
            **how,
        ).tokens


DUO = Family(specs.DUO, algo, duo, "ancestral_cache")
MDLM = Family(specs.MDLM, fakes.diffusion, mdlm, "ddpm_cache", more=("+parameterization=subs",))
FAMILIES = (DUO, MDLM)


@pytest.fixture(params=FAMILIES, ids=lambda f: f.spec.name)
def family(request):
    return request.param


# Which host it is ---------------------------------------------------------------------


def test_the_class_is_made_for_the_host_that_is_loaded(monkeypatch):
    cls = hosts.MCD
    assert issubclass(cls, algo.MDLM) and issubclass(cls, distillers.MCD)
    assert cls is hosts.MCD  # one class a host, however often it is asked for
    with pytest.raises(AttributeError):
        _ = hosts.DCM
    # A real host goes before the embedded one.
    clone = types.ModuleType("algo")
    clone.MDLM = type("MDLM", (algo.MDLM,), {})
    for module, spec in ((fakes.diffusion, specs.MDLM), (clone, specs.DUO)):
        monkeypatch.setitem(sys.modules, module.__name__, module)
        assert hosts.detect() == (spec, module)
        assert issubclass(hosts.MCD, getattr(module, spec.model))
        assert hosts.MCD.host_dataloader == "dataloader"


def test_an_unknown_layout_is_refused_with_what_was_looked_for(monkeypatch):
    other = types.ModuleType("algo")
    other.MDLM = type("MDLM", (), {"nll": None, "_loss": None})
    monkeypatch.setitem(sys.modules, "algo", other)
    monkeypatch.delitem(sys.modules, "mdlm_mcd.minihost.algo")
    with pytest.raises(ConfigError) as error:
        hosts.detect()
    for words in (
        "module `algo` lacks MDLM._process_model_input, MDLM._process_sigma",
        "no module `mdlm_mcd.minihost.algo` is loaded",
        "python -m mdlm_mcd.minihost.main algo=mcd",
    ):
        assert words in str(error.value), error.value
    monkeypatch.setitem(sys.modules, "algo", types.ModuleType("algo"))
    with pytest.raises(ConfigError, match="module `algo` lacks MDLM[;)]"):
        hosts.detect()


# Its model ----------------------------------------------------------------------------


class Trainer:
    accumulate_grad_batches, world_size = 1, 1


def test_the_same_step_in_both_families(compose, monkeypatch):
    x0 = torch.randint(0, 250, (8, 16))
    batch = {"input_ids": x0, "attention_mask": torch.ones_like(x0)}
    # As in `data=text8-crop`: rows of twice the length, of which MDLM takes some.
    twice = {k: v.repeat(1, 2) for k, v in batch.items()}
    found = []
    for family, given in ((DUO, batch), (MDLM, twice)):
        model = family.student(compose, "model.dropout=0")
        cls = type(model)
        for name, value in (("trainer", Trainer), ("global_step", 0), ("global_rank", 0)):
            monkeypatch.setattr(cls, name, property(lambda self, value=value: value))
        model.teacher.snapshot(model.backbone, 0)
        inputs = model.host_inputs(given, lambda name, model=model: model.draw_uniform(8, 0, name))
        parts = model.distil(model.curriculum.at(0), *inputs, 0)
        parts.loss.backward()
        found.append((parts, [p.grad for p in model.backbone.parameters()]))
    (one, slopes), (other, wanted) = found
    assert one.distil_rows == other.distil_rows > 20
    torch.testing.assert_close(one.loss, other.loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(slopes, wanted, rtol=1e-4, atol=1e-6)


def test_the_denoiser_is_the_hosts_forward(random_mdlm):
    model = random_mdlm
    z = torch.randint(0, 250, (3, 16))
    rows = torch.rand(3, 16) < 0.6
    rows[1] = False  # a sequence in which nothing is asked for
    z[rows] = model.mask_index
    with torch.no_grad():
        got = duo.denoiser(model)(z, rows)
        expected = model(z, torch.full((3, 1), 0.7))
    full = torch.zeros(3, 16, model.vocab_size)
    full[rows] = got
    torch.testing.assert_close(
        subs(full, z, model.mask_index)[rows], expected[rows], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["+parameterization=d3pm"], "^parameterization=d3pm does not fit algo"),
        (["sampling.predictor=ancestral_cache"], "sampling.predictor=ancestral_cache is not"),
    ],
)
def test_what_mdlm_would_take_for_another(compose, overrides, words):
    """Settings are named where the host keeps them."""
    given = overrides if "+par" in overrides[0] else [*MDLM.more, *overrides]
    with pytest.raises(ConfigError, match=words):
        Family(specs.MDLM, fakes.diffusion, mdlm, "").student(compose, *given)


def test_a_schedule_that_does_not_hide_everything(compose, monkeypatch):
    monkeypatch.setattr(
        fakes.Schedule, "forward", lambda self, t: (1e-4 + t * 0.5, torch.full_like(t, 0.5))
    )
    with pytest.raises(ConfigError, match=r"noise\.type=.*to 0\.606 at t=1"):
        MDLM.student(compose)


# Sampling -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "family, name",
    [(f, n) for f in FAMILIES for n in f.adapter.Host.samplers],
    ids=lambda x: getattr(getattr(x, "spec", None), "name", x),
)
def test_every_sampler_of_ours_serves_a_host(compose, family, name):
    model = family.student(compose, f"sampling.predictor={name}", batch=3)
    drawn = family.draw(model, steps=4)
    assert torch.equal(drawn, family.expected(model, name, 3, 4))
    assert drawn.shape == (3, 16) and ((drawn >= 0) & (drawn != 300)).all()


def test_the_hosts_own_predictors_stay(compose):
    own = DUO.student(
        compose, "sampling.predictor=ancestral_cache", "sampling.noise_removal=none", batch=4
    )
    drawn = DUO.draw(own, 3)
    torch.manual_seed(5)
    assert torch.equal(drawn, algo.MDLM.generate_samples(own, 4, num_steps=3))
    own = MDLM.student(compose, "sampling.predictor=ddpm_cache")
    assert MDLM.draw(own) == "the host's own"


def test_sparse_is_the_default_and_the_keys_arrive(compose, family, caplog):
    model = family.student(compose)
    assert model.sampler == "sparse"
    with caplog.at_level(logging.INFO, logger="mdlm_mcd.hosts.sampling"):
        drawn = family.draw(model, 4)
    assert torch.equal(drawn, family.expected(model, "sparse", 8, 4))
    assert "sampling.predictor=sparse: 4 network evaluations" in caplog.text
    model = family.student(
        compose,
        "sampling.u_law=lattice",
        "sampling.u_step=1/4",
        "sampling.temperature=[1,0.5]",
        "sampling.schedule=cosine",
        "sampling.p_nucleus=0.9",
        "sampling.greedy_tail=1",
        "sampling.predictor=locked",
        "sampling.stratified=true",
        "sampling.steps=5",
    )
    how = dict(u_law="lattice", u_step=0.25, stratified=True, temperature=(1, 0.5))
    how |= dict(schedule="cosine", top_p=0.9, greedy_tail=1)
    assert torch.equal(family.draw(model), family.expected(model, "locked", 8, 5, **how))


@pytest.mark.parametrize("wide, dtype", [(True, torch.float64), (False, torch.float32)])
def test_precision_is_the_hosts_key(compose, monkeypatch, wide, dtype):
    model, seen = DUO.student(compose, f"sampling.use_float64={wide}"), []
    draws = sampling.chain.categorical
    monkeypatch.setattr(
        sampling.chain, "categorical", lambda p, g: seen.append(p.dtype) or draws(p, g)
    )
    DUO.draw(model, 2)
    assert set(seen) == {dtype}


def test_a_step_fitted_to_the_validation_split(compose, caplog):
    model = DUO.student(compose, "sampling.u_law=lattice", "sampling.u_step=auto")
    with caplog.at_level(logging.INFO, logger="mdlm_mcd.hosts.sampling"):
        DUO.draw(model, 4)
        DUO.draw(model, 4)
    assert caplog.text.count("sampling.u_step=auto: ") == 1
    _, loader = dataloader.get_dataloaders(model.config, model.tokenizer, skip_train=True)
    tokens = torch.cat([batch["input_ids"] for batch in loader])
    information = laws.mutual_information(tokens, generator=torch.Generator())
    assert model._fitted_steps == {4: laws.fit_step(information, 16, 4)}


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["sampling.u_law=grid"], "u_law=grid is unknown"),
        (
            ["sampling.predictor=sparce"],
            "sampling.predictor=sparce is not for masked models here: choose one of ",
        ),
        (["sampling.u_step=auto"], "sampling.u_step=auto fits a lattice"),
        (["sampling.u_law=lattice", "sampling.u_step=x"], "sampling.u_step=x is no"),
        (
            ["sampling.predictor=first_hitting", "sampling.stratified=true"],
            "stratified=True .* sampler=first_hitting",
        ),
        (["sampling.temperature=[1,0]"], "temperature="),
    ],
)
def test_bad_keys_are_refused(compose, family, overrides, words):
    with pytest.raises(ConfigError, match=words):
        family.draw(family.student(compose, *overrides), 2)


def test_a_host_that_accepts_one_predictor_only(compose):
    """Duo's branch ch-1 asserts its one name; ours are not its business."""

    class Strict(algo.MDLM):
        def _validate_configuration(self):
            assert self.sampler == "ancestral_cache"

    module = types.ModuleType("algo")
    module.MDLM = Strict
    strict = Family(specs.DUO, module, duo, "")
    assert strict.student(compose, "sampling.predictor=locked").sampler == "locked"


def test_guidance_is_left_to_the_host(compose):
    model = DUO.student(compose, "+sampling.guid_weight=2.0")
    with pytest.raises(ConfigError, match=r"sampling.guid_weight=2.0 guides the host"):
        model.generate_samples(2, labels=torch.zeros(2).long(), num_steps=2)


def test_sample_eval_of_a_student(compose, tmp_path):
    """Trained, with samples at validation, then sampled by `algo=mcd` itself."""
    short = (
        "algo.rounds=1",
        "algo.steps_per_round=2",
        "trainer.max_steps=2",
        "trainer.val_check_interval=1",
        "eval.generate_samples=true",
        "sampling.steps=3",
        "sampling.num_sample_batches=1",
        "sampling.u_law=lattice",
        "sampling.u_step=auto",
    )
    metrics = minihost.run(compose(*SCRATCH, *short))
    assert metrics["val/sample_entropy"] > 0
    path, out = tmp_path / "checkpoints" / "round-1.ckpt", tmp_path / "samples.json"
    how = (f"eval.checkpoint_path={path}", f"eval.generated_samples_path={out}")
    minihost.run(compose("algo=mcd", *short, "mode=sample_eval", *how))
    assert len(json.loads(out.read_text("utf-8"))["generated_seqs"]) == 8
    # Its config names a sampler that a plain masked model does not have.
    model, _ = embedded.open_model(path)
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


@pytest.mark.parametrize("noise", ["log-linear", "cosine"])
@pytest.mark.parametrize("steps", [1, 7])
@pytest.mark.parametrize("name", ["sparse", "locked"])
def test_the_times_of_duos_own_sampler(compose, sigmas, noise, steps, name):
    """But for its eps, by which it ends above t = 0 and takes one evaluation more."""
    noise = f"noise={noise}"
    own = ("sampling.predictor=ancestral_cache", "sampling.noise_removal=ancestral")
    DUO.draw(DUO.student(compose, TIMED, noise, *own), steps)
    theirs, sigmas[:] = [s.unique() for s in sigmas], []
    DUO.draw(DUO.student(compose, TIMED, noise, f"sampling.predictor={name}"), steps)
    ours = [s.unique() for s in sigmas]
    assert len(theirs) == steps + 1 and len(ours) == steps
    # Near 0 the host's own alpha of the cosine is rounded, in float32.
    torch.testing.assert_close(ours, theirs[:-1], rtol=1e-2, atol=2e-4)
    assert all(s.dtype == torch.float32 for s in sigmas)


@pytest.mark.parametrize("name", ["ancestral", "sparse", "locked"])
def test_the_times_of_mdlms_own_sampler(compose, sigmas, name):
    """`Diffusion._sample` of MDLM: sigma of `linspace(1, eps, steps + 1)`."""
    MDLM.draw(MDLM.student(compose, TIMED, f"sampling.predictor={name}", batch=16), 4)
    wanted = fakes.Schedule()(torch.linspace(1, 1e-5, 5))[0][:-1]
    ours = torch.cat([s.unique() for s in sigmas])
    torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["confidence", "first_hitting"])
def test_the_other_samplers_feed_each_sequence_its_own_time(compose, sigmas, name):
    DUO.draw(DUO.student(compose, TIMED, f"sampling.predictor={name}"), 4)
    seen = torch.stack([s.exp().reciprocal() for s in sigmas])
    assert (seen.diff(dim=0) > 0).all() and seen[0].min() > 0.9e-3
    if name == "confidence":
        wanted = 1e-3 + (1 - 1e-3) * torch.arange(4) / 4
        torch.testing.assert_close(seen, wanted[:, None].expand(-1, 8))


def test_a_network_without_time_is_fed_zeros(compose, family, sigmas):
    family.draw(family.student(compose), 3)
    assert sigmas and all((s == 0).all() for s in sigmas)


@pytest.mark.parametrize("alpha_t", [None, torch.zeros(2, dtype=torch.float64)])
def test_no_time_and_no_signal(compose, family, alpha_t):
    """A denoiser that is not given the time is refused; sigma is never infinite."""
    denoise = family.adapter.denoiser(family.student(compose, TIMED))
    z = torch.full((2, 16), 300)
    if alpha_t is None:
        with pytest.raises(ConfigError, match="alpha_t.*time_conditioned = True"):
            denoise(z, z == 300)
    else:
        assert denoise(z, z == 300, alpha_t).isfinite().all()


# Its configs --------------------------------------------------------------------------


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


def test_no_file_is_read_for_an_application_without_an_algo_of_ours(folder):
    """Neither its main.py nor, by the plugin, its config: only Hydra's own reading."""
    code = (
        "import sys, hydra\n"
        "from omegaconf import OmegaConf\n"
        "opened = []\n"
        "sys.addaudithook(lambda e, a: opened.append(str(a[0])) if e == 'open' else None)\n"
        "with hydra.initialize_config_dir(sys.argv[1], version_base=None):\n"
        "    for given in ([], ['algo=mcd']):\n"
        "        hydra.compose('config', overrides=given)\n"
        "        print(sorted({p for p in opened if 'diffusion' in p or 'main.py' in p\n"
        "                      or 'layouts' in p}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder / "configs")], capture_output=True, text=True
    )
    foreign, ours = done.stdout.splitlines()
    assert foreign == "[]" and "main.py" in ours and "masked.yaml" in ours


@pytest.mark.slow
def test_the_documented_command_with_a_relative_path(compose, corpus, tmp_path):
    """From the user's folder, though Hydra runs the job in another."""
    minihost.run(compose("trainer.max_steps=2"))
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.rename(tmp_path / "teacher.ckpt")
    tiny = [arg for arg in compose.tiny if "save_dir" not in arg]
    given = ["algo=mcd", "algo.teacher_path=teacher.ckpt", "algo.loss=kl_fwd", "algo.rounds=1"]
    given += ["algo.steps_per_round=2", "trainer.max_steps=2", "hydra.run.dir=student"]
    done = subprocess.run(
        [sys.executable, "-m", "mdlm_mcd.minihost.main", *tiny, *given],
        cwd=tmp_path,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    student = tmp_path / "student" / "checkpoints" / "round-1.ckpt"
    # It opens as the masked model it is, with the averaged weights.
    model, _ = embedded.open_model(student)
    assert type(model) is algo.MDLM and not model.training
    saved = torch.load(student, weights_only=True)
    for p, average in zip(model.parameters(), saved["ema"]["shadow_params"], strict=True):
        assert torch.equal(p, average)
    assert saved["mdlm_mcd"]["loss"] == "kl_fwd"
