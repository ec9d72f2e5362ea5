"""The stills' bars, lines and marks stand where the numbers are."""

import pytest
import torch

from mdlm_mcd.commands.figures import data, language, stills, style

pytest.importorskip("matplotlib")


def drawn(draw, shown):
    with style.look():
        return draw(shown)


def lines(axis):
    return [line.get_xydata().T.tolist() for line in axis.lines]


def near(found, x, y):
    return found[0] == pytest.approx(x) and found[1] == pytest.approx(y)


def test_a_bar_ends_where_its_word_opens():
    model = language.language()
    shown = data.trajectories(model, model.length, seed=3)
    for axis, run in zip(drawn(stills.trajectory, shown).axes, shown.runs, strict=True):
        masked, opened = axis.containers
        share = (run.opened.double() / run.steps).tolist()
        assert [bar.get_width() for bar in masked] == pytest.approx(share)
        assert [bar.get_x() for bar in opened] == pytest.approx(share)
        ends = [bar.get_x() + bar.get_width() for bar in opened]
        assert ends == pytest.approx([1.0] * model.length)
        assert near(lines(axis)[0], shown.u.tolist(), range(model.length))


def test_the_marks_of_a_path_stand_on_its_crossings():
    paths = data.latent_paths()
    axes = drawn(stills.latent_paths, paths).axes
    for i, path in enumerate(paths):
        gaussian, projected, scalar = axes[i], axes[2 + i], axes[4 + i]
        t = path.t.tolist()
        *others, rival, token, mark, _ = lines(gaussian)
        assert len(others) == path.w_t.shape[1] - 1
        assert near(rival, t, path.rival.tolist())
        assert near(token, t, path.token.tolist())
        at = (path.t == path.overtaken).nonzero().item()
        assert near(mark, [path.overtaken], [path.rival[at].item()])
        assert path.token[at - 1] > path.rival[at - 1]
        assert path.token[at] <= path.rival[at]
        shown, hidden = projected.patches[:2]
        assert shown.get_width() == pytest.approx(path.overtaken)
        assert hidden.get_x() == pytest.approx(path.overtaken)
        schedule, level, crossing, _ = lines(scalar)
        assert near(schedule, t, path.alpha_t.tolist())
        assert level[1] == pytest.approx([path.u] * 2)
        assert near(crossing, [path.crossed], [path.u])


def test_a_stem_has_the_height_and_the_mark_of_its_word():
    shown = data.regimes()
    levels, _ = drawn(stills.regimes, shown).axes
    points = [line for line in levels.lines if line.get_marker() in "Dso"]
    words = points[len(data.REGIMES) :]  # the first explain the marks
    assert len(words) == len(shown.words)
    for i, line in enumerate(words):
        assert near(line.get_xydata()[0], i, shown.u[i].item())
        assert line.get_marker() == style.MARKERS[shown.regimes[i]]
    flat = [y[0] for x, y in lines(levels) if len(y) == 2 and y[0] == y[1]]
    assert flat == pytest.approx([shown.alpha_s, shown.alpha_t])


def test_a_vocabulary_has_its_curve():
    curves = data.calibrations()
    left, right = drawn(stills.calibration, curves).axes
    for i, curve in enumerate(curves):
        ratio, alpha_t, t, alpha_tilde = (x.tolist() for x in curve[1:])
        assert near(lines(left)[i], ratio, alpha_t)
        assert near(lines(right)[i], t, alpha_tilde)
    said = [text.get_text() for text in left.get_legend().get_texts()]
    assert said == [f"K = {k:,}" for k in data.VOCABULARIES]
    assert torch.equal(curves[0].t, curves[-1].t)
