"""docs/errors.md: written from the source, and each entry met on the command line."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import fakes
import pytest
import synthetic
import torch

from mdlm_mcd.hosts import patches
from mdlm_mcd.hosts.specs import DUO, MDLM

ROOT = Path(__file__).resolve().parents[2]


def load(path):
    spec = importlib.util.spec_from_file_location("errors_page", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


errors = load(ROOT / "docs" / "errors.py")
ENTRIES = errors.entries()


def slugs(sentence):
    return [entry.slug for entry in ENTRIES if errors.matches(entry, sentence)]


# The catalogue ------------------------------------------------------------------------


def test_every_sentence_has_one_entry():
    """A new error needs a piece of its sentence in docs/catalogue.py."""
    found = {f"{where}: {s}": slugs(s) for s, where in errors.sentences().items()}
    assert len(found) > 150
    assert not {s: entries for s, entries in found.items() if len(entries) != 1}


def test_every_entry_is_of_use():
    said = errors.sentences()
    for entry in ENTRIES:
        for piece in entry.says:
            alone = entry._replace(says=(piece,))
            assert any(errors.matches(alone, s) for s in [*said, *entry.also]), piece
    assert len({entry.slug for entry in ENTRIES}) == len(ENTRIES)


def test_the_page_is_up_to_date():
    page = (ROOT / "docs" / "errors.md").read_text("utf-8")
    assert page == errors.page(), "run `python docs/errors.py`"


# Each entry, on the command line ------------------------------------------------------


def clone(shell):
    (shell.folder / "clone").mkdir()
    return fakes.duo(shell.folder / "clone")


def doctor(shell, *overrides, edit=None):
    """`mdlm-mcd doctor` of a patched clone, after edit(folder)."""
    host = clone(shell)
    patches.patch(host, DUO)
    if edit:
        edit(host)
    return shell.command("doctor", host, *overrides)


def doctor_of_mdlm(shell, *overrides):
    """The same of a folder that has what MDLM's layout is known by."""
    methods = "".join(f"  def {name}(self): pass\n" for name in MDLM.needed)
    shell.write("mdlm/diffusion.py", f"class Diffusion:\n{methods}")
    config = "mode: train\nparameterization: subs\ntrainer: {}\nalgo: {}\n"
    shell.write("mdlm/configs/config.yaml", config)
    return shell.command("doctor", shell.write("mdlm/main.py").parent, *overrides)


def patch(shell, edit):
    host = clone(shell)
    main = host / "main.py"
    main.write_text(edit(main.read_text()))
    return shell.command("patch", host)


def full_disk(shell):
    with mock.patch("shutil.disk_usage", lambda path: SimpleNamespace(free=1000)):
        return shell.mcd()


def full_gpu(shell):
    full = torch.cuda.OutOfMemoryError("CUDA out of memory.")
    with mock.patch("mdlm_mcd.sampling.sample", side_effect=full):
        return shell.sweep()


def without_mauve(shell):
    with mock.patch.dict(sys.modules, mauve=None):
        return shell.sweep("--mauve")


def report(shell, *changes, argv=()):
    rows = [synthetic.row(steps=4 * (i + 1), **c) for i, c in enumerate(changes)]
    path = synthetic.write(shell.folder / "rows.jsonl", rows)
    return shell.command("report", path, "--out", shell.folder / "r.html", *argv)


def two_demos(shell):
    shell.write("demo.json", "{}")
    return shell.command("demo", "--out", shell.folder, "--quick")


OTHER = {"state_dict": {"backbone.weight": torch.ones(2)}}

CASES = {
    "unknown-key": lambda s: s.mcd("algo.losss=ce"),
    "override": lambda s: s.mcd("algo.teacher_path=a=b.ckpt"),
    "unusable-config": lambda s: s.mcd("+trainer.foo=1"),
    "unknown-value": lambda s: s.mcd("algo.loss=nope"),
    "out-of-range": lambda s: s.mcd("algo.rounds=0"),
    "delta-beyond-schedule": lambda s: s.mcd("algo.rounds=3", "algo.delta0=1/3"),
    "tau-not-positive": lambda s: s.mcd("algo.tau0=0"),
    "steps-and-rounds": lambda s: s.mcd("trainer.max_steps=7"),
    "wrong-model": lambda s: s.mcd("algo.parameterization=mean"),
    "wrong-host": lambda s: doctor_of_mdlm(s, "algo=dcd"),
    "noise-schedule": lambda s: s.mcd("noise.eps=2"),
    "average-as-teacher": lambda s: s.mcd("algo.snapshot=ema", "training.ema=0"),
    "law-of-u": lambda s: s.mcd("algo.u_step=1/8"),
    "sampler-options": lambda s: s.host(
        "algo=mcd",
        "mode=sample_eval",
        f"eval.checkpoint_path={s.teacher}",
        "sampling.greedy_tail=-1",
    ),
    "precision": lambda s: doctor(s, "trainer.precision=bf16-true"),
    "batch-size": lambda s: s.mcd("loader.batch_size=3"),
    "sharding": lambda s: s.mcd("algo.teacher_placement=sharded"),
    "not-writable": lambda s: s.mcd(f"checkpointing.save_dir={s.write('file')}/x"),
    "disk-full": full_disk,
    "diverged": lambda s: s.mcd("algo.loss=kl_bwd", "algo.delta0=1/2"),
    "teacher-changed": lambda s: s.mcd("+callbacks.bad._target_=commands.Meddler"),
    "resume": lambda s: s.mcd(f"checkpointing.resume_ckpt_path={s.teacher}"),
    "no-teacher": lambda s: s.from_teacher(""),
    "no-such-checkpoint": lambda s: s.from_teacher("none.ckpt"),
    "unreachable": lambda s: s.from_teacher("nobody/nothing"),
    "unreadable-checkpoint": lambda s: s.from_teacher(s.write("x.ckpt", "text")),
    "other-shapes": lambda s: s.from_teacher(s.teacher, "model.hidden_size=16"),
    "no-average": lambda s: s.from_teacher(s.changed(lambda held: held.pop("ema"))),
    "other-process": lambda s: s.from_teacher(s.told("algo.parameterization", "mean")),
    "other-conditioning": lambda s: s.from_teacher(s.told("algo.time_conditioning", True)),
    "other-length": lambda s: s.from_teacher(s.teacher, "model.length=20"),
    "too-little-text": lambda s: s.host("model.length=100000"),
    "text-files": lambda s: s.host("data.files=[nowhere.txt]"),
    "bpe": lambda s: s.host("data.vocab_size=10"),
    "special-tokens": lambda s: s.host(f"data.tokenizer_name_or_path={s.tokenizer(pad='_')}"),
    "missing-package": without_mauve,
    "no-host": lambda s: s.command("patch", s.folder),
    "local-edits": lambda s: patch(
        s, lambda text: text.replace("algo.name == 'ar'", "algo.name == 'AR'")
    ),
    "not-patched": lambda s: s.command("doctor", clone(s)),
    "plugin-not-seen": lambda s: doctor(
        s, edit=lambda host: (host / "configs/algo/mcd.yaml").write_text("name: own")
    ),
    "host-requirements": lambda s: doctor(
        s, edit=lambda host: (host / "utils.py").write_text("import unheard_of\n")
    ),
    "no-flash-attn": lambda s: doctor(s, "algo.loss=nope"),
    "export-exists": lambda s: s.command("export", s.teacher, s.write("x").parent),
    "checkpoint-is-silent": lambda s: s.command(
        "export", s.changed(lambda held: held.pop("hyper_parameters")), s.folder / "out"
    ),
    "cannot-be-sampled": lambda s: s.command(
        "export", s.changed(lambda held: held.update(OTHER)), s.folder / "out"
    ),
    "other-tokenizer": lambda s: s.command(
        "export", s.teacher, s.folder / "out", "--tokenizer", s.tokenizer(bos="<", eos=">")
    ),
    "grid": lambda s: s.sweep("--steps", "0"),
    "two-of-a-name": lambda s: s.command("sweep", s.teacher, s.teacher),
    "gpu-memory": full_gpu,
    "no-cuda": lambda s: s.sweep("--device", "cuda"),
    "held-out-text": lambda s: s.command(
        "sweep", s.told("data.valid", "elsewhere"), "--evaluator", s.judge
    ),
    "evaluator": lambda s: s.sweep("--evaluator", s.told("model.length", 8, s.judge)),
    "results-file": lambda s: s.command("report", s.write("r.jsonl", "[]\n")),
    "not-comparable": lambda s: report(s, {"evaluator": "one"}, {"evaluator": "two"}),
    "report-options": lambda s: report(s, {}, argv=["--reference", "nobody"]),
    "demo": two_demos,
}


def test_no_entry_is_left_out():
    assert list(CASES) == [e.slug for e in ENTRIES if e.slug != "arguments"]


@pytest.mark.parametrize("slug", CASES)
def test_met_on_the_command_line(shell, slug):
    status, said = CASES[slug](shell)
    assert status == 1 and "Traceback" not in said, said[-2000:]
    assert slug in slugs(said[-2500:]), said[-2500:]
