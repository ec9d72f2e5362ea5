"""The `mdlm-mcd` command."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

from .. import __version__
from ..errors import ConfigError, MCDError
from ..settings import console


def _demo(args) -> None:
    from . import demo  # imports torch: not for `--help`

    demo.run(_folder(args.out), seed=args.seed, recipe=demo.recipe(args.quick))


def _patch(args) -> None:
    from ..hosts import patches, specs

    layout = specs.of_folder(args.path)
    print(patches.patch(args.path, layout, check=args.check, revert=args.revert))


def _run(args) -> int:
    command = [sys.executable, "-m", "mdlm_mcd.hosts.launch", *args.overrides]
    if os.name == "posix":  # the host takes our place: its signals, its status
        os.execv(sys.executable, command)
    return subprocess.call(command)


def _doctor(args) -> int:
    from . import doctor

    text, status = doctor.report(doctor.examine(args.path, args.overrides))
    print(text)
    return status


def _export(args) -> None:
    from . import export

    told = {
        "model_length": args.length,
        "n_heads": args.heads,
        "time_conditioning": args.time_conditioning,
    }
    said = export.export(
        args.checkpoint,
        args.out,
        which=args.weights,
        tokenizer=args.tokenizer,
        overwrite=args.overwrite,
        given={k: v for k, v in told.items() if v is not None},
    )
    print(said)


def _numbers(kind):
    def parse(text: str) -> list:
        if found := [kind(part) for part in text.split(",") if part.strip()]:
            return found
        raise ValueError

    parse.__name__ = f"list of {kind.__name__}s"  # for argparse's own message
    return parse


def _law(text: str) -> tuple[str, float | str | None]:
    """`iid`, `lattice`, or with a step: `lattice:1/8`, `lattice:auto`."""
    law, _, step = text.partition(":")
    if not step or step == "auto":
        return law, step or None
    try:
        return law, float(Fraction(step))
    except (ValueError, ZeroDivisionError) as error:
        raise argparse.ArgumentTypeError(
            f"{text}: the step {step} is no number such as 0.125 or 1/8"
        ) from error


def _sweep(args) -> None:
    from ..evaluation import candidates
    from ..evaluation.plan import Plan, grid
    from . import sweep

    points = grid(
        args.steps,
        args.temperature,
        args.sampler.split(","),
        args.u_law,
        args.dtype.split(","),
        args.top_p,
        args.stratified,
    )
    plan = Plan(points, args.num_samples, args.batch_size, args.bound_rows, args.seed, args.mauve)
    plan.check()
    sources = [
        candidates.Source.parse(text, which=args.weights, tokenizer=args.tokenizer)
        for text in args.checkpoint
    ]
    how = dict(judge=args.evaluator, corpus=args.corpus, device=args.device, host=args.host)
    if args.calibrate:
        sweep.calibrate(sources[0], plan, Path(args.out), **how)
    rows = sweep.sweep(sources, plan, Path(args.out), **how)
    print(f"{len(rows)} rows in {args.out}. Now: mdlm-mcd report {args.out}")


def _report(args) -> None:
    from ..evaluation import report

    found = report.write(
        args.results, args.out, force=args.force, reference=args.reference, title=args.title
    )
    for sentence in found.said:
        print(f"mdlm-mcd: {sentence}", file=sys.stderr)
    print(f"Wrote {args.out}: {len(found.points)} rows.")


def _figures(args) -> None:
    from . import figures
    from .demo_tables import require_matplotlib

    require_matplotlib()  # before a model is opened, not after it
    out, model = _folder(args.out), None
    figures.check_out(out)
    if args.model is not None:
        from ..evaluation import candidates

        source = candidates.Source.parse(
            args.model, which=args.weights or "ema", tokenizer=args.tokenizer
        )
        model = candidates.open_model(source)
    elif args.weights or args.tokenizer:
        flag = "--weights" if args.weights else "--tokenizer"
        raise ConfigError(f"{flag} is a checkpoint's: name it with --model.")
    files = figures.write(out, model, args.seed)
    print(f"Wrote {len(files)} files to {args.out}. Now: open {files[-1]}")


def _folder(named: str) -> Path:
    """Of `--out`; an empty one, a shell variable that is not set, is no folder."""
    if not named:
        raise ConfigError("--out is empty: name a folder.")
    return Path(named)


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(
        prog="mdlm-mcd",
        description="Masked Consistency Distillation for masked diffusion language models.",
    )
    root.add_argument("--version", action="version", version=__version__)
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo",
        help="train a teacher, distil it, compare them; about 15 minutes on 2 CPU cores",
        description="Trains a small masked diffusion model on English text out of "
        "Python itself, distils it with MCD over five rounds, and samples teacher and "
        "students at 4 to 128 steps. Leaves report.html, table.md, "
        "perplexity_vs_steps.png, samples.txt and results.json. Run it again to go on "
        "after an interruption.",
    )
    demo.add_argument("--out", required=True, metavar="DIR", help="where to write")
    demo.add_argument("--seed", type=int, default=1)
    demo.add_argument(
        "--quick",
        action="store_true",
        help="the same chain in about a minute; its figures mean nothing",
    )
    demo.set_defaults(call=_demo)

    patch = commands.add_parser(
        "patch",
        help="let a clone of Duo or MDLM train our classes; a few lines",
        description="Applies the patch for the host in PATH (see patches/README.md). "
        "A host with edits of its own in those lines is left alone.",
    )
    patch.add_argument("path", metavar="PATH", help="folder of the clone")
    patch.add_argument("--check", action="store_true", help="only say what it would do")
    patch.add_argument("--revert", action="store_true", help="take the patch out again")
    patch.set_defaults(call=_patch)

    run = commands.add_parser(
        "run",
        # Everything that follows is Hydra's, its options such as -m included.
        prefix_chars="\0",
        add_help=False,
        help="run the main.py of the host in this folder, patched in memory only",
        description="mdlm-mcd run [HYDRA OVERRIDES]: in place of python main.py, in a "
        "host's folder. Where flash-attn or CUDA is missing it supplies stand-ins.",
    )
    run.add_argument("overrides", nargs="*", metavar="OVERRIDE")
    run.set_defaults(call=_run)

    doctor = commands.add_parser(
        "doctor",
        help="what would stop a run, and what a bug report needs, on one screen",
        description="Looks at the host in PATH as `python main.py algo=mcd OVERRIDES` "
        "would find it. Ends with status 1 where something would stop the run that "
        "`mdlm-mcd run` does not mend, or where the patch is missing.",
    )
    doctor.add_argument("path", nargs="?", default=".", metavar="PATH")
    doctor.add_argument(
        "overrides", nargs="*", metavar="OVERRIDE", help="of the run to be looked at"
    )
    doctor.set_defaults(call=_doctor)

    export = commands.add_parser(
        "export",
        help="write a checkpoint as a Hugging Face folder",
        description="Writes model.safetensors, config.json, the code that opens them "
        "and a model card. transformers.AutoModelForMaskedLM opens the folder without "
        "this package, and so do MDLM, Duo (backbone=hf_dit) and algo.teacher_path.",
    )
    export.add_argument("checkpoint", metavar="CKPT", help="what teacher_path takes")
    export.add_argument("out", metavar="OUT", help="the folder to write")
    export.add_argument("--weights", choices=("ema", "raw"), default="ema")
    export.add_argument(
        "--tokenizer",
        metavar="NAME_OR_PATH",
        help="goes along; bpe: the one the embedded host trained",
    )
    export.add_argument("--overwrite", action="store_true", help="replace an export")
    unsaid = export.add_argument_group("where the checkpoint does not say it")
    unsaid.add_argument("--length", type=int, metavar="N", help="tokens in a sequence")
    unsaid.add_argument("--heads", type=int, metavar="N", help="attention heads")
    unsaid.add_argument("--time-conditioning", action=argparse.BooleanOptionalAction, default=None)
    export.set_defaults(call=_export)
    sweep = commands.add_parser(
        "sweep",
        help="sample and measure checkpoints over steps and temperatures",
        description="Draws samples of every checkpoint at every point of the grid and "
        "measures them: N-step NELBO, perplexity, entropy, diversity, with intervals. "
        "One line of JSON a point; the same command goes on where it stopped.",
    )
    sweep.add_argument(
        "checkpoint",
        nargs="+",
        metavar="[LABEL=]CKPT",
        help="of the embedded host, MDLM or Duo, an exported folder or a hub id",
    )
    sweep.add_argument("--steps", type=_numbers(int), default=[8, 16, 32], metavar="N,N")
    sweep.add_argument("--temperature", type=_numbers(float), default=[1.0], metavar="T,T")
    sweep.add_argument("--sampler", default="sparse", metavar="NAME,NAME")
    sweep.add_argument(
        "--u-law",
        type=_law,
        nargs="+",
        default=[("iid", None)],
        metavar="LAW[:STEP]",
        help="joint law of the masks: iid, lattice, lattice:1/8, lattice:auto, halton",
    )
    sweep.add_argument("--stratified", action="store_true", help="each step opens its exact share")
    sweep.add_argument("--num-samples", type=int, default=1024)
    sweep.add_argument("--top-p", type=float, default=1.0)
    sweep.add_argument("--dtype", default="float64", help="of the draws")
    sweep.add_argument("--seed", type=int, default=1)
    sweep.add_argument(
        "--evaluator",
        default="gpt2-large",
        metavar="NAME_OR_CKPT",
        help="a causal LM of transformers, or a .ckpt of the embedded host's AR model",
    )
    sweep.add_argument(
        "--corpus",
        nargs="+",
        default=[],
        metavar="FILE",
        help="held-out text; default: the first checkpoint's own, where it is at hand",
    )
    sweep.add_argument("--out", default="results.jsonl", metavar="FILE")
    sweep.add_argument("--weights", choices=("ema", "raw"), default="ema")
    sweep.add_argument("--tokenizer", metavar="NAME_OR_PATH")
    sweep.add_argument("--batch-size", type=int, default=64)
    sweep.add_argument("--bound-rows", type=int, default=256, help="held-out rows")
    sweep.add_argument("--mauve", action="store_true", help="needs mdlm-mcd[mauve]")
    sweep.add_argument("--device", default="cpu")
    sweep.add_argument("--host", metavar="PATH", help="a clone, to note its commit")
    sweep.add_argument(
        "--calibrate",
        action="store_true",
        help="first draw the first checkpoint's curve in float32 and float64, and hold "
        "both against the published one",
    )
    sweep.set_defaults(call=_sweep)

    report = commands.add_parser(
        "report",
        help="one page out of results files: tables, curves, frontier, samples",
        description="Writes a self-contained HTML page without scripts. Rows that do "
        "not compare (another evaluator, sampling dtype, seed, held-out text, number "
        "or length of samples; a checkpoint that changed under its name) are refused.",
    )
    report.add_argument(
        "results", nargs="+", metavar="RESULTS", help="JSON lines of mdlm-mcd sweep"
    )
    report.add_argument("--out", default="report.html", metavar="FILE")
    report.add_argument(
        "--reference", metavar="MODEL", help="compared with; the teacher by default"
    )
    report.add_argument("--title", default="", help="of the page")
    report.add_argument(
        "--force", action="store_true", help="show them all the same, and mark them"
    )
    report.set_defaults(call=_report)
    _add_figures(commands)
    return root


def _add_figures(commands) -> None:
    figures = commands.add_parser(
        "figures",
        help="draw the paper's pictures from the code: SVG, PNG and an animation",
        description="Draws latent paths and their projection, the three cases of Eq. "
        "14, alpha_t against the signal-to-noise ratio, and one locked trajectory at "
        "8, 32 and 512 steps: of a checkpoint, or of a built-in language whose "
        "denoiser is exact. Needs mdlm-mcd[demo].",
    )
    figures.add_argument("--out", required=True, metavar="DIR", help="where to write")
    figures.add_argument(
        "--model", metavar="CKPT", help="whose trajectory; what mdlm-mcd sweep takes"
    )
    figures.add_argument("--weights", choices=("ema", "raw"), help="default: ema")
    figures.add_argument("--tokenizer", metavar="NAME_OR_PATH")
    figures.add_argument("--seed", type=int, default=10, help="of the latent")
    figures.set_defaults(call=_figures)


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0: done, 1: refused in a sentence, 130: interrupted."""
    console.write_any_text()
    try:
        console.check_arguments(sys.argv[1:] if argv is None else argv)
        args = parser().parse_args(argv)
        return args.call(args) or 0
    except (MCDError, OSError) as error:
        from ..checkpoints import files

        full = isinstance(error, OSError) and error.errno in files.FULL
        if console.wants_traceback() or not (full or isinstance(error, MCDError)):
            raise
        said = files.disk_full(error) if full else error
        print(console.sentence(f"mdlm-mcd: {said}"), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nmdlm-mcd: interrupted; the same command goes on from here.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
