"""`mdlm-mcd figures`: the files, and the language whose denoiser is exact."""

import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mdlm_mcd.commands import figures, main
from mdlm_mcd.sampling import Latent, sample

pytest.importorskip("matplotlib")
DOCS = Path(__file__).resolve().parents[2] / "docs"
NAMES = ["calibration.svg", "latent_paths.svg", "regimes.svg", "trajectory_animated.svg"]
LANGUAGE = figures.LANGUAGE


def covers(svg):
    """When each word of an animation opens, as a share of the loop."""
    return [float(x) for x in re.findall(r'values="1;0" .*? keyTimes="0;([\d.]+)"', svg)]


def test_the_files(tmp_path):
    """Whole, without a date; the animation is the one of the documents."""
    assert main.main(["figures", "--out", str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == NAMES
    for name in NAMES:
        text = (tmp_path / "out" / name).read_text("utf-8")
        assert ET.fromstring(text) is not None
        assert "<script" not in text and "<dc:date>" not in text
        assert f"](figures/{name})" in (DOCS / "paper.md").read_text("utf-8")
    # Letters and lines are another matplotlib's; the animation is ours alone.
    assert text == (DOCS / "figures" / NAMES[-1]).read_text("utf-8")


def test_a_word_opens_in_the_animation_when_it_does_in_the_sampler():
    expected, latent = [], Latent(10)
    for steps in figures.STEPS:
        opened = torch.zeros(LANGUAGE.length)

        def note(step, z, opened=opened):
            opened[(z[0] != LANGUAGE.mask_index) & (opened == 0)] = step + 1

        how = dict(alpha=LANGUAGE.alpha, mask_index=LANGUAGE.mask_index, callback=note)
        how |= dict(vocab_size=LANGUAGE.vocab_size, schedule="uniform", latent=latent)
        sample("locked", LANGUAGE.denoise, 1, LANGUAGE.length, steps, **how)
        expected += (figures.MOVING * opened / steps).tolist()
    assert covers(figures.trajectory(LANGUAGE, 10)) == pytest.approx(expected, abs=1e-4)


def test_words_of_a_model_cannot_break_the_picture():
    class Odd:
        def decode(self, ids):
            return ["<script>", "&amp;", "]]>", "", '"', "\x00", "\ud800", "x" * 99][ids[0] % 8]

    svg = figures.trajectory(replace(LANGUAGE, tokenizer=Odd(), label="<b>"), 1)
    assert ET.fromstring(svg) is not None and "<script" not in svg


def test_a_trained_checkpoint(runs, tmp_path, capsys):
    flags = ["--model", f"mine={runs['mdlm']}", "--weights", "raw", "--tokenizer", "bpe"]
    assert main.main(["figures", "--out", str(tmp_path), *flags, "--seed", "3"]) == 0
    assert f"Wrote 4 pictures to {tmp_path}" in capsys.readouterr().out
    moving = (tmp_path / NAMES[-1]).read_text("utf-8")
    assert len(covers(moving)) == 3 * 16 and ">One latent, three clocks: mine at" in moving


def test_the_language_is_exact():
    """Against Bayes' rule summed over all words at each masked place, one by one."""
    ids, count = figures.IDS.tolist(), len(figures.WORDS)
    z = figures.IDS[[3, 5]].clone()
    z[0, [1, 2, 8, 14]] = figures.MASK_INDEX
    z[0, 3] = ids[0][3]  # a word of another sentence
    z[1, 1:] = figures.MASK_INDEX
    rows = torch.zeros_like(z, dtype=torch.bool)
    rows[0, [2, 14]] = rows[1, 4] = True

    def chance(word, other):
        return figures.MISPRINT / count + (word == other) * (1 - figures.MISPRINT)

    for log_p, (b, i) in zip(figures.denoise(z, rows), rows.nonzero().tolist(), strict=True):
        joint = torch.zeros(count, dtype=torch.float64)
        for sentence in ids:
            pairs = zip(z[b].tolist(), sentence, strict=True)
            seen = math.prod(chance(w, other) for w, other in pairs if w != figures.MASK_INDEX)
            joint += seen * torch.tensor([chance(v, sentence[i]) for v in range(count)])
        torch.testing.assert_close(log_p[:-1].exp(), joint / joint.sum(), atol=1e-7, rtol=1e-5)
        assert log_p[-1] == -torch.inf
