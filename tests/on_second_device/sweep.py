"""A model under the embedded host's judge: python sweep.py MODEL JUDGE OUT."""

import sys
from pathlib import Path

from mdlm_mcd.commands import sweep
from mdlm_mcd.evaluation import candidates
from mdlm_mcd.evaluation.plan import Plan, grid

model, judge, out = sys.argv[1:]
points = grid([2, 4], (1.0, 0.5), ("sparse", "locked"), (("iid", None), ("lattice", "auto")))
plan = Plan(points, num_samples=6, batch_size=4, bound_rows=4)


def rows(device):
    path = Path(out) / f"{device.partition(':')[0]}.jsonl"
    source = candidates.Source("m", model)
    return sweep.sweep([source], plan, path, judge=judge, device=device)


for mine, theirs in zip(rows("gpu:0"), rows("cpu"), strict=True):
    # Bounds know no samples, and those of `locked` know no device.
    same = ["n_step_nelbo", "nelbo"]
    same += ["perplexity", "entropy"] if mine["sampler"] == "locked" else []
    for name in same:
        a, b = (row["metrics"][name]["value"] for row in (mine, theirs))
        assert abs(a - b) < 1e-5 * abs(b), (name, a, b)
