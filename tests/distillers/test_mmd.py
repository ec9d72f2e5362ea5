"""The reward of `algo=mmd`, its gradient in expectation, and what its teacher is."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from runs import Watch, built, changed, fit, logged, opened

from mdlm_mcd import head
from mdlm_mcd.distillers.mmd import factors, reward
from mdlm_mcd.errors import ConfigError


@given(
    seed=st.integers(0, 2**32),
    batch=st.integers(1, 3),
    length=st.integers(1, 5),
    draws=st.integers(2, 4),
    share=st.sampled_from([0.3, 0.7, 1.0]),
)
def test_a_reward_is_minus_the_squared_mmd(seed, batch, length, draws, share):
    """By its definition, pair by pair; the mean over pairs of data is left out."""
    g, alpha = torch.Generator().manual_seed(seed), 0.3
    made = torch.randn(draws + 1, batch, length, 3, generator=g, dtype=torch.float64)
    counts = torch.rand(batch, length, generator=g) < share
    (real, *fake), wanted = made, []

    def mean(values):
        return sum(math.exp(-alpha * (a - b).square().sum()) for a, b in values) / len(values)

    for b in range(batch):
        places = counts[b].nonzero().flatten().tolist()
        pairs = list(itertools.product(places, places))
        across = [(real[b, i], x[b, j]) for x in fake for i, j in pairs]
        among = [
            (x[b, i], y[b, j])
            for x, y in itertools.permutations(fake, 2)
            for i, j in pairs
            if i != j
        ]
        wanted.append(2 * mean(across) - mean(among) if len(places) > 1 else 0.0)
    found = reward(real, fake, counts, alpha)
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))
    with torch.autocast("cpu", torch.bfloat16):  # a trainer's
        single = reward(real.float(), [x.float() for x in fake], counts, alpha)
    torch.testing.assert_close(single.double(), found, rtol=1e-5, atol=1e-5)


def test_the_mean_gradient_is_that_of_the_expected_reward():
    """Over all outcomes of two candidates of two draws of two tokens; and for each sequence."""
    kinds, length, mask, draws, candidates = 3, 3, 3, 2, 2
    g = torch.Generator().manual_seed(5)
    x0, places = torch.tensor([2, 0, 1]), [0, 2]
    table = torch.randn(kinds, kinds, kinds, length, 4, generator=g, dtype=torch.float64)
    theta = torch.randn(2, kinds + 1, generator=g, dtype=torch.float64).requires_grad_()

    def sequences(ends):  # (n, 2) -> (n, length)
        z = x0.repeat(len(ends), 1)
        z[:, places] = ends
        return z

    def rewards(z):  # (draws, n, length) -> (n,)
        n, counts = z.shape[1], torch.tensor([[True, False, True]])
        real = table[tuple(x0)].expand(n, -1, -1)
        return reward(real, [table[tuple(x.T)] for x in z], counts.expand(n, -1), 0.2)

    ends = torch.cartesian_prod(torch.arange(kinds), torch.arange(kinds))
    log_p = theta[:, :kinds].log_softmax(-1)
    p = log_p[0, ends[:, 0]].exp() * log_p[1, ends[:, 1]].exp()
    one, other = (x.flatten() for x in torch.meshgrid(*2 * [torch.arange(9)], indexing="ij"))
    pairs = torch.stack([sequences(ends[one]), sequences(ends[other])])
    expected = p[one] * p[other] * rewards(pairs)
    (wanted,) = torch.autograd.grad(expected.sum(), theta)

    outcomes = torch.cartesian_prod(*[torch.arange(9)] * draws * candidates)
    chance = p.detach()[outcomes].prod(-1)
    filled = torch.stack([sequences(ends[column]) for column in outcomes.T])
    found = torch.stack([rewards(candidate) for candidate in filled.split(draws)])
    counts = torch.tensor([[True, False, True]]).expand(len(outcomes), -1)
    logits = torch.zeros(len(outcomes), length, kinds + 1, dtype=torch.float64)
    logits[:, places] = theta.detach()
    logits.requires_grad_()
    parts = head.supervise(
        "ce",
        head.HiddenStates(logits),
        None,
        filled.permute(1, 2, 0),
        counts,
        torch.zeros_like(counts),
        tau=1.0,
        mask_index=mask,
        weight=factors(found, counts, torch.ones(len(outcomes), length), draws),
    )
    (slopes,) = torch.autograd.grad(parts.loss, logits)
    mean = (chance[:, None, None] * slopes[:, places]).sum(0)
    # A mean over both tokens and draws, for a sequence of three.
    torch.testing.assert_close(mean, -wanted * length / (2 * draws), rtol=1e-10, atol=1e-12)
    assert wanted.abs().max() > 1e-3 and (slopes[:, 1] == 0).all()


def test_the_teacher_is_a_few_blocks_that_stay(trained):
    """What is above the features is neither kept nor saved; both rounds have one teacher."""
    folder, config, watch, model = trained("mmd")
    assert watch.rounds == [0] * 6 + [1] * 6 and not any(watch.teacher_modes)
    assert all(torch.equal(teacher, watch.teachers[0]) for teacher in watch.teachers)
    assert not torch.equal(watch.weights[0], watch.after_step[-1])
    start = opened(config.algo.teacher_path)["ema"]["shadow_params"]
    names = [name for name, _ in model.backbone.named_parameters()]
    start = dict(zip(names, start, strict=False))
    saved = opened(folder / "round-2.ckpt")["mdlm_mcd"]["teacher"]["backbone"]
    lower = {n for n in start if n.startswith(("vocab_embed", "sigma_map", "blocks.0."))}
    assert saved.keys() == lower | {"rotary_emb.inv_freq"}
    assert all(torch.equal(saved[name], start[name]) for name in lower)
    rows = logged(folder.parent, "mmd/reward")
    assert len(rows) == 6 and all(row["mmd/tau"] == 1 for row in rows)
    assert all(0 < row["mmd/reward_spread"] < row["mmd/reward"] for row in rows)
    # The student's own entropy, by its draws, a masked token.
    ratio = [r["mmd/ce"] / r["mmd/rows_reveal"] / r["mmd/student_entropy"] for r in rows]
    assert sum(ratio) / 6 == pytest.approx(1, abs=0.2)


def test_it_goes_on_from_a_student_of_mcd(trained, config):
    """Student, its average and the features begin as that student's average, counted anew."""
    path = trained("mcd")[0] / "round-2.ckpt"
    model, _ = fit(config(f"algo.teacher_path={path}", algo="mmd"), watch := Watch())
    names = [name for name, _ in model.backbone.named_parameters()]
    start = dict(zip(names, opened(path)["ema"]["shadow_params"], strict=False))
    assert torch.equal(watch.weights[0], torch.cat([p.flatten() for p in start.values()]))
    for name, p in model.teacher.backbone.named_parameters():
        assert torch.equal(p, start[name])
    assert model.ema.num_updates == 6


def test_a_block_that_the_model_lacks_is_refused(config):
    given = changed(config(algo="mmd"), "algo.feature_block=2")
    with pytest.raises(ConfigError, match="feature_block=2 must be below the model's 2 blocks"):
        built(given)
