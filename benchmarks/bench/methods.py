"""The methods as data: what is trained, by which overrides, and how it is sampled."""

from __future__ import annotations

from dataclasses import dataclass

from mdlm_mcd.errors import ConfigError

MCD = "mcd"
TEACHER, ORACLE, UNIFORM = "teacher", "oracle", "uniform teacher"
TABLES = "tables"  # of counts, the row beside which a teacher has to hold
LANGUAGE, BOTH = ("language",), ("language", "text")
EXACT, ALL = ("language", "topics"), ("language", "topics", "text")


@dataclass(frozen=True)
class Method:
    """One row of the tables.

    overrides: of a training run, after those of its part; empty: nothing is trained.
    teacher: whose weights it starts from and is compared with. oracle: the exact
    denoiser is the teacher in every round. main: more seeds, all step counts. rounds:
    the student of every round is sampled. one_round: all steps are one round.
    parts: where it is run. temperatures: at the first step and, where it falls, at the
    last. quick: whether `--quick` has it. after: methods trained before it with the same
    seed, each from the averaged student of the one before.
    """

    name: str
    overrides: tuple[str, ...] = ()
    teacher: str = TEACHER
    oracle: bool = False
    main: bool = False
    rounds: bool = False
    one_round: bool = False
    parts: tuple[str, ...] = LANGUAGE
    temperatures: tuple[float, float | None] = (1.0, None)
    quick: bool = False
    after: tuple[Method, ...] = ()

    @property
    def words(self) -> str:
        """Return what it is, in the words of the command line."""
        start, end = self.temperatures
        if self.name == ORACLE:
            return "the exact denoiser, sampled"
        if self.name == UNIFORM:
            return "`algo=duo_base`, sampled by the host"
        if not self.overrides:
            return f"`algo=mdlm` sampled at T = {start:g}" + (f" falling to {end:g}" if end else "")
        text = " ".join(f"`{o}`" for o in self.overrides)
        if self.oracle:
            return text + ", the exact denoiser as the teacher of every round"
        if self.after:
            return text + f", from the student of {self.after[-1].name}"
        return text + (f", from the {UNIFORM}" if self.teacher == UNIFORM else "")

    @property
    def masked_teacher(self) -> bool:
        """Whether it is the teacher, at any temperature."""
        return not self.overrides and self.name not in (ORACLE, UNIFORM)

    @property
    def frontier(self) -> bool:
        """Whether it is the teacher at a constant temperature."""
        return self.masked_teacher and self.temperatures[1] is None


def _tempered(t: float) -> tuple[Method, Method]:
    constant = {"main": True, "quick": t in (0.8, 0.6)}
    return (
        Method(f"{TEACHER}, T {t:g}", temperatures=(t, None), parts=ALL, **constant),
        Method(f"{TEACHER}, T 1 to {t:g}", temperatures=(1.0, t)),
    )


def _mcd(name: str, *overrides: str, **how) -> Method:
    return Method(f"mcd, {name}", ("algo=mcd", *overrides), **how)


def _sdtt(name: str, *overrides: str, **how) -> Method:
    return Method(name, ("algo=sdtt", *overrides), **how)


FLAT = ("algo.tau0=1.0", "algo.tau_step=0.0")
FALLING = ("algo.tau0=0.96", "algo.tau_step=0.03")
COMB = ("algo.u_law=lattice", "algo.u_step=1/8")
CONTINUED = ("algo=mdlm", "algo.loss_type=low_var")
GAUSSIAN = ("algo=dcd", "algo.gamma_max=4.02")  # its schedule at this size of vocabulary
EVERYWHERE = {"main": True, "parts": ALL, "quick": True}

# A third of the way up, and the learning rate, as the authors'. At 5e-4, that of the others, 200
# steps doubled the perplexity of topics.
MATCHED = (
    *("algo=mmd", "algo.feature_block=0"),
    *("optim.lr=1e-4", "trainer.gradient_clip_val=null"),
)
LONGER = ("trainer.max_steps=1000", "algo.steps_per_round=1000")
DISTILLED = Method(MCD, ("algo=mcd",), rounds=True, **EVERYWHERE)

METHODS: tuple[Method, ...] = (
    Method(TEACHER, **EVERYWHERE),
    Method(ORACLE, parts=EXACT, main=True, quick=True),
    # Above the plain teacher, whose seeds then lie within the curve, too.
    Method(f"{TEACHER}, T 1.1", temperatures=(1.1, None), parts=ALL, main=True, quick=True),
    *(method for t in (0.9, 0.8, 0.7, 0.6, 0.5) for method in _tempered(t)),
    Method(UNIFORM, teacher=UNIFORM, main=True),
    DISTILLED,
    # Baselines.
    _sdtt("sdtt", *FLAT, rounds=True, **EVERYWHERE),
    _sdtt("sdtt, tau falling", *FALLING, **EVERYWHERE),
    _sdtt("sdtt, kl_fwd", "algo.loss=kl_fwd", *FLAT),
    _sdtt("sdtt, mse", "algo.loss=mse", *FLAT),
    _sdtt("sdtt, tvd", "algo.loss=tvd", *FLAT),
    Method("subset consistency", ("algo=subset",), one_round=True, **EVERYWHERE),
    Method("cd4lm", ("algo=cd4lm",), one_round=True, main=True, parts=BOTH),
    Method("mmd", MATCHED, one_round=True, **EVERYWHERE),
    Method("mcd, then mmd", MATCHED, one_round=True, main=True, parts=ALL, after=(DISTILLED,)),
    Method("mmd, 1,000 steps", (*MATCHED, *LONGER), one_round=True, parts=("topics",)),
    Method("dcd", GAUSSIAN, teacher=UNIFORM, main=True, rounds=True),
    # Controls: the teacher's own training, and MCD without one of its parts.
    Method("mdlm, continued", CONTINUED, one_round=True, **EVERYWHERE),
    _mcd("coupling none", "algo.coupling=none", **EVERYWHERE),
    _mcd("coupling independent", "algo.coupling=independent", main=True),
    _mcd("trained on a lattice", "algo.u_law=lattice"),
    _mcd("trained on the lattice 1/8", *COMB, main=True, parts=BOTH),
    # The losses of the registry.
    _mcd("kl_fwd", "algo.loss=kl_fwd", parts=BOTH),
    *(
        _mcd(loss, f"algo.loss={loss}")
        for loss in ("hybrid_fwd", "kl_bwd", "ce", "hybrid_no_ce", "mse", "tvd")
    ),
    # The curriculum.
    _mcd("tau 1", *FLAT, main=True, parts=BOTH),
    _mcd("tau 0.87", "algo.tau0=0.87", "algo.tau_step=0.0"),
    _mcd("delta fixed", "algo.growth=1"),
    _mcd("teacher from EMA", "algo.snapshot=ema"),
    _mcd("teacher fixed", "algo.snapshot=fixed"),
    _mcd("oracle as teacher", oracle=True),
)


def named(names: list[str] | None = None, quick: bool = False) -> tuple[Method, ...]:
    """Return the methods of these names, or all (quick: those of the quick benchmark).

    MCD and the teachers they are compared with are among them. Raises ConfigError for
    a name that is unknown.
    """
    known = {method.name: method for method in METHODS}
    for name in names or ():
        if name not in known:
            raise ConfigError(f"--method {name} is unknown: choose among {'; '.join(known)}.")
    found = [m for m in METHODS if m.quick or not quick]
    if names:
        asked = [known[name] for name in (MCD, *names)]
        uniform = any(m.teacher == UNIFORM for m in asked)
        found = [m for m in found if m.masked_teacher or m.name == ORACLE]
        found += asked + ([known[UNIFORM]] if uniform else [])
    return tuple(m for m in METHODS if m in found)
