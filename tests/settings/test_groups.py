"""A chosen config file none of whose keys is read: refused with file and remedy."""

import pytest
from test_recipes import compose as composed_minihost

from mdlm_mcd.errors import ConfigError
from mdlm_mcd.settings import groups

LINE = "# @package _global_\n"


@pytest.fixture
def composed(tmp_path):
    """`composed(files, *overrides)`: a config as the minihost sees it."""

    def compose(files, *overrides):
        for name, text in files.items():
            path = tmp_path / f"{name}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return composed_minihost(f"hydra.searchpath=[file://{tmp_path}]", *overrides)

    return compose


def refused(config, *complete):
    for whether in complete or (True, False):
        with pytest.raises(ConfigError) as error:
            groups.check_groups(config, whether)
        assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "name, text, given",
    [
        ("recipe/x", "optim:\n  lr: 1\n", "+recipe=x"),
        ("recipe/x", b"\xef\xbb\xbf# @package _global_\noptim:\n  lr: 1\n", "+recipe=x"),
        ("recipe/x", "lr: 1\n", "+recipe=[x,mcd_laptop]"),
        ("recipe/mine/x", "optim:\n  lr: 1\n", "+recipe/mine=x"),
        ("experiment/x", "seed: 5\n", "+experiment=x"),
        ("sampler/x", "sampling:\n  steps: 5\n", "+sampler=x"),
    ],
)
def test_without_a_package_line(composed, name, text, given):
    refusal = refused(composed({name: text}, given))
    assert refusal.startswith(f"{name.partition('/')[0]} is a section that nothing reads")
    assert "`# @package _global_`, without a b" in refusal


@pytest.mark.parametrize(
    "name, text, given, words",
    [
        ("model/x", "model:\n  length: 9\n", ["model=x"], "model.model is a section"),
        ("data/x", "data:\n  wrap: false\n", ["data=x"], "data.data is a section"),
        ("optim/x", "optim:\n  lr: 1\n", ["+optim=x"], "optim.optim is a section"),
        (
            "algo/x",
            b"\xef\xbb\xbf" + LINE.encode() + b"algo: {name: mdlm}\n",
            ["algo=x"],
            "algo.algo is a section within another, where nothing reads it: a",
        ),
        (
            "algo/x",
            "name: mdlm\ntrainer: {max_steps: 1}\n",
            ["algo=x"],
            "algo.trainer is a section",
        ),
        ("recipe/x", LINE + "loader: {loader: {a: 1}}\n", ["+recipe=x"], "loader.loa"),
    ],
)
def test_nested_once_more(composed, name, text, given, words):
    refusal = refused(composed({name: text}, *given))
    assert words in refusal and "`# @package _global_`" in refusal


@pytest.mark.parametrize(
    "text, given, words",
    [
        ("optm: {lr: 1}\n", ["+recipe=x"], "optm is a key that nothing reads: did you m"),
        ("sed: 5\n", ["+recipe=x"], "sed is a key that nothing reads: did you mean see"),
        ("optim: {lrr: 1}\n", ["+recipe=x"], "optim.lrr is a key that nothing reads: di"),
        ("loader: {batchsize: 1}\n", ["+recipe=x"], "did you mean loader.batch_size?"),
        ("", ["+trainr.max_steps=5"], "did you mean trainer?"),
        ("", ["+wandb.project=x"], "wandb is a section that nothing reads: take it out"),
        ("", ["+data.file=x"], "did you mean data.files?"),
        ("", ["+algo.los_type=low_var"], "did you mean algo.loss_type?"),
    ],
)
def test_what_only_looks_like_a_key(composed, text, given, words):
    assert words in refused(composed({"recipe/x": LINE + text}, *given), True)


@pytest.mark.parametrize(
    "files, given",
    [
        ({}, ["+note=abc", "+owner=me", "+tags=[a,b]"]),  # of the user, to know the run by
        ({"recipe/x": LINE + "optim: {lr: 1}\n"}, ["+recipe=x"]),
        ({"recipe/x": "lr: 1\n"}, ["+recipe@optim=x"]),
        ({"model/x": "length: 9\n"}, ["model=x"]),
        ({"optim/x": "lr: 1\n"}, ["+optim=x"]),
        ({"callbacks/eval": "eval: {_target_: x.Y}\n"}, ["callbacks=[progress,eval]"]),
        ({}, ["++trainer.strategy={a: 1}", "+trainer.max_epochs=1"]),
        ({}, ["~logger", "~callbacks.progress"]),
        ({}, ["+callbacks.progress_bar={_target_: lightning.pytorch.callbacks.RichProgressBar}"]),
    ],
)
def test_what_is_read(composed, files, given):
    for algo in ("mdlm", "mcd"):
        groups.check_groups(composed(files, f"algo={algo}", *given), complete=True)


def test_a_file_of_the_users_that_one_of_ours_hides(composed):
    """Hydra would read ours, and say nothing."""
    refusal = refused(composed({"recipe/mcd_laptop": LINE}, "algo=mcd", "+recipe=mcd_laptop"))
    assert "mcd_laptop.yaml is not read: give it another name" in refusal


def test_what_another_class_reads_is_not_known(composed):
    config = composed({}, "+mine.own=1")
    groups.check_groups(config)
    assert "mine is a section that nothing reads: take it out" in refused(config, True)


def test_without_an_application(compose):
    groups.check_groups(compose("+wandb.x=1"), complete=True)
