"""`--dry-run`: every config of a table composed, and what it would cost."""

from __future__ import annotations

from pathlib import Path

from . import compose
from .chain import STEPS_PER_ROUND, TEACHER_STEPS, TRAIN, Chain, Setting
from .cost import Counted, Hardware, count, judged
from .experiments import METHODS, Run, Table
from .stages import start


def composed(chain: Chain, run: Run) -> list[tuple[str, dict]]:
    """(host's name, config) of a run: in the embedded host, and in the clone if named.

    Raises ConfigError for what does not compose.
    """
    told = chain.setting
    overrides = [*chain.overrides(run, told.teacher or "TEACHER"), *chain.length(run)]
    overrides.append(f"trainer.max_steps={chain.max_steps}")
    found = [("minihost", compose.embedded(_without_host(chain, overrides)))]
    if told.host:
        found.append((told.host.name, compose.clone(told.host, overrides)))
    return found


def _without_host(chain: Chain, overrides: list[str]) -> list[str]:
    """What the embedded host takes of overrides that may be meant for a clone."""
    own = set(chain.setting.overrides) if chain.setting.host else set()
    return [x for x in overrides if x not in own]


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def text(table: Table, told: Setting, hardware: Hardware) -> str:
    """The table of costs, as Markdown; raises ConfigError for what does not compose."""
    chain = Unstarted(table, told)
    lines = [
        f"# {table.title}: what it costs",
        "",
        f"Counted on the meta device, not measured; hours are FLOPs over {hardware}.",
        "",
        _row("training", "host", "parameters", "batch", "steps", "FLOP/step", "FLOP", "hours"),
        "| --- " * 8 + "|",
    ]
    total, sizes = 0.0, {}
    if told.teacher == TRAIN:
        line, flops, _ = _teacher(chain, hardware)
        lines.append(line)
        total += flops
    for run in chain.table.trained:
        for host, config in composed(chain, run):
            counted = count(config.model, uniform=run.method.uniform)
            sizes.setdefault(run.method.uniform, counted)
            batch, steps = config.loader.global_batch_size, config.trainer.max_steps
            step = counted.step(batch, run.method)
            lines.append(_training(run.name, host, counted, batch, steps, step, hardware))
        total += step * steps
    sampling, flops = _sampling(chain, sizes, hardware)
    lines += ["", *sampling]
    lines += [
        "",
        f"In all {total + flops:.2e} FLOP: training {hardware.hours(total):.1f} hours "
        f"on {hardware}, sampling and bounds {hardware.hours(flops, 1):.1f} hours on "
        "one of them.",
    ]
    return "\n".join(lines)


class Unstarted(Chain):
    """A chain that only knows its overrides: nothing is written or run."""

    def __init__(self, table: Table, told: Setting):
        self.table, self.setting = table, told
        self.out = Path(told.out or "OUT").absolute()
        self.per_round, self.start, self.say = STEPS_PER_ROUND, start, print


def _training(name, host, counted: Counted, batch, steps, step, hardware) -> str:
    flops = step * steps
    return _row(
        name,
        host,
        f"{counted.parameters / 1e6:.1f}M",
        f"{batch}",
        f"{steps:,}",
        f"{step:.2e}",
        f"{flops:.2e}",
        f"{hardware.hours(flops):.1f}",
    )


def _teacher(chain: Chain, hardware: Hardware) -> tuple[str, float, Counted]:
    recipe = chain.table.teacher_recipe
    overrides = ["algo=mdlm", f"+recipe={recipe}", *chain.common()]
    config = compose.embedded(_without_host(chain, overrides))
    counted, steps = count(config.model), TEACHER_STEPS[recipe]
    batch = config.loader.global_batch_size
    step = counted.step(batch, METHODS["mdlm"])
    line = _training(recipe, "minihost", counted, batch, steps, step, hardware)
    return line, step * steps, counted


def _sampling(chain: Chain, sizes: dict[bool, Counted], hardware: Hardware):
    """Samples, their bounds and their scores, by number of steps."""
    table, told = chain.table, chain.setting
    models = {uniform: 1 for uniform in sizes}  # the teachers
    for run in table.trained:
        models[run.method.uniform] += 1 if run.algo == "cd4lm" else len(table.rounds)
    lines = [
        f"{told.num_samples} samples and {told.bound_rows} rows of N-step NELBO of "
        f"each of {sum(models.values())} models; scores by "
        f"{told.evaluator or table.evaluator}.",
        "",
        _row("sampling steps", "FLOP/sample", "FLOP/score", "FLOP, all models", "hours, 1 device"),
        "| --- " * 5 + "|",
    ]
    total = 0.0
    for n in table.steps:
        flops = 0.0
        for uniform, counted in sizes.items():
            score = judged(told.evaluator or table.evaluator, counted.length)
            each = told.num_samples * (counted.sample(n, uniform) + score)
            bound = 0 if uniform else told.bound_rows * counted.bound(n)
            flops += models[uniform] * (each + bound)
        first = next(iter(sizes.values()))
        lines.append(
            _row(
                f"{n}",
                f"{first.sample(n):.2e}",
                f"{score:.2e}" if score else "unknown",
                f"{flops:.2e}",
                f"{hardware.hours(flops, 1):.1f}",
            )
        )
        total += flops
    return lines, total
