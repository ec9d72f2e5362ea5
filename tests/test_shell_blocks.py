"""Shell blocks that set up, build or measure, in bash as they stand, in a fresh clone.

What the pages leave to the reader's machine comes from the environment: an index of packages is
this environment's own, a remote of git a folder, and the long commands get flags of a tiny size.
"""

import os
import re
import subprocess
import sys
import sysconfig

import documents
import pytest
from documents import PAGES, ROOT

pytestmark = pytest.mark.slow

# In the place of .venv/bin/NAME; `given` is this environment's.
SHIM = """#!/bin/bash
name=$(basename "$0")
case "$name $1" in
    "pip "*) exec "$VENV/bin/python" -m pip "$@" ;;
    "mdlm-mcd demo") exec "$VENV/bin/mdlm-mcd" "$@" --quick ;;
    "python benchmarks/quality.py")
        [[ "$*" == *--part* ]] || set -- "$@" --part topics --method sdtt
        set -- "$@" --size tiny --seeds 1 ;;
    "python benchmarks/teacher.py") set -- "$@" --rows 20 {teacher} ;;
    "python benchmarks/theory.py") [ $# -gt 1 ] || set -- "$@" --only fully_masked ;;
    "python benchmarks/table1.py") [ "$3" = runs ] && set -- "$@" --dry-run ;;
esac
case "$name" in
    python | mdlm-mcd) exec "$VENV/bin/$name" "$@" ;;
    *) exec "{scripts}/$name" "$@" ;;
esac
"""
SHIMMED = ("python", "pip", "mdlm-mcd", "ruff", "mypy", "mkdocs")
TEACHER = (
    "model.hidden_size=16 model.n_blocks=1 model.n_heads=2 model.cond_dim=16 model.length=16 "
    "trainer.max_steps=2 lr_scheduler.num_warmup_steps=1 data.packages=[] data.vocab_size=300"
)
# A venv that finds this environment's packages after its own.
PYTHON = """#!/bin/bash
{python} "$@" || exit
if [ "$1 $2" = "-m venv" ]; then
    cd "$3"/lib/python*/site-packages
    echo "import sys; sys.path.insert(1, '{packages}')" > given.pth
fi
"""


def script(path, text):
    path.write_text(text, "utf-8")
    path.chmod(0o755)
    return path


# A host's clone, and in it the path/to/mdlm-mcd of the pages.
REMOTE = """mkdir -p remote/path && ln -s "$PWD" remote/path/to && cd remote && git init -q
git add . && git -c user.name=n -c user.email=e commit -qm "A host" """


class Machine:
    """A folder with a clone of this repository, and what a shell in it finds."""

    def __init__(self, folder):
        self.folder, self.clone = folder, folder / "mdlm-mcd"
        where = sysconfig.get_paths()
        python = PYTHON.format(python=sys.executable, packages=where["purelib"])
        shims = folder / "shims"
        shims.mkdir()
        for name in SHIMMED:
            script(shims / name, SHIM.format(scripts=where["scripts"], teacher=TEACHER))
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "COV"))}
        self.env |= {
            "PATH": f"{shims}:{os.environ['PATH']}",
            "PYTHON": str(script(folder / "python", python)),
            "MAKEFLAGS": f"BIN={shims}",
            "VENV": str(self.clone / ".venv"),
            "PYTEST_ADDOPTS": "-k readme_is_short",
            "PIP_NO_INDEX": "1",
            "PIP_NO_BUILD_ISOLATION": "0",  # pip's way to say that it is off
            "PIP_FIND_LINKS": str(folder / "wheels"),
            "GIT_CONFIG_COUNT": "2",
        }
        for i, name in enumerate(("kuleshov-group/mdlm", "s-sahoo/duo")):
            self.env[f"GIT_CONFIG_KEY_{i}"] = f"url.{folder}/remote.insteadOf"
            self.env[f"GIT_CONFIG_VALUE_{i}"] = f"https://github.com/{name}"
        self.env.pop("PYTHONPATH", None)
        self.bash(f"git clone -q {ROOT} mdlm-mcd && {REMOTE}", folder)
        self.bash(f"{sys.executable} -m build -w --no-isolation -o {folder}/wheels", self.clone)
        self.bash("make setup", self.clone)

    def bash(self, text, cwd):
        command = ["bash", "-e", "-o", "pipefail", "-c", text]
        done = subprocess.run(command, cwd=cwd, env=self.env, capture_output=True, text=True)
        assert done.returncode == 0, f"{text}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout


def found():
    """Yield (page, block) of all that such a machine can run; other tests run the rest."""
    for page in PAGES:
        for block in documents.blocks(page):
            commands = documents.commands(block.text) if block.language == "sh" else ()
            if any(w[0] in ("make", "git", "pip") or "benchmarks/" in w[1] for w in commands):
                yield pytest.param(page, block.text, id=f"{page.name}: {block.text[:30]}")


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    if not (ROOT / ".git").exists():
        pytest.skip("no repository of git, which a reader clones")
    pytest.importorskip("datasets", reason="no datasets: pip install -e '.[test,data]'")
    return Machine(tmp_path_factory.mktemp("machine"))


@pytest.mark.parametrize("page, text", [*found()])
def test_a_block_runs_as_it_stands(page, text, machine, tmp_path):
    """Up to what needs a teacher of the paper's size: tests/hosts runs that in a real clone."""
    if "make docs" in text:
        pytest.importorskip("mkdocs", reason="no mkdocs: pip install -e '.[docs]'")
    (text,) = re.split(r"^mdlm-mcd (?!demo)", text, maxsplit=1, flags=re.MULTILINE)[:1]
    cwd = machine.clone
    if text.startswith(("cd ", "git ")):
        (cwd := tmp_path / "beside").mkdir()
        if text.startswith("cd "):
            machine.bash(f"git clone -q {machine.folder}/remote {text.split()[1]}", cwd)
    machine.bash(text, cwd)
