"""How much of everything: the full benchmark, `--quick`, and one for tests."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

BATCH = 64  # samples and rows at a time


@dataclass(frozen=True)
class Part:
    """One of the two settings at one size.

    model: overrides of model and optimizer for everything trained. distil: those of
    students alone. steps: sampling steps; few: those of methods that are not `main`.
    lattice: steps at which the lattice is sampled, too. seeds: of main methods and of
    the others; samples: drawn at each point, bound_rows: held-out rows of the N-step
    NELBO.
    """

    model: tuple[str, ...]
    teacher_steps: int
    distil: tuple[str, ...]
    rounds: int
    steps_per_round: int
    delta0: float
    steps: tuple[int, ...]
    few: tuple[int, ...]
    lattice: tuple[int, ...]
    seeds: tuple[int, int]
    samples: int
    bound_rows: int
    judge_steps: int = 0
    corpus_rows: int = 0
    language: dict = field(default_factory=dict)

    @property
    def total_steps(self) -> int:
        return self.rounds * self.steps_per_round


DISTIL = (
    "optim.lr=5e-4",
    "optim.beta2=0.99",
    "lr_scheduler.num_warmup_steps=20",
    "training.ema=0.95",
)
LANGUAGE_MODEL = (
    "data=textfile",
    "data.files=[]",
    "data.tokenizer_name_or_path=exact language",
    "model=laptop",
    "model.length=64",
    "model.cond_dim=16",
)

LANGUAGE = Part(
    model=(*LANGUAGE_MODEL, "model.hidden_size=64", "model.n_blocks=3", "model.embed_std=1.0"),
    teacher_steps=4000,
    distil=(*DISTIL, "loader.global_batch_size=32"),
    rounds=5,
    steps_per_round=40,
    delta0=1 / 64,
    steps=(4, 8, 16, 32),
    few=(4, 8, 16),
    lattice=(4, 8),
    seeds=(5, 3),
    samples=128,
    bound_rows=32,
    corpus_rows=20_000,
    language={"components": 2},
)

TEXT = Part(
    model=(
        "data=stdlib",
        "data.vocab_size=512",
        "model=laptop",
        "model.length=64",
        "model.embed_std=0.3",
        "model.hidden_size=96",
        "model.n_blocks=3",
    ),
    teacher_steps=2400,
    distil=(*DISTIL, "loader.global_batch_size=32"),
    rounds=5,
    steps_per_round=40,
    delta0=1 / 64,
    steps=(4, 8, 16, 32),
    few=(4, 8),
    lattice=(4, 8),
    seeds=(3, 3),
    samples=96,
    bound_rows=32,
    judge_steps=600,
)


QUICK = {
    "language": replace(
        LANGUAGE,
        steps=(4, 16),
        few=(4, 16),
        lattice=(4,),
        seeds=(3, 3),
        samples=96,
        bound_rows=24,
        teacher_steps=1500,
        steps_per_round=30,
    ),
    "text": replace(
        TEXT,
        distil=(*DISTIL, "loader.global_batch_size=16"),
        steps=(4, 16),
        few=(4, 16),
        lattice=(4,),
        samples=48,
        bound_rows=24,
        teacher_steps=1200,
        judge_steps=300,
        steps_per_round=20,
    ),
}


def _tiny(part: Part, *overrides: str, **changes) -> Part:
    """A part for tests."""
    small = ("hidden_size=16", "n_blocks=1", "n_heads=2", "length=16")
    return replace(
        part,
        model=(*part.model, *(f"model.{size}" for size in small), *overrides),
        teacher_steps=4,
        distil=(*DISTIL, "loader.global_batch_size=4"),
        rounds=2,
        steps_per_round=2,
        delta0=1 / 8,
        steps=(2, 4),
        few=(2, 4),
        lattice=(2,),
        samples=8,
        bound_rows=4,
        **changes,
    )


TINY = {
    "language": _tiny(LANGUAGE, seeds=(2, 2), corpus_rows=64),
    "text": _tiny(
        TEXT, "data.max_chars=100000", "data.vocab_size=300", seeds=(1, 1), judge_steps=4
    ),
}

SIZES = {"full": {"language": LANGUAGE, "text": TEXT}, "quick": QUICK, "tiny": TINY}
