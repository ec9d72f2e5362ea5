"""A chosen config file none of whose keys is read: refused with file and remedy."""

import pytest
from documents import compose as composed_minihost

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


# `complete` or not; what only looks like a key is refused where every key is known.
EITHER, WHOLE = (True, False), (True,)
NO_LINE = "is a section that nothing reads.*`# @package _global_`, without a b"
NESTED = "is a section within another.*`# @package"


@pytest.mark.parametrize(
    "name, text, given, complete, words",
    [
        # Without a package line.
        ("recipe/x", "optim:\n  lr: 1\n", "+recipe=x", EITHER, f"^recipe {NO_LINE}"),
        ("recipe/x", f"\ufeff{LINE}optim:\n  lr: 1\n", "+recipe=x", EITHER, f"^recipe {NO_LINE}"),
        ("recipe/x", "lr: 1\n", "+recipe=[x,mcd_laptop]", EITHER, f"^recipe {NO_LINE}"),
        ("experiment/x", "seed: 5\n", "+experiment=x", EITHER, f"^experiment {NO_LINE}"),
        # Nested once more.
        ("data/x", "data:\n  wrap: false\n", "data=x", EITHER, f"data.data {NESTED}"),
        ("optim/x", "optim:\n  lr: 1\n", "+optim=x", EITHER, f"optim.optim {NESTED}"),
        ("algo/x", f"\ufeff{LINE}algo: {{name: mdlm}}\n", "algo=x", EITHER, f"algo.algo {NESTED}"),
        ("algo/x", "name: mdlm\ntrainer: {a: 1}\n", "algo=x", EITHER, f"algo.trainer {NESTED}"),
        ("recipe/x", f"{LINE}loader: {{loader: {{a: 1}}}}\n", "+recipe=x", EITHER, NESTED),
        ("recipe/x", f"{LINE}optm: {{lr: 1}}\n", "+recipe=x", WHOLE, "^optm .*did you mean optim?"),
        ("recipe/x", f"{LINE}sed: 5\n", "+recipe=x", WHOLE, "^sed is a key .*mean seed?"),
        ("recipe/x", f"{LINE}optim: {{lrr: 1}}\n", "+recipe=x", WHOLE, "optim.lrr .*n optim.lr?"),
        ("recipe/x", LINE, "+wandb.project=x", WHOLE, "^wandb .* nothing reads: take it out"),
        ("recipe/x", LINE, "+algo.los_type=low_var", WHOLE, "did you mean algo.loss_type?"),
        # Hydra would read ours, and say nothing.
        ("recipe/mcd_laptop", LINE, "+recipe=mcd_laptop", EITHER, "yaml is not read: give it an"),
    ],
)
def test_what_nothing_reads(composed, name, text, given, complete, words):
    config = composed({name: text}, given)
    for whether in complete:
        with pytest.raises(ConfigError, match=words):
            groups.check_groups(config, whether)


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


def test_where_readers_are_not_known(composed, compose):
    """A config without an application; another class's own section."""
    groups.check_groups(compose("+wandb.x=1"), complete=True)
    groups.check_groups(composed({}, "+mine.own=1", "+optim.lrr=1"))
