"""What ends a run of a host under `mdlm-mcd run`, in a sentence."""

from __future__ import annotations

import os
from collections.abc import Sequence

from omegaconf.errors import OmegaConfBaseException

from ..errors import CheckpointError, MCDError, first_line
from ..settings import hydra_errors

LIBRARIES = ("huggingface_hub", "requests", "httpx", "urllib3")
WORDS = ("huggingface.co", "offline mode", "local_files_only")


def explain(error: Exception, given: Sequence[str], folder: str) -> str | None:
    """Return the sentence that an error ends in, or None for a bug.

    given: the overrides; folder: the host's.
    """
    found: Exception | None = error if isinstance(error, MCDError) else unreachable(error)
    # What a host's own code asks of OmegaConf may be its bug.
    if found is None and (
        hydra_errors.is_hydras(error) or not isinstance(error, OmegaConfBaseException)
    ):
        found = hydra_errors.explain(error, given, os.path.join(folder, "configs"))
    return found and f"mdlm-mcd: {found}"


def unreachable(error: BaseException) -> MCDError | None:
    """Return a CheckpointError where the Hub could not be reached; else None.

    Hosts load tokenizer, data and evaluator without looking after their errors, and
    the libraries wrap the network's error in several kinds of their own.
    """
    links: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in links:
        links.append(link)
        link = link.__cause__ or link.__context__
    if not any(
        type(link).__module__.partition(".")[0] in LIBRARIES
        or (isinstance(link, (OSError, ValueError)) and any(word in str(link) for word in WORDS))
        for link in links
    ):
        return None
    return CheckpointError(
        "the host asked the Hugging Face Hub for what is neither cached here nor could be "
        f"fetched ({type(error).__name__}: {first_line(error)}): check the network, or name "
        "local folders in data.tokenizer_name_or_path and "
        "eval.gen_ppl_eval_model_name_or_path, and in data.cache_dir one that holds the data."
    )
