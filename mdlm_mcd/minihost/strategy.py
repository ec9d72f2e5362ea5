"""Shard a model with FSDP, on CPUs too."""

from lightning.pytorch.strategies import FSDPStrategy
from torch.distributed.fsdp import (
    FullOptimStateDictConfig,
    FullStateDictConfig,
    FullyShardedDataParallel,
    OptimStateKeyType,
    StateDictType,
)


class ShardedStrategy(FSDPStrategy):
    """Lightning's, on CPUs too, over gloo: there it shows that a run works.

    Checkpoints are whole, in one file, as Lightning writes them by default.
    """

    @property
    def on_cpu(self):
        return self.root_device.type == "cpu"

    def _setup_model(self, model):
        if not self.on_cpu:
            return super()._setup_model(model)
        # Lightning names a device by its index, and CPUs have none.
        return FullyShardedDataParallel(
            model,
            cpu_offload=self.cpu_offload,
            mixed_precision=self.mixed_precision_config,
            sharding_strategy=self.sharding_strategy,
            device_id=self.root_device,
            **self.kwargs,
        )

    # Lightning asks for whole states offloaded to the CPU. From a CPU that moves
    # nothing, and frees what it should have moved.

    def _whole(self):
        where = {"offload_to_cpu": False, "rank0_only": True}
        return FullyShardedDataParallel.state_dict_type(
            self.model,
            StateDictType.FULL_STATE_DICT,
            FullStateDictConfig(**where),
            FullOptimStateDictConfig(**where),
        )

    def lightning_module_state_dict(self):
        if not self.on_cpu:
            return super().lightning_module_state_dict()
        with self._whole():
            return self.model.state_dict()

    def optimizer_state(self, optimizer):
        if not self.on_cpu:
            return super().optimizer_state(optimizer)
        with self._whole():
            optimizer = getattr(optimizer, "_optimizer", optimizer)
            state = FullyShardedDataParallel.optim_state_dict(self.model, optimizer)
            if self.global_rank != 0:
                return state
            return FullyShardedDataParallel.rekey_optim_state_dict(
                state, OptimStateKeyType.PARAM_ID, self.model
            )
