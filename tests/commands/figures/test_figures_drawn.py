"""The files: whole, legible, the same again, and what the documents show."""

import io
import itertools
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from mdlm_mcd.commands import figures
from mdlm_mcd.commands.figures import animation, data, language, stills, style

ROOT = Path(__file__).resolve().parents[3]
STILLS = ("latent_paths", "regimes", "calibration", "trajectory")


def test_the_files_are_there_and_whole(folder, drawn):
    assert sorted(path.name for path in folder.iterdir()) == sorted(figures.NAMES)
    figures.check_out(folder)  # they are known again
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
        picture = drawn["regimes"]
        again = style.save(picture.draw(), tmp_path, picture.name, picture.title, picture.alt)
    assert [path.suffix for path in again] == [".svg", ".png"]
    for path in again:
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
        # Of the letters alone, without the arrow of an annotation.
        boxes = [(text.get_text(), Text.get_window_extent(text)) for text in texts]
    assert len(boxes) > 15
    for said, box in boxes:
        assert inside(box, figure.bbox), said
    for (one, a), (two, b) in itertools.combinations(boxes, 2):
        assert not a.padded(-1).overlaps(b.padded(-1)), (one, two)
    if name == "regimes":  # its words stand in cells
        cells = [bar.get_window_extent() for bar in figure.axes[1].patches]
        words = [box for said, box in boxes if said in data.SENTENCE.split()]
        assert len(words) > len(data.SENTENCE.split())
        assert all(any(inside(box, cell) for cell in cells) for box in words)


def inside(box, other):
    return other.x0 <= box.x0 and box.x1 <= other.x1 and other.y0 <= box.y0 and box.y1 <= other.y1


def test_the_animation_opens_each_word_when_its_step_is_done(drawn):
    model = language.language()
    shown = data.trajectories(model, model.length, seed=10)
    svg = animation.trajectory(shown, "t", "a")
    root = ET.fromstring(svg)
    names = [e.get("style") for e in root.iter() if e.get("class") == "cover"]
    assert names == [
        f"animation-name: c{run.steps}-{n}" for run in shown.runs for n in run.opened.tolist()
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


def test_words_of_a_model_cannot_break_the_pictures():
    """Markup, mathematics and nothing at all, out of a tokenizer."""
    pytest.importorskip("matplotlib")
    odd = ["<script>", "$\\frac$", "&amp;", "]]>", "", "_x^2", '"', "\x00"]
    model = language.language()
    shown = data.trajectories(model, model.length, seed=1)
    shown = shown._replace(
        runs=[
            run._replace(words=[data.legible(odd[i % len(odd)]) for i in range(model.length)])
            for run in shown.runs
        ]
    )
    ET.fromstring(animation.trajectory(shown, "t", "a"))
    file = io.BytesIO()
    with style.look():
        stills.trajectory(shown).savefig(file, format="svg")
    ET.fromstring(file.getvalue())


def test_the_documents_show_what_the_code_draws(drawn, folder):
    text = (ROOT / "docs" / "figures.md").read_text("utf-8")
    readme = (ROOT / "README.md").read_text("utf-8")
    for name, picture in drawn.items():
        if name != "trajectory":  # the animation stands for it
            assert f"![{picture.alt}](figures/{name}.svg)" in text, name
            assert picture.caption in " ".join(text.split()), name
    assert sum(f"![{p.alt}](docs/figures/{n}.svg)" in readme for n, p in drawn.items()) == 2
    # Letters and lines are another matplotlib's; the animation is ours alone.
    kept = ROOT / "docs" / "figures" / "trajectory_animated.svg"
    assert kept.read_bytes() == (folder / kept.name).read_bytes()
