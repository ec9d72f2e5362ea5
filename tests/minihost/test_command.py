"""What the host's command prints while it runs."""

import pytest


@pytest.mark.parametrize(
    "callbacks, more, bar",
    [
        ("checkpoint_every_n_steps,lines", [], False),
        ("lines", ["+trainer.enable_progress_bar=true"], True),
        ("lines,progress", [], True),
        ("checkpoint_every_n_steps", [], True),
    ],
)
def test_lines_replace_the_bar(host, callbacks, more, bar):
    tiny = [o for o in host.tiny if "progress" not in o]
    lines = ["callbacks.lines.every=1"] if "lines" in callbacks else []
    status, said = host(f"callbacks=[{callbacks}]", *lines, *more, tiny=tiny)
    assert status == 0 and ("Epoch 0" in said) == bar, said
    assert ("step 2/2 trainer/loss=" in said) == bool(lines)


@pytest.mark.parametrize("callbacks", ["progress", "checkpoint_every_n_steps,lines"])
def test_a_terminal_that_is_not_utf8(host, callbacks):
    """Bars, Lightning's table of the model, and what stands in a message."""
    tiny = [o for o in host.tiny if "progress" not in o and "summary" not in o]
    status, said = host(f"callbacks=[{callbacks}]", tiny=tiny, encoding="ascii")
    assert status == 0 and "backbone" in said, said
    status, said = host("mode=tr\u00e4in", encoding="ascii")
    assert status == 1 and "ConfigError: " in said and "mode=tr\\xe4in" in said


def test_a_run_without_a_logger(host):
    assert host("~logger")[0] == 0
