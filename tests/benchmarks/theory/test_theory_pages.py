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
    tables = [table_rows(part) for part in re.split(r"\n(?=\*[A-Z])", held)]
    assert len(tables) == 3

    def pairs(rows, columns):
        return {
            name: {
                f: tuple(map(float, cell.split(" to ")))
                for f, cell in zip(columns, cells, strict=True)
                if cell
            }
            for name, *cells in rows
        }

    named = {
        n: dict(zip(diversity.FIGURES, map(float, cells), strict=True)) for n, *cells in tables[0]
    }
    apart = pairs(tables[1], diversity.SEEN)
    said = diversity.reading(named, apart, pairs(tables[2], diversity.COMPARED))
    assert held.endswith(f"**{said}**")
    for name, each in apart.items():
        for figure, (low, high) in each.items():
            assert low <= named[name][figure] <= high


def table_rows(text):
    lines = re.findall(r"^\| (.*) \|$", text, re.MULTILINE)
    return [[cell.strip() for cell in line.split("|")] for line in lines[2:]]


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
    curve = [
        dict.fromkeys(diversity.FIGURES, v) | {"bigram_entropy": b}
        for v, b in ((4.0, 2.0), (2.0, 1.0), (1.0, 0.5))
    ]
    found = diversity.at_equal(curve, "bigram_entropy", 1.25)
    assert found["perplexity"] == pytest.approx(2.5)
    assert diversity.at_equal(curve, "bigram_entropy", 0.1) is None


def test_students_are_held_against_the_teacher_seed_by_seed():
    """A mean of seeds far apart has another place on the curve than each of them."""

    def row(perplexity, entropy, other=1.0):
        own = {"perplexity": perplexity, "bigram_entropy": entropy}
        return dict.fromkeys(diversity.FIGURES, other) | own

    curve = [row(4.0**b, b) for b in (2.0, 1.5, 1.0, 0.5, 0.4, 0.3)]
    each = {name: [row(8.0, 1.5)] for name in diversity.STUDENTS}
    each["mcd"] = [row(4.0, 1.5, 0.5), row(3.0, 1.0)]
    each["sdtt"] = [row(16.0, 2.0), row(2.0, 0.5), row(1.0, 0.1)]
    each["sdtt, tau falling"] = [row(1.0, 0.1)]
    outcome = diversity.report(row(1.0, 1.0), curve, each)
    equal = {cells[0]: cells[1:] for cells in outcome.tables[2].rows}
    assert equal["sdtt"][0] == "1.0000 to 1.0000"
    assert equal["mcd"][:2] == ("0.5000 to 0.7500", "0.5000 to 1.0000")
    assert set(equal["sdtt, tau falling"]) == {""}
    seeds = {cells[0]: cells[1:] for cells in outcome.tables[1].rows}
    assert seeds["sdtt"][:2] == ("1.0000 to 16.0000", "0.1000 to 2.0000")
    assert "the seeds overlap, so neither is shown to lose more" in outcome.says
    each["sdtt"] = [row(16.0, 1.9)]
    assert "it loses less." in diversity.report(row(1.0, 1.0), curve, each).says
    each["mcd"] = [row(16.0, 2.1)]
    says = diversity.report(row(1.0, 1.0), curve, each | {"sdtt": each["mcd"]}).says
    assert says.startswith("No verdict on MCD's diversity")


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
