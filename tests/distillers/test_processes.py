"""Several processes compute the update of one: DDP over gloo, in float64."""

import pytest
import several
import torch
from runs import Watch, fit

from mdlm_mcd.errors import TeacherError
from mdlm_mcd.teacher import checksum

pytestmark = several.forks

RUN = [
    "algo=mcd",
    "algo.rounds=2",
    "algo.steps_per_round=3",
    "algo.delta0=0.0625",
    "trainer.max_steps=6",
    "trainer.precision=64-true",
    "trainer.limit_val_batches=0",
    "optim.lr=1e-3",
    "optim.eps=1e-3",  # a gradient of 1e-17 instead of 0 is no step of 1e-3
]
PADDED = ["data.wrap=false", "model.length=48"]


class Sums(Watch):
    """Notes which teacher each step had, and its loss as the run logs it."""

    def __init__(self):
        super().__init__()
        self.sums, self.norms = [], []

    def on_before_optimizer_step(self, trainer, module, optimizer):
        grads = [p.grad for p in module.parameters() if p.grad is not None]
        self.norms.append(float(torch.cat([g.flatten() for g in grads]).norm()))

    def on_train_batch_end(self, trainer, module, *args):
        super().on_train_batch_end(trainer, module, *args)
        self.sums.append(checksum(module.teacher.backbone))


@pytest.fixture
def several_runs(compose, teacher_path, tmp_path):
    """`several_runs(world, *overrides)`: a run's watch and end, process by process."""

    def build(world, *overrides, name="run", ckpt_path=None, watch=Sums):
        folder = tmp_path / f"{name}-{world}"
        config = compose(
            *RUN, f"algo.teacher_path={teacher_path}", f"trainer.devices={world}",
            f"checkpointing.save_dir={folder}", "strategy=ddp", *overrides,
        )  # fmt: skip

        def work():
            seen = watch()
            model, trainer = fit(config, seen, ckpt_path=ckpt_path)
            assert trainer.world_size == world
            return {
                "weights": Watch.flat(model),
                "average": torch.cat([p.flatten() for p in model.ema.shadow_params]),
                "sums": seen.sums,
                "norms": seen.norms,
                "rounds": seen.rounds,
            }

        return several.run(world, work, tmp_path / f"answers-{name}-{world}")

    return build


def same_update(one, many):
    for end in many:
        assert end["weights"].dtype == torch.float64
        for name in ("weights", "average", "norms"):
            torch.testing.assert_close(end[name], one[name], rtol=0, atol=1e-10)


@pytest.mark.parametrize("data", [[], PADDED], ids=["whole", "padded"])
@pytest.mark.parametrize("micros", [1, 2])
def test_two_processes(several_runs, data, micros):
    (one,) = several_runs(1, *data)
    many = several_runs(2, f"loader.batch_size={4 // micros}", *data)
    same_update(one, many)
    # The teacher changes at the same step, to the same weights.
    assert many[0]["sums"] == many[1]["sums"] and len(set(many[0]["sums"])) == 2
    for end in many:
        assert end["rounds"] == [0] * 3 * micros + [1] * 3 * micros


@pytest.mark.slow
@pytest.mark.parametrize("micros", [1, 2])
def test_four_processes(several_runs, micros):
    (one,) = several_runs(1, *PADDED)
    many = several_runs(4, f"loader.batch_size={2 // micros}", *PADDED)
    same_update(one, many)
    assert len({tuple(end["sums"]) for end in many}) == 1


def test_micro_batches_of_one_process(several_runs):
    (one,) = several_runs(1, *PADDED)
    same_update(one, several_runs(1, "loader.batch_size=2", *PADDED, name="micros"))
