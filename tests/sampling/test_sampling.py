"""The samplers against exact enumeration on a tiny vocabulary."""

import itertools
import logging

import pytest
import scipy.stats
import torch
from enumeration import (
    EMPTY,
    LENGTH,
    MASK,
    VOCAB,
    alpha,
    assert_law,
    chances,
    denoiser,
    draw,
    exact_law,
    generator,
    open_one,
    table,
    uniform,
)

from mdlm_mcd import laws, sampling
from mdlm_mcd.errors import ConfigError
from mdlm_mcd.sampling import Latent, chain

STEPWISE = ("ancestral", "sparse", "locked")


@pytest.mark.parametrize("name", STEPWISE)
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("temperature,top_p", [(1.0, 1.0), (0.7, 0.6)])
def test_law_is_exact(name, steps, temperature, top_p):
    how = dict(temperature=temperature, top_p=top_p)
    drawn = draw(name, steps, **how)
    assert_law(drawn, exact_law(table(), uniform(steps), how=lambda step: how))


@pytest.mark.parametrize("name", STEPWISE)
def test_law_with_everything_at_once(name):
    """Falling temperature, nucleus, greedy tail, cosine shares, a given token."""
    steps, start = 4, (MASK, 1, MASK)
    temperatures = [1.3 - 0.8 * x for x in _fractions(laws.levels("cosine", steps))]
    law = exact_law(
        table(),
        laws.levels("cosine", steps),
        start,
        lambda s: dict(temperature=temperatures[s], top_p=0.9, greedy=s == 3),
    )
    assert temperatures[0] == 1.3 and temperatures[-1] == pytest.approx(0.5)
    given = torch.tensor(start).expand(10_000, -1)
    drawn = draw(
        name,
        steps,
        schedule="cosine",
        temperature=(1.3, 0.5),
        top_p=0.9,
        greedy_tail=1,
        prompt=given,
    )
    assert (drawn[:, 1] == 1).all() and given[0, 0] == MASK
    assert_law(drawn, law)


def _fractions(levels):
    return [level / levels[-2] for level in levels[:-1]]


def any_masked(z):
    masked = [i for i, token in enumerate(z) if token == MASK]
    return {i: 1 / len(masked) for i in masked}


def limit_law(start=EMPTY, **how):
    """`ancestral` with infinitely many steps: one by one, in a random order."""
    law = {start: 1.0}
    for _ in range(start.count(MASK)):
        law = open_one(law, table(), any_masked, **how)
    return law


def test_first_hitting_is_the_limit_of_ancestral():
    limit = limit_law()

    def distance(steps):
        law = exact_law(table(), uniform(steps))
        return sum(abs(law[z] - limit[z]) for z in limit) / 2

    assert distance(20) / distance(40) == pytest.approx(2, abs=0.1)  # so it goes to 0
    assert_law(draw("first_hitting", None), limit)
    assert_law(
        draw("first_hitting", 7, temperature=0.6, top_p=0.8), limit_law(temperature=0.6, top_p=0.8)
    )
    start = (2, MASK, MASK)
    assert_law(draw("first_hitting", None, prompt=torch.tensor([start] * 10_000)), limit_law(start))


def test_first_hitting_draws_its_times_by_the_schedule():
    """The j-th of m opening levels is the j-th order statistic of m uniforms."""
    seen = []

    def temperature(level):
        seen.append(level.clone())
        return 1 + 0 * level

    draw("first_hitting", None, n=4000, temperature=temperature)
    assert len(seen) == LENGTH
    for j, level in enumerate(seen, 1):
        law = scipy.stats.beta(j, LENGTH + 1 - j)
        assert scipy.stats.kstest(level.numpy(), law.cdf).pvalue > 1e-3


@pytest.mark.parametrize("greedy", [0, 1])
def test_first_hitting_greedy_tail_is_of_tokens(greedy):
    law = {EMPTY: 1.0}
    for left in (3, 2, 1):
        law = open_one(law, table(), any_masked, greedy=left <= greedy)
    assert_law(draw("first_hitting", None, greedy_tail=greedy), law)


def certainty(score, p):
    if score == "entropy":
        return -scipy.stats.entropy(p)
    top = sorted(p)
    return top[-1] - top[-2] if score == "margin" else top[-1]


@pytest.mark.parametrize("score", ["max", "margin", "entropy"])
def test_confidence_opens_the_most_certain_token(score):
    logits, law = table(3), {EMPTY: 1.0}

    def surest(z):
        masked = [i for i in range(LENGTH) if z[i] == MASK]
        return {max(masked, key=lambda i: certainty(score, chances(logits[z][i]))): 1}

    for _ in range(LENGTH):
        law = open_one(law, logits, surest)
    assert_law(draw("confidence", LENGTH, logits=logits, score=score), law)


def test_confidence_with_much_noise_is_a_random_order():
    """Noise falls to 0 at the last step, which has nothing left to choose."""
    drawn = draw("confidence", LENGTH, score_noise=1e6)
    assert_law(drawn, limit_law())


def test_confidence_threshold():
    calls = []

    def denoise(z, rows):
        calls.append(int(rows.sum()))
        logits = torch.zeros(1, 6, VOCAB)
        logits[0, :4, 0] = 9.0  # four are certain, two are not
        return logits[rows]

    def run(steps, threshold):
        calls.clear()
        return sampling.sample(
            "confidence",
            denoise,
            1,
            6,
            steps,
            alpha=alpha,
            mask_index=MASK,
            vocab_size=VOCAB,
            generator=generator(),
            threshold=threshold,
        )

    assert run(10, 0.9).evaluations == 3 and calls == [6, 2, 1]
    assert run(2, 0.9).evaluations == 2 and calls == [6, 2]
    assert run(10, 0.01).evaluations == 1
    result = run(3, None)  # without: each step its share
    assert calls == [6, 4, 2] and (result.tokens != MASK).all()


@pytest.mark.parametrize("name", ["sparse", "locked"])
def test_a_comb_opens_in_one_of_its_orders(name):
    """Step 1/3, 3 tokens, 3 steps: three rotations, forwards or backwards."""
    orders = [(0, 1, 2), (1, 2, 0), (2, 0, 1)]
    law: dict = {}
    for order in [*orders, *(o[::-1] for o in orders)]:
        one = {EMPTY: 1 / 6}
        for i in order:
            one = open_one(one, table(), lambda z, i=i: {i: 1.0})
        for z, mass in one.items():
            law[z] = law.get(z, 0.0) + mass
    for stratified in (False, True):
        drawn = draw(name, 3, u_law="lattice", u_step=1 / 3, stratified=stratified)
        assert_law(drawn, law)


def test_stratified_iid_is_a_random_order():
    assert_law(draw("sparse", LENGTH, stratified=True), limit_law())


def counted(name, batch, length, steps, **how):
    calls, seen = [], []

    def denoise(z, rows):
        assert (z[rows] == MASK).all()
        calls.append(int(rows.sum()))
        return torch.zeros(int(rows.sum()), VOCAB)

    result = sampling.sample(
        name,
        denoise,
        batch,
        length,
        steps,
        alpha=alpha,
        mask_index=MASK,
        vocab_size=VOCAB,
        generator=generator(0),
        callback=lambda step, z: seen.append(z.clone()),
        **how,
    )
    assert result.evaluations == len(calls)
    for before, after in itertools.pairwise(seen):
        visible = before != MASK
        assert torch.equal(before[visible], after[visible])
    assert torch.equal(seen[-1], result.tokens) and (result.tokens != MASK).all()
    return calls


def test_evaluations_are_counted_and_bounded_by_what_can_change():
    calls = counted("ancestral", 1, 5, 400)
    assert len(calls) <= 5 and calls[0] == 5
    assert calls == sorted(calls, reverse=True)
    assert len(counted("sparse", 1, 5, 400)) <= 5
    assert len(counted("locked", 1, 5, 400)) <= 5
    assert len(counted("confidence", 1, 5, 400)) == 5


@pytest.mark.parametrize("name", ["sparse", "locked"])
def test_the_tokens_that_open_are_asked_for_and_no_others(name):
    calls = counted(name, 3, 50, 8)
    assert sum(calls) == 150 and len(calls) <= 8
    calls = counted(name, 3, 50, 4, u_law="lattice", stratified=True)
    assert sum(calls) == 150 and all(36 <= n <= 39 for n in calls)


def test_first_hitting_asks_for_one_token_a_sequence():
    assert counted("first_hitting", 3, 50, None) == [3] * 50
    given = torch.zeros(2, 50, dtype=torch.long)
    given[0, :7], given[1, 20:23] = MASK, MASK
    calls = counted("first_hitting", 2, 50, None, prompt=given)
    assert calls == [2] * 3 + [1] * 4


# Precision ------------------------------------------------------------------------


def test_float32_draws_as_the_hosts_did(caplog, monkeypatch):
    """The race of 24 bits has ends: tokens at smaller odds than theirs never win."""
    extremes = {}

    def rand(shape, generator=None, device=None):
        u = torch.full(shape, 0.5)
        u[..., 0], u[..., 1] = extremes["first"], extremes["second"]
        return u

    monkeypatch.setattr(chain.torch, "rand", rand)
    # The luckiest draw of token 0 against the unluckiest of token 1.
    extremes |= {"first": 1 - 2**-24, "second": 0.0}
    for odds, winner in ((1e-10, 1), (2e-9, 1), (4e-9, 0)):
        p = torch.tensor([[odds, 1.0]])
        assert chain.categorical(p, None).item() == winner
    monkeypatch.undo()
    chain.warn_of_float32.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            draw("sparse", 2, n=2, dtype=torch.float32)
        draw("sparse", 2, n=2)
    assert [r.message.startswith("Sampling in float32") for r in caplog.records] == [True]


def test_float32_draws_ordinary_laws_all_the_same():
    drawn = draw("ancestral", 3, dtype=torch.float32)
    assert_law(drawn, exact_law(table(), uniform(3)))


@pytest.mark.parametrize("name", STEPWISE)
def test_logits_in_the_dtype_of_the_draws_are_left_as_they_are(name):
    """One sequence in many steps: what is kept between them is tempered once."""
    logits, rng = table().float(), generator()
    how = dict(logits=logits, dtype=torch.float32, temperature=2.0)

    def noise(i):
        locked = name == "locked"
        return {"latent": Latent(1, first=i)} if locked else {"generator": rng}

    parts = [draw(name, 12, n=1, **how, **noise(i)) for i in range(1000)]
    law = exact_law(table(), uniform(12), how=lambda step: dict(temperature=2.0))
    assert_law(torch.cat(parts), law)


def test_probabilities_leave_their_logits():
    logits = torch.randn(5, VOCAB, dtype=torch.float64, generator=generator())
    before = logits.clone()
    how = dict(dtype=torch.float64, temperature=2.0, top_p=0.7)
    chain.probabilities(logits, MASK, **how)
    assert torch.equal(logits, before)


def test_a_draw_from_a_law_that_learns():
    p = torch.tensor([[0.0, 1.0]], requires_grad=True)
    assert chain.categorical(p, generator()).item() == 1


@pytest.mark.parametrize("name", list(sampling.SAMPLERS))
def test_the_same_generator_gives_the_same_sample(name):
    runs = [draw(name, 4, n=50, generator=generator(7)) for _ in range(2)]
    assert torch.equal(*runs) and (runs[0] != MASK).all()
    assert not torch.equal(runs[0], draw(name, 4, n=50, generator=generator(8)))


# Refusals -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change,words",
    [
        (dict(name="ddim"), "sampler=ddim is unknown: choose one of ancestral, sparse"),
        (dict(steps=0), "steps=0"),
        (dict(steps=None), "steps=None is not supported with sampler=ancestral"),
        (dict(temperature=0.0), "temperature=0.0"),
        (dict(temperature=(1.0, -1.0)), "temperature="),
        (dict(temperature=(1.0, 0.5, 0.5)), "temperature="),
        (dict(top_p=1.5), "top_p=1.5"),
        (dict(mask_index=9), "mask_index=9"),
        (dict(greedy_tail=-1), "greedy_tail=-1"),
        (dict(dtype=torch.float16), "dtype=torch.float16"),
        (dict(prompt=torch.zeros(1, 9).long()), r"prompt of shape \(1, 9\)"),
        (dict(prompt=torch.full((1, LENGTH), 4)), "prompt holds ids from 4 to 4"),
        (dict(schedule="sine"), "schedule=sine is unknown: choose one of uniform"),
        (dict(schedule=[1.0]), "does not share the tokens between 2 steps"),
        (dict(u_law="lattice"), "u_law=lattice is not supported with sampler=ancestral"),
        (dict(name="sparse", u_law="grid"), "^u_law=grid is unknown: choose one of"),
        (dict(name="sparse", u_step=0.5), "^u_step=0.5 is not supported with u_law=iid"),
        (dict(name="locked", u_law="lattice", u_step="auto"), "^u_step=auto is fitted"),
        (dict(name="locked", u_law="halton", u_step=1.5), "u_step=1.5 is no base"),
        (dict(name="locked", latent=Latent(1), stratified=True), "beside a latent"),
        (dict(name="confidence", score="luck"), "score=luck is unknown"),
        (dict(name="confidence", threshold=2.0), "threshold=2.0"),
        (dict(top_k=3), "top_k=3 is no option of a sampler"),
    ],
)
def test_bad_settings_are_refused(change, words):
    given = dict(name="ancestral", steps=2, mask_index=MASK) | change
    name, steps = given.pop("name"), given.pop("steps")
    with pytest.raises(ConfigError, match=words):
        sampling.sample(
            name, denoiser(table()), 1, LENGTH, steps, alpha=alpha, vocab_size=VOCAB, **given
        )


def test_another_samplers_option_passes_at_its_default():
    """A sweep hands the same settings to every sampler."""
    for name in sampling.SAMPLERS:
        drawn = draw(name, 3, n=5, u_law="iid", u_step=None, threshold=None)
        assert (drawn != MASK).all()
