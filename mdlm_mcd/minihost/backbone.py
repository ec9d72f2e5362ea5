"""Build the network that a config names."""

import transformers

from ..errors import ConfigError, border, require_one_of
from ..models import dit


def backbone(config, vocab_size: int):
    """Build the network that `algo.backbone` names.

    `dit` is built anew. `hf_dit` is the Hugging Face model at eval.checkpoint_path,
    as in the public hosts: the Python code beside its weights is run, so name only a
    folder or a Hub model that you trust. Raises ConfigError for other names and for a
    model that cannot be opened or has another vocabulary.
    """
    name, path = config.algo.backbone, config.eval.checkpoint_path
    if name == "dit":
        return dit.DIT(config, vocab_size=vocab_size)
    require_one_of(("dit", "hf_dit"), "algo.backbone", name)
    with border(
        f"eval.checkpoint_path={path} cannot be opened as a Hugging Face model",
        "name a folder or a Hub model, or set algo.backbone=dit",
    ):
        model = transformers.AutoModelForMaskedLM.from_pretrained(path, trust_remote_code=True)
    if model.config.vocab_size != vocab_size:
        raise ConfigError(
            f"eval.checkpoint_path={path} has a vocabulary of "
            f"{model.config.vocab_size}, and data.tokenizer_name_or_path makes one of "
            f"{vocab_size}: use the tokenizer it was trained with."
        )
    return model.train()  # like a network built anew
