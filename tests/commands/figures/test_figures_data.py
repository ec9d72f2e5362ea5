"""What is drawn is what the paper's functions answer."""

import itertools
import math

import pytest
import torch

from mdlm_mcd import duality, losses
from mdlm_mcd.commands.figures import data, language
from mdlm_mcd.sampling import Latent, sample


def test_a_latent_path_is_the_gaussian_one_and_its_threshold():
    eps = torch.randn(7, dtype=torch.float64)
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    path = data.latent_path(eps, 2, t)
    for i, time in enumerate(t.tolist()):
        ratio = duality.NoiseGap(7).icdf(1 - time).item()
        sigma = 1 / math.sqrt(1 + ratio**2)
        w = [sigma * e + (j == 2) * ratio * sigma for j, e in enumerate(eps.tolist())]
        assert path.w_t[i].tolist() == pytest.approx(w, abs=1e-12)
        rival = max(x for j, x in enumerate(w) if j != 2)
        assert path.rival[i].item() == pytest.approx(rival)
        assert bool(path.visible[i]) == (w[2] > rival)
    assert torch.equal(path.token, path.w_t[:, 2])


def test_the_projection_changes_where_the_schedule_crosses_u():
    for path in data.latent_paths(seeds=range(12)):
        assert torch.equal(path.visible, path.alpha_t > path.u)
        assert path.overtaken == path.crossed
    assert len({path.u for path in data.latent_paths()}) == 2


def test_the_regimes_are_what_equation_14_asks():
    shown = data.regimes()
    assert set(shown.regimes) == set(data.REGIMES)
    assert 0 < shown.alpha_t < shown.alpha_s < 1
    for u, case in zip(shown.u.tolist(), shown.regimes, strict=True):
        high, low = u > shown.alpha_s, u > shown.alpha_t
        assert case == ("KL" if high else "CE" if low else "none")

    count = len(shown.words)
    x0 = torch.arange(count)[None]
    log_p, log_q = (
        losses.subs(torch.randn(1, count, count + 1), z, count)
        for z in (shown.pair.z_t, shown.pair.z_s)
    )
    found = losses.per_token("hybrid", log_p, log_q, x0, shown.pair.masked_t, shown.pair.masked_s)[
        0
    ]
    words = slice(count)  # the mask has no probability
    kl = (log_p.exp() * (log_p - log_q))[0, :, words].sum(-1)
    ce = -log_p[0].gather(-1, x0.T).squeeze(-1)
    want = {"KL": kl, "CE": ce, "none": torch.zeros(count)}
    for i, case in enumerate(shown.regimes):
        assert found[i].item() == pytest.approx(want[case][i].item(), abs=1e-5)


def test_the_calibration_is_lemma_3_1():
    curves = data.calibrations()
    assert [c.num_classes for c in curves] == [2, 64, 1024, 50258]
    two = curves[0]  # Y is the difference of two normals
    normal = torch.special.ndtr(two.ratio / math.sqrt(2))
    assert torch.allclose(two.alpha_t, normal, atol=1e-10)
    for curve in curves:
        a = curve.alpha_tilde
        kept = duality.NoiseGap(curve.num_classes).cdf(a / (1 - a * a).sqrt())
        assert torch.allclose(kept, 1 - curve.t, atol=1e-8)
    for small, large in itertools.pairwise(curves):
        assert (small.alpha_t >= large.alpha_t).all()


def test_a_trajectory_is_what_the_sampler_saw():
    model = language.language()
    shown = data.trajectories(model, model.length, seed=10)
    u = Latent(10).u(1, model.length)[0]
    assert torch.equal(shown.u, u)
    assert [run.steps for run in shown.runs] == [8, 32, 512]
    for run in shown.runs:
        assert torch.equal(run.opened, (u * run.steps).floor().long() + 1)
        again = sample(
            "locked",
            model.denoise,
            1,
            model.length,
            run.steps,
            alpha=model.alpha,
            mask_index=model.mask_index,
            vocab_size=model.vocab_size,
            latent=Latent(10),
        )
        assert torch.equal(again.tokens[0], run.tokens)
        assert again.evaluations == run.evaluations == len(run.opened.unique())
        assert run.words == [language.WORDS[i] for i in run.tokens]
    few, _, most = shown.runs
    assert shown.differs(few).tolist() == [
        a != b for a, b in zip(few.words, most.words, strict=True)
    ]
    assert shown.differs(few).any() and not shown.differs(most).any()


def test_the_language_is_exact():
    """Against Bayes' rule summed over all words at each masked place, one by one."""
    ids, count = language.IDS.tolist(), len(language.WORDS)
    z = language.IDS[[3, 5]].clone()
    z[0, [1, 2, 8, 14]] = language.MASK_INDEX
    z[0, 3] = ids[0][3]  # a word of another sentence
    z[1, 1:] = language.MASK_INDEX
    rows = torch.zeros_like(z, dtype=torch.bool)
    rows[0, [2, 14]] = rows[1, 4] = True
    found = language.denoise(z, rows)

    def chance(word, other):
        wrong = language.MISPRINT / count
        return wrong + (word == other) * (1 - language.MISPRINT)

    for answer, (b, i) in zip(found, rows.nonzero().tolist(), strict=True):
        joint = torch.zeros(count, dtype=torch.float64)
        for sentence in ids:
            seen = math.prod(
                chance(word, other)
                for word, other in zip(z[b].tolist(), sentence, strict=True)
                if word != language.MASK_INDEX
            )
            joint += seen * torch.tensor(
                [chance(v, sentence[i]) for v in range(count)], dtype=torch.float64
            )
        assert torch.allclose(answer[:-1].exp(), joint / joint.sum(), atol=1e-12)
        assert answer[-1] == -torch.inf


def test_more_steps_end_more_often_in_a_sentence():
    few, many = language.shares((4, 256), batch=60).values()
    assert few < 0.6 < 0.9 < many <= 1
    assert language.one_of_the_sentences(language.IDS).all()
    assert not language.one_of_the_sentences(language.IDS.roll(1, 1)).any()


@pytest.mark.parametrize(
    "word,said",
    [
        (" the", "·the"),
        ("", "␣"),
        (" ", "·"),
        ("\n", "↵"),
        ("a\x07", "a�"),
        ("x" * 40, "x" * 13 + "…"),
    ],
)
def test_tokens_are_legible(word, said):
    assert data.legible(word) == said
