"""The methods as data: what is trained, by which overrides, and how it is sampled."""

from __future__ import annotations

from dataclasses import dataclass

from mdlm_mcd.errors import ConfigError

MCD, SDTT = "mcd", "sdtt"
TEACHER, ORACLE, UNIFORM = "teacher", "oracle", "uniform teacher"
TEMPERATURES = (0.9, 0.8, 0.7, 0.6, 0.5)
LANGUAGE = ("language",)
BOTH = ("language", "text")


@dataclass(frozen=True)
class Method:
    """One row of the verdict table.

    overrides: of a training run, after those of its part; empty: nothing is trained.
    teacher: whose weights it starts from and is compared with. oracle: the exact
    denoiser is the teacher in every round. main: more seeds, all step counts. rounds:
    the student of every round is sampled. one_round: all steps are one round.
    parts: where it is run. temperatures: at the first step and, where it falls, at the
    last.
    """

    name: str
    group: str
    overrides: tuple[str, ...] = ()
    teacher: str = TEACHER
    oracle: bool = False
    main: bool = False
    rounds: bool = False
    one_round: bool = False
    parts: tuple[str, ...] = LANGUAGE
    temperatures: tuple[float, float | None] = (1.0, None)
    quick: bool = False

    @property
    def reference(self) -> str:
        """The teacher that it is compared with."""
        return UNIFORM if self.teacher == UNIFORM else TEACHER

    @property
    def words(self) -> str:
        """What it is, as the command line would say it."""
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
        return text + (f", from the {UNIFORM}" if self.teacher == UNIFORM else "")

    @property
    def frontier(self) -> bool:
        """Whether it is the teacher at a constant temperature."""
        tempered = self.group == "tempered teacher" and self.temperatures[1] is None
        return self.name == TEACHER or tempered


def _tempered(label: str, *temperatures: float | None) -> Method:
    return Method(
        f"{TEACHER}, {label}",
        "tempered teacher",
        temperatures=temperatures,
        main=temperatures[1] is None,
        parts=BOTH,
        quick=temperatures in ((0.8, None), (0.6, None)),
    )


def _mcd(name: str, *overrides: str, **how) -> Method:
    return Method(name, overrides=("algo=mcd", *overrides), **{"group": "ablations of MCD", **how})


def _sdtt(name: str, *overrides: str, **how) -> Method:
    return Method(name, "baselines", ("algo=sdtt", *overrides), **how)


FLAT = ("algo.tau0=1.0", "algo.tau_step=0.0")
FALLING = ("algo.tau0=0.96", "algo.tau_step=0.03")
EVERYWHERE = {"main": True, "parts": BOTH, "quick": True}

METHODS: tuple[Method, ...] = (
    Method(TEACHER, "teachers", **EVERYWHERE),
    Method(ORACLE, "teachers", main=True, quick=True),
    *(
        method
        for t in TEMPERATURES
        for method in (_tempered(f"T {t:g}", t, None), _tempered(f"T 1 to {t:g}", 1.0, t))
    ),
    Method(UNIFORM, "teachers", teacher=UNIFORM, main=True),
    _mcd(MCD, group="MCD", rounds=True, **EVERYWHERE),
    # Baselines.
    _sdtt(SDTT, *FLAT, rounds=True, **EVERYWHERE),
    _sdtt("sdtt, tau falling", *FALLING, **EVERYWHERE),
    _sdtt("sdtt, kl_fwd", "algo.loss=kl_fwd", *FLAT),
    _sdtt("sdtt, mse", "algo.loss=mse", *FLAT),
    _sdtt("sdtt, tvd", "algo.loss=tvd", *FLAT),
    Method("subset consistency", "baselines", ("algo=cd4lm",), one_round=True, **EVERYWHERE),
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
        one_round=True,
        **EVERYWHERE,
    ),
    # Controls: what is left of MCD without one of its parts.
    _mcd("mcd, coupling none", "algo.coupling=none", group="controls", **EVERYWHERE),
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
    *(
        _mcd(f"mcd, {loss}", f"algo.loss={loss}")
        for loss in ("hybrid_fwd", "kl_bwd", "ce", "hybrid_no_ce", "mse", "tvd")
    ),
    # The curriculum.
    _mcd("mcd, tau 1", *FLAT, main=True, parts=BOTH),
    _mcd("mcd, tau 0.87", "algo.tau0=0.87", "algo.tau_step=0.0"),
    _mcd("mcd, delta fixed", "algo.growth=1"),
    _mcd("mcd, teacher from EMA", "algo.snapshot=ema"),
    _mcd("mcd, teacher fixed", "algo.snapshot=fixed"),
    _mcd("mcd, oracle as teacher", oracle=True),
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
        found = [m for m in found if "teacher" in m.group and m.name != UNIFORM]
        found += asked + ([known[UNIFORM]] if uniform else [])
    return tuple(m for m in METHODS if m in found)
