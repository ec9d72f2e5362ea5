"""Results files: what is read, what is refused, and in which words."""

import pytest
from synthetic import row, sweep, write

from mdlm_mcd.errors import ConfigError
from mdlm_mcd.evaluation import results


def test_rows_become_points_of_named_curves(tmp_path):
    one = write(tmp_path / "a.jsonl", sweep(models=("teacher",)))
    two = write(tmp_path / "b.jsonl", sweep(models=("MCD round 1",)))
    found = results.read([one, two])
    assert found.names == ["teacher", "MCD round 1"] and found.steps == [4, 8, 16]
    assert found.temperatures("teacher") == [1.0, 0.9, 0.8]
    assert len(found.points) == 18 and not found.said and not found.mixed
    point = found.at("MCD round 1", 0.9, 8)
    assert point.source == "b.jsonl, line 5" and point.round == 1
    assert point.metric("mauve") is None and found.of_text("entropy") == 3.73
    estimate = point.metric("n_step_nelbo")
    assert estimate.low < estimate.value < estimate.high
    assert point.metric("self_bleu").low is None


def test_an_interrupted_file_keeps_its_rows(tmp_path):
    path = write(tmp_path / "r.jsonl", sweep(), tail='{"schema": 1, "model": "te')
    found = results.read([path])
    assert len(found.points) == 27
    assert found.said == [
        "r.jsonl, line 28 is cut short or corrupt, as an interruption leaves it, and "
        "was passed over."
    ]


def test_half_a_letter_at_the_end_is_no_crash(tmp_path):
    path = write(tmp_path / "r.jsonl", [row()])
    path.write_bytes(path.read_bytes() + '{"model": "é'.encode()[:-1])
    found = results.read([path])
    assert len(found.points) == 1 and "line 2" in found.said[0]


def test_of_two_rows_for_a_point_the_later_counts(tmp_path):
    rows = [row(seconds=1.0), row(steps=16), row(seconds=2.0)]
    found = results.read([write(tmp_path / "r.jsonl", rows)])
    assert len(found.points) == 2 and found.at("teacher", 1.0, 8).seconds == 2.0
    assert "line 3 repeats r.jsonl, line 1" in found.said[0]


@pytest.mark.parametrize(
    "key, other",
    [
        ("evaluator", "gpt2-large"),
        ("dtype", "float32"),
        ("num_samples", 96),
        ("length", 128),
        ("seed", 2),
    ],
)
def test_what_does_not_compare_is_refused_unless_forced(tmp_path, key, other):
    rows = [row(), row("MCD round 1", **{key: other})]
    path = write(tmp_path / "r.jsonl", rows)
    with pytest.raises(ConfigError, match=rf"r.jsonl, line 2 has {key} {other} .*force"):
        results.read([path])
    found = results.read([path], force=True)
    assert found.mixed == {key: [str(rows[0][key]), str(other)]}
    assert len(found.names) == 2 and all(", " in name for name in found.names)
    assert str(other) in found.names[1]


def test_a_checkpoint_that_changed_under_its_name(tmp_path):
    rows = [row(), row(steps=16, sha256="f" * 64)]
    path = write(tmp_path / "r.jsonl", rows)
    with pytest.raises(ConfigError, match="line 2 has another checkpoint under the na"):
        results.read([path])
    found = results.read([path], force=True)
    assert found.names[1] == "teacher, ffffffff" and len(found.names) == 2
    assert "changed under the same name" in found.said[0]


def test_laws_and_samplers_are_curves_of_their_own(tmp_path):
    rows = [row(), row(u_law="golden"), row(u_law="lattice", u_step=0.125)]
    found = results.read([write(tmp_path / "r.jsonl", rows)])
    assert found.names == ["teacher", "teacher, u golden", "teacher, u lattice, step 0.125"]
    assert not found.mixed


def without(key):
    made = row()
    del made[key]
    return made


@pytest.mark.parametrize(
    "broken, said",
    [
        (["no row"], "line 2 is no row of results"),
        (without("steps"), "line 2 has no 'steps'"),
        (row(schema=7), "line 2 has schema 7"),
        (dict(row(), steps="8"), "line 2: steps = '8' is of the wrong kind"),
        (dict(row(), steps=True), "line 2: steps = True is of the wrong kind"),
        (dict(row(), temperature=0), "line 2: temperature = 0 has to be above 0"),
        (dict(row(), texts="one"), "line 2: texts = 'one' is of the wrong kind"),
        (row(metrics={"perplexity": 3.0}), "line 2: metrics.perplexity = 3.0 has to"),
        (row(metrics={"perplexity": {"value": 0}}), "perplexity.value = 0 has to"),
        (row(metrics={"entropy": {"value": "3"}}), "metrics.entropy.value = '3' is no"),
    ],
)
def test_a_row_that_is_none_is_named_by_file_and_line(tmp_path, broken, said):
    with pytest.raises(ConfigError) as error:
        results.read([write(tmp_path / "r.jsonl", [row(), broken])])
    assert said in str(error.value) and "r.jsonl" in str(error.value)


def test_files_without_rows(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        results.read([tmp_path / "none.jsonl"])
    with pytest.raises(ConfigError, match="cannot be read"):
        results.read([tmp_path])
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n\n")
    with pytest.raises(ConfigError, match="holds no row"):
        results.read([empty])


def test_figures_that_are_no_numbers_are_absent(tmp_path):
    rows = [row(metrics={"perplexity": {"value": float("nan")}, "entropy": None})]
    (point,) = results.read([write(tmp_path / "r.jsonl", rows)]).points
    assert point.metric("perplexity") is None and point.metric("entropy") is None


def test_texts_that_differ_have_no_figure_of_their_own(tmp_path):
    rows = [row(), row("MCD round 1", corpus={"entropy": 3.5})]
    found = results.read([write(tmp_path / "r.jsonl", rows)])
    assert found.of_text("entropy") is None and found.of_text("perplexity") == 57.4
