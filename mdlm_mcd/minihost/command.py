"""The host's command line: jobs of Hydra, their errors, one exit status."""

import os
import sys
import tempfile
import traceback
import uuid

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from ..errors import ConfigError
from ..settings import console, hydra_errors
from . import checks


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
        """(numbers of the jobs that failed, number of all); removes the file."""
        if not os.path.exists(self.path):  # no multirun
            return [], 0
        with open(self.path) as file:
            lines = [line.split() for line in file]
        os.remove(self.path)
        return sorted(int(job) for job, failed in lines if int(failed)), len(lines)


@console.as_asked()
def perform(run, config, outcomes):
    """`run(config)` as one of Hydra's jobs.

    In a multirun an error is printed here, with the job's number, and ends this job.
    What is raised then holds no traceback, which would keep the job's model, and can
    be sent to another process.
    """
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:
        try:
            return run(config)
        except Exception as error:
            known = checks.explain(error)
            if not is_ours(known) or console.wants_traceback():
                raise
            raise SystemExit(sentence(known)) from None
    console.write_any_text()
    number = hydra.job.num
    failed = _failure(run, config)
    outcomes.add(number, failed is not None)
    if failed is None:
        return None
    print(f"Job #{number} failed: {failed}", file=sys.stderr, flush=True)
    # Hydra asks for the results of a batch before it begins the next one.
    if hydra.sweeper.get("max_batch_size"):
        return None
    raise JobFailed(f"job #{number}: {failed}")


def _failure(run, config):
    """None, or what ended the job; a bug's traceback is printed."""
    try:
        run(config)
    except Exception as error:
        known = checks.explain(error)
        if not is_ours(known) or console.wants_traceback():
            traceback.print_exception(error)
        return sentence(known)
    return None


def is_ours(error):
    """Whether it is raised on purpose, as a message to the user, by this package."""
    return type(error).__module__.partition(".")[0] == __package__.partition(".")[0]


def sentence(error):
    return console.sentence(f"{type(error).__name__}: {error}")


def call(job, outcomes, config_dir):
    """Call Hydra's `job`; errors that are no bugs end in a sentence and status 1."""
    said = None
    undo = console.hydra_raises()
    try:
        console.check_arguments(sys.argv[1:])
        job()
    except JobFailed:
        pass
    except Exception as error:
        known = error
        if hydra_errors.is_hydras(error) and not is_ours(error):
            known = hydra_errors.explain(error, sys.argv[1:], config_dir)
        if not is_ours(known) or console.wants_traceback():
            raise
        said = sentence(known)
    finally:
        undo()
        failed, jobs = outcomes.take()
        if failed:
            numbers = ", ".join(f"#{number}" for number in failed)
            print(f"{len(failed)} of {jobs} jobs failed: {numbers}.", file=sys.stderr)
    if said or failed:
        raise SystemExit(said or 1)
