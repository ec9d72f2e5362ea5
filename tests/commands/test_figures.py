"""`mdlm-mcd figures`: what is computed, what is drawn, and the files."""

import io
import math
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch

from mdlm_mcd.commands import figures, main
from mdlm_mcd.commands.figures import data, draw
from mdlm_mcd.sampling import Latent

pytest.importorskip("matplotlib")
DOCS = Path(__file__).resolve().parents[2] / "docs"
LENGTH = data.LANGUAGE.length


@pytest.fixture(scope="module")
def drawn():
    return {p.name: p for p in figures.pictures()}


@pytest.fixture(scope="module")
def folder(drawn, tmp_path_factory):
    out = tmp_path_factory.mktemp("figures") / "new" / "folder"
    files = figures.write(out, list(drawn.values()))
    assert sorted(files) == sorted(out.iterdir())
    return out


@pytest.fixture(scope="module")
def shown():
    return data.trajectories(data.LANGUAGE, LENGTH, seed=10)


# What is computed -----------------------------------------------------------------------


def test_the_projection_changes_where_the_schedule_crosses_u():
    paths = [data.latent_path(seed) for seed in range(12)]
    for path in paths:
        assert torch.equal(path.token > path.rival, path.alpha_t > path.u)
        assert path.overtaken == path.crossed == path.t[path.token <= path.rival][0]
    assert len({path.u for path in paths}) == 12


def test_a_trajectory_is_what_the_sampler_does(shown):
    assert torch.equal(shown.u, Latent(10).u(1, LENGTH)[0])
    assert [run.steps for run in shown.runs] == [8, 32, 512]
    for run in shown.runs:
        assert torch.equal(run.opened, (shown.u * run.steps).floor().long() + 1)
        again = data.locked(data.LANGUAGE, 1, LENGTH, run.steps, Latent(10))
        assert torch.equal(again.tokens[0], run.tokens)
        assert again.evaluations == run.evaluations == len(run.opened.unique())
        assert run.words == [data.WORDS[i] for i in run.tokens]
    few, _, most = (run.words for run in shown.runs)
    assert shown.differs(shown.runs[0]) == [a != b for a, b in zip(few, most, strict=True)]


def test_the_language_is_exact():
    """Against Bayes' rule summed over all words at each masked place, one by one."""
    ids, count = data.IDS.tolist(), len(data.WORDS)
    z = data.IDS[[3, 5]].clone()
    z[0, [1, 2, 8, 14]] = data.MASK_INDEX
    z[0, 3] = ids[0][3]  # a word of another sentence
    z[1, 1:] = data.MASK_INDEX
    rows = torch.zeros_like(z, dtype=torch.bool)
    rows[0, [2, 14]] = rows[1, 4] = True

    def chance(word, other):
        return data.MISPRINT / count + (word == other) * (1 - data.MISPRINT)

    for log_p, (b, i) in zip(data.denoise(z, rows), rows.nonzero().tolist(), strict=True):
        joint = torch.zeros(count, dtype=torch.float64)
        for sentence in ids:
            pairs = zip(z[b].tolist(), sentence, strict=True)
            seen = math.prod(chance(w, other) for w, other in pairs if w != data.MASK_INDEX)
            joint += seen * torch.tensor([chance(v, sentence[i]) for v in range(count)])
        torch.testing.assert_close(log_p[:-1].exp(), joint / joint.sum(), atol=1e-7, rtol=1e-5)
        assert log_p[-1] == -torch.inf


# What is drawn --------------------------------------------------------------------------


def test_the_animation_opens_each_word_when_its_step_is_done(shown):
    svg = draw.animation(shown, "alt")
    names = [e.get("style") for e in ET.fromstring(svg).iter() if e.get("class") == "cover"]
    opened = [(run.steps, n) for run in shown.runs for n in run.opened.tolist()]
    assert names == [f"animation-name: c{steps}-{n}" for steps, n in opened]
    for steps, n in opened:
        rule = svg.split(f"@keyframes c{steps}-{n} {{ 0%, ")[1]
        share = 100 * draw.MOVING * n / steps
        assert float(rule.split("%")[0]) == pytest.approx(share, abs=1e-3)
    assert "prefers-reduced-motion" in svg and "@media print" in svg


def spoken(shown, *words):
    """The trajectories with other words in turn."""
    words = [words[i % len(words)] for i in range(LENGTH)]
    return shown._replace(runs=[run._replace(words=words) for run in shown.runs])


def test_words_of_a_model_cannot_break_the_pictures(shown):
    """Markup, mathematics and nothing at all, out of a tokenizer."""
    odd = ["<script>", "$\\frac$", "&amp;", "]]>", "", "_x^2", '"', "\x00"]
    shown, file = spoken(shown, *map(data.legible, odd)), io.BytesIO()
    ET.fromstring(draw.animation(shown, "<alt>"))
    with draw.look():
        draw.trajectory(shown).savefig(file, format="svg")
    ET.fromstring(file.getvalue())


# The files and the command --------------------------------------------------------------


def test_the_files_are_whole_and_the_same_again(folder, drawn, tmp_path):
    assert sorted(path.name for path in folder.iterdir()) == sorted(figures.NAMES)
    figures.check_out(folder)  # they are known again
    for name, picture in drawn.items():
        text = (folder / f"{name}.svg").read_text("utf-8")
        assert picture.alt in {(e.text or "").strip() for e in ET.fromstring(text).iter()}
        assert "<script" not in text and "@import" not in text and "<dc:date>" not in text
        assert len(text) < 200_000
    for path in figures.write(tmp_path, [drawn["regimes"]]):
        assert path.read_bytes() == (folder / path.name).read_bytes()


def test_the_documents_show_what_the_code_draws(drawn, folder):
    text = (DOCS / "figures.md").read_text("utf-8")
    readme = (DOCS.parent / "README.md").read_text("utf-8")
    for name, picture in drawn.items():
        if name != "trajectory":  # the animation stands for it
            assert f"![{picture.alt}](figures/{name}.svg)" in text, name
    assert sum(f"![{p.alt}](docs/figures/{n}.svg)" in readme for n, p in drawn.items()) == 2
    # Letters and lines are another matplotlib's; the animation is ours alone.
    kept = DOCS / "figures" / "trajectory_animated.svg"
    assert kept.read_bytes() == (folder / kept.name).read_bytes()


@pytest.mark.slow
def test_the_trajectory_of_a_trained_checkpoint(runs, tmp_path, capsys):
    flags = ["--model", f"mine={runs['mdlm']}", "--weights", "raw", "--tokenizer", "bpe"]
    assert main.main(["figures", "--out", str(tmp_path), *flags, "--seed", "3"]) == 0
    assert f"Wrote 9 files to {tmp_path}" in capsys.readouterr().out
    moving = (tmp_path / "trajectory_animated.svg").read_text("utf-8")
    covers = [e for e in ET.fromstring(moving).iter() if e.get("class") == "cover"]
    steps = [(Latent(3).u(1, 16)[0] * n).floor().long() + 1 for n in data.STEPS]
    names = [f"c{n}-{i}" for n, of in zip(data.STEPS, steps, strict=True) for i in of.tolist()]
    assert [e.get("style") for e in covers] == [f"animation-name: {name}" for name in names]
    assert "by mine (last.ckpt, weights of SHA-256 " in moving and "parrot" not in moving


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (["--out", "{0}/file"], "cannot be written (File exists"),
        (["--out", "{0}/file/below"], "cannot be written (Not a directory"),
        (["--out", "{0}/out", "--model", "{0}/none.ckpt"], "none.ckpt"),
        (["--out", "{0}/out", "--model", "{1}"], "a masked model under SUBS"),
        (["--out", ""], "--out is empty: name a folder."),
    ],
)
def test_refusals_are_one_sentence(flags, sentence, runs, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert main.main(["figures", *(flag.format(tmp_path, runs["ar"]) for flag in flags)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("mdlm-mcd: ") and sentence in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
