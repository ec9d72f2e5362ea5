"""A chosen config file none of whose keys is read: refused with file and remedy."""

import re

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
            path.write_text(text)
        return composed_minihost(f"hydra.searchpath=[file://{tmp_path}]", *overrides)

    return compose


def refused(config, *complete):
    for whether in complete or (True, False):
        with pytest.raises(ConfigError) as error:
            groups.check_groups(config, whether)
    return str(error.value)


@pytest.mark.parametrize(
    "name, text, given",
    [
        ("recipe/x", "optim:\n  lr: 1\n", "+recipe=x"),
        ("recipe/x", "\ufeff" + LINE + "optim:\n  lr: 1\n", "+recipe=x"),
        ("recipe/x", "lr: 1\n", "+recipe=[x,mcd_laptop]"),
        ("experiment/x", "seed: 5\n", "+experiment=x"),
    ],
)
def test_without_a_package_line(composed, name, text, given):
    refusal = refused(composed({name: text}, given))
    assert refusal.startswith(f"{name.partition('/')[0]} is a section that nothing reads")
    assert "`# @package _global_`, without a b" in refusal


@pytest.mark.parametrize(
    "name, text, given, words",
    [
        ("data/x", "data:\n  wrap: false\n", "data=x", "data.data"),
        ("optim/x", "optim:\n  lr: 1\n", "+optim=x", "optim.optim"),
        ("algo/x", "\ufeff" + LINE + "algo: {name: mdlm}\n", "algo=x", "algo.algo"),
        ("algo/x", "name: mdlm\ntrainer: {max_steps: 1}\n", "algo=x", "algo.trainer"),
        ("recipe/x", LINE + "loader: {loader: {a: 1}}\n", "+recipe=x", "loader.loader"),
    ],
)
def test_nested_once_more(composed, name, text, given, words):
    refusal = refused(composed({name: text}, given))
    assert f"{words} is a section within another" in refusal and "`# @package" in refusal


@pytest.mark.parametrize(
    "text, given, words",
    [
        ("optm: {lr: 1}\n", "+recipe=x", "optm is a key that nothing reads: did you mean optim?"),
        ("sed: 5\n", "+recipe=x", "sed is a key that nothing reads: did you mean seed?"),
        ("optim: {lrr: 1}\n", "+recipe=x", "optim.lrr is .*: did you mean optim.lr?"),
        ("", "+wandb.project=x", "wandb is a section that nothing reads: take it out"),
        ("", "+algo.los_type=low_var", "did you mean algo.loss_type?"),
    ],
)
def test_what_only_looks_like_a_key(composed, text, given, words):
    assert re.search(words, refused(composed({"recipe/x": LINE + text}, given), True))


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


def test_where_readers_are_not_known(composed, compose):
    """A config without an application; another class's own section."""
    groups.check_groups(compose("+wandb.x=1"), complete=True)
    groups.check_groups(composed({}, "+mine.own=1"))
