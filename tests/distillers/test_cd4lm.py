"""CD4LM in the minihost: MCD's pair, with s anywhere below t and no rounds."""

import pytest
import torch
from runs import Watch, distil, fit, shaken

from mdlm_mcd import hosts, losses
from mdlm_mcd.coupling import counter_generator, couple, draw_u, sample_nested_times
from mdlm_mcd.errors import ConfigError
from mdlm_mcd.hosts import specs
from mdlm_mcd.minihost import algo, dataloader
from mdlm_mcd.minihost import main as minihost

CD4LM = hosts.distiller("CD4LM", specs.DUO, algo)


@pytest.fixture
def cd4lm(compose, teacher_path):
    def build(*overrides):
        return compose(
            "algo=cd4lm",
            "algo.steps_per_round=12",
            "trainer.max_steps=12",
            "optim.lr=1e-3",
            f"algo.teacher_path={teacher_path}",
            *overrides,
        )

    return build


def test_one_teacher_to_the_end(cd4lm):
    watch = Watch()
    _, trainer = fit(cd4lm("model.dropout=0.1"), watch)
    assert watch.rounds == [0] * 12 and not any(watch.teacher_modes)
    assert all(torch.equal(x, watch.weights[0]) for x in watch.teachers)
    assert all(0 <= loss < 10 for loss in watch.losses)
    logged = trainer.logged_metrics
    assert logged["cd4lm/delta"].isnan() and logged["cd4lm/tau"] == 1


def test_contract_with_a_float64_computation_from_scratch(cd4lm):
    config = cd4lm("algo.head_chunk=7")
    model = CD4LM(config, dataloader.get_tokenizer(config)).double()
    student, target = shaken(model)
    x0 = torch.randint(0, 250, (8, 16))
    valid = torch.ones(8, 16, dtype=torch.long)
    parts = distil(model, x0, valid, step=3)
    t, s = sample_nested_times(8, generator=counter_generator(1, 3, "t"))
    u = draw_u(8, 16, generator=counter_generator(1, 3, "u"))
    mask = model.mask_index
    pair = couple(x0, u, t, s, lambda t: 1 - (1 - 1e-3) * t, mask)
    logp = [
        losses.subs(net(z, torch.zeros(8)), z, mask)
        for net, z in ((student, pair.z_t), (target, pair.z_s))
    ]
    expected = torch.zeros((), dtype=torch.float64)
    for p, q, masked in zip(*(x.flatten(0, 1) for x in logp), pair.masked_t.flatten(), strict=True):
        if masked:
            expected = expected + (q.exp() * (q - p)).sum()
    torch.testing.assert_close(parts.loss, expected, rtol=1e-12, atol=1e-12)
    assert parts.distil_rows and parts.reveal_rows


def test_the_whole_range_of_gaps_is_used():
    t, s = sample_nested_times(4000, generator=torch.Generator().manual_seed(0))
    assert t.dtype == s.dtype == torch.float64
    assert (0 < s).all() and (s <= t).all() and (t <= 1).all()
    assert t.max() > 0.99 and t.min() < 0.01
    share = (s / t).sort().values  # uniform, whatever t
    grid = torch.linspace(0, 1, 4000, dtype=torch.float64)
    assert (share - grid).abs().max() < 0.03
    late = (s / t)[t > 0.9]
    assert abs(late.mean() - 0.5) < 0.05


@pytest.mark.parametrize(
    "overrides,words",
    [
        (["algo.loss=x"], ["algo.loss=x", "algo=cd4lm", "kl_fwd"]),
        (["algo.coupling=x"], ["algo.coupling=x", "shared"]),
        (["algo.parameterization=mean"], ["parameterization=mean", "a masked model"]),
        (["trainer.max_steps=13"], ["trainer.max_steps=13", "1 * 12 = 12"]),
    ],
)
def test_bad_settings_are_refused_in_a_sentence(cd4lm, overrides, words):
    with pytest.raises(ConfigError) as error:
        minihost.run(cd4lm(*overrides))
    assert all(word in str(error.value) for word in words), error.value
