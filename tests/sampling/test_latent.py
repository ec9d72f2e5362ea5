"""Common random numbers: trajectories as functions of a latent."""

import scipy.stats
import torch
from enumeration import LENGTH, MASK, VOCAB, draw, generator, table

from mdlm_mcd.sampling import Latent


def test_locked_is_a_function_of_its_latent():
    def run(batch, first=0, steps=4, seed=5, **how):
        return draw("locked", steps, n=batch, latent=Latent(seed, first=first), **how)

    whole = run(50)
    # Whatever the generator, and however the sequences are dealt to batches.
    assert torch.equal(whole, run(50, generator=generator(99)))
    assert torch.equal(whole, torch.cat([run(20), run(30, first=20)]))
    assert not torch.equal(whole, run(50, seed=6))


def test_one_latent_ties_steps_and_models_together():
    """A model that reads no other token gives the same sample at any number of steps."""
    alone = table()[(MASK,) * LENGTH].expand(*table().shape)
    few, many = (draw("locked", n, n=500, logits=alone, latent=Latent(1)) for n in (1, 300))
    assert torch.equal(few, many)
    near = draw("locked", 1, n=500, logits=alone + 0.05 * table(7), latent=Latent(1))
    assert 0.9 < (near == few).float().mean() < 1  # hardly another model
    assert (draw("locked", 1, n=500, logits=alone) == few).float().mean() < 0.8


def test_u_of_a_latent_opens_the_same_tokens_first_at_any_number_of_steps():
    latent, states = Latent(3, "lattice", 1 / 4), {}

    def run(steps):
        kept = states[steps] = []
        how = dict(n=4, length=40, denoise=lambda z, rows: torch.zeros(int(rows.sum()), VOCAB))
        how |= dict(latent=latent, callback=lambda step, z: kept.append(z.clone()))
        draw("locked", steps, **how)

    run(4), run(64)
    for n in range(4):
        assert torch.equal(states[4][n], states[64][16 * n + 15])


def test_noise_of_a_latent_is_exponential_and_independent():
    rows = torch.ones(40, 50, dtype=torch.bool)
    race = Latent(11).race(rows, 100)
    assert race.shape == (2000, 100) and race.dtype == torch.float64
    assert scipy.stats.kstest(race.flatten().numpy(), "expon").pvalue > 1e-3
    another = Latent(12).race(rows, 100)
    neighbours = [
        (race[1:], race[:-1]),
        (race[:, 1:], race[:, :-1]),
        (race[50:], race[:-50]),
        (race, another),
        (race[50:], another[:-50]),
    ]
    for a, b in neighbours:
        r = torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]
        assert abs(r) < 4.5 / a.numel() ** 0.5
    # Each sequence of one seed differs from all of the next seed's.
    ours, theirs = (set(r.view(40, -1)[:, 0].tolist()) for r in (race, another))
    assert not ours & theirs
    # A row's noise is the same in whatever company it is asked for.
    few = rows.clone()
    few[3:, 7:] = False
    assert torch.equal(Latent(11).race(few, 100), race[few.flatten()])
    assert (race > 0).all() and len(race.unique()) == race.numel()
