"""The same run on several processes, joined by gloo: forks of this one."""

import faulthandler
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy
from torch.distributed.fsdp import (
    FullOptimStateDictConfig,
    FullStateDictConfig,
    FullyShardedDataParallel,
    MixedPrecision,
    OptimStateKeyType,
    StateDictType,
)
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.multiprocessing import get_all_start_methods, start_processes

from mdlm_mcd.distillers import loop_state
from mdlm_mcd.models import dit

forks = pytest.mark.skipif("fork" not in get_all_start_methods(), reason="needs fork")
fsdp = pytest.mark.skipif(
    loop_state.LIGHTNING < (2, 3), reason="Lightning 2.2 has FSDP for GPUs alone"
)


class Sharded(FSDPStrategy):
    """Lightning's on CPUs, over gloo.

    double: in float64, which its precisions for it leave out. parts: shard blocks and
    last layer by themselves, beside the model. Checkpoints are whole, as by default.
    """

    def __init__(self, double: bool = True, parts: bool = False, **kwargs):
        self.double = double
        if parts:
            wrapped = {dit.DDiTBlock, dit.DDiTFinalLayer}
            kwargs["auto_wrap_policy"] = ModuleWrapPolicy(wrapped)
        super().__init__(mixed_precision=MixedPrecision(), **kwargs)

    def _setup_model(self, model):
        # Lightning names a device by its index, and CPUs have none.
        return FullyShardedDataParallel(
            model.double() if self.double else model,
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
        with self._whole():
            return self.model.state_dict()

    def optimizer_state(self, optimizer):
        with self._whole():
            optimizer = getattr(optimizer, "_optimizer", optimizer)
            state = FullyShardedDataParallel.optim_state_dict(self.model, optimizer)
            if self.global_rank != 0:
                return state
            return FullyShardedDataParallel.rekey_optim_state_dict(
                state, OptimStateKeyType.PARAM_ID, self.model
            )


def _child(rank: int, work: Callable, world: int, port: int, folder: Path):
    faulthandler.dump_traceback_later(180, exit=True)  # one that waits for ever
    torch.set_num_threads(1)  # a fork has none of its parent's threads
    joined = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": world}
    joined |= {"RANK": rank, "LOCAL_RANK": rank, "NODE_RANK": 0}
    os.environ.update({key: str(value) for key, value in joined.items()})
    torch.save(work(), folder / f"{rank}.pt")


def run(world: int, work: Callable, folder: Path) -> list:
    """Return what `work()` returns in each of `world` processes, in the order of their ranks.

    Results of `work` are containers of tensors and numbers. Raises what a process raised.
    """
    assert not torch.distributed.is_initialized()  # it would be the children's, too
    folder.mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start_processes(_child, (work, world, port, folder), world, start_method="fork")
    return [torch.load(folder / f"{rank}.pt") for rank in range(world)]
