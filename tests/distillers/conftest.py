"""Teachers and configs for every distiller, made once."""

import functools

import pytest
from runs import EVERY, SHORT, Watch, changed, fit

from mdlm_mcd.minihost import main as minihost

OF = {
    "mcd": ("algo.delta0=1/16",),
    "sdtt": ("algo.delta0=1/8",),
    "dcd": ("algo.delta0=1/16", "algo.gamma_max=1"),
    "mmd": ("algo.feature_block=0", "algo.rbf_alpha=0.1"),
}


@pytest.fixture(scope="session")
def teacher_of(compose_in, tmp_path_factory):
    """`teacher_of(algo)`: a checkpoint of the host's own `algo`, trained for 60 steps."""

    @functools.cache
    def train(algo):
        folder = tmp_path_factory.mktemp(algo)
        minihost.run(compose_in(folder)(f"algo={algo}", "trainer.max_steps=60", "optim.lr=1e-2"))
        return folder / "checkpoints" / "last.ckpt"

    return train


@pytest.fixture(scope="session")
def teacher_path(teacher_of):
    return teacher_of("mdlm")


@pytest.fixture(scope="session")
def base(compose_in, tmp_path_factory, teacher_of):
    """`base(algo)`: a composed config, to be changed: to compose takes as long as a run."""

    @functools.cache
    def build(algo):
        own = algo in ("mdlm", "ar", "duo_base")
        teacher = "" if own else teacher_of("duo_base" if algo == "dcd" else "mdlm")
        given = SHORT[2:] if own else (*SHORT, *OF.get(algo, ()), f"algo.teacher_path={teacher}")
        return compose_in(tmp_path_factory.mktemp("base"))(f"algo={algo}", *given)

    return build


@pytest.fixture
def config(base, tmp_path):
    """`config(*overrides, algo="mcd")`: a short run in this test's folder."""

    def build(*overrides, algo="mcd"):
        return changed(base(algo), f"checkpointing.save_dir={tmp_path}", *overrides)

    return build


@pytest.fixture(scope="session")
def trained(base, tmp_path_factory):
    """`trained(algo)`: (folder, config, watch, model) of a run that keeps every step."""

    @functools.cache
    def train(algo):
        folder, watch = tmp_path_factory.mktemp(algo), Watch()
        given = ("loader.batch_size=4", "model.dropout=0.2", "trainer.val_check_interval=3")
        given += (*EVERY, f"checkpointing.save_dir={folder}", "training.ema=0.9")
        config = changed(base(algo), *given)
        model, _ = fit(config, watch)
        return folder / "checkpoints", config, watch, model

    return train
