"""The bounds of networks conditioned on time, against sums by hand in float64."""

import itertools

import pytest
import torch
from enumeration import LENGTH, MASK, timed, timed_table

from mdlm_mcd import coupling, laws
from mdlm_mcd.evaluation import bounds

X0S = torch.tensor(list(itertools.product(range(MASK), repeat=LENGTH)))


def hosts(t):
    """Not 0 at t = 1, as in the hosts, and by far more."""
    return 1 - 0.8 * t


def nats(x0, masked, opens, alpha_t, temperature):
    """-log p of the tokens that open, given those not masked, by the table's row."""
    z = tuple(MASK if m else x for x, m in zip(x0, masked, strict=True))
    rows = timed_table(alpha_t)[z][:, :MASK] / temperature
    log_p = rows.log_softmax(-1)
    return -sum(log_p[i, x0[i]].item() for i in range(LENGTH) if opens[i])


@pytest.mark.parametrize(
    "law, step, levels",
    [("iid", None, None), ("lattice", 0.25, None), ("iid", None, [0, 0.1, 0.5, 1])],
)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_each_step_is_asked_at_its_level(law, step, levels, temperature, monkeypatch):
    monkeypatch.setattr(bounds, "PROJECTED", 40)  # the parts of a batch keep their own
    draws = 2
    got = bounds.n_step_nelbo(
        timed(),
        X0S,
        3,
        alpha=hosts,
        mask_index=MASK,
        draws=draws,
        batch_size=20,
        generator=torch.Generator().manual_seed(3),
        temperature=temperature,
        u_law=law,
        u_step=step,
        levels=levels,
    )
    levels = levels or [0, 1 / 3, 2 / 3, 1]
    generator = torch.Generator().manual_seed(3)
    u = coupling.draw_u(len(X0S) * draws, LENGTH, law, step=step, generator=generator)
    for i, x0 in enumerate(X0S.tolist()):
        total = 0.0
        for draw in u[i * draws : (i + 1) * draws].tolist():
            order = [sum(v >= level for level in levels[1:3]) for v in draw]
            for k in range(3):
                masked = [o >= k for o in order]
                opens = [o == k for o in order]
                alpha_t = 0.2 + 0.8 * levels[k]
                total += nats(x0, masked, opens, alpha_t, temperature) / draws
        assert float(got.nats[i]) == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize("levels", [None, laws.levels("cosine", 4)])
def test_a_networks_times_are_the_samplers(levels):
    """The hosts' grid, or shares of one's own."""
    asked: list = []
    bounds.n_step_nelbo(timed(asked), X0S, 4, alpha=hosts, mask_index=MASK, levels=levels)
    seen = torch.cat([alpha_t for alpha_t, _ in asked]).unique()
    wanted = [0.2 + 0.8 * x for x in levels or [0, 0.25, 0.5, 0.75, 1]]
    assert seen.tolist() == pytest.approx(wanted[:-1])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_each_row_of_the_nelbo_is_asked_at_its_own_time(temperature, monkeypatch):
    monkeypatch.setattr(bounds, "PROJECTED", 10)
    rows, generator = len(X0S), torch.Generator().manual_seed(4)
    got = bounds.nelbo_rows(
        timed(),
        lambda t: (torch.full_like(t, -0.8), hosts(t)),
        X0S,
        MASK,
        generator=torch.Generator().manual_seed(4),
        eps=0.01,
        batch_size=20,
        temperature=temperature,
    )
    t = (torch.rand(rows, generator=generator) + torch.arange(rows)) / rows
    alphas = hosts(0.01 + 0.99 * t)
    masked = torch.rand(X0S.shape, generator=generator) > alphas[:, None]
    for x0, m, a, found in zip(*(x.tolist() for x in (X0S, masked, alphas, got.nats)), strict=True):
        wanted = nats(x0, m, m, a, temperature) * 0.8 / (1 - a)
        assert found == pytest.approx(wanted, rel=1e-5)
