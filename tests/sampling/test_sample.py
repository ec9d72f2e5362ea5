"""What `sample` asks of a network, how it draws, and what it refuses."""

import itertools
import logging

import pytest
import torch
from enumeration import LENGTH, MASK, VOCAB, draw, generator, sample

from mdlm_mcd import sampling
from mdlm_mcd.errors import ConfigError
from mdlm_mcd.sampling import Latent, chain

BY_U = ("sparse", "locked")


def counted(name, batch, length, steps, **how):
    """Rows asked for in each evaluation, of a network to which all tokens are alike."""
    calls, seen = [], [how["prompt"]] if "prompt" in how else []

    def denoise(z, rows):
        assert (z[rows] == MASK).all()
        calls.append(int(rows.sum()))
        return torch.zeros(int(rows.sum()), VOCAB)

    how = dict(generator=generator(0), n=batch, length=length, denoise=denoise) | how
    result = sample(name, steps, callback=lambda step, z: seen.append(z.clone()), **how)
    assert result.evaluations == len(calls)
    for before, after in itertools.pairwise(seen):
        visible = before != MASK
        assert torch.equal(before[visible], after[visible])
    assert torch.equal(seen[-1], result.tokens) and (result.tokens != MASK).all()
    return calls


@pytest.mark.parametrize("name", ["ancestral", "sparse", "locked", "confidence"])
def test_evaluations_are_counted_and_bounded_by_what_can_change(name):
    calls = counted(name, 1, 5, 400)
    assert len(calls) <= 5
    if name == "ancestral":
        assert calls[0] == 5 and calls == sorted(calls, reverse=True)
    if name == "confidence":
        assert len(calls) == 5


@pytest.mark.parametrize("name", BY_U)
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


@pytest.mark.parametrize("name", list(sampling.SAMPLERS))
def test_given_tokens_never_change(name):
    given = torch.randint(0, VOCAB, (50, 9), generator=generator(2))
    given[torch.rand(given.shape, generator=generator(3)) < 0.5] = MASK
    assert counted(name, 50, 9, 4, prompt=given)


LATTICES = [dict(u_law="lattice", u_step=1 / 4), dict(u_law="lattice", stratified=True)]
LAWS = [{}, *LATTICES, dict(u_law="halton"), dict(u_law="dilated")]


@pytest.mark.parametrize("how", LAWS)
def test_a_batch_of_prompts_equals_one_by_one(how):
    """`locked`, whose noise is that of a sequence's number; the rows' laws are in test_sampling."""
    weight = torch.randn(VOCAB, VOCAB, generator=generator(4)).double()

    def denoise(z, rows):  # looks at both neighbours
        return (weight[z.roll(1, -1)] - weight[z.roll(-1, -1)])[rows]

    given = torch.randint(0, MASK, (5, 12), generator=generator(5))
    given[torch.arange(12) >= torch.tensor([0, 3, 7, 11, 12])[:, None]] = MASK
    given[1, [5, 8]] = 0

    def draws(prompt, first=0):
        given = dict(n=len(prompt), prompt=prompt, latent=Latent(3, **how, first=first))
        return draw("locked", 4, length=12, denoise=denoise, **given)

    whole = draws(given)
    one_by_one = [draws(given[i : i + 1], i) for i in range(5)]
    assert torch.equal(whole, torch.cat(one_by_one)) and len(whole.unique(dim=0)) == 5


# Precision ------------------------------------------------------------------------


@pytest.mark.parametrize("odds,winner", [(1e-10, 1), (2e-9, 1), (4e-9, 0)])
def test_float32_races_as_the_hosts_did(monkeypatch, odds, winner):
    """The race of 24 bits has ends: tokens at smaller odds than theirs never win."""

    def rand(shape, generator=None, device=None):
        # The luckiest draw of token 0 against the unluckiest of token 1.
        return torch.tensor([[1 - 2**-24, 0.0]])

    monkeypatch.setattr(chain.torch, "rand", rand)
    assert chain.categorical(torch.tensor([[odds, 1.0]]), None).item() == winner


def test_float32_warns_once(caplog):
    chain.warn_of_float32.cache_clear()
    with caplog.at_level(logging.WARNING):
        for dtype in (torch.float64, torch.float32, torch.float32):
            draw("sparse", 2, n=2, dtype=dtype)
    assert [r.message.startswith("Sampling in float32") for r in caplog.records] == [True]


def test_probabilities_leave_their_logits():
    logits = torch.randn(5, VOCAB, dtype=torch.float64, generator=generator())
    before = logits.clone()
    chain.probabilities(logits, MASK, dtype=torch.float64, temperature=2.0, top_p=0.7)
    assert torch.equal(logits, before)


@pytest.mark.parametrize("name", sorted(sampling.SAMPLERS))
def test_near_a_temperature_of_zero_the_likeliest_token_and_never_the_mask(name):
    logits = -20.0 - torch.arange(VOCAB, dtype=torch.float64).expand(LENGTH, VOCAB)

    def denoise(z, rows):
        return logits.expand(len(z), *logits.shape)[rows]

    steps = None if name == "first_hitting" else 2
    for temperature in (1e-6, lambda left: 1e-6 * torch.exp(-left)):
        assert (draw(name, steps, n=3, denoise=denoise, temperature=temperature) == 0).all()


def test_a_draw_from_a_law_that_learns():
    p = torch.tensor([[0.0, 1.0]], requires_grad=True)
    assert chain.categorical(p, generator()).item() == 1


# Refusals -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change,words",
    [
        (dict(name="ddim"), "sampler=ddim is unknown: choose one of ancestral, sparse"),
        (dict(steps=0), "steps=0"),
        (dict(steps=None), "steps=None must be a whole number of at least 1"),
        (dict(temperature=0.0), "temperature=0.0"),
        (dict(temperature=(1.0, -1.0)), "temperature="),
        (dict(temperature=(1.0, 0.5, 0.5)), "temperature="),
        (dict(top_p=1.5), "top_p=1.5"),
        (dict(mask_index=9), "mask_index=9"),
        (dict(greedy_tail=-1), "greedy_tail=-1"),
        (dict(dtype=torch.float16), "dtype=torch.float16"),
        (dict(prompt=torch.zeros(1, 9).long()), r"prompt of shape \(1, 9\)"),
        (dict(prompt=torch.full((1, LENGTH), 4)), "prompt holds ids from 4 to 4"),
        (dict(schedule=[1.0]), "must be uniform, cosine, or 2 shares"),
        (dict(u_law="lattice"), "u_law=lattice is not supported with sampler=ancestral"),
        (dict(name="sparse", u_law="grid"), "^u_law=grid is unknown: choose one of"),
        (dict(name="locked", latent=Latent(1), stratified=True), "beside a latent"),
        (dict(name="confidence", score="luck"), "score=luck is unknown"),
        (dict(name="confidence", threshold=2.0), "threshold=2.0"),
        (dict(name="confidence", max_tokens=2), "threshold=None .* max_tokens"),
        (dict(name="confidence", block=0), "block=0"),
        (dict(name="confidence", spacing=1.5), "spacing=1.5"),
        (dict(name="confidence", eos_after=0.3), "eos_index=None"),
        (dict(name="confidence", eos_after=1.5, eos_index=0), "eos_after=1.5"),
        (dict(name="confidence", score_noise=-1.0), "score_noise=-1.0"),
        (dict(name="sparse", u_step=0.5), "u_step=0.5 must be null"),
        (dict(prompt=torch.zeros(1, LENGTH)), "torch.float32 does not fit"),
        (dict(remask=1.5), "remask=1.5"),
        (dict(remask=[0.1]), "remask=.* a list of 2"),
        (dict(top_k=3), "option=top_k is unknown: choose one of remask"),
    ],
)
def test_bad_settings_are_refused(change, words):
    with pytest.raises(ConfigError, match=words):
        sample(**dict(name="ancestral", steps=2, n=1) | change)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_generator_alone_decides(dtype):
    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        drawn.append(draw("ancestral", 4, n=50, dtype=dtype))
    assert torch.equal(*drawn)


@pytest.mark.parametrize("name", sampling.SAMPLERS)
def test_tokens_are_int64_whatever_a_prompts_integers(name):
    prompt = torch.full((2, LENGTH), MASK, dtype=torch.int32)
    assert draw(name, 2, n=2, prompt=prompt).dtype == torch.long


LOGITS = {  # what a network gave, by the words that refuse it
    "shape .7, 3, 4.: .* index them by": lambda z, rows: torch.zeros(*z.shape, VOCAB),
    "vocab_size=4 is not that of the logits, 6": lambda z, rows: torch.zeros(int(rows.sum()), 6),
    "not finite": lambda z, rows: torch.full((int(rows.sum()), VOCAB), 7e4).half(),
}


@pytest.mark.parametrize("name", sampling.SAMPLERS)
@pytest.mark.parametrize("words", LOGITS)
def test_logits_that_would_be_misread_are_refused(name, words):
    """Of all tokens, of a padded vocabulary, or of an overflow, from which token 0 was drawn."""
    with pytest.raises(ConfigError, match=words):
        draw(name, 2, n=7, length=3, denoise=LOGITS[words], top_p=0.9)


@pytest.mark.parametrize("temperature", [torch.tensor(0.7), torch.tensor([1.0, 0.7])])
def test_a_temperature_may_be_a_tensor(temperature):
    how = dict(n=50, u_law="lattice")
    mine = draw("sparse", 4, temperature=temperature.tolist(), **how)
    assert torch.equal(draw("sparse", 4, temperature=temperature, **how), mine)


def test_a_word_in_place_of_a_number_is_refused():
    with pytest.raises(ConfigError, match="confidence cannot draw with threshold=high .TypeError"):
        sampling.check("confidence", 2, threshold="high")


def test_a_sampler_and_its_options_in_one_word():
    assert sampling.parse("sparse") == ("sparse", {})
    name, options = sampling.parse("confidence:threshold=.9:block=32:score=raw:spacing=None")
    assert name == "confidence"
    assert options == dict(threshold=0.9, block=32, score="raw", spacing=None)


@pytest.mark.parametrize("name", list(sampling.SAMPLERS))
def test_another_samplers_option_passes_at_its_default(name):
    """A sweep gives the same settings to every sampler."""
    assert (draw(name, 3, n=5, u_law="iid", u_step=None, threshold=None) != MASK).all()
