"""Which sampling precision a published curve was drawn in."""

from mdlm_mcd.evaluation import calibration
from mdlm_mcd.evaluation.plan import Plan, grid
from mdlm_mcd.evaluation.report.paper import published


def test_which_precision_is_published():
    of = Plan(grid([4, 32], [0.7, 1.0]))
    asked = calibration.plan(of).points
    assert {(p.steps, p.dtype) for p in asked} == {
        (n, d) for n in (4, 32) for d in ("float32", "float64")
    }
    assert {(p.sampler, p.temperature) for p in asked} == {("ancestral", 1.0)}

    def row(steps, dtype, value, length=1024):
        figure = {"value": value, "low": value - 5, "high": value + 5}
        metrics = {"perplexity": figure, "entropy": {"value": 5.4}}
        return {
            "steps": steps,
            "dtype": dtype,
            "length": length,
            "metrics": metrics,
            "evaluator": "org/gpt2-large",
        }

    paper = published()
    rows = [
        row(4, "float64", 700.0),
        row(32, "float32", 163.0),
        row(32, "float64", 192.0),
        row(64, "float64", 300.0),
    ]
    found = calibration.verdicts(rows, paper)
    assert [v.said for v in found] == ["no published figure", "matches float32", "matches neither"]
    assert found[1].published == 163.27
    # Another length is another measurement.
    (other,) = calibration.verdicts([row(32, "float32", 163.0, length=64)], paper)
    assert other.published is None
    assert calibration.table(found).row_count == 3
