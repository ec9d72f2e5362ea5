"""The pictures: what is drawn is what the functions answer, legibly, and again."""

import itertools
import math
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch

from mdlm_mcd import cli, duality, figures, losses
from mdlm_mcd.figures import animation, data, language, stills, style
from mdlm_mcd.hosts import models
from mdlm_mcd.sampling import Latent, sample

ROOT = Path(__file__).resolve().parents[1]
STILLS = ("latent_paths", "regimes", "calibration", "trajectory")


@pytest.fixture(scope="module")
def drawn():
    return {p.name: p for p in figures.pictures()}


@pytest.fixture(scope="module")
def folder(drawn, tmp_path_factory):
    pytest.importorskip("matplotlib")
    out = tmp_path_factory.mktemp("figures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "pictures", lambda *_: list(drawn.values()))
        files = figures.write(out / "new" / "folder")
    assert sorted(files) == sorted((out / "new" / "folder").iterdir())
    return out / "new" / "folder"


# What is drawn ------------------------------------------------------------------------


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
    found = losses.per_token(
        "hybrid", log_p, log_q, x0, shown.pair.masked_t, shown.pair.masked_s
    )[0]
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
            "locked", model.denoise, 1, model.length, run.steps, alpha=model.alpha,
            mask_index=model.mask_index, vocab_size=model.vocab_size,
            latent=Latent(10),
        )  # fmt: skip
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
    [(" the", "·the"), ("", "␣"), (" ", "·"), ("\n", "↵"), ("a\x07", "a�"),
     ("x" * 40, "x" * 13 + "…")],
)  # fmt: skip
def test_tokens_are_legible(word, said):
    assert data.legible(word) == said


# How it is drawn ----------------------------------------------------------------------


def test_the_files_are_there_and_whole(folder, drawn):
    for name in STILLS:
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    for path in folder.glob("*.svg"):
        text = path.read_text("utf-8")
        ET.fromstring(text)
        assert "<script" not in text and "@import" not in text
        for asks in ('href="http', "url(http", 'src="'):
            assert asks not in text.replace('rdf:resource="http', "")
        assert len(text) < 200_000
    page = (folder / "index.html").read_text("utf-8")
    for picture in drawn.values():
        assert f'src="{picture.name}.svg"' in page
        assert 80 < len(picture.alt) < 1000 and picture.caption


def test_the_alt_text_is_inside_the_pictures(folder, drawn):
    for name, picture in drawn.items():
        root = ET.fromstring((folder / f"{name}.svg").read_text("utf-8"))
        assert picture.alt in {(e.text or "").strip() for e in root.iter()}


def test_the_same_bytes_again(folder, drawn, tmp_path):
    with style.look():
        for name in ("regimes", "latent_paths"):
            picture = drawn[name]
            for path in style.save(
                picture.draw(), tmp_path, name, picture.title, picture.alt
            ):
                assert path.read_bytes() == (folder / path.name).read_bytes()
    # No date of today's either: matplotlib writes one unless it is told not to.
    for path in folder.glob("*.svg"):
        assert "<dc:date>" not in path.read_text("utf-8")


@pytest.mark.parametrize("name", STILLS)
def test_no_text_covers_another_or_leaves_the_page(name, drawn, monkeypatch):
    pytest.importorskip("matplotlib")
    from matplotlib.text import Text

    texts, draw = {}, Text.draw

    def noted(text, *args, **kwargs):
        if text.get_visible() and text.get_text().strip():
            texts[text] = None
        return draw(text, *args, **kwargs)

    monkeypatch.setattr(Text, "draw", noted)
    with style.look():
        figure = drawn[name].draw()
        figure.draw_without_rendering()
        page = figure.bbox
        boxes = [
            # Of the letters alone, without the arrow of an annotation.
            (text.get_text(), Text.get_window_extent(text))
            for text in texts
        ]
    assert len(boxes) > 15
    for said, box in boxes:
        assert page.x0 <= box.x0 and box.x1 <= page.x1, said
        assert page.y0 <= box.y0 and box.y1 <= page.y1, said
    for (one, a), (two, b) in itertools.combinations(boxes, 2):
        assert not a.padded(-1).overlaps(b.padded(-1)), (one, two)


def test_the_words_fit_their_cells(drawn):
    pytest.importorskip("matplotlib")
    with style.look():
        figure = drawn["regimes"].draw()
        figure.draw_without_rendering()
        _, table = figure.axes
        bars = [bar.get_window_extent() for bar in table.patches]
        words = table.texts[: len(bars)]
        for word in words:
            box = word.get_window_extent()
            assert any(
                bar.x0 <= box.x0 and box.x1 <= bar.x1 and bar.y0 <= box.y0
                and box.y1 <= bar.y1
                for bar in bars
            ) or word.get_text().endswith("masked"), word.get_text()  # fmt: skip


def linear(color):
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return torch.tensor(
        [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    )


def luminance(color):
    return (linear(color) @ torch.tensor([0.2126, 0.7152, 0.0722])).item()


def contrast(a, b):
    """The contrast ratio of WCAG 2: from 1, none, to 21."""
    dark, light = sorted((luminance(a), luminance(b)))
    return (light + 0.05) / (dark + 0.05)


# Machado, Oliveira & Fernandes (2009), severity 1.0, on linear RGB.
BLIND = {
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
}  # fmt: skip


def lab(rgb):
    """CIELAB, D65, of linear RGB."""
    to_xyz = torch.tensor([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722],
                           [0.0193, 0.1192, 0.9505]])  # fmt: skip
    xyz = (to_xyz @ rgb.clamp(0, 1)) / torch.tensor([0.9505, 1.0, 1.089])
    f = torch.where(xyz > 0.008856, xyz ** (1 / 3), 7.787 * xyz + 16 / 116)
    return torch.stack([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("eyes", BLIND)
@pytest.mark.parametrize(
    "colors",
    [list(style.TERMS.values()), [c for c, _ in style.LINES],
     [style.HIDDEN, style.SHOWN], [style.LATENT, style.INK, style.RULE]],
    ids=["terms", "lines", "masked", "path"],
)  # fmt: skip
def test_colours_stay_apart_for_the_colour_blind(eyes, colors):
    seen = [lab(torch.tensor(BLIND[eyes]) @ linear(c)) for c in colors]
    for a, b in itertools.combinations(seen, 2):
        assert (a - b).norm() > 20  # some ten just noticeable differences


def test_a_grey_printer_keeps_them_apart():
    """Fills by luminance, curves by their dashes, terms by shape and hatch too."""
    for colors in (style.TERMS.values(), (style.HIDDEN, style.SHOWN)):
        for a, b in itertools.combinations(colors, 2):
            assert contrast(a, b) > 1.4
    for looks in (style.MARKERS, style.HATCHES):
        assert len(set(looks.values())) == len(style.TERMS)
    assert len({dash for _, dash in style.LINES}) == len(data.VOCABULARIES)


def test_letters_are_dark_enough():
    for ink, paper in (
        (style.INK, style.PAPER), (style.SOFT, style.PAPER), (style.RUST, style.PAPER),
        (style.RUST, style.SHOWN), (style.INK, style.SHOWN), (style.BLUE, style.PAPER),
    ):  # fmt: skip
        assert contrast(ink, paper) >= 4.5, (ink, paper)


def test_the_animation_opens_each_word_when_its_step_is_done(drawn):
    model = language.language()
    shown = data.trajectories(model, model.length, seed=10)
    svg = animation.trajectory(shown, "t", "a")
    root = ET.fromstring(svg)
    names = [e.get("style") for e in root.iter() if e.get("class") == "cover"]
    assert names == [
        f"animation-name: c{run.steps}-{n}"
        for run in shown.runs
        for n in run.opened.tolist()
    ]
    for run in shown.runs:
        for n in run.opened.tolist():
            share = 100 * animation.MOVING * n / run.steps
            rule = svg.split(f"@keyframes c{run.steps}-{n} {{ 0%, ")[1]
            assert float(rule.split("%")[0]) == pytest.approx(share, abs=1e-3)
    assert "prefers-reduced-motion" in svg and "@media print" in svg


def test_the_cells_of_the_animation_do_not_touch():
    model = language.language()
    shown = data.trajectories(model, model.length, seed=10)
    wide = shown._replace(
        runs=[run._replace(words=["漢字" * 5] * len(run.words)) for run in shown.runs]
    )
    for cells in (animation.places(shown), animation.places(wide)):
        for (x, line, width), (x2, line2, _) in itertools.pairwise(cells):
            assert (x + width < x2) if line == line2 else line2 == line + 1
        assert all(x + width <= animation.WIDTH for x, _, width in cells)
    assert animation.places(wide)[-1][1] > 0


def test_words_of_a_model_cannot_break_the_pictures(tmp_path):
    """Markup, mathematics and nothing at all, out of a tokenizer."""
    pytest.importorskip("matplotlib")
    odd = ["<script>", "$\\frac$", "&amp;", "]]>", "", "_x^2", '"', "\x00"]
    model = language.language()
    shown = data.trajectories(model, model.length, seed=1)
    shown = shown._replace(
        runs=[
            run._replace(
                words=[data.legible(odd[i % len(odd)]) for i in range(model.length)]
            )
            for run in shown.runs
        ]
    )
    ET.fromstring(animation.trajectory(shown, "t", "a"))
    with style.look():
        style.save(stills.trajectory(shown), tmp_path, "t", "t", "a")
    ET.parse(tmp_path / "t.svg")


# The command --------------------------------------------------------------------------


def test_a_checkpoint_is_drawn_where_one_is_named(tmp_path, monkeypatch, capsys):
    asked = {}

    def open_model(source):
        asked.update(path=source.path, which=source.which, tokenizer=source.tokenizer)
        model = language.language()
        return type(model)(
            **{**vars(model), "label": "mine", "length": 40,
               "provenance": {"checkpoint": "a.ckpt", "sha256": "f" * 64}}
        )  # fmt: skip

    monkeypatch.setattr(models, "open_model", open_model)
    monkeypatch.setattr(
        language, "IDS", torch.cat([language.IDS, language.IDS], 1)[:, : figures.LENGTH]
    )
    monkeypatch.setattr(figures, "_save", lambda picture, out: [])  # the words suffice
    said = ["figures", "--out", str(tmp_path), "--model", "a.ckpt", "--seed", "3",
            "--weights", "raw", "--tokenizer", "gpt2"]  # fmt: skip
    assert cli.main(said) == 0
    assert asked == {"path": "a.ckpt", "which": "raw", "tokenizer": "gpt2"}
    page = (tmp_path / "index.html").read_text("utf-8")
    assert "24 tokens, where it was trained on 40, by mine (a.ckpt" in page
    assert "Latent(3)" in page and "ffffffffffff)" in page
    assert "eight sentences" not in page and "misprinted" not in page
    assert "index.html" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words,said",
    [
        (["--out", "{0}/file"], "is a file: name a folder."),
        (["--out", "{0}/file/below"], "cannot be made (Not a directory)"),
        (["--out", "{0}/out", "--model", "{0}/none.ckpt"], "none.ckpt"),
    ],
)
def test_refusals_are_one_sentence(words, said, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert cli.main(["figures", *(w.format(tmp_path) for w in words)]) == 1
    complaint = capsys.readouterr().err
    assert said in complaint and "Traceback" not in complaint
    assert complaint.startswith("mdlm-mcd: ") and complaint.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fails_is_one_sentence(tmp_path, monkeypatch, drawn):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figures, "pictures", lambda *_: list(drawn.values()))
    monkeypatch.setattr(figures, "_save", full)
    with pytest.raises(figures.ConfigError, match="cannot be written .No space left"):
        figures.write(tmp_path)


def test_without_matplotlib_it_says_so_first(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    out = tmp_path / "out"
    assert cli.main(["figures", "--out", str(out), "--model", "no.ckpt"]) == 1
    assert "pip install 'mdlm-mcd[demo]'" in capsys.readouterr().err
    assert not out.exists()


# The documents ------------------------------------------------------------------------


def test_the_documents_show_what_the_code_draws(drawn, folder):
    text = (ROOT / "docs" / "figures.md").read_text("utf-8")
    readme = (ROOT / "README.md").read_text("utf-8")
    for name, picture in drawn.items():
        if name != "trajectory":  # the animation stands for it
            assert f"![{picture.alt}](figures/{name}.svg)" in text, name
            assert picture.caption in " ".join(text.split()), name
    assert sum(f"![{p.alt}](docs/figures/{n}.svg)" in readme
               for n, p in drawn.items()) == 2  # fmt: skip
    # Letters and lines are another matplotlib's; the animation is ours alone.
    kept = ROOT / "docs" / "figures" / "trajectory_animated.svg"
    assert kept.read_bytes() == (folder / kept.name).read_bytes()
