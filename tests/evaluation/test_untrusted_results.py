"""Rows of results that anybody may have written."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdlm_mcd.commands import main
from mdlm_mcd.errors import MCDError
from mdlm_mcd.evaluation import report, results, rows, sweep


def row(**changes):
    return {
        "model": "m",
        "steps": 4,
        "temperature": 1.0,
        "sampler": "sparse",
        "dtype": "float64",
        "seed": 1,
        "num_samples": 8,
        "length": 16,
        "metrics": {"perplexity": {"value": 9.0, "low": 8.0, "high": 10.0}},
        "sha256": "ab",
        **changes,
    }


@pytest.mark.parametrize("bad", ["[" * 100_000, '{"a": ' + "9" * 5000 + "}", '"'])
def test_lines_that_are_none_are_passed_over(tmp_path, bad):
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps(row()) + "\n" + bad)
    assert len(results.read([path]).points) == 1
    assert sweep.existing(path) == [row()]


def test_numbers_beyond_all_reason(tmp_path, capsys):
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps(row(steps=10**400)))
    assert main.main(["report", str(path), "--out", str(tmp_path / "o.html")]) == 1
    assert "steps = None is of the wrong kind" in capsys.readouterr().err


@pytest.mark.parametrize("value", [1e-320, 1e-200, 1e200, 1.7e308])
def test_figures_beyond_all_reason_have_a_page(tmp_path, value):
    path, figure = tmp_path / "r.jsonl", {"value": value, "low": value, "high": value}
    figures = {name: figure for name in ("perplexity", "entropy", "nelbo")}
    rows = [row(), row(steps=8, metrics=figures), row(steps=16, temperature=0.5)]
    path.write_text("\n".join(map(json.dumps, rows)))
    report.write([path], tmp_path / "o.html")
    assert "<svg" in (tmp_path / "o.html").read_text("utf-8")


def test_a_setting_that_is_null_is_the_usual_one(tmp_path):
    path = tmp_path / "r.jsonl"
    rows = [row(top_p=None), row(top_p=0.9, steps=8)]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert results.read([path]).names == ["m", "m, top-p 0.9"]


def test_a_line_end_of_another_script_is_no_line_end(tmp_path):
    """A sweep that went on took such rows for cut short, and out of the file."""
    path = tmp_path / "r.jsonl"
    rows = [row(texts=["a\u2028b", "c\x85d"]), row(steps=8)]
    for one in rows:
        sweep.append(path, one)
    assert sweep.existing(path) == rows
    assert len(results.read([path]).points) == 2


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


@settings(max_examples=40)
@given(
    changes=st.dictionaries(st.sampled_from(sorted(row())), JSON, max_size=2),
    others=st.dictionaries(st.sampled_from(sorted(rows.OPTIONAL)), JSON, max_size=2),
)
def test_any_row_ends_in_a_page_or_our_own_error(changes, others, tmp_path_factory):
    path = tmp_path_factory.mktemp("any") / "r.jsonl"
    lines = (row(), {**row(), **others, **changes})
    path.write_text("\n".join(map(json.dumps, lines)))
    try:
        report.write([path], path.with_name("o.html"), force=True)
    except MCDError as error:
        assert "\n" not in str(error)
