"""The GPUs of this machine: torch.cuda's functions, as far as there are GPUs, or none."""

from __future__ import annotations

from typing import Any

from . import backend, generator
from .backend import cuda_device_count, cupy

__all__ = [
    "current_device",
    "device",
    "device_count",
    "empty_cache",
    "get_device_name",
    "get_rng_state",
    "get_rng_state_all",
    "initial_seed",
    "is_available",
    "is_initialized",
    "manual_seed",
    "manual_seed_all",
    "mem_get_info",
    "memory_allocated",
    "seed",
    "set_device",
    "set_rng_state",
    "set_rng_state_all",
    "synchronize",
]


def is_available() -> bool:
    """Whether CuPy is installed and sees a GPU."""
    return cuda_device_count() > 0


def device_count() -> int:
    """How many GPUs this process sees."""
    return cuda_device_count()


def is_initialized() -> bool:
    """Whether a GPU can be used at once: there is no state of ours to initialise."""
    return is_available()


def _gpu(where: Any = None) -> Any:
    """CuPy's object for a device given as None (the current one), number, string or device."""
    runtime = cupy().cuda
    if where is None:
        return runtime.Device()
    found = backend.device(where)
    return runtime.Device() if found.index is None else runtime.Device(found.index)


def current_device() -> int:
    """The number of the GPU that new GPU tensors go to."""
    return int(_gpu().id)


def set_device(where: Any) -> None:
    """Make this GPU the current one."""
    _gpu(where).use()


class device:
    """Within the block this GPU is the current one."""

    def __init__(self, device: Any) -> None:
        self.inside = device

    def __enter__(self) -> None:
        self.outside = current_device()
        set_device(self.inside)

    def __exit__(self, *_: object) -> None:
        set_device(self.outside)


def get_device_name(where: Any = None) -> str:
    """The GPU's name."""
    name = cupy().cuda.runtime.getDeviceProperties(_gpu(where).id)["name"]
    return str(name.decode() if isinstance(name, bytes) else name)


def synchronize(where: Any = None) -> None:
    """Wait until the GPU has done all that was asked of it."""
    _gpu(where).synchronize()


def empty_cache() -> None:
    """Give cached GPU memory back to the driver; nothing to do without a GPU."""
    if is_available():
        cupy().get_default_memory_pool().free_all_blocks()


def memory_allocated(where: Any = None) -> int:
    """The bytes of GPU memory in use by arrays; 0 without a GPU."""
    return int(cupy().get_default_memory_pool().used_bytes()) if is_available() else 0


def mem_get_info(where: Any = None) -> tuple[int, int]:
    """The GPU's free and total memory in bytes."""
    with _gpu(where):
        free, total = cupy().cuda.runtime.memGetInfo()
    return int(free), int(total)


def manual_seed(seed: int) -> None:
    """Random numbers are drawn on the host, from one generator: as mpigrad.manual_seed."""
    generator.manual_seed(seed)


manual_seed_all = manual_seed


def get_rng_state(device: Any = None) -> Any:
    """The position of that one generator, as a uint8 tensor."""
    return generator.get_rng_state()


def get_rng_state_all() -> list[Any]:
    """That position, for each GPU (and once where there is none)."""
    return [get_rng_state() for _ in range(max(1, device_count()))]


def set_rng_state(new_state: Any, device: Any = None) -> None:
    """Put the one generator at a position that `get_rng_state` gave."""
    generator.set_rng_state(new_state)


def set_rng_state_all(new_states: Any) -> None:
    """As set_rng_state, with the first of the positions."""
    generator.set_rng_state(new_states[0])


initial_seed, seed = generator.initial_seed, generator.seed
