"""Parameters and FLOPs against formulas by hand, and what the recipes say of them."""

import re
from pathlib import Path

import pytest

from mdlm_mcd.minihost.configs import __file__ as CONFIGS

RECIPES = Path(__file__).resolve().parents[3] / "configs" / "recipe"
SMALL = dict(hidden_size=768, cond_dim=128, n_blocks=12, n_heads=12, dropout=0.1, length=1024)
LARGE = {**SMALL, "hidden_size": 1536, "n_blocks": 24, "n_heads": 16}


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
def test_counts_are_those_of_the_formulas(paper, model, millions, uniform):
    counted = paper.cost.count(model, uniform=uniform)
    sizes = model["hidden_size"], 128, model["n_blocks"], 50_257 + (not uniform)
    assert counted.parameters == parameters(*sizes)
    assert counted.parameters // 10**6 == millions  # as the paper says
    assert (counted.trunk, counted.head) == forward(*sizes, 1024)


def test_a_step_by_hand(paper):
    """MCD: student both ways, teacher forward; half of the rows meet the head."""
    counted, methods = paper.cost.count(SMALL), paper.experiments.METHODS
    trunk, head = forward(768, 128, 12, 50_258, 1024)
    steps = {
        "mcd": 4 * trunk + (3 + 1) * head / 2,
        "cd4lm": 4 * trunk + (3 + 1) * head / 2,
        "sdtt": 5 * trunk + (3 + 1) * head / 2,
        "dcd": 4 * trunk + (3 + 1) * head,
        "mdlm": 3 * trunk + 3 * head,
    }
    assert steps.keys() == methods.keys()
    for name, flops in steps.items():
        found = counted.step(128, methods[name])
        assert found == pytest.approx(128 * flops, rel=1e-4), name
    assert counted.sample(32) == 32 * trunk + head
    assert counted.sample(32, uniform=True) == 32 * (trunk + head)
    hardware = paper.cost.Hardware(devices=2, peak=312e12, mfu=0.4)
    assert hardware.hours(2 * 312e12 * 0.4 * 3600) == pytest.approx(1)
    assert hardware.hours(312e12 * 0.4 * 3600, devices=1) == pytest.approx(1)


def test_the_public_sizes(paper):
    """The embedded host's `small` and `large`, and the recipes', are the paper's."""
    for name, model in (("small", SMALL), ("large", LARGE)):
        text = (Path(CONFIGS).parent / "model" / f"{name}.yaml").read_text("utf-8")
        for key, value in model.items():
            assert re.search(rf"^{key}: {value}$", text, re.MULTILINE), (name, key)
    config = paper.compose.embedded(["algo=mcd", "+recipe=owt_mcd_large"])
    assert {key: config.model[key] for key in LARGE} == LARGE


COSTED = {
    "mcd_paper": "mcd",
    "owt_mcd": "mcd",
    "owt_sdtt": "sdtt",
    "owt_cd4lm": "cd4lm",
    "owt_dcd": "dcd",
    "owt_teacher": "mdlm",
    "owt_mcd_large": "mcd",
    "owt_sdtt_large": "sdtt",
    "owt_teacher_large": "mdlm",
}


@pytest.mark.parametrize("recipe", COSTED)
def test_recipes_state_what_is_counted(paper, recipe):
    """FLOP a step, in all, and hours on two A100s, in each recipe's own words."""
    algo = COSTED[recipe]
    small = ["model=small"] * (recipe == "mcd_paper")
    config = paper.compose.embedded([f"algo={algo}", f"+recipe={recipe}", *small])
    method = paper.experiments.METHODS[algo]
    counted = paper.cost.count(config.model, uniform=method.uniform)
    step = counted.step(config.loader.global_batch_size, method)
    whole = step * config.trainer.max_steps
    text = (RECIPES / f"{recipe}.yaml").read_text("utf-8")
    said = " ".join(text.replace("\n#", " ").split())
    assert f"{step:.2e}".replace("+", "") + " FLOP a step" in said
    assert f"times {config.trainer.max_steps:,} steps" in said
    assert "= " + f"{whole:.2e}".replace("+", "") + " FLOP" in said
    assert f"{paper.cost.Hardware().hours(whole):.1f} hours on two A100s at 40%" in said
