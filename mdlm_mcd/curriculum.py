"""The distillation schedule of Section 4.1: rounds, time gap delta, temperature tau."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from .errors import WHOLE, ConfigError, require


class Round(NamedTuple):
    """The round of an optimizer step; `index` counts from 0, messages count from 1.

    delta: nan for a method without one.
    """

    index: int  # type: ignore[assignment]  # instead of tuple.index
    delta: float
    tau: float
    first_step: int
    is_first_step: bool


@dataclass(frozen=True)
class Curriculum:
    """delta = delta0 * growth^i and tau = tau0 - i * tau_step in round i.

    growth: 2 in the paper; 1 keeps delta. delta0: None for a method that draws its own gaps.
    Raises ConfigError, naming key and round, for settings that cannot be run.
    """

    rounds: int = 5
    steps_per_round: int = 10_000
    delta0: float | None = 1 / 512
    tau0: float = 0.96
    tau_step: float = 0.03
    growth: float = 2.0

    def __post_init__(self) -> None:
        for key in ("rounds", "steps_per_round"):
            value = getattr(self, key)
            require(type(value) is int and value >= 1, f"algo.{key}", value, WHOLE)
        for key in ("delta0", "growth", "tau0", "tau_step"):
            value = getattr(self, key)
            if value is None and key == "delta0":
                continue
            number = type(value) in (int, float) and -1e300 < value < 1e300
            require(number, f"algo.{key}", value, "a finite number")
            require(value > 0 or key.startswith("tau"), f"algo.{key}", value, "positive")
        for index in (0, self.rounds - 1):  # both are monotone
            delta, tau = self._delta(index), self._tau(index)
            if delta >= 1:
                raise ConfigError(
                    f"algo.delta0={self.delta0} grows to delta={delta:g} in round {index + 1} of "
                    f"algo.rounds={self.rounds} (algo.growth={self.growth:g}), and delta must "
                    "stay below 1: lower one of the three."
                )
            if tau <= 0:
                raise ConfigError(
                    f"algo.tau0={self.tau0} falls by algo.tau_step={self.tau_step} to {tau:g} in "
                    f"round {index + 1}, and must stay positive: raise one or lower the other."
                )

    @property
    def total_steps(self) -> int:
        """Count the optimizer steps of the whole distillation (50,000 in the paper)."""
        return self.rounds * self.steps_per_round

    def _delta(self, index: int) -> float:
        try:
            return math.nan if self.delta0 is None else self.delta0 * float(self.growth) ** index
        except OverflowError:
            return math.inf

    def _tau(self, index: int) -> float:
        # Rounded so that 0.96 - 2 * 0.03 reads 0.9, in logs as in the paper.
        return round(self.tau0 - index * self.tau_step, 12)

    def at(self, global_step: int) -> Round:
        """Return the round of optimizer step `global_step`, which counts from 0.

        Raises ConfigError outside of [0, total_steps).
        """
        if not 0 <= global_step < self.total_steps:
            raise ConfigError(
                f"Step {global_step} lies outside of {self.rounds} rounds of "
                f"{self.steps_per_round} steps: set trainer.max_steps={self.total_steps}."
            )
        index = global_step // self.steps_per_round
        first = index * self.steps_per_round
        return Round(index, self._delta(index), self._tau(index), first, global_step == first)

    def check_max_steps(self, max_steps: int) -> None:
        """Raise ConfigError for a trainer that stops before or runs past the last round."""
        if max_steps != self.total_steps:
            product = f"{self.rounds} * {self.steps_per_round} = {self.total_steps}"
            raise ConfigError(
                f"trainer.max_steps={max_steps} is not algo.rounds * algo.steps_per_round = "
                f"{product}: set trainer.max_steps={self.total_steps}."
            )
