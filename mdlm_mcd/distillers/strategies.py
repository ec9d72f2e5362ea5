"""Tell Lightning strategies that shard the weights (FSDP) from those that do not."""

from __future__ import annotations

import torch
from lightning.pytorch.strategies import FSDPStrategy
from omegaconf import DictConfig

from ..errors import ConfigError

PLACEMENTS = ("replicated", "sharded")
# Their weights are never whole where a teacher could be taken from them.
REFUSED = ("DeepSpeedStrategy", "ModelParallelStrategy")


def is_fsdp(strategy) -> bool:
    return isinstance(strategy, FSDPStrategy)


def is_sharded(trainer) -> bool:
    """Return whether the student's weights are spread over the processes."""
    return is_fsdp(trainer.strategy)


def check(trainer, config: DictConfig) -> None:
    """Raise ConfigError for a strategy with which a distillation would go wrong."""
    names = [cls.__name__ for cls in type(trainer.strategy).__mro__]
    for name in REFUSED:
        if name in names:
            raise ConfigError(
                f"strategy={name} shards the weights in a way that algo="
                f"{config.algo.name} cannot take a teacher from: use strategy=ddp or "
                "strategy=fsdp."
            )
    sharded, part = is_sharded(trainer), config.strategy.get("state_dict_type", "full")
    for wrong, sentence in (
        (
            not sharded and config.algo.teacher_placement == "sharded",
            "algo.teacher_placement=sharded spreads the teacher as strategy=fsdp does the "
            "student, and this run has another strategy: set strategy=fsdp, or "
            "algo.teacher_placement=replicated.",
        ),
        (
            sharded and part != "full",
            f"strategy.state_dict_type={part} writes a checkpoint as a folder, part by part "
            "over the one before it, and a kill in between would damage both: leave it out.",
        ),
        (
            sharded and config.training.ema,
            f"training.ema={config.training.ema} averages whole weights, and strategy=fsdp "
            "shards them: set training.ema=0, or strategy=ddp.",
        ),
        (
            sharded and config.eval.get("generate_samples"),
            "eval.generate_samples=true draws from whole weights, and strategy=fsdp shards "
            "them: set eval.generate_samples=false and sample from the checkpoint, or "
            "strategy=ddp.",
        ),
    ):
        if wrong:
            raise ConfigError(sentence)


def shard(trainer, module):
    """Shard `module` by itself, as the trainer's strategy shards its model."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    strategy = trainer.strategy
    return FullyShardedDataParallel(
        module,
        cpu_offload=strategy.cpu_offload,
        mixed_precision=strategy.mixed_precision_config,
        sharding_strategy=strategy.sharding_strategy,
        device_id=strategy.root_device,
        **strategy.kwargs,
    )


def total_norm(trainer, norm: torch.Tensor) -> torch.Tensor:
    """Return a gradient's norm from the norm of each process's shards."""
    square = norm.square()
    # With FSDP's hybrid strategies a group of processes has all shards.
    torch.distributed.all_reduce(square, group=trainer.strategy.model.process_group)
    return square.sqrt()
