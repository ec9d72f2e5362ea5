"""Blocks of README and the documents: found, read, and run at tiny sizes."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import hydra
import shell
import synthetic
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf, open_dict

from mdlm_mcd.commands import main as cli
from mdlm_mcd.minihost import main as minihost
from mdlm_mcd.settings import groups

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "patches/README.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
PROJECT = (ROOT / "pyproject.toml").read_text("utf-8")
MINIHOST = ["python", "-m", "mdlm_mcd.minihost.main"]
# Commands of others, which only a machine of the reader's can run.
OTHERS = {
    "cd": "the shell's",
    "git": "fetches a clone",
    "pre-commit": "an option of contributors",
    "source": "the reader's environment",
}


class Block(NamedTuple):
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    found = re.findall(r"^```([^\n]*)\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.M)
    return [Block(*one) for one in found]


def commands(text: str) -> list[list[str]]:
    """Return the words of each command of a shell block, without comments and redirections."""
    found, open_quote = [], ""
    for line in re.sub(r"<[\w ]+>", "X", text.replace("\\\n", " ")).splitlines():
        try:
            words = shlex.split(open_quote + line, comments=True)
        except ValueError:  # the quote ends on a later line
            open_quote += f"{line}\n"
            continue
        open_quote, command = "", []
        for word in [*words, "&&"]:
            if word != "&&":
                command.append(word)
            elif command:
                found.append(_plain(command))
                command = []
    assert not open_quote, text
    return found


def _plain(words: list[str]) -> list[str]:
    """Leave out variables before a command, `srun`, and where the output goes."""
    words = words[: words.index(">")] if ">" in words else words
    while re.match(r"[A-Z_]+=|srun$|--kill-on-bad-exit", words[0]):
        words = words[1:]
    return words


# Reading --------------------------------------------------------------------------------


def check(words: list[str]) -> None:
    """Refuse a command that could not be given: a flag, key, file or name that is not there."""
    if words[:3] == MINIHOST:
        composed(words[3:])
    elif words[:2] == ["python", "main.py"]:
        _check_overrides(words[2:])
    elif words[0] == "mdlm-mcd":
        args = cli.parser(words[1:]).parse_args(words[1:])
        _check_overrides(getattr(args, "overrides", []))
    elif words[:2] == ["python", "-c"]:
        compile(words[2], "-c", "exec")
    elif words[0] in ("python", "bash"):
        assert (ROOT / words[1]).is_file()
        sources = "".join(path.read_text("utf-8") for path in ROOT.glob("benchmarks/**/*.py"))
        for flag in (word for word in words if word.startswith("--")):
            assert f'"{flag}"' in sources, flag
    elif words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M)
        assert words[1] in targets
    elif words[:2] == ["pip", "install"]:
        for extra in re.findall(r"\w+", " ".join(re.findall(r"\[([\w,]+)\]", " ".join(words)))):
            assert f"\n{extra} = [" in PROJECT, extra
    elif words[0] == "pytest":
        assert words[1] != "-m" or f'"{words[2]}: ' in PROJECT
    else:
        assert words[0] in OTHERS, words


def compose(*overrides: str):
    """Return the embedded host's config as a run has it, with Hydra's account of its files."""
    minihost.register_resolvers()
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(minihost.CONFIGS, version_base=None):
        config = hydra.compose("config", list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    return config


def composed(overrides: list[str]):
    """Return the config of a command, checked as a run checks it."""
    config = compose(*(word for word in overrides if not re.match(r"hydra\.|-m$", word)))
    groups.check_groups(config, complete=True)
    if "_target_" in config.algo and config.mode == "train":
        curriculum = minihost.model_class(config).check_config(config)
        curriculum.check_max_steps(config.trainer.max_steps)
    return config


def _check_overrides(overrides: list[str]) -> None:
    """Check what is ours in overrides of a real host."""
    given = OverridesParser.create().parse_overrides([word for word in overrides if word != "-m"])
    values = {override.key_or_group: override.value() for override in given}
    if recipe := values.get("recipe"):
        assert (ROOT / f"configs/recipe/{recipe}.yaml").is_file(), recipe
    ours = ROOT / f"configs/algo/{values.get('algo')}.yaml"
    if ours.is_file():
        files = (ours, ROOT / "configs/distiller/base.yaml")
        keys = {key for file in files for key in OmegaConf.load(file).algo}
        assert {k[5:] for k in values if k.startswith("algo.")} <= keys, values


# Running --------------------------------------------------------------------------------

CLONE = "takes a clone: tests/hosts/test_documents.py runs it"
NOT_RUN = {
    "run": CLONE,
    "patch": CLONE,
    "doctor": CLONE,
    "cuda": CLONE,
    "demo": "takes minutes: tests/test_shell_blocks.py runs it smaller",
}
SHIPPED = ("mcd_text", "data=shipped")  # their model has its own size
FEWER = {
    "sweep": "--num-samples 4 --bound-rows 2 --batch-size 4",
    "export": "--tokenizer bpe",  # that of the tiny model
}


class Session:
    """A folder in which the blocks of a page are run, one after the other.

    tiny: overrides of a small model of the embedded host; runs: checkpoints of a masked and a
    left-to-right one, for what a page takes as given; corpus: a file of text.
    """

    def __init__(self, folder: Path, tiny: tuple[str, ...], runs: dict[str, Path], corpus: Path):
        self.folder, self.runs, self.scope = folder, runs, {}
        self.tiny = [word for word in tiny if not word.startswith(("checkpointing.", "data.files"))]
        (folder / "corpus").mkdir()
        shutil.copy(corpus, folder / "corpus")
        (folder / "prompts.txt").write_text("A dog\nThe bird\n")
        pairs = [{"prompt": f"{i}", "completion": " dog"} for i in range(64)]
        (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))

    def run(self, block: Block) -> None:
        if block.language == "python":
            exec(compile(block.text, "block", "exec"), self.scope)
        for words in commands(block.text) if block.language == "sh" else ():
            if words[0] == "mdlm-mcd" or words[:3] == MINIHOST:
                if not NOT_RUN.keys() & set(words) or words[1:] == ["doctor"]:  # of no clone
                    self._command(words)

    def _command(self, words: list[str]) -> None:
        if words[1] == "sample" and not Path(words[2]).exists():
            words = [*words[:2], "mdlm-mcd/teacher", *words[3:]]  # its rows are long enough
        for path in map(Path, re.findall(r"[\w/.-]+\.(?:ckpt|jsonl)", " ".join(words))):
            if path.suffix == ".ckpt" and not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                # `...` stands for the folder of the run before.
                before = self.folder.glob("outputs/*/**/last.ckpt") if "..." in path.parts else ()
                given = self.runs["ar" if "judge" in path.parts else "mdlm"]
                shutil.copy(max(before, key=os.path.getmtime, default=given), path)
            elif words[1] == "report" and not path.exists():
                synthetic.write(path, [synthetic.row("teacher"), synthetic.row("MCD 1")])
        if words[0] == "mdlm-mcd":
            argv = [*words[1:], *FEWER.get(words[1], "").split()]
            status, printed = shell.call(lambda: cli.main(argv))
        else:
            argv = ["main.py", *words[3:], *self._overrides(words[3:]), *shell.QUIET]
            status, printed = self._host(argv)
        assert status == 0, f"{shlex.join(words)}\n{printed}"

    def _host(self, argv: list[str]) -> tuple[int, str]:
        if "strategy=ddp" not in argv:
            return shell.call(minihost.main, argv)
        two = [*argv[1:], "trainer.devices=2", "trainer.num_nodes=1"]
        done = subprocess.run([sys.executable, *MINIHOST[1:], *two], capture_output=True, text=True)
        assert "MEMBER: 2/2" in done.stderr
        return done.returncode, done.stdout + done.stderr

    def _overrides(self, given: list[str]) -> list[str]:
        config = composed(given)
        less = ["training.start=null", "sampling.num_sample_batches=1", "loader.eval_batch_size=2"]
        if "_target_" in config.algo:
            less += ["algo.rounds=5", "algo.steps_per_round=1", "trainer.max_steps=5"]
            less += ["algo.guard=off"]  # the first steps are too large for so few
        else:
            less += ["trainer.max_steps=2"]
        if config.algo.name == "dcd":
            less += ["algo.gamma_max=2"]  # of a small vocabulary
        if any(word in " ".join(given) for word in SHIPPED):
            own = [word for word in self.tiny if re.match(r"loader|trainer|[~+]|lr_", word)]
            return [*own, *less]
        groups = {word.partition("=")[0] for word in given if "." not in word.partition("=")[0]}
        tiny = [word for word in self.tiny if word.partition("=")[0] not in groups]
        text = [] if "data=textpairs" in given else ["data.files=[corpus/*.txt]"]
        return [*tiny, *text, "model.hidden_size=16", "model.n_blocks=1", *less]
