"""Check a trainer, and shard by its strategy."""

from __future__ import annotations

from lightning.pytorch.strategies import FSDPStrategy
from omegaconf import DictConfig

from ..errors import ConfigError

# Their weights are never whole where a teacher could be taken from them.
REFUSED = ("DeepSpeedStrategy", "ModelParallelStrategy")


def is_sharded(strategy) -> bool:
    """Return whether the student's weights are spread over the processes."""
    return isinstance(strategy, FSDPStrategy)


def check(trainer, config: DictConfig) -> None:
    """Raise ConfigError for a trainer with which a distillation would go wrong."""
    names = {cls.__name__ for cls in type(trainer.strategy).__mro__}
    sharded, part = is_sharded(trainer.strategy), config.strategy.get("state_dict_type", "full")
    wanted, each = config.loader.global_batch_size, config.loader.batch_size
    micros = trainer.accumulate_grad_batches
    rows = each * trainer.world_size * micros
    for wrong, sentence in (
        (
            not names.isdisjoint(REFUSED),
            f"strategy={type(trainer.strategy).__name__} shards the weights in a way that algo="
            f"{config.algo.name} cannot take a teacher from: use strategy=ddp or strategy=fsdp.",
        ),
        (
            not sharded and config.algo.teacher_placement == "sharded",
            "algo.teacher_placement=sharded spreads the teacher as strategy=fsdp does the "
            "student: set strategy=fsdp, or algo.teacher_placement=replicated.",
        ),
        (
            sharded and part != "full",
            f"strategy.state_dict_type={part} writes a checkpoint part by part over the one "
            "before it, and a kill in between would damage both: leave it out.",
        ),
        (
            sharded and config.training.ema,
            f"training.ema={config.training.ema} averages whole weights, and strategy=fsdp "
            "shards them: set training.ema=0, or strategy=ddp.",
        ),
        (
            sharded and config.eval.get("generate_samples"),
            "eval.generate_samples=true draws from whole weights, and strategy=fsdp shards "
            "them: set eval.generate_samples=false, or strategy=ddp.",
        ),
        (
            rows != wanted,  # the hosts round up: with 8 rows in batches of 3 they train on 9
            f"loader.global_batch_size={wanted} is not what a step would see: "
            f"loader.batch_size={each} on {trainer.world_size} process(es), accumulated "
            f"{micros} time(s), makes {rows}; set loader.global_batch_size={rows}, or "
            "sizes that divide it.",
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
