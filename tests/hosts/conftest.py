"""What the real hosts read."""

import clones
import pytest


@pytest.fixture(scope="session")
def assets(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("assets")
    clones.make_assets(out, corpus.read_text("utf-8").split("\n\n\n"))
    return out
