"""Every recipe composes, with the algo it is for, and says what it costs."""

import re

import pytest
from documents import ROOT, composed

RECIPES = sorted((ROOT / "configs" / "recipe").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_compose_and_state_their_cost(path):
    text = path.read_text("utf-8")
    assert "# Use:" in text and "cost: " in text.lower() and "# Expected" in text
    used = re.search(rf"algo=(\w+) \+recipe={path.stem}\b", text)
    assert used or path.stem in ("owt", "owt_large")  # parts of others
    composed([f"algo={used[1] if used else 'mcd'}", f"+recipe={path.stem}"])
