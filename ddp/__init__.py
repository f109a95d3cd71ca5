"""Data parallelism: one rank per GPU or core, replicas in step. Imports core and, for real worlds, mpi4py."""

if __name__ == "ddp":
    raise ImportError("this folder is the package mpigrad.ddp: import mpigrad")

from . import testing
from .agreement import agree
from .bucket import GradBucket
from .collectives import (
    ReduceOp,
    all_gather,
    all_gather_into_tensor,
    all_gather_single,
    all_reduce,
    all_to_all,
    all_to_all_single,
    barrier,
    broadcast,
    gather,
    monitored_barrier,
    reduce,
    reduce_scatter,
    reduce_scatter_single,
    reduce_scatter_tensor,
    scatter,
)
from .comm import CollectiveTimeout, Communicator, RanksDiffer, SingleCommunicator
from .data_parallel import DistributedDataParallel
from .digest import digest
from .hooks import TopKState, allreduce_hook, bf16_compress_hook, fp16_compress_hook, int8_hook, topk_hook
from .local_sgd import LocalSGD
from .messages import P2POp, batch_isend_irecv, irecv, isend, recv, send
from .metrics import SampleMean
from .objects import (
    all_gather_object,
    broadcast_object_list,
    gather_object,
    recv_object_list,
    scatter_object_list,
    send_object_list,
)
from .powersgd import PowerSGDState, powerSGD_hook
from .process_group import (
    GroupMember,
    ProcessGroup,
    destroy_process_group,
    get_backend,
    get_global_rank,
    get_group_rank,
    get_local_rank,
    get_process_group_ranks,
    get_rank,
    get_world_size,
    group,
    init_process_group,
    is_available,
    is_gloo_available,
    is_initialized,
    is_mpi_available,
    is_nccl_available,
    new_group,
    world,
)
from .reducer import NonFinite, Overlap, Traffic
from .replicas import check_replicas
from .sampler import DistributedSampler, ShardedSampler
from .sync_batchnorm import SyncBatchNorm
from .work import Future, Work
from .zero import ZeroRedundancyOptimizer

__all__ = [
    "CollectiveTimeout",
    "Communicator",
    "DistributedDataParallel",
    "DistributedSampler",
    "Future",
    "GradBucket",
    "GroupMember",
    "LocalSGD",
    "NonFinite",
    "Overlap",
    "P2POp",
    "PowerSGDState",
    "ProcessGroup",
    "RanksDiffer",
    "ReduceOp",
    "SampleMean",
    "ShardedSampler",
    "SingleCommunicator",
    "SyncBatchNorm",
    "TopKState",
    "Traffic",
    "Work",
    "ZeroRedundancyOptimizer",
    "agree",
    "all_gather",
    "all_gather_into_tensor",
    "all_gather_object",
    "all_gather_single",
    "all_reduce",
    "all_to_all",
    "all_to_all_single",
    "allreduce_hook",
    "barrier",
    "batch_isend_irecv",
    "bf16_compress_hook",
    "broadcast",
    "broadcast_object_list",
    "check_replicas",
    "destroy_process_group",
    "digest",
    "fp16_compress_hook",
    "gather",
    "gather_object",
    "get_backend",
    "get_global_rank",
    "get_group_rank",
    "get_local_rank",
    "get_process_group_ranks",
    "get_rank",
    "get_world_size",
    "group",
    "init_process_group",
    "int8_hook",
    "irecv",
    "is_available",
    "is_gloo_available",
    "is_initialized",
    "is_mpi_available",
    "is_nccl_available",
    "isend",
    "monitored_barrier",
    "new_group",
    "powerSGD_hook",
    "recv",
    "recv_object_list",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_single",
    "reduce_scatter_tensor",
    "scatter",
    "scatter_object_list",
    "send",
    "send_object_list",
    "testing",
    "topk_hook",
    "world",
]
