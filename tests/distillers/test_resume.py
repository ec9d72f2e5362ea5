"""A checkpoint that is not of this run is refused before the first step."""

import copy

import pytest
import torch
from runs import changed, fit, opened

from mdlm_mcd.distillers.loop_state import BATCHES
from mdlm_mcd.errors import CheckpointError, ConfigError
from mdlm_mcd.minihost import main as minihost


@pytest.fixture(scope="module")
def saved(trained):
    """A checkpoint in the middle of round 2, as it is read."""
    return opened(trained("mcd")[0] / "step-4.ckpt")


@pytest.fixture
def damaged(saved, tmp_path):
    def write(change):
        other = copy.deepcopy(saved)
        change(other)
        torch.save(other, tmp_path / "damaged.ckpt")
        return tmp_path / "damaged.ckpt"

    return write


def teacher(x):
    return x["mdlm_mcd"]["teacher"]


def batches(x):
    return x["loops"]["fit_loop"][BATCHES]["current"]


CHANGES = {
    "no note": (lambda x: x.pop("mdlm_mcd"), "was not written by algo=mcd"),
    "odd note": (lambda x: x.update(mdlm_mcd=5), "counts no steps or no batches"),
    "another round": (lambda x: teacher(x).update(round=3), "no teacher of round 2"),
    "no teacher": (lambda x: x["mdlm_mcd"].update(teacher=None), "no teacher of round 2"),
    "another teacher": (lambda x: teacher(x)["backbone"].update(a=torch.ones(1)), "teacher"),
    "step": (lambda x: x.update(global_step=-1), "counts no steps or no batches"),
    "no loops": (lambda x: x.pop("loops"), "counts no steps or no batches"),
    "batches": (lambda x: batches(x).update(processed="x"), "counts no steps or no batches"),
    "ema": (lambda x: x.update(ema="a"), "ema is of another model"),
    "no decay": (lambda x: x["ema"].pop("decay"), "ema is of another model"),
    "fewer": (lambda x: x["ema"]["shadow_params"].pop(), "ema is of another model"),
    "no optimizer": (lambda x: x.update(optimizer_states=[]), "has no optimizer_states"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_would_go_on_as_another_run_is_refused(trained, damaged, tmp_path, what):
    change, words = CHANGES[what]
    config = changed(trained("mcd")[1], f"checkpointing.save_dir={tmp_path}")
    with pytest.raises(CheckpointError, match=words) as error:
        fit(config, ckpt_path=damaged(change))
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


@pytest.mark.parametrize(
    "algo, change",
    [
        ("mcd", lambda x: x.pop("state_dict")),
        ("mdlm", lambda x: x.update(ema={"decay": 1})),
        ("mcd", lambda x: x["ema"]["shadow_params"].pop()),
        ("mdlm", None),
    ],
)
def test_what_is_evaluated(config, damaged, algo, change):
    path = damaged(change or (lambda x: None))
    given = config("mode=ppl_eval", f"eval.checkpoint_path={path}", algo=algo)
    if change is None:
        assert minihost.run(given)["val/nll"] > 0
        return
    with pytest.raises((CheckpointError, ConfigError), match="settings it was trained with"):
        minihost.run(given)
