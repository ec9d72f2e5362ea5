"""Both networks of every distiller are given the times of their own views."""

import pytest
import torch
from runs import fit

from mdlm_mcd.distillers.rng import StepNoise
from mdlm_mcd.models.dit import DIT

STEPS = (
    "algo.rounds=2",
    "algo.steps_per_round=2",
    "trainer.max_steps=4",
    "algo.init_from=scratch",
    "trainer.num_sanity_val_steps=0",
)


@pytest.mark.parametrize(
    "name, overrides",
    [
        ("mcd", ()),
        ("mcd", ("algo.coupling=none",)),
        ("cd4lm", ("algo.steps_per_round=4",)),
        ("sdtt", ("algo.teacher_steps=3",)),
        ("dcd", ("algo.gamma_max=2",)),
    ],
)
def test_students_and_teachers_times(compose, monkeypatch, name, overrides):
    seen, drawn = [], []
    config = compose(
        f"algo={name}",
        *STEPS[name == "cd4lm" :],
        *overrides,
        *(() if name == "dcd" else ("algo.time_conditioning=true",)),
    )
    forward = DIT.forward
    monkeypatch.setattr(
        DIT,
        "forward",
        lambda self, x, sigma, *args, **kwargs: (
            seen.append(sigma) or forward(self, x, sigma, *args, **kwargs)
        ),
    )
    for kind in ("times", "nested_times"):
        times = getattr(StepNoise, kind)
        monkeypatch.setattr(
            StepNoise,
            kind,
            lambda self, *delta, times=times: drawn.append(times(self, *delta)) or drawn[-1],
        )
    model, trainer = fit(config)
    assert trainer.global_step == len(drawn) == 4
    wanted = []
    for step, (t, s) in enumerate(drawn):
        teacher = [s]
        if name == "sdtt":
            teacher = [t - model.curriculum.at(step).delta * k / 3 for k in range(3)]
        elif "algo.coupling=none" in overrides:
            teacher = [t]
        wanted += [-model.alpha(time).log() for time in (t, *teacher)]
    torch.testing.assert_close(seen, wanted, check_dtype=False)
    assert all(len(sigma.unique()) > 1 for sigma in seen)
