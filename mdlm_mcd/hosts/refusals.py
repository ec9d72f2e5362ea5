"""What ends a run of a host under `mdlm-mcd run`, in a sentence."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ..errors import CheckpointError, MCDError
from ..settings import hydra_errors

LIBRARIES = ("huggingface_hub", "requests", "httpx", "urllib3")
WORDS = ("huggingface.co", "offline mode", "local_files_only")


def explain(error: Exception, given: Sequence[str], folder: str) -> str | None:
    """The sentence that an error ends in, or None for a bug, which has a traceback.

    given: the overrides; folder: the host's.
    """
    if isinstance(error, MCDError):
        return f"mdlm-mcd: {error}"
    if hydra_errors.is_hydras(error):
        return f"mdlm-mcd: {hydra_errors.explain(error, given, os.path.join(folder, 'configs'))}"
    found = hydra_errors.refusal(error) or unreachable(error)
    return found and f"mdlm-mcd: {found}"


def unreachable(error: BaseException) -> MCDError | None:
    """What a host's error comes to; None where it is no matter of the Hub.

    Hosts load tokenizer, data and evaluator without looking after their errors, and
    the libraries wrap what the network said in errors of several kinds.
    """
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        library = type(link).__module__.partition(".")[0] in LIBRARIES
        told = isinstance(link, (OSError, ValueError)) and any(word in str(link) for word in WORDS)
        if library or told:
            said = str(error).strip().partition("\n")[0].rstrip(".")
            return CheckpointError(
                "the host asked the Hugging Face Hub for what is neither "
                f"cached here nor could be fetched ({type(error).__name__}: {said}): "
                "check the network, or name local folders in "
                "data.tokenizer_name_or_path and "
                "eval.gen_ppl_eval_model_name_or_path, and in data.cache_dir one that "
                "holds the data."
            )
        link = link.__cause__ or link.__context__
    return None
