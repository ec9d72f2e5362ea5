"""The modules of `benchmarks`, as its scripts see them."""

from types import SimpleNamespace

import pytest
from inside import BENCHMARKS


@pytest.fixture(scope="module")
def paper():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import gpu_quality
        from paper import chain, check, command, compose, cost, experiments, stages

        modules = dict(chain=chain, check=check, command=command, compose=compose, cost=cost)
        modules |= dict(experiments=experiments, stages=stages, quality=gpu_quality)
        yield SimpleNamespace(**modules)
