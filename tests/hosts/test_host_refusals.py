"""What ends a real host's run under `mdlm-mcd run`: the Hub that cannot be reached."""

import pytest
import transformers

from mdlm_mcd.hosts import refusals


def test_unreachable_for_a_host_that_does_not_look(monkeypatch):
    """What transformers raises goes through the host's main.py."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError) as error:
        transformers.AutoTokenizer.from_pretrained("nobody/nothing")
    said = refusals.explain(error.value, [], ".")
    assert said.startswith("mdlm-mcd: the host asked the Hugging Face Hub for")
    assert "\n" not in said and "check the network" in said
    wrapped = RuntimeError("data")
    wrapped.__cause__ = error.value
    assert "Hugging Face Hub" in refusals.explain(wrapped, [], ".")


@pytest.mark.parametrize("error", [OSError("no such file"), KeyError("x")])
def test_what_is_no_matter_of_the_hub(error):
    assert refusals.explain(error, [], ".") is None
