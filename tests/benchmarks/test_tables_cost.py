"""FLOPs of a step, dry runs, and what the recipes say."""

from pathlib import Path

import pytest
from paper import command, cost
from paper.compose import embedded
from paper.experiments import METHODS, TABLES

RECIPES = Path(__file__).resolve().parents[2] / "configs" / "recipe"
SMALL = dict(hidden_size=768, cond_dim=128, n_blocks=12, n_heads=12, dropout=0.1, length=1024)
LARGE = {**SMALL, "hidden_size": 1536, "n_blocks": 24, "n_heads": 16}


def test_a_step_by_hand():
    """MCD: student both ways, teacher forward; half of the rows meet the head."""
    counted = cost.count(SMALL)
    _, trunk, head = counted
    assert head == 2 * 768 * 50_258 * 1024
    steps = {
        "mcd": 4 * trunk + (3 + 1) * head / 2,
        "subset": 4 * trunk + (3 + 1) * head / 2,
        "cd4lm": 4 * trunk + (2 * 3 + 1) * head * 0.65,
        "sdtt": 5 * trunk + (3 + 1) * head / 2,
        "dcd": 4 * trunk + (3 + 1) * head,
        "mmd": (3 + 9 * 4 / 12) * trunk + (3 + 1) * head / 2,
        "mdlm": 3 * trunk + 3 * head,
    }
    found = {name: counted.step(128, method) for name, method in METHODS.items()}
    assert found == {name: pytest.approx(128 * x, rel=1e-4) for name, x in steps.items()}
    assert cost.hours(2 * 312e12 * 0.4 * 3600) == pytest.approx(1)


COUNTED = {path.stem for path in RECIPES.glob("owt_*.yaml")} - {"owt_large"}  # a base of others


@pytest.mark.parametrize("recipe", sorted(COUNTED))
def test_recipes_state_what_is_counted(recipe):
    """Sizes are the paper's; FLOP a step, in all, and hours, in each recipe's own words."""
    algo, model = recipe.split("_")[1], LARGE if recipe.endswith("_large") else SMALL
    algo = "mdlm" if algo == "teacher" else algo
    config = embedded([f"algo={algo}", f"+recipe={recipe}"])
    assert {key: config.model[key] for key in model} == model
    counted = cost.count(config.model)
    step = counted.step(config.loader.global_batch_size, METHODS[algo])
    whole = step * config.trainer.max_steps
    text = (RECIPES / f"{recipe}.yaml").read_text("utf-8")
    words = " ".join(text.replace("\n#", " ").split())
    assert f"{step:.2e}".replace("+", "") + " FLOP a step" in words
    assert f"times {config.trainer.max_steps:,} steps" in words
    assert "= " + f"{whole:.2e}".replace("+", "") + " FLOP" in words
    assert f"{cost.hours(whole):.1f} hours on two A100s at 40%" in words


@pytest.mark.parametrize("name, size", [("table1", "169.6M"), ("table3", "863.2M")])
def test_the_dry_run_composes_what_is_given(name, size, capsys):
    flags = ["--dry-run", "--teacher", "train", "loader.global_batch_size=64"]
    assert command.main(name, flags) == 0
    out, table = capsys.readouterr().out, TABLES[name]
    for run in (table.teacher_recipe, *table.runs):
        assert f"| {run} | {size} | 64 |" in out
    assert "not measured" in out and "312 TFLOP/s at 40% MFU" in out
    assert command.main(name, [*flags, "algo.lr=1"]) == 1
    assert "algo.lr" in capsys.readouterr().err
