"""`--dry-run`: every config of a table composed, and what it would cost."""

from __future__ import annotations

from .chain import TEACHER_STEPS, TRAIN, Chain, Setting, row
from .compose import composed
from .cost import Counted, Hardware, count, judged
from .experiments import METHODS, Table


def text(table: Table, given: Setting, hardware: Hardware) -> str:
    """Return the table of costs, as Markdown. Raises ConfigError for what does not compose."""
    chain = Chain(table, given)
    lines = [
        f"# {table.title}: what it costs",
        "",
        f"Counted on the meta device, not measured; hours are FLOPs over {hardware}.",
        "",
        row("training", "host", "parameters", "batch", "steps", "FLOP/step", "FLOP", "hours"),
        "| --- " * 8 + "|",
    ]
    # (name, method, host, overrides) of every training
    runs = []
    if given.teacher == TRAIN:
        recipe = table.teacher_recipe
        overrides = [f"+recipe={recipe}", f"trainer.max_steps={TEACHER_STEPS[recipe]}"]
        runs.append((recipe, METHODS["mdlm"], None, ["algo=mdlm", *overrides, *chain.common()]))
    for run in table.trained:
        overrides = [*chain.overrides(run, given.teacher or "TEACHER"), *chain.length(run)]
        overrides.append(f"trainer.max_steps={chain.max_steps}")
        hosts = (None, given.host) if given.host else (None,)
        runs += [(run.name, run.method, host, overrides) for host in hosts]
    flops, sizes = {}, {}
    for name, method, host, overrides in runs:
        if given.host and not host:  # the user's own may be meant for the clone
            overrides = [x for x in overrides if x not in given.overrides]
        config = composed(overrides, host)
        counted = count(config.model, uniform=method.uniform)
        if method is not METHODS["mdlm"]:
            sizes.setdefault(method.uniform, counted)
        batch, steps = config.loader.global_batch_size, config.trainer.max_steps
        step = counted.step(batch, method)
        flops[name] = step * steps
        lines.append(
            row(
                name,
                host.name if host else "minihost",
                f"{counted.parameters / 1e6:.1f}M",
                f"{batch}",
                f"{steps:,}",
                f"{step:.2e}",
                f"{flops[name]:.2e}",
                f"{hardware.hours(flops[name]):.1f}",
            )
        )
    training = sum(flops.values())
    table_of_samples, measuring = sampling(chain, sizes, hardware)
    return "\n".join(
        [
            *lines,
            "",
            *table_of_samples,
            "",
            f"In all {training + measuring:.2e} FLOP: training {hardware.hours(training):.1f} "
            f"hours on {hardware}, sampling and bounds {hardware.hours(measuring, 1):.1f} hours "
            "on one of them.",
        ]
    )


def sampling(chain: Chain, sizes: dict[bool, Counted], hardware: Hardware):
    """Return lines, and the FLOPs, of samples, their bounds and scores by number of steps."""
    table, given = chain.table, chain.setting
    evaluator = given.evaluator or table.evaluator
    models = {uniform: 1 for uniform in sizes}  # the teachers
    for run in table.trained:
        models[run.method.uniform] += len(chain.rounds(run))
    lines = [
        f"{given.num_samples} samples and {given.bound_rows} rows of N-step NELBO of each of "
        f"{sum(models.values())} models; scores by {evaluator}.",
        "",
        row("sampling steps", "FLOP/sample", "FLOP/score", "FLOP, all models", "hours, 1 device"),
        "| --- " * 5 + "|",
    ]
    total = 0.0
    for n in table.steps:
        flops = 0.0
        for uniform, counted in sizes.items():
            score = judged(evaluator, counted.length)
            each = given.num_samples * (counted.sample(n, uniform) + score)
            bound = 0 if uniform else given.bound_rows * counted.bound(n)
            flops += models[uniform] * (each + bound)
        sample = next(iter(sizes.values())).sample(n)
        score = f"{score:.2e}" if score else "unknown"
        hours = f"{hardware.hours(flops, 1):.1f}"
        lines.append(row(f"{n}", f"{sample:.2e}", score, f"{flops:.2e}", hours))
        total += flops
    return lines, total
