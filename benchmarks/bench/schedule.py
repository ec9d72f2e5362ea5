"""Jobs over worker processes, each when what it needs is there."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path

from . import jobs
from .jobs import Job


def run(
    todo: Sequence[Job],
    size: str,
    folder: Path,
    workers: int,
    on_done: Callable[[Job, float], None] = lambda job, seconds: None,
) -> None:
    """Run all jobs; each waits for the preparations it needs in its part.

    on_done(job, seconds): after each, with the CPU seconds it took. An error in a
    worker is raised here, when the others have ended their job.
    """
    if workers == 1:
        for job in todo:  # preparations stand first
            on_done(job, jobs.run(job, size, folder))
        return
    # OpenMP reads it when a worker imports torch.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    waiting, running, ready = list(todo), {}, set()
    prepared = {(job.part, job.what) for job in todo if job.method is None}
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        while waiting or running:
            for job in list(waiting):
                needs = {(job.part, what) for what in job.needs} & prepared
                if len(running) < workers and needs <= ready:
                    running[pool.submit(jobs.run, job, size, folder)] = job
                    waiting.remove(job)
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                job = running.pop(future)
                on_done(job, future.result())
                ready.add((job.part, job.what))
