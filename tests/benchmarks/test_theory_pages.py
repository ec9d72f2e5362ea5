"""Tables of docs/questions are those that the experiments find."""

import importlib
import re
from pathlib import Path

import pytest
import theory
from theory_lib import pages

from mdlm_mcd.errors import ConfigError

EXACT = ("backward_kl", "shared_u", "fully_masked", "spans")


@pytest.mark.parametrize(
    "name, kind",
    [
        *((n, "exact") for n in EXACT),
        ("fully_masked", "measured"),
        pytest.param("fixed_point", "exact", marks=pytest.mark.slow),
    ],
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
