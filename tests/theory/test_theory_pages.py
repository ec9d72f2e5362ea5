"""The pages hold what the experiments say."""

import importlib
import re
from pathlib import Path

import pytest
import theory
from theory_lib import diversity, fully_masked, pages, spans

from mdlm_mcd.errors import ConfigError

EXACT = ("backward_kl", "fixed_point", "shared_u", "fully_masked", "spans")


@pytest.mark.parametrize("name", EXACT)
def test_exact_tables_are_in_their_page(name):
    outcome = importlib.import_module(f"theory_lib.{name}").exact()
    assert pages.held(name, "exact") == outcome.markdown()


def test_what_the_latent_buys_is_in_its_page():
    outcome = fully_masked.measured()
    assert pages.held("fully_masked", "measured") == outcome.markdown()


def test_what_is_said_of_diversity_is_what_its_tables_say():
    """The tables take a minute and a half; that the words are theirs takes none."""
    held = pages.held("diversity", "measured")
    tables = [
        {name: [float(x) if x else None for x in cells] for name, *cells in rows}
        for rows in (table_rows(part) for part in re.split(r"\n(?=\*Each)", held))
    ]
    rows = {
        n: dict(zip(diversity.FIGURES, v, strict=True)) for n, v in tables[0].items()
    }
    ratios = {
        n: dict(zip(diversity.COMPARED, v, strict=True))
        for n, v in tables[1].items()
        if v[0] is not None
    }
    said = diversity.reading(rows["the language"], rows["teacher"], rows, ratios)
    assert f"**{said} Two seeds are apart by up to: mcd " in held
    curve = [rows[n] for n in rows if n.startswith("teacher")]
    for name, each in ratios.items():
        same = diversity.at_equal(curve, "bigram_entropy", rows[name]["bigram_entropy"])
        for figure, ratio in each.items():
            assert rows[name][figure] / same[figure] == pytest.approx(ratio, abs=2e-3)


def table_rows(text):
    lines = re.findall(r"^\| (.*) \|$", text, re.MULTILINE)
    return [line.split(" | ") for line in lines[2:]]


def test_every_question_has_a_page_with_its_tables_and_is_in_the_index():
    index = (pages.FOLDER.parent / "questions.md").read_text("utf-8")
    for name in theory.QUESTIONS:
        module = importlib.import_module(f"theory_lib.{name}")
        assert f"(questions/{name}.md)" in index
        kinds = [kind for kind in ("exact", "measured") if hasattr(module, kind)]
        assert kinds
        for kind in kinds:
            assert re.search(r"^\| .*\d", pages.held(name, kind), re.MULTILINE), name
    assert {p.stem for p in pages.FOLDER.glob("*.md")} == set(theory.QUESTIONS)


def test_names_and_links_in_the_pages_exist():
    known = "coupling|losses|laws|duality|sampling"
    for path in pages.FOLDER.glob("*.md"):
        text = path.read_text("utf-8")
        for module, name in re.findall(rf"`({known})\.(\w+)", text):
            assert hasattr(importlib.import_module(f"mdlm_mcd.{module}"), name), name
        for link in re.findall(r"\]\(([^)#:]+\.md)\)", text):
            assert (path.parent / link).exists(), link


def test_a_block_is_replaced_and_the_rest_stays(tmp_path):
    page = Path(tmp_path / "q.md")
    page.write_text("a\n\n<!-- exact -->\nold\n<!-- end of exact -->\n\nb\n", "utf-8")
    rows = [("one", 0.5, 3), ("two", 1e-15, 12_345), ("three", 2e-5, "")]
    outcome = pages.Outcome([pages.Table("what", ("", "x", "n"), rows)], "so")
    pages.write("q", "exact", outcome, tmp_path)
    text = page.read_text("utf-8")
    assert text.startswith("a\n\n") and text.endswith("\n\nb\n") and "old" not in text
    assert "| one | 0.5000 | 3 |" in text and "| two | 0 | 12,345 |" in text
    assert "| three | 2.00e-05 |  |" in text
    assert pages.held("q", "exact", tmp_path) == outcome.markdown()
    with pytest.raises(ConfigError, match="measured"):
        pages.write("q", "measured", outcome, tmp_path)


def test_the_tempered_teacher_between_two_temperatures():
    curve = [dict.fromkeys(diversity.FIGURES, v) | {"bigram_entropy": b}
             for v, b in ((4.0, 2.0), (2.0, 1.0), (1.0, 0.5))]  # fmt: skip
    found = diversity.at_equal(curve, "bigram_entropy", 1.25)
    assert found["perplexity"] == pytest.approx(2.5)
    assert diversity.at_equal(curve, "bigram_entropy", 0.1) is None


def test_students_are_held_against_the_teacher_at_their_own_entropy():
    def row(v):
        return dict.fromkeys(diversity.FIGURES, v)

    curve = [row(4.0) | {"bigram_entropy": 2.0}, row(2.0) | {"bigram_entropy": 1.0}]
    curve += [row(2.0) | {"bigram_entropy": 0.9 - k / 10} for k in range(3)]
    each = {name: [row(3.0) | {"bigram_entropy": 1.5}] for name in diversity.STUDENTS}
    each["mcd"] = [each["mcd"][0] | {"perplexity": p} for p in (1.0, 2.0)]
    each["sdtt, tau falling"][0]["bigram_entropy"] = 0.1
    outcome = diversity.report(row(1.0), curve, each)
    beside = {cells[0]: cells[1:] for cells in outcome.tables[1].rows}
    assert beside["mcd"] == (pytest.approx(0.5), *[pytest.approx(1.0)] * 4)
    assert beside["sdtt, tau falling"] == ("",) * 5
    assert "0.5000 times its perplexity" in outcome.says
    assert outcome.says.endswith("apart by up to: mcd 50.0% (perplexity).")


@pytest.mark.parametrize("own, word", [(0.9, "For, if little"), (1.1, "Open")])
def test_a_law_of_its_own_is_judged_by_the_seeds(own, word):
    found = {
        "iid": dict.fromkeys(("iid", "blocks"), [1.0, 1.0, 1.0, 0.8]),
        "blocks": {"iid": [2.0] * 4, "blocks": [own] * 4},
    }
    said = spans.reading(found)
    assert said.startswith(word)
    wins = 3 if own < 1 else 0
    assert f"blocks {own:.4f} against 0.9500 (lower in {wins} of 4 seeds)" in said
