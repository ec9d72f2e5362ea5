"""Tables of docs/questions are those that the experiments find."""

import importlib
import re
from pathlib import Path

import pytest
import theory
from theory_lib import diversity, pages

from mdlm_mcd.errors import ConfigError

EXACT = ("backward_kl", "fixed_point", "shared_u", "fully_masked", "spans")


@pytest.mark.parametrize(
    "name, kind", [(n, "exact") for n in EXACT] + [("fully_masked", "measured")]
)
def test_tables_are_in_their_page(name, kind):
    tables = getattr(importlib.import_module(f"theory_lib.{name}"), kind)()
    assert pages.read(name, kind) == pages.markdown(tables)


def test_every_question_has_a_page_with_its_tables_and_is_in_the_index():
    index = (pages.FOLDER.parent / "questions.md").read_text("utf-8")
    for name in theory.QUESTIONS:
        module = importlib.import_module(f"theory_lib.{name}")
        assert f"(questions/{name}.md)" in index
        kinds = [kind for kind in ("exact", "measured") if hasattr(module, kind)]
        assert kinds
        for kind in kinds:
            assert re.search(r"^\| .*\d", pages.read(name, kind), re.MULTILINE), name
    assert {p.stem for p in pages.FOLDER.glob("*.md")} == set(theory.QUESTIONS)


def test_a_block_is_replaced_and_the_rest_stays(tmp_path):
    page = Path(tmp_path / "q.md")
    page.write_text("a\n\n<!-- exact -->\nold\n<!-- end of exact -->\n\nb\n", "utf-8")
    rows = [("one", 0.5, 3), ("two", 1e-15, 12_345), ("three", 2e-5, "")]
    written = pages.Table("what", " | x | n", rows).markdown()
    pages.write("q", "exact", written, tmp_path)
    text = page.read_text("utf-8")
    assert text.startswith("a\n\n<") and text.endswith(">\n\nb\n") and "old" not in text
    assert "| one | 0.5000 | 3 |" in text and "| two | 0 | 12,345 |" in text
    assert "| three | 2.00e-05 |  |" in text
    assert pages.read("q", "exact", tmp_path) == written
    with pytest.raises(ConfigError, match="measured"):
        pages.write("q", "measured", written, tmp_path)


def test_students_are_compared_with_the_teacher_seed_by_seed():
    """A mean of seeds far apart has another place on the curve than each of them."""

    def row(perplexity, entropy, other=1.0):
        own = {"perplexity": perplexity, "bigram_entropy": entropy}
        return dict.fromkeys(diversity.FIGURES, other) | own

    curve = [row(4.0**b, b) for b in (2.0, 1.5, 1.0, 0.5, 0.4, 0.3)]
    between = diversity.at_equal(curve, "bigram_entropy", 1.25)
    assert between["perplexity"] == pytest.approx(6.0)
    assert diversity.at_equal(curve, "bigram_entropy", 0.1) is None
    each = {name: [row(8.0, 1.5)] for name in diversity.STUDENTS}
    each["mcd"] = [row(4.0, 1.5, 0.5), row(3.0, 1.0)]
    each["sdtt"] = [row(16.0, 2.0), row(2.0, 0.5), row(1.0, 0.1)]
    each["sdtt, tau falling"] = [row(1.0, 0.1)]
    _, seeds, equal = (
        {name: cells for name, *cells in table.rows}
        for table in diversity.report(row(1.0, 1.0), curve, each)
    )
    assert equal["sdtt"][0] == "1.0000 to 1.0000"
    assert equal["mcd"][:2] == ["0.5000 to 0.7500", "0.5000 to 1.0000"]
    assert set(equal["sdtt, tau falling"]) == {""}
    assert seeds["sdtt"][:2] == ["1.0000 to 16.0000", "0.1000 to 2.0000"]
