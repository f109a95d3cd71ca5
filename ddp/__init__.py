"""Data parallelism: one rank per GPU or core, replicas in step. Imports core and, for real worlds, mpi4py."""

if __name__ == "ddp":
    raise ImportError("this folder is the package mpigrad.ddp: import mpigrad")

from .comm import CollectiveTimeout, Communicator, SingleCommunicator, Work
from .data_parallel import DistributedDataParallel
from .digest import digest
from .metrics import SampleMean
from .process_group import (
    ReduceOp,
    all_gather_object,
    all_reduce,
    barrier,
    broadcast,
    destroy_process_group,
    get_local_rank,
    get_rank,
    get_world_size,
    init_process_group,
    is_initialized,
    world,
)
from .sampler import DistributedSampler, ShardedSampler
from .sync_batchnorm import SyncBatchNorm

__all__ = [
    "CollectiveTimeout",
    "Communicator",
    "DistributedDataParallel",
    "DistributedSampler",
    "ReduceOp",
    "SampleMean",
    "ShardedSampler",
    "SingleCommunicator",
    "SyncBatchNorm",
    "Work",
    "all_gather_object",
    "all_reduce",
    "barrier",
    "broadcast",
    "destroy_process_group",
    "digest",
    "get_local_rank",
    "get_rank",
    "get_world_size",
    "init_process_group",
    "is_initialized",
    "world",
]
