"""The same run on several processes, joined by gloo: forks of this one."""

import faulthandler
import os
import socket
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as multiprocessing
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

from mdlm_mcd.distillers import loop_state
from mdlm_mcd.models import dit

SECONDS = 180
GRACE = 20  # for the others, when a process has failed

forks = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="needs fork"
)

fsdp = pytest.mark.skipif(
    loop_state.LIGHTNING < (2, 3), reason="Lightning 2.2 has FSDP for GPUs alone"
)


class ShardedStrategy(FSDPStrategy):
    """Lightning's on CPUs, over gloo. Checkpoints are whole, as by default."""

    def _setup_model(self, model):
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


class Sharded(ShardedStrategy):
    """FSDP in float64, which Lightning's precisions for it leave out.

    parts: shard blocks and last layer by themselves, beside the model.
    """

    def __init__(self, parts: bool = False, **kwargs):
        if parts:
            wrapped = {dit.DDiTBlock, dit.DDiTFinalLayer}
            kwargs["auto_wrap_policy"] = ModuleWrapPolicy(wrapped)
        super().__init__(mixed_precision=MixedPrecision(), **kwargs)

    def _setup_model(self, model):
        return super()._setup_model(model.double())


def _child(work: Callable, rank: int, world: int, port: int, folder: Path):
    faulthandler.enable()
    torch.set_num_threads(1)  # a fork has none of its parent's threads
    os.environ.update(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        WORLD_SIZE=str(world),
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        NODE_RANK="0",
    )
    torch.save(work(), folder / f"{rank}.pt")


def run(world: int, work: Callable, folder: Path) -> list:
    """Return what `work()` returns in each of `world` processes, in the order of their ranks.

    Results of `work` are containers of tensors and numbers. Raises RuntimeError when
    a process fails or takes too long; all of them are gone then.
    """
    assert not torch.distributed.is_initialized()  # it would be the children's, too
    folder.mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_child, args=(work, rank, world, port, folder))
        for rank in range(world)
    ]
    try:
        for process in processes:
            process.start()
        end = time.monotonic() + SECONDS
        while time.monotonic() < end and any(p.is_alive() for p in processes):
            wait([p.sentinel for p in processes if p.is_alive()], timeout=1)
            if any(p.exitcode for p in processes):
                # The others soon find out, unless they wait to be joined.
                end = min(end, time.monotonic() + GRACE)
        codes = [process.exitcode for process in processes]
        if any(code != 0 for code in codes):
            raise RuntimeError(f"exit codes {codes} of {world} processes")
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
                process.join()
    return [torch.load(folder / f"{rank}.pt") for rank in range(world)]
