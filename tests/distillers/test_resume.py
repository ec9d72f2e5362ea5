"""A checkpoint that is not of this run: told in a sentence, before the first step."""

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

    def spoilt(change):
        other = copy.deepcopy(held)
        change(other)
        torch.save(other, folder / "spoilt.ckpt")
        return folder / "spoilt.ckpt"

    return config, spoilt


def first(mapping):
    return next(iter(mapping))


CHANGES = {
    "mdlm_mcd is 5": lambda x: x.update(mdlm_mcd=5),
    "no round or no weights": lambda x: x["mdlm_mcd"]["teacher"].pop("round"),
    "no round or": lambda x: x["mdlm_mcd"]["teacher"]["backbone"].update(a=1),
    "its guard is x": lambda x: x["mdlm_mcd"].update(guard="x"),
    "its guard is nan": lambda x: x["mdlm_mcd"].update(guard=float("nan")),
    "its split is a dict": lambda x: x["mdlm_mcd"].update(split={"processes": "a"}),
    "its global_step is x": lambda x: x.update(global_step="x"),
    "its global_step is -1": lambda x: x.update(global_step=-1),
    "its epoch is None": lambda x: x.pop("epoch"),
    "its ema is a": lambda x: x.update(ema="a"),
    "its ema has a decay of None": lambda x: x["ema"].pop("decay"),
    "has num_updates a": lambda x: x["ema"].update(num_updates="a"),
    "no list of shadow_params": lambda x: x["ema"].update(shadow_params=[1]),
    "its ema is of another": lambda x: x["ema"]["shadow_params"].pop(),
    "it lacks": lambda x: x["state_dict"].pop(first(x["state_dict"])),
    "is not one of tensors": lambda x: x.update(state_dict="a"),
    "it has no optimizer_states": lambda x: x.update(optimizer_states=[]),
    "are not an optimizer's": lambda x: x["optimizer_states"][0].update(state=3),
    "is of another model": lambda x: x["optimizer_states"][0]["state"][0].update(
        exp_avg=torch.zeros(1, 1)
    ),
    "optimizer's step is x": lambda x: x["optimizer_states"][0]["state"][0].update(step="x"),
    "epoch_loop.batch_progress counts": lambda x: x.pop("loops"),
    "counts no batches": lambda x: x["loops"]["fit_loop"][BATCHES]["current"].update(ready="x"),
    # What is Lightning's, a host's or a callback's own.
    "KeyError: 'entropy'": lambda x: x["callbacks"].update(Health={"warned": 1}),
    "TypeError": lambda x: x.update(lr_schedulers=3),
    "Error": lambda x: x.update(callbacks={k: 3 for k in x["callbacks"]}),
}


@pytest.mark.parametrize("words", CHANGES)
def test_what_does_not_fit_is_refused(written, words):
    config, spoilt = written
    path = spoilt(CHANGES[words])
    with pytest.raises(CheckpointError) as error:
        fit(config(), ckpt_path=str(path))
    said = str(error.value)
    assert said.startswith(f"checkpointing.resume_ckpt_path={path} ") and words in said
    assert "checkpointing.resume_from_ckpt=false" in said and "\n" not in said


def test_what_was_written_goes_on(written):
    config, spoilt = written
    model, _ = fit(config(), ckpt_path=str(spoilt(lambda x: None)))
    assert model.global_step == 4


def test_errors_in_training_are_not_taken_for_the_checkpoints(written):
    config, spoilt = written

    class Clumsy(resume.L.Callback):
        def on_train_batch_start(self, *args):
            raise KeyError("mine")

        def on_fit_start(self, *args):
            self.seen = True

    clumsy = Clumsy()
    with pytest.raises(KeyError, match="mine"):
        fit(config(), clumsy, ckpt_path=str(spoilt(lambda x: None)))
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
