"""Our samplers in a host: `sampling.predictor=` and its keys, through the adapters."""

import json
import logging
import types

import pytest
import torch

from mdlm_mcd import hosts, laws, sampling
from mdlm_mcd.errors import ConfigError
from mdlm_mcd.evaluation import embedded
from mdlm_mcd.hosts import duo, specs
from mdlm_mcd.minihost import algo, dataloader
from mdlm_mcd.minihost import main as minihost

SCRATCH = ("algo=mcd", "algo.init_from=scratch")


@pytest.fixture
def student(compose):
    def build(*overrides):
        config = compose(*SCRATCH, *overrides)
        torch.manual_seed(0)
        cls = hosts.distiller("MCD", specs.DUO, algo)
        model = cls(config, dataloader.get_tokenizer(config)).eval()
        for p in model.backbone.parameters():
            torch.nn.init.normal_(p, std=0.2)
        return model

    return build


def expected(model, name, count, steps, seed, **how):
    """The same by the library."""
    torch.manual_seed(seed)
    return sampling.sample(
        name,
        duo.denoiser(model),
        count,
        16,
        steps,
        mask_index=model.mask_index,
        alpha=lambda t: 1 - (1 - 1e-3) * t,
        vocab_size=model.vocab_size,
        **how,
    ).tokens


def test_sparse_is_the_default_and_its_keys_arrive(student, caplog):
    model = student()
    assert model.sampler == "sparse"
    torch.manual_seed(5)
    with caplog.at_level(logging.INFO, logger="mdlm_mcd.hosts.sampling"):
        drawn = model.generate_samples(6, num_steps=4)
    assert torch.equal(drawn, expected(model, "sparse", 6, 4, 5))
    assert "sampling.predictor=sparse: 4 network evaluations" in caplog.text
    model = student(
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
    torch.manual_seed(5)
    wanted = expected(
        model,
        "locked",
        6,
        5,
        5,
        u_law="lattice",
        u_step=0.25,
        stratified=True,
        temperature=(1, 0.5),
        schedule="cosine",
        top_p=0.9,
        greedy_tail=1,
    )
    torch.manual_seed(5)
    assert torch.equal(model.generate_samples(6), wanted)


@pytest.mark.parametrize("name", duo.Host.samplers)
def test_every_sampler_of_ours_serves_a_host(student, name):
    drawn = student(f"sampling.predictor={name}").generate_samples(3, num_steps=4)
    assert drawn.shape == (3, 16)
    assert ((drawn >= 0) & (drawn != 300)).all()


def test_the_hosts_own_predictors_stay(student):
    own = student("sampling.predictor=ancestral_cache", "sampling.noise_removal=none")
    torch.manual_seed(2)
    drawn = own.generate_samples(4, num_steps=3)
    torch.manual_seed(2)
    assert torch.equal(drawn, algo.MDLM.generate_samples(own, 4, num_steps=3))


@pytest.mark.parametrize("wide,dtype", [(True, torch.float64), (False, torch.float32)])
def test_precision_is_the_hosts_key(student, monkeypatch, wide, dtype):
    model = student(f"sampling.use_float64={wide}")
    seen = []
    draws = sampling.chain.categorical
    monkeypatch.setattr(
        sampling.chain, "categorical", lambda p, g: seen.append(p.dtype) or draws(p, g)
    )
    model.generate_samples(2, num_steps=2)
    assert set(seen) == {dtype}


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
    said = minihost.run(compose(*SCRATCH, *short))
    assert said["val/sample_entropy"] > 0
    path = tmp_path / "checkpoints" / "round-1.ckpt"
    out = tmp_path / "samples.json"
    minihost.run(
        compose(
            "algo=mcd",
            *short,
            "mode=sample_eval",
            f"eval.checkpoint_path={path}",
            f"eval.generated_samples_path={out}",
        )
    )
    texts = json.loads(out.read_text("utf-8"))["generated_seqs"]
    assert len(texts) == 8
    # Its config names a sampler that a plain masked model does not know.
    model, _ = embedded.open_model(path)
    assert type(model) is algo.MDLM and model.sampler == "ancestral_cache"


def test_a_step_fitted_to_the_validation_split(student, caplog):
    model = student("sampling.u_law=lattice", "sampling.u_step=auto")
    with caplog.at_level(logging.INFO, logger="mdlm_mcd.hosts.sampling"):
        model.generate_samples(2, num_steps=4)
        model.generate_samples(2, num_steps=4)
    assert caplog.text.count("sampling.u_step=auto: ") == 1
    _, loader = dataloader.get_dataloaders(model.config, model.tokenizer, skip_train=True)
    tokens = torch.cat([batch["input_ids"] for batch in loader])
    information = laws.mutual_information(tokens, generator=torch.Generator())
    assert model._fitted_steps == {4: laws.fit_step(information, 16, 4)}


@pytest.mark.parametrize(
    "overrides,words",
    [
        (["sampling.u_law=grid"], "u_law=grid is unknown"),
        (
            ["sampling.predictor=sparce"],
            "sampling.predictor=sparce is not for masked models here: choose one of spar",
        ),
        (["sampling.u_step=auto"], "sampling.u_step=auto fits a lattice"),
        (["sampling.u_law=lattice", "sampling.u_step=x"], "sampling.u_step=x is no"),
        (
            ["sampling.predictor=first_hitting", "sampling.stratified=true"],
            "stratified=True means nothing to sampler=first_hitting",
        ),
        (["sampling.temperature=[1,0]"], "temperature="),
    ],
)
def test_bad_keys_are_refused(student, overrides, words):
    with pytest.raises(ConfigError, match=words):
        student(*overrides).generate_samples(2, num_steps=2)


def test_a_host_that_accepts_one_predictor_only(compose, monkeypatch):
    """Duo's branch ch-1 asserts its one name; ours are not its business."""

    class Strict(algo.MDLM):
        def _validate_configuration(self):
            assert self.sampler == "ancestral_cache"

    module = types.ModuleType("algo")
    module.MDLM = Strict
    config = compose(*SCRATCH, "sampling.predictor=locked")
    cls = hosts.distiller("MCD", specs.DUO, module)
    assert cls(config, dataloader.get_tokenizer(config)).sampler == "locked"


def test_guidance_is_left_to_the_host(student):
    model = student("+sampling.guid_weight=2.0")
    with pytest.raises(ConfigError, match=r"sampling.guid_weight=2.0 guides the host"):
        model.generate_samples(2, labels=torch.zeros(2).long(), num_steps=2)
