"""Parameters and FLOPs against formulas by hand, dry runs, and what the recipes say."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from paper import command, cost
from paper.compose import embedded
from paper.experiments import METHODS, TABLES

RECIPES = Path(__file__).resolve().parents[2] / "configs" / "recipe"
SMALL = dict(hidden_size=768, cond_dim=128, n_blocks=12, n_heads=12, dropout=0.1, length=1024)
LARGE = {**SMALL, "hidden_size": 1536, "n_blocks": 24, "n_heads": 16}
A100S = SimpleNamespace(devices=2, peak=312e12, mfu=0.4)


def parameters(d, c, blocks, vocab):
    """A DiT: embedding, MLP of sigma, blocks with adaLN, last layer; norms, no bias."""
    sigma = (256 * c + c) + (c * c + c)
    attention, mlp = 4 * d * d, (4 * d * d + 4 * d) + (4 * d * d + d)
    block = 2 * d + attention + mlp + (c + 1) * 6 * d
    last = d + (c + 1) * 2 * d + (d + 1) * vocab
    return vocab * d + sigma + blocks * block + last


def forward(d, c, blocks, vocab, length):
    """(trunk, head) of one sequence: matrix products, two FLOPs a multiply-add."""
    block = 2 * 12 * d * d * length + 2 * 2 * length * length * d + 2 * c * 6 * d
    trunk = blocks * block + 2 * (256 * c + c * c) + 2 * c * 2 * d
    return trunk, 2 * d * vocab * length


@pytest.mark.parametrize(
    "model, millions, uniform", [(SMALL, 169, False), (SMALL, 169, True), (LARGE, 863, False)]
)
def test_counts_are_those_of_the_formulas(model, millions, uniform):
    counted = cost.count(model, uniform=uniform)
    sizes = model["hidden_size"], 128, model["n_blocks"], 50_257 + (not uniform)
    assert counted.parameters == parameters(*sizes)
    assert counted.parameters // 10**6 == millions  # as the paper says
    assert (counted.trunk, counted.head) == forward(*sizes, 1024)


def test_a_step_by_hand():
    """MCD: student both ways, teacher forward; half of the rows meet the head."""
    counted = cost.count(SMALL)
    trunk, head = forward(768, 128, 12, 50_258, 1024)
    steps = {
        "mcd": 4 * trunk + (3 + 1) * head / 2,
        "cd4lm": 4 * trunk + (3 + 1) * head / 2,
        "sdtt": 5 * trunk + (3 + 1) * head / 2,
        "dcd": 4 * trunk + (3 + 1) * head,
        "mdlm": 3 * trunk + 3 * head,
    }
    found = {name: counted.step(128, method) for name, method in METHODS.items()}
    assert found == {name: pytest.approx(128 * x, rel=1e-4) for name, x in steps.items()}
    assert cost.hours(2 * 312e12 * 0.4 * 3600, A100S) == pytest.approx(1)


@pytest.mark.parametrize(
    "recipe, algo, model",
    [
        ("owt_mcd", "mcd", SMALL),
        ("owt_sdtt", "sdtt", SMALL),
        ("owt_cd4lm", "cd4lm", SMALL),
        ("owt_dcd", "dcd", SMALL),
        ("owt_teacher", "mdlm", SMALL),
        ("owt_mcd_large", "mcd", LARGE),
        ("owt_sdtt_large", "sdtt", LARGE),
        ("owt_teacher_large", "mdlm", LARGE),
    ],
)
def test_recipes_state_what_is_counted(recipe, algo, model):
    """Sizes are the paper's; FLOP a step, in all, and hours, in each recipe's own words."""
    config = embedded([f"algo={algo}", f"+recipe={recipe}"])
    assert {key: config.model[key] for key in model} == model
    counted = cost.count(config.model, uniform=METHODS[algo].uniform)
    step = counted.step(config.loader.global_batch_size, METHODS[algo])
    whole = step * config.trainer.max_steps
    text = (RECIPES / f"{recipe}.yaml").read_text("utf-8")
    words = " ".join(text.replace("\n#", " ").split())
    assert f"{step:.2e}".replace("+", "") + " FLOP a step" in words
    assert f"times {config.trainer.max_steps:,} steps" in words
    assert "= " + f"{whole:.2e}".replace("+", "") + " FLOP" in words
    assert f"{cost.hours(whole, A100S):.1f} hours on two A100s at 40%" in words


def dry(name, *flags, capsys):
    status = command.main(name, ["--dry-run", *flags])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


@pytest.mark.parametrize("name", TABLES)
def test_dry_runs(name, capsys):
    table = TABLES[name]
    status, out, err = dry(name, "--teacher", "train", capsys=capsys)
    assert status == 0, err
    size = "863.2M" if name == "table3" else "169.6M"
    for run in (table.teacher_recipe, *table.runs):
        assert f"| {run} | minihost | {size} |" in out
    assert "not measured" in out and "312 TFLOP/s at 40% MFU" in out


def test_the_dry_run_composes_what_is_given(capsys):
    flags = ["loader.global_batch_size=64", "trainer.precision=bf16-mixed"]
    status, out, _ = dry("figure3", *flags, capsys=capsys)
    assert status == 0 and "| mcd | minihost | 169.6M | 64 | 50,000 | 6.45e+13 |" in out
    status, _, err = dry("figure3", "algo.lr=1", capsys=capsys)
    assert status == 1 and "does not compose" in err and "algo.lr" in err
    assert "Traceback" not in err
