"""The commands of README and the docs that take a clone, run in one at tiny sizes."""

import os
import re
import shlex
import sys

import clones
import documents
import pytest
from clones import contents

from mdlm_mcd.commands import export

pytestmark = [pytest.mark.hosts, pytest.mark.slow]

FOUND = clones.find()
FOLDERS = {"mdlm": "mdlm", "duo (main)": "duo"}  # as the pages call a clone
PAGES = [
    ("README.md", "mdlm"),
    ("README.md", "duo (main)"),
    ("docs/mdlm.md", "mdlm"),
    ("docs/duo.md", "duo (main)"),
    ("docs/baselines.md", "duo (main)"),
    ("docs/faq.md", "mdlm"),
    ("docs/hosts.md", "duo (main)"),
    ("docs/weights.md", "mdlm"),
    ("patches/README.md", "mdlm"),
]
FEWER = "--num-samples 4 --bound-rows 2 --batch-size 4".split()
SMALL = {  # what a method's defaults are too large for
    "mmd": ["algo.feature_block=0", "algo.rbf_alpha=0.1"],
    "dcd": ["algo.gamma_max=1"],
}


@pytest.fixture(scope="module")
def given(assets, corpus, tmp_path_factory):
    """`given(host)`: what a page takes as given, by the name that it has there."""
    found = {}

    def of(name):
        if name not in FOUND:
            pytest.skip(f"no clone of {name} in MDLM_MCD_HOSTS")
        if name not in found:
            folder = tmp_path_factory.mktemp("given")
            clone = clones.copy(name, FOUND[name], folder / "clone", assets, folder / "runs")
            found[name] = {"gpt2": assets / "gpt2", "held_out.txt": corpus, "cuda": "cpu"}
            algos = {"mdlm.ckpt": clone.own}
            if name.startswith("duo"):
                algos["duo.ckpt"] = ["algo=duo_base", "sampling.predictor=ancestral"]
            for file, own in algos.items():
                out, _ = clone.run(file, *own, "trainer.max_steps=2", memory=True)
                found[name][file] = out / "checkpoints" / "last.ckpt"
            teacher = found[name]["mdlm.ckpt"]
            export.export(str(teacher), folder / "my-student")
            found[name] |= dict.fromkeys(("my-student", "$PWD/my-student"), folder / "my-student")
            found[name]["kuleshov-group/mdlm-owt"] = teacher
            found[name]["mcd/checkpoints/last.ckpt"] = teacher
        return {**found[name]}

    return of


def overrides(words, clone):
    """Return a run's overrides on a tiny model, in few steps."""
    algo = next((word[5:] for word in words if word.startswith("algo=")), "")
    less = []
    if any(word.startswith("algo.teacher_path=") for word in words):
        rounds = 1 if algo == "mmd" or "algo.rounds=1" in words else 5
        less += [f"algo.rounds={rounds}", "algo.steps_per_round=1", "algo.guard=off"]
        less += [f"trainer.max_steps={rounds}", *SMALL.get(algo, ())]
    elif not any(word.startswith("mode=") for word in words):
        less += ["trainer.max_steps=2", *clone.own]
    if any(word.endswith("=hf_dit") for word in words):
        less += ["training.ema=0"]  # a Hugging Face model comes without an EMA beside it
    own = ("~wandb", "hydra.run.dir=")  # the tests have folders of their own
    return [word for word in words if not word.startswith(own)] + less


def of_host(page, name):
    """Return the commands of a page, without those for the other host's clone."""
    others = [["cd", folder] for host, folder in FOLDERS.items() if host != name]
    texts = [b.text for b in documents.blocks(documents.ROOT / page) if b.language == "sh"]
    found = [
        words for words in map(documents.commands, texts) if all(o not in words for o in others)
    ]
    return [command for words in found for command in words]


@pytest.mark.parametrize("page, name", PAGES)
def test_a_pages_commands_in_a_clone(page, name, given, assets, tmp_path):
    """In order, in one copy; a student is what the page's own run left."""
    files = given(name)
    clone = clones.copy(name, FOUND[name], tmp_path / "clone", assets, tmp_path / "runs")
    files["path/to/clone"] = clone.folder
    places = ["--evaluator", str(files["gpt2"]), "--out", str(tmp_path / "results.jsonl")]
    ran, pristine = [], contents(clone.folder)

    def host(words, memory):
        out, _ = clone.run(f"run-{len(ran)}", *overrides(words, clone), memory=memory)
        student = out / "checkpoints" / "round-5.ckpt"
        if student.exists():
            name = "student/checkpoints/round-5.ckpt"
            files.update({f"$PWD/{name}": student, name: student})

    def ours(*words, status=0):
        done = clones.start(clone.folder, "-m", "mdlm_mcd.commands.main", *words)
        printed = done.stdout + done.stderr
        assert done.returncode == status, f"{words}\n{printed}"
        return printed

    for command in of_host(page, name):
        command = [re.sub(r"[^=]+$", lambda m: str(files.get(m[0], m[0])), w) for w in command]
        match command:
            case ["python", "main.py", *words]:
                host(words, memory=False)
            case ["mdlm-mcd", "run", *words]:
                host(words, memory=True)
            case ["mdlm-mcd", "doctor", ".", *words]:  # the patch is missing, which `run` mends
                # The teacher's rows; the page's has those of the host's config.
                printed = ours("doctor", ".", *words, "model.length=32", status=1)
                assert printed.count("STOP") == 1 and "mdlm-mcd run" in printed
            case ["mdlm-mcd", "patch", *words]:
                ours("patch", *words)
            case ["mdlm-mcd", "sweep", *words] if "--tokenizer" in words:  # of a host's files
                ours("sweep", *words, *FEWER, *places)
            case _:
                continue
        ran.append(command[1])
    assert {"run", "main.py", "patch", "doctor"} & set(ran)
    assert ran.count("patch") in (0, 2, 3) and contents(clone.folder) == pristine


# Two tasks on this machine, each with what Lightning reads of SLURM's variables.
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
export SLURM_NTASKS=2 SLURM_NNODES=1 SLURM_NODEID=0
pids=()
for task in 0 1; do
    SLURM_PROCID=$task SLURM_LOCALID=$task "$@" & pids+=($!)
done
status=0
for pid in "${pids[@]}"; do wait "$pid" || status=1; done
exit $status
"""


@pytest.mark.parametrize("name", ["mdlm", "duo (main)"])
def test_the_slurm_script_and_again_after_sigterm(name, given, assets, tmp_path):
    """The page's script as it stands, where `srun` is a stub and `mdlm-mcd` adds tiny sizes."""
    teacher = given(name)["mdlm.ckpt"]
    clone = clones.copy(name, FOUND[name], tmp_path / "clone", assets, tmp_path / "runs")
    steps = ["algo.rounds=2", "algo.steps_per_round=3", "trainer.max_steps=6", "algo.guard=off"]
    stop = ["+callbacks.stop._target_=callbacks.Terminate", "+callbacks.stop.step=2"]
    binaries = tmp_path / "environment" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "activate").write_text(f'PATH="{binaries}:$PATH"\n')
    command = [sys.executable, "-m", "mdlm_mcd.commands.main", "run", *clone.tiny()]
    ours = f'{shlex.join(command)} "${{@:2}}" {shlex.join([*steps, *stop])}'
    for file, text in (("srun", SRUN), ("mdlm-mcd", f"#!/bin/bash\nexec {ours}\n")):
        (binaries / file).write_text(text)
        (binaries / file).chmod(0o755)
    (script,) = (
        block.text
        for block in documents.blocks(documents.ROOT / "docs/several_processes.md")
        if block.text.startswith("#!/bin/bash")
    )
    run = tmp_path / "run"
    for place, path in {
        "environment": tmp_path / "environment",
        "clone of the host": clone.folder,
        "teacher": teacher.with_suffix(""),
        "folder of the run": run,
    }.items():
        script = script.replace(f"<{place}>", str(path))
    job = {"JOB_ID": str(os.getpid()), "JOB_NAME": "mcd", "JOB_NUM_NODES": "1"}
    job |= {"NTASKS_PER_NODE": "2"}
    environment = {f"SLURM_{key}": value for key, value in job.items()}
    printed = [clones.start(tmp_path, "-c", script, program="bash", **environment) for _ in "12"]
    first, again = (done.stdout + done.stderr for done in printed)
    assert first.count("MEMBER: 2/2") == 1 and "SIGTERM" in first and "Traceback" not in first
    assert printed[1].returncode == 0, again
    assert (run / "checkpoints" / "round-2.ckpt").exists() and "SIGTERM" not in again
