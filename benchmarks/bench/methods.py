"""The methods as data: what is trained, by which overrides, and how it is sampled."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mdlm_mcd.errors import ConfigError

MCD, SDTT = "mcd", "sdtt"
TEACHER, ORACLE, UNIFORM = "teacher", "oracle", "uniform teacher"
TEMPERATURES = (0.9, 0.8, 0.7, 0.6, 0.5)


@dataclass(frozen=True)
class Method:
    """One row of the verdict table.

    overrides: of a training run, after those of its part; empty: nothing is trained.
    teacher: whose weights it starts from and is compared with. oracle: the exact
    denoiser is the teacher in every round. main: more seeds, all step counts. rounds:
    the student of every round is sampled. one_round: all steps are one round.
    parts: where it is run.
    """

    name: str
    group: str
    overrides: tuple[str, ...] = ()
    teacher: str = TEACHER
    oracle: bool = False
    main: bool = False
    rounds: bool = False
    one_round: bool = False
    parts: tuple[str, ...] = ("language",)
    temperature: float | tuple[float, float] = 1.0
    quick: bool = False

    @property
    def trained(self) -> bool:
        return bool(self.overrides)

    @property
    def tempered(self) -> bool:
        return self.temperature != 1.0


BOTH = ("language", "text")


def _teachers() -> list[Method]:
    found = []
    for name, parts in ((TEACHER, BOTH), (ORACLE, ("language",))):
        found.append(Method(name, "teachers", main=True, parts=parts, quick=True))
    for t in TEMPERATURES:
        for label, temperature in ((f"T {t:g}", t), (f"T 1 to {t:g}", (1.0, t))):
            found.append(
                Method(
                    f"{TEACHER}, {label}",
                    "tempered teacher",
                    temperature=temperature,
                    main=not isinstance(temperature, tuple),
                    parts=BOTH,
                    quick=temperature in (0.8, 0.6),
                )
            )
    found.append(Method(UNIFORM, "teachers", teacher=UNIFORM, main=True, parts=("language",)))
    return found


def _mcd(name: str, *overrides: str, **how) -> Method:
    how = {"group": "ablations of MCD", **how}
    return Method(name, overrides=("algo=mcd", *overrides), **how)


def _sdtt(name: str, *overrides: str, **how) -> Method:
    how = {"group": "baselines", **how}
    return Method(name, overrides=("algo=sdtt", *overrides), **how)


FLAT = ("algo.tau0=1.0", "algo.tau_step=0.0")
FALLING = ("algo.tau0=0.96", "algo.tau_step=0.03")

METHODS: tuple[Method, ...] = (
    *_teachers(),
    _mcd(MCD, group="MCD", main=True, rounds=True, parts=BOTH, quick=True),
    # Baselines.
    _sdtt(SDTT, *FLAT, main=True, rounds=True, parts=BOTH, quick=True),
    _sdtt("sdtt, tau falling", *FALLING, main=True, parts=BOTH, quick=True),
    _sdtt("sdtt, kl_fwd", "algo.loss=kl_fwd", *FLAT),
    _sdtt("sdtt, mse", "algo.loss=mse", *FLAT),
    _sdtt("sdtt, tvd", "algo.loss=tvd", *FLAT),
    Method(
        "subset consistency",
        "baselines",
        ("algo=cd4lm",),
        main=True,
        one_round=True,
        parts=BOTH,
        quick=True,
    ),
    Method(
        # Its Gaussian schedule at this size of vocabulary.
        "dcd",
        "baselines",
        ("algo=dcd", "algo.gamma_max=4.02"),
        teacher=UNIFORM,
        main=True,
        rounds=True,
    ),
    Method(
        "mdlm, continued",
        "controls",
        ("algo=mdlm", "algo.loss_type=low_var"),
        main=True,
        one_round=True,
        parts=BOTH,
        quick=True,
    ),
    # Controls: what is left of MCD without one of its parts.
    _mcd(
        "mcd, coupling none",
        "algo.coupling=none",
        group="controls",
        main=True,
        parts=BOTH,
        quick=True,
    ),
    _mcd("mcd, coupling independent", "algo.coupling=independent", group="controls", main=True),
    _mcd("mcd, trained on a lattice", "algo.u_law=lattice", group="controls"),
    _mcd(
        "mcd, trained on the lattice 1/8",
        "algo.u_law=lattice",
        "algo.u_step=1/8",
        group="controls",
        main=True,
        parts=BOTH,
    ),
    # The losses of the registry.
    _mcd("mcd, kl_fwd", "algo.loss=kl_fwd", parts=BOTH),
    _mcd("mcd, hybrid_fwd", "algo.loss=hybrid_fwd"),
    _mcd("mcd, kl_bwd", "algo.loss=kl_bwd"),
    _mcd("mcd, ce", "algo.loss=ce"),
    _mcd("mcd, hybrid_no_ce", "algo.loss=hybrid_no_ce"),
    _mcd("mcd, mse", "algo.loss=mse"),
    _mcd("mcd, tvd", "algo.loss=tvd"),
    # The curriculum.
    _mcd("mcd, tau 1", *FLAT, main=True, parts=BOTH),
    _mcd("mcd, tau 0.87", "algo.tau0=0.87", "algo.tau_step=0.0"),
    _mcd("mcd, delta fixed", "algo.growth=1"),
    _mcd("mcd, teacher from EMA", "algo.snapshot=ema"),
    _mcd("mcd, teacher fixed", "algo.snapshot=fixed"),
    _mcd("mcd, oracle as teacher", oracle=True),
)


def named(names: list[str] | None = None, quick: bool = False) -> tuple[Method, ...]:
    """The methods of these names, or all (quick: those of the quick benchmark).

    MCD and the teachers they are compared with are among them. Raises ConfigError for
    a name that is unknown.
    """
    known = {method.name: method for method in METHODS}
    for name in names or ():
        if name not in known:
            raise ConfigError(f"--method {name} is unknown: choose among {'; '.join(known)}.")
    wanted = [m for m in METHODS if m.quick or not quick]
    if names:
        uniform = any(known[name].teacher == UNIFORM for name in names)
        wanted = [m for m in wanted if "teacher" in m.group]
        wanted = [m for m in wanted if m.name != UNIFORM]
        wanted += [known[name] for name in (MCD, *names)]
        wanted += [known[UNIFORM]] if uniform else []
    return tuple(m for m in METHODS if m in wanted)


def from_oracle(methods: tuple[Method, ...]) -> tuple[Method, ...]:
    """Every masked student distilled from the exact denoiser."""
    return tuple(
        replace(m, oracle=True)
        if m.teacher == TEACHER and m.overrides and m.overrides[0] != "algo=mdlm"
        else m
        for m in methods
    )
