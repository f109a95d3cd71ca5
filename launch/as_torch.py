"""mpigrad in PyTorch's place: after `install()`, `import torch` and its submodules resolve to mpigrad.

    mpigrad run -n 2 --as-torch [--device cpu] train.py

runs an unmodified PyTorch script. What mpigrad does not have raises an AttributeError that names the nearest thing that
it has. Ranks come from the launcher: `torchrun`'s environment variables are set from it, and `multiprocessing.spawn`
calls its function in the ranks that there are.
"""

from __future__ import annotations

import difflib
import functools
import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

from ..core import backend
from ..core.data import workers
from . import cpu_as_gpus
from .rank import launched_rank, launched_size, local_place

mpigrad: Any = sys.modules[str(__package__).rpartition(".")[0]]
TORCH = "2.13.0+cpu"  # the release whose API this is


def install(device: str | None = None) -> None:
    """Make `import torch` mean mpigrad. device: "cpu" puts every device that a script names on the CPU.

    RuntimeError when PyTorch itself is imported already.
    """
    if "torch" in sys.modules and not isinstance(sys.modules["torch"], _Torch):
        raise RuntimeError("expected to come before PyTorch: it is imported already, so call install() first")
    if device not in (None, "cpu"):
        raise ValueError(f"expected device None or 'cpu', found {device!r}")
    backend.use_only(device)
    workers.PRELUDE[:] = [f"from {__name__} import install", f"install({device!r})"]
    extras = _extras(device)
    ours = [name.removeprefix("mpigrad.") for name in sys.modules if name.startswith("mpigrad.")]
    paths = {f"torch.{path}" for path in ours if path.split(".")[0] in _PUBLIC}
    for name in sorted({"torch", *extras, *paths}):  # parents come first
        module = _Torch(name, sys.modules.get("mpigrad" + name.removeprefix("torch")), extras.get(name, {}))
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            sys.modules[parent].__dict__[child] = module


class _Torch(ModuleType):
    """A module of PyTorch's: what it lacks itself comes from mpigrad's module of that name."""

    def __init__(self, name: str, target: ModuleType | None, extras: Mapping[str, Any]) -> None:
        super().__init__(name, f"mpigrad in the place of {name}")
        self.__path__: list[str] = []  # a package: its submodules are in sys.modules
        self._target = target
        self.__dict__.update(extras)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and hasattr(self._target, name):
            return getattr(self._target, name)
        near = difflib.get_close_matches(name, dir(self), 1)
        hint = f"; the nearest that it has is '{near[0]}'" if near else ""
        raise AttributeError(f"mpigrad, in the place of PyTorch, has no {self.__name__}.{name}{hint}")

    def __dir__(self) -> list[str]:
        names = {*vars(self), *(vars(self._target) if self._target else ())}
        return sorted(name for name in names if not name.startswith("_"))


def public(module: ModuleType) -> dict[str, Any]:
    """What a module has for others."""
    return {name: value for name, value in vars(module).items() if not name.startswith("_")}


_PUBLIC = ("amp", "autograd", "cuda", "distributed", "linalg", "nn", "optim", "random", "special", "utils")


def _extras(device: str | None) -> dict[str, dict[str, Any]]:
    """What scripts find in PyTorch's modules beside what mpigrad's modules of these names have."""
    ddp, amp = mpigrad.distributed, mpigrad.amp
    return {
        "torch": {"__version__": TORCH, "compile": compile, **_THREADS},
        "torch.cuda": public(cpu_as_gpus) if device == "cpu" else {},
        "torch.cuda.amp": {"autocast": _cuda_autocast, "GradScaler": partial(amp.GradScaler, "cuda")},
        "torch.nn.modules": public(mpigrad.nn),
        "torch.nn.modules.batchnorm": {"_BatchNorm": mpigrad.nn.batchnorm.BatchNorm, **public(mpigrad.nn.batchnorm)},
        "torch.nn.modules.conv": {"_ConvNd": mpigrad.nn.conv._Convolution, **public(mpigrad.nn.conv)},
        "torch.nn.modules.module": public(mpigrad.nn.module),
        "torch.optim.lr_scheduler": {"_LRScheduler": mpigrad.optim.lr_scheduler.LRScheduler},
        "torch.distributed": {"get_node_local_rank": _node_local_rank, "is_torchelastic_launched": lambda: True},
        "torch.distributed.algorithms": {},
        "torch.distributed.algorithms.ddp_comm_hooks": {},
        "torch.distributed.algorithms.ddp_comm_hooks.default_hooks": public(ddp.hooks),
        "torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook": public(ddp.powersgd),
        "torch.distributed.elastic": {},
        "torch.distributed.elastic.multiprocessing": {},
        "torch.distributed.elastic.multiprocessing.errors": {"record": lambda function: function},
        "torch.distributed.optim": {"ZeroRedundancyOptimizer": ddp.ZeroRedundancyOptimizer},
        "torch.multiprocessing": {"spawn": spawn, **_multiprocessing()},
        "torch.nn.parallel": {"DistributedDataParallel": ddp.DistributedDataParallel},
        "torch.utils.data": {"DistributedSampler": ddp.DistributedSampler},
        "torch.utils.data.distributed": {"DistributedSampler": ddp.DistributedSampler},
        "torch.utils.tensorboard": {"SummaryWriter": _SummaryWriter},
        "torch.version": {"__version__": TORCH, "cuda": None, "hip": None},
        **_BACKENDS,
    }


def compile(model: Any = None, **_: Any) -> Any:
    """The function or module itself: there is nothing to compile to."""
    return model if model is not None else lambda function: function


def _cuda_autocast(enabled: bool = True, dtype: Any = None, cache_enabled: bool = True) -> Any:
    """The older spelling of amp.autocast("cuda"), with its order of arguments."""
    return mpigrad.amp.autocast("cuda", dtype, enabled, cache_enabled)


# flags that choose between kernels which give the same results here; scripts set and read them
_BACKENDS: dict[str, dict[str, Any]] = {
    "torch.backends": {},
    "torch.backends.cuda": {
        "enable_flash_sdp": lambda enabled: None,
        "enable_math_sdp": lambda enabled: None,
        "enable_mem_efficient_sdp": lambda enabled: None,
        "is_built": lambda: False,
        "matmul": SimpleNamespace(allow_tf32=False, allow_fp16_reduced_precision_reduction=False),
    },
    "torch.backends.cudnn": {
        "allow_tf32": False,
        "benchmark": False,
        "deterministic": True,
        "enabled": False,
        "is_available": lambda: False,
        "version": lambda: None,
    },
    "torch.backends.mkl": {"is_available": lambda: False},
    "torch.backends.mkldnn": {"enabled": False, "is_available": lambda: False},
    "torch.backends.mps": {"is_available": lambda: False, "is_built": lambda: False},
    "torch.backends.openmp": {"is_available": lambda: False},
}

# how many threads compute is set before NumPy is loaded (OMP_NUM_THREADS, which `mpigrad run` sets)
_THREADS: dict[str, Any] = {
    "get_num_threads": lambda: int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
    "set_num_threads": lambda number: None,
    "set_num_interop_threads": lambda number: None,
    "get_float32_matmul_precision": lambda: "highest",
    "set_float32_matmul_precision": lambda precision: None,
    "use_deterministic_algorithms": lambda mode, warn_only=False: None,
    "are_deterministic_algorithms_enabled": lambda: True,
}


def _multiprocessing() -> dict[str, Any]:
    names = ("Event", "Lock", "Manager", "Pool", "Process", "Queue", "cpu_count", "get_context", "set_start_method")
    return {name: getattr(multiprocessing, name) for name in names}


def spawn(
    fn: Callable[..., Any],
    args: tuple[Any, ...] = (),
    nprocs: int = 1,
    join: bool = True,
    daemon: bool = False,
    start_method: str = "spawn",
) -> None:
    """Call fn(rank, *args) in this rank: the launcher has started the processes. RuntimeError for another number."""
    ranks = launched_size(os.environ)
    if nprocs != ranks:
        raise RuntimeError(
            f"the script spawns {nprocs} processes, and {ranks} {'was' if ranks == 1 else 'were'} started: "
            f"mpigrad run -n {nprocs} --as-torch {sys.argv[0]}"
        )
    fn(launched_rank(os.environ), *args)


def _node_local_rank(fallback_rank: int | None = None) -> int:
    """This rank's number among those of its machine."""
    return local_place(os.environ)[0]


def export_ranks() -> None:
    """Set torchrun's environment variables from the launcher's."""
    place, count = local_place(os.environ)
    for name, value in {
        "RANK": launched_rank(os.environ),
        "WORLD_SIZE": launched_size(os.environ),
        "LOCAL_RANK": place,
        "LOCAL_WORLD_SIZE": count,
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": 29500,
    }.items():
        os.environ.setdefault(name, str(value))


class _SummaryWriter:
    """tensorboardX's SummaryWriter, when a script makes one; it is given NumPy's arrays for tensors."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ImportError("SummaryWriter needs tensorboardX: pip install 'mpigrad[plot]'") from error
        names = [name for name in dir(SummaryWriter) if name.startswith("add_")]
        taking = {name: _taking_tensors(getattr(SummaryWriter, name)) for name in names}
        return type("SummaryWriter", (SummaryWriter,), taking)(*args, **kwargs)


def _taking_tensors(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method, which takes arrays, for tensors too."""

    def array(value: Any) -> Any:
        if isinstance(value, mpigrad.Tensor):
            return (value if value.dtype != mpigrad.bfloat16 else value.float()).numpy(force=True)
        if isinstance(value, dict):
            return {name: array(item) for name, item in value.items()}
        return [array(item) for item in value] if isinstance(value, list) else value

    @functools.wraps(method)
    def call(self: Any, *args: Any, **names: Any) -> Any:
        return method(self, *map(array, args), **array(names))

    return call
