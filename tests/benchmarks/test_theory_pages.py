"""Tables of docs/questions are those that the experiments find."""

import importlib
from pathlib import Path

import pytest
import theory

DOCS = Path(theory.__file__).parents[1] / "docs/design"


@pytest.mark.parametrize(
    "name, kind",
    [
        ("backward_kl", "exact"),
        ("fully_masked", "exact"),
        ("fully_masked", "measured"),
        pytest.param("fixed_point", "exact", marks=pytest.mark.slow),
    ],
)
def test_tables_are_in_their_page(name, kind):
    page = (DOCS / f"questions/{name}.md").read_text("utf-8")
    for table in getattr(importlib.import_module(f"theory_lib.{name}"), kind)():
        assert table.markdown() in page


def test_every_question_has_a_page_and_is_in_the_index():
    index = (DOCS / "questions.md").read_text("utf-8")
    assert all(f"(questions/{name}.md)" in index for name in theory.QUESTIONS)
    assert {p.stem for p in DOCS.glob("questions/*.md")} == set(theory.QUESTIONS)
