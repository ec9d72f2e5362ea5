"""Run the host's jobs of Hydra; print what ends them, with one exit status."""

import sys
import traceback

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from ..errors import ConfigError
from ..settings import console, hydra_errors


class JobFailed(ConfigError):
    """A job of a multirun that did not end well; its own error is printed before."""


def perform(run, config):
    """Call `run(config)` as one of Hydra's jobs.

    In a multirun an error is printed here, with the job's number, and Hydra raises it
    again when the other jobs have ended. What it then raises has no traceback, which
    would keep the job's model, and can be sent to another process.
    """
    hydra = HydraConfig.get()
    console.write_any_text()
    if hydra.mode != RunMode.MULTIRUN:
        with console.refusals(hydra_errors.ending):
            return run(config)
    try:
        return run(config)
    except Exception as error:
        if (failed := hydra_errors.ending(error)) is None:
            traceback.print_exception(error)
            failed = console.sentence(f"{type(error).__name__}: {error}")
    print(f"Job #{hydra.job.num} failed: {failed}", file=sys.stderr, flush=True)
    raise JobFailed(f"job #{hydra.job.num}: {failed}")


def call(job):
    """Call Hydra's `job`; errors that are no bugs end in a sentence and status 1."""
    console.write_any_text()
    with console.hydra_raises(), console.refusals(hydra_errors.ending):
        try:
            job()
        except JobFailed:
            raise SystemExit(1) from None
