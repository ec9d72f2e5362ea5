"""The tiny distillation that `stress.py` and `longrun.py` run in the embedded host."""

from __future__ import annotations

import random
from pathlib import Path

MODEL = "model=laptop model.hidden_size=32 model.n_blocks=2 model.n_heads=2 model.cond_dim=16"
COMMON = f"""
    algo=mcd algo.init_from=scratch algo.delta0=1/16
    data=textfile data.vocab_size=300 {MODEL} model.length=16
    loader.global_batch_size=8 trainer.accelerator=cpu trainer.limit_val_batches=2
    trainer.log_every_n_steps=1 ~callbacks.progress
    +trainer.enable_progress_bar=false +trainer.enable_model_summary=false
"""


def overrides(folder: Path, corpus: Path, rounds: int, steps: int) -> list[str]:
    """Return those of a run in `folder`; write the corpus where it is missing."""
    if not corpus.exists():
        words = "the cat sat on a mat and saw one old dog run by its red house".split()
        draw = random.Random(0)
        rows = (" ".join(draw.choices(words, k=20)) for _ in range(300))
        corpus.write_text("\n\n\n".join(rows), encoding="utf-8")
    return [
        *COMMON.split(),
        f"algo.rounds={rounds}",
        f"algo.steps_per_round={steps}",
        f"trainer.max_steps={rounds * steps}",
        f"data.files=[{corpus}]",
        f"data.cache_dir={corpus.with_name('cache')}",
        f"checkpointing.save_dir={folder}",
    ]
