"""How much of everything: the full benchmark, `--quick`, and one for tests."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

BATCH = 64  # samples and rows at a time
DISTIL = (
    "optim.lr=5e-4",
    "optim.beta2=0.99",
    "lr_scheduler.num_warmup_steps=20",
    "training.ema=0.95",
)


@dataclass(frozen=True)
class Part:
    """One of the settings at one size.

    model: overrides of model and optimizer for everything trained. distil: those of
    students alone, batch their global batch, rbf_alpha `mmd`'s: one over the median squared
    distance of the teacher's features of tokens. steps: sampling steps; few: those of methods
    that are not `main`. lattice: steps at which the lattice is sampled, too. seeds: of main
    methods and of the others; samples: drawn at each point, bound_rows: held-out rows of the
    N-step NELBO. teacher_steps, judge_steps: 0: those that come with the package.
    """

    model: tuple[str, ...]
    few: tuple[int, ...]
    seeds: tuple[int, int]
    samples: int
    rbf_alpha: float
    batch: int = 32
    rounds: int = 5
    steps_per_round: int = 40
    delta0: float = 1 / 64
    steps: tuple[int, ...] = (4, 8, 16, 32)
    lattice: tuple[int, ...] = (4, 8)
    bound_rows: int = 32
    teacher_steps: int = 0
    judge_steps: int = 0
    corpus_rows: int = 0
    language: dict = field(default_factory=dict)

    @property
    def total_steps(self) -> int:
        return self.rounds * self.steps_per_round

    @property
    def distil(self) -> tuple[str, ...]:
        return (*DISTIL, f"loader.global_batch_size={self.batch}")


LANGUAGE = Part(
    model=(
        "data=textfile",
        "data.files=[]",
        "data.tokenizer_name_or_path=exact language",
        *"model=laptop model.length=64 model.cond_dim=16 model.hidden_size=64".split(),
        *"model.n_blocks=3 model.embed_std=1.0".split(),
    ),
    teacher_steps=4000,
    few=(4, 8, 16),
    seeds=(5, 3),
    samples=128,
    rbf_alpha=0.015,
    corpus_rows=20_000,
    language={"components": 2},
)
TOPICS = replace(
    LANGUAGE,
    model=(*LANGUAGE.model, "optim.lr=3e-3"),  # of the teacher; students have their own
    teacher_steps=2000,
    seeds=(3, 3),
    rbf_alpha=0.007,
    language={},
)
TEXT = Part(
    model=(
        *"data=shipped model=laptop model.length=64".split(),
        *"model.hidden_size=192 model.n_heads=6 model.n_blocks=4".split(),
    ),
    few=(4, 8),
    seeds=(3, 3),
    samples=64,
    rbf_alpha=0.0024,
    batch=16,
)
FROM_SCRATCH = {"teacher_steps": 5000, "judge_steps": 1500}


def _quick(part: Part, **changes) -> Part:
    points = dict(steps=(4, 16), few=(4, 16), lattice=(4,), seeds=(3, 3), bound_rows=24)
    return replace(part, **points | changes)


def _tiny(part: Part, *overrides: str, **changes) -> Part:
    """Return a part for tests; a shipped teacher has its own size."""
    small = "hidden_size=16 n_blocks=1 n_heads=2 length=16".split() if part.teacher_steps else ()
    return replace(
        part,
        model=(*part.model, *(f"model.{size}" for size in small), *overrides),
        teacher_steps=min(part.teacher_steps, 4),
        **dict(batch=4, rounds=2, steps_per_round=2, delta0=1 / 8),
        **dict(steps=(2, 4), few=(2, 4), lattice=(2,), samples=8, bound_rows=4),
        **changes,
    )


SIZES = {
    "full": {"language": LANGUAGE, "topics": TOPICS, "text": TEXT},
    "quick": {
        "language": _quick(LANGUAGE, samples=96, teacher_steps=1500, steps_per_round=30),
        "topics": _quick(TOPICS, samples=96, teacher_steps=500, steps_per_round=20, seeds=(1, 1)),
        "text": _quick(TEXT, samples=32, steps_per_round=20),
    },
    "tiny": {
        "language": _tiny(LANGUAGE, seeds=(2, 2), corpus_rows=64),
        "topics": _tiny(TOPICS, seeds=(1, 1), corpus_rows=64),
        "text": _tiny(TEXT, seeds=(1, 1)),
    },
}
SIZES |= {
    f"{size}-from-scratch": {**parts, "text": replace(parts["text"], **FROM_SCRATCH)}
    for size, parts in SIZES.items()
}
