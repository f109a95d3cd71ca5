"""What the functions of `mpigrad.distributed` make of their arguments, and PyTorch's errors for bad ones."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from ..core.tensor import Tensor
from .process_group import Group, ProcessGroup, get_global_rank, get_group_rank, get_rank, member


def in_group(group: Group, name: str) -> ProcessGroup | None:
    """The group; None, with a warning, on a rank that is not in it."""
    found = member(group)
    if found is None:
        warnings.warn(
            f"Running {name} on global rank {get_rank()} which does not belong to the given group.", stacklevel=3
        )
    return found


def rank_of(group: ProcessGroup, rank: int | None, group_rank: int | None, default: int | None = None) -> int:
    """The group's number of a rank that is given by the world's number or by the group's."""
    if rank is not None and group_rank is not None:
        raise ValueError("Can't specify both group_rank and global_rank")
    if group_rank is not None:
        get_global_rank(group, group_rank)
        return group_rank
    rank = default if rank is None else rank
    if rank is None:
        raise ValueError("Must specify global_rank or group_rank")
    return get_group_rank(group, rank)


def check_tensors(**values: Any) -> None:
    """TypeError unless every value is a tensor, or (where its name says so) a list of them; ValueError unless alike."""
    dtype = None
    for name, value in values.items():
        listed = name.endswith("_list")
        if not isinstance(value, list if listed else Tensor):
            raise TypeError(
                f"Invalid function argument. Expected parameter `{name}` of type "
                f"{'List[torch.Tensor]' if listed else 'torch.Tensor'}\n             but got {type(value)} instead."
            )
        for tensor in value if listed else (value,):
            if not isinstance(tensor, Tensor):
                raise TypeError(
                    f"Invalid function argument. Expected parameter `{name}` of type List[torch.Tensor]\n"
                    f"             but got {type(value)} with elements of type {[type(each) for each in value]}."
                )
            if dtype not in (None, tensor.dtype):
                raise ValueError(f"Invalid usage of tensors with different dtypesFound {dtype} and  {tensor.dtype}")
            dtype = tensor.dtype


def check_list(name: str, tensors: Sequence[Tensor], size: int, shape: Any = None) -> None:
    """RuntimeError unless there are size tensors, all of that shape."""
    if len(tensors) != size:
        raise RuntimeError(f"{name}: invalid tensor list (expected length {size}, got {len(tensors)})")
    for number, tensor in enumerate(tensors):
        if shape is not None and tuple(tensor.shape) != tuple(shape):
            raise RuntimeError(
                f"{name}: invalid tensor size at index {number} (expected {tuple(shape)}, got {tuple(tensor.shape)})"
            )


def check_root_only(name: str, given: Any, group: ProcessGroup, root: int, end: str) -> None:
    """ValueError unless the root, and nobody else, gives a list."""
    if root == group.rank() and not given:
        raise ValueError(f"Argument ``{name}`` must be specified on {end} rank.")
    if root != group.rank() and given:
        raise ValueError(f"Argument ``{name}`` must NOT be specified on non-{end} ranks.")
