"""Run the host's jobs of Hydra; print what ends them, with one exit status."""

import os
import sys
import tempfile
import traceback
import uuid

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from ..errors import ConfigError
from ..settings import console, hydra_errors


class JobFailed(ConfigError):
    """A job of a multirun that did not end well; its own error is printed before."""


class Outcomes:
    """How the jobs ended: a line each in a file, as they may run in other processes."""

    def __init__(self):
        name = f"mdlm_mcd_jobs_{uuid.uuid4().hex}"
        self.path = os.path.join(tempfile.gettempdir(), name)

    def add(self, job, failed):
        with open(self.path, "a") as file:
            file.write(f"{job} {int(failed)}\n")

    def take(self):
        """Return the numbers of the jobs that failed, and of all; remove the file."""
        if not os.path.exists(self.path):  # no multirun
            return [], 0
        with open(self.path) as file:
            lines = [line.split() for line in file]
        os.remove(self.path)
        return sorted(int(job) for job, failed in lines if int(failed)), len(lines)


def perform(run, config, outcomes):
    """Call `run(config)` as one of Hydra's jobs.

    In a multirun an error is printed here, with the job's number, and ends this job.
    What is raised then has no traceback, which would keep the job's model, and can be
    sent to another process.
    """
    hydra, failed = HydraConfig.get(), None
    multirun = hydra.mode == RunMode.MULTIRUN
    console.write_any_text()
    try:
        result = run(config)
    except Exception as error:
        known = hydra_errors.explain(error)
        full = known is None or console.wants_traceback()
        if full and not multirun:
            raise
        if not multirun:
            raise SystemExit(sentence(known)) from None
        if full:
            traceback.print_exception(error)
        failed = sentence(known or error)
    if not multirun:
        return result
    outcomes.add(hydra.job.num, failed is not None)
    if failed is None:
        return result
    print(f"Job #{hydra.job.num} failed: {failed}", file=sys.stderr, flush=True)
    # Hydra asks for the results of a batch before it begins the next one.
    if hydra.sweeper.get("max_batch_size"):
        return None
    raise JobFailed(f"job #{hydra.job.num}: {failed}")


def sentence(error):
    return console.sentence(f"{type(error).__name__}: {error}")


def call(job, outcomes):
    """Call Hydra's `job`; errors that are no bugs end in a sentence and status 1."""
    message = None
    console.write_any_text()
    undo = console.hydra_raises()
    try:
        job()
    except JobFailed:
        pass
    except Exception as error:
        known = hydra_errors.explain(error)
        if known is None or console.wants_traceback():
            raise
        message = sentence(known)
    finally:
        undo()
        failed, jobs = outcomes.take()
        if failed:
            numbers = ", ".join(f"#{number}" for number in failed)
            print(f"{len(failed)} of {jobs} jobs failed: {numbers}.", file=sys.stderr)
    if message or failed:
        raise SystemExit(message or 1)
