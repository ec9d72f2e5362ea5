"""A checkpoint that is not of this run is refused before the first step."""

import copy

import pytest
import torch
from runs import fit

from mdlm_mcd.distillers import resume
from mdlm_mcd.distillers.loop_state import BATCHES
from mdlm_mcd.errors import CheckpointError, ConfigError
from mdlm_mcd.minihost import main as minihost


@pytest.fixture(scope="module")
def written(module_compose, tmp_path_factory):
    """A checkpoint of step 2 of 4, as it is read, and how to go on from another."""
    folder = tmp_path_factory.mktemp("resume")

    def config(*more):
        return module_compose(
            "algo=mcd",
            "algo.init_from=scratch",
            "algo.rounds=1",
            "algo.steps_per_round=4",
            "trainer.max_steps=4",
            "algo.delta0=1/16",
            f"checkpointing.save_dir={folder / 'run'}",
            "callbacks.checkpoint_every_n_steps.every_n_train_steps=2",
            "callbacks.checkpoint_every_n_steps.save_top_k=-1",
            *more,
        )

    fit(config())
    path = folder / "run" / "checkpoints" / "step-2.ckpt"
    held = torch.load(path, weights_only=True)

    def damaged(change):
        other = copy.deepcopy(held)
        change(other)
        torch.save(other, folder / "damaged.ckpt")
        return folder / "damaged.ckpt"

    return config, damaged


def first(mapping):
    return next(iter(mapping))


CHANGES = {
    "no note": lambda x: x.update(mdlm_mcd=5),
    "no round": lambda x: x["mdlm_mcd"]["teacher"].pop("round"),
    "another round": lambda x: x["mdlm_mcd"]["teacher"].update(round=3),
    "no teacher": lambda x: x["mdlm_mcd"].update(teacher=None),
    "another teacher": lambda x: x["mdlm_mcd"]["teacher"]["backbone"].update(a=torch.ones(1)),
    "guard": lambda x: x["mdlm_mcd"].update(guard="x"),
    "guard nan": lambda x: x["mdlm_mcd"].update(guard=float("nan")),
    "split": lambda x: x["mdlm_mcd"].update(split={"processes": "a"}),
    "step": lambda x: x.update(global_step="x"),
    "step below 0": lambda x: x.update(global_step=-1),
    "ema": lambda x: x.update(ema="a"),
    "ema without decay": lambda x: x["ema"].pop("decay"),
    "ema of numbers": lambda x: x["ema"].update(shadow_params=[1]),
    "ema of another": lambda x: x["ema"]["shadow_params"].pop(),
    "weights lack": lambda x: x["state_dict"].pop(first(x["state_dict"])),
    "no weights": lambda x: x.update(state_dict="a"),
    "no optimizer": lambda x: x.update(optimizer_states=[]),
    "optimizer": lambda x: x["optimizer_states"][0].update(state=3),
    "no loops": lambda x: x.pop("loops"),
    "batches": lambda x: x["loops"]["fit_loop"][BATCHES]["current"].update(processed="x"),
    # What is Lightning's or a callback's own.
    "callback": lambda x: x["callbacks"].update(Health={"warned": 1}),
    "schedulers": lambda x: x.update(lr_schedulers=3),
    "callbacks": lambda x: x.update(callbacks={k: 3 for k in x["callbacks"]}),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_does_not_fit_is_refused(written, what):
    config, damaged = written
    with pytest.raises(CheckpointError) as error:
        fit(config(), ckpt_path=str(damaged(CHANGES[what])))
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_what_was_written_goes_on(written):
    config, damaged = written
    model, _ = fit(config(), ckpt_path=str(damaged(lambda x: None)))
    assert model.global_step == 4


def test_errors_in_training_are_not_taken_for_the_checkpoints(written):
    config, damaged = written

    class Clumsy(resume.L.Callback):
        def on_train_batch_start(self, *args):
            raise KeyError("mine")

        def on_fit_start(self, *args):
            self.seen = True

    clumsy = Clumsy()
    with pytest.raises(KeyError, match="mine"):
        fit(config(), clumsy, ckpt_path=str(damaged(lambda x: None)))
    assert clumsy.seen


SAMPLED = {
    "KeyError": lambda x: x.pop("state_dict"),
    "Error": lambda x: x.update(ema={"decay": 1}),
    "TypeError": lambda x: x.update(ema="a"),
    "ValueError": lambda x: x["ema"].update(
        shadow_params=[p[..., :1] for p in x["ema"]["shadow_params"]]
    ),
    "it fits": lambda x: None,
}


@pytest.mark.parametrize("algo, kind", [("mcd", CheckpointError), ("mdlm", ConfigError)])
@pytest.mark.parametrize("words", SAMPLED)
def test_what_is_evaluated(written, compose, algo, kind, words):
    path = written[1](SAMPLED[words])
    config = compose(f"algo={algo}", "mode=ppl_eval", f"eval.checkpoint_path={path}")
    if words == "it fits":
        assert minihost.run(config)["val/nll"] > 0
        return
    with pytest.raises((CheckpointError, ConfigError)) as error:
        minihost.run(config)
    said = str(error.value)
    assert said.startswith(f"eval.checkpoint_path={path} does not fit this model (")
    assert words in said and "\n" not in said
