"""Results files, which anybody may have written: what is read, and what is refused."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import row, sweep, write

from mdlm_mcd.errors import ConfigError, MCDError
from mdlm_mcd.evaluation import report, results, rows


def read(tmp_path, *lines, **how):
    return results.read([write(tmp_path / "r.jsonl", lines)], **how)


def test_rows_become_points_of_named_curves(tmp_path):
    one = write(tmp_path / "a.jsonl", sweep(models=("teacher",)))
    two = write(tmp_path / "b.jsonl", sweep(models=("MCD round 1",)))
    found = results.read([one, two])
    assert found.names == ["teacher", "MCD round 1"] and found.steps == [4, 8, 16]
    assert found.temperatures("teacher") == [1.0, 0.9, 0.8]
    assert len(found.points) == 18 and not found.notes and not found.mixed
    point = found.at("MCD round 1", 0.9, 8)
    assert point.source == "b.jsonl, line 5" and point.round == 1
    assert point.metric("mauve") is None and found.of_text("entropy") == 3.73
    estimate = point.metric("n_step_nelbo")
    assert estimate.low < estimate.value < estimate.high
    assert point.metric("self_bleu").low is None


BROKEN = [
    b'{"schema": 1, "model": "te',
    '{"model": "\u00e9'.encode()[:-1],  # half a letter
    b"[" * 100_000,
    b'{"a": ' + b"9" * 5000 + b"}",
    b'"',
]


@pytest.mark.parametrize("end", BROKEN)
def test_lines_that_are_no_json_are_passed_over_with_a_note(tmp_path, end):
    path = write(tmp_path / "r.jsonl", [row()])
    path.write_bytes(path.read_bytes() + end)
    found = results.read([path])
    assert len(found.points) == 1 and rows.existing(path) == [row()]
    assert found.notes == ["r.jsonl, line 2 is cut short or corrupt, and was passed over."]


def test_of_two_rows_for_a_point_the_later_counts(tmp_path):
    found = read(tmp_path, row(seconds=1.0), row(steps=16), row(seconds=2.0))
    assert len(found.points) == 2 and found.at("teacher", 1.0, 8).seconds == 2.0
    assert "line 3 repeats r.jsonl, line 1" in found.notes[0]


OTHER = dict(evaluator="gpt2-large", dtype="float32", num_samples=96, length=128, seed=2)
OTHER |= dict(corpus_sha256="ab", bound_rows=7)


@pytest.mark.parametrize("key, other", OTHER.items())
def test_what_does_not_compare_is_refused_unless_forced(tmp_path, key, other):
    lines = [row(), row("MCD round 1", **{key: other})]
    with pytest.raises(ConfigError, match=rf"r.jsonl, line 2 has {key} {other} .*force"):
        read(tmp_path, *lines)
    found = read(tmp_path, *lines, force=True)
    assert found.mixed == {key: [str(lines[0].get(key)), str(other)]}
    assert len(found.names) == 2 and all(", " in name for name in found.names)
    assert str(other) in found.names[1]


def test_a_checkpoint_that_changed_under_its_name(tmp_path):
    lines = [row("MCD round 1"), row(), row(steps=16, sha256="f" * 64)]
    with pytest.raises(ConfigError, match="line 3 has sha256 ffff.* where r.jsonl, line 2 has"):
        read(tmp_path, *lines)
    found = read(tmp_path, *lines, force=True)
    assert found.names[2] == "teacher, ffffffff" and len(found.names) == 3
    assert "teacher changed under the same name" in found.notes[0]


def test_laws_and_samplers_are_curves_of_their_own(tmp_path):
    lines = row(top_p=None), row(u_law="golden"), row(u_law="lattice", u_step=0.125)
    found = read(tmp_path, *lines, row(top_p=0.9))
    apart = ("", ", u golden", ", u lattice, step 0.125", ", top-p 0.9")
    assert found.names == [f"teacher{what}" for what in apart] and not found.mixed


@pytest.mark.parametrize(
    "broken, words",
    [
        (["no row"], "is no row of results"),
        ({key: x for key, x in row().items() if key != "steps"}, "has no 'steps'"),
        (row(schema=7), "has schema 7"),
        (dict(row(), steps="8"), "has steps = '8', which is of the wrong kind"),
        (dict(row(), steps=True), "has steps = True, which is of the wrong kind"),
        (dict(row(), steps=10**400), "has steps = None, which is of the wrong kind"),
        (dict(row(), temperature=0), "has temperature = 0, which has to be above 0"),
        (dict(row(), stratified=1), "has stratified = 1, which is of the wrong kind"),
        (row(metrics={"perplexity": 3.0}), "has metrics.perplexity = 3.0, which"),
        (row(metrics={"perplexity": {"value": 0}}), "has metrics.perplexity = {'value': 0}"),
        (row(metrics={"entropy": {"value": "3"}}), "has metrics.entropy = {'value': '3'}"),
    ],
)
def test_a_row_that_is_none_is_named_by_file_and_line(tmp_path, broken, words):
    with pytest.raises(ConfigError) as error:
        read(tmp_path, row(), broken)
    assert f"r.jsonl, line 2 {words}" in str(error.value)


def test_files_without_rows(tmp_path):
    (tmp_path / "empty").write_text("\n\n")
    for name, words in (("none", "cannot be read"), ("", "cannot be"), ("empty", "holds no row")):
        with pytest.raises(ConfigError, match=words):
            results.read([tmp_path / name])


def test_figures_that_are_no_numbers_or_differ_are_absent(tmp_path):
    one = row(metrics={"perplexity": {"value": float("nan")}, "entropy": None})
    found = read(tmp_path, one, row("MCD round 1", corpus={"entropy": 3.5}))
    assert found.points[0].metric("perplexity") is None
    assert found.points[0].metric("entropy") is None
    assert found.of_text("entropy") is None and found.of_text("perplexity") == 57.4


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


@settings(max_examples=15)
@given(changes=st.dictionaries(st.sampled_from(sorted(rows.KINDS)), JSON, max_size=3))
def test_any_row_ends_in_a_page_or_our_own_error(changes, tmp_path_factory):
    path = tmp_path_factory.mktemp("any") / "r.jsonl"
    path.write_text("\n".join(map(json.dumps, (row(), {**row(), **changes}))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report.charts, "matplotlib", None)  # figures have tests of their own
        try:
            report.write([path], path.with_name("o.html"), force=True)
        except MCDError as error:
            assert "\n" not in str(error)
