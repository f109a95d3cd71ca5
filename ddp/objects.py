"""Python objects from rank to rank, with PyTorch's names: whatever pickle takes. Only trust ranks of your own job."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np

from .arguments import check_root_only, in_group, rank_of
from .process_group import Group, get_global_rank


def all_gather_object(object_list: list[Any], obj: Any, group: Group = None) -> None:
    """Replace object_list[r] by rank r's obj."""
    here = in_group(group, "all_gather_object")
    if here is None:
        return
    if len(object_list) < here.size():
        raise ValueError(f"all_gather_object: expected a list of {here.size()}, found one of {len(object_list)}")
    object_list[: here.size()] = here.communicator.all_gather_object(obj)


def gather_object(
    obj: Any,
    object_gather_list: list[Any] | None = None,
    dst: int | None = None,
    group: Group = None,
    group_dst: int | None = None,
) -> None:
    """Replace rank dst's object_gather_list[r] by rank r's obj; the other ranks give no list."""
    here = in_group(group, "gather_object")
    if here is None:
        return
    check_root_only("gather_list", object_gather_list, here, rank_of(here, dst, group_dst, 0), "destination")
    found = here.communicator.all_gather_object(obj, "gather_object")
    if object_gather_list:
        object_gather_list[: here.size()] = found


def broadcast_object_list(
    object_list: list[Any],
    src: int | None = None,
    group: Group = None,
    device: Any = None,
    group_src: int | None = None,
) -> None:
    """Replace the objects in object_list by rank src's, which must be as many."""
    here = in_group(group, "broadcast_object_list")
    if here is None:
        return
    root = rank_of(here, src, group_src, 0)
    mine = list(object_list) if root == here.rank() else None
    found = here.communicator.all_gather_object(mine, "broadcast_object_list")[root]
    if root != here.rank():
        object_list[:] = found


def scatter_object_list(
    scatter_object_output_list: list[Any],
    scatter_object_input_list: list[Any] | None = None,
    src: int | None = None,
    group: Group = None,
    group_src: int | None = None,
) -> None:
    """Replace scatter_object_output_list[0] by rank src's scatter_object_input_list[my rank]."""
    here = in_group(group, "scatter_object_list")
    if here is None:
        return
    if not isinstance(scatter_object_output_list, list) or not scatter_object_output_list:
        raise ValueError("Expected argument scatter_object_output_list to be a list of size at least 1.")
    root = rank_of(here, src, group_src, 0)
    mine = None
    if root == here.rank():
        mine = list(scatter_object_input_list or ())
        if len(mine) != here.size():
            raise ValueError(
                f"scatter_object_list: expected one object for each of {here.size()} ranks, found {len(mine)}"
            )
    found = here.communicator.all_gather_object(mine, "scatter_object_list")[root]
    scatter_object_output_list[0] = found[here.rank()]


def send_object_list(
    object_list: list[Any],
    dst: int | None = None,
    group: Group = None,
    device: Any = None,
    group_dst: int | None = None,
    use_batch: bool = False,
) -> None:
    """Send the objects to rank dst. device and use_batch have nothing to add."""
    here = in_group(group, "send_object_list")
    if here is None:
        return
    to = rank_of(here, dst, group_dst)
    content = np.frombuffer(pickle.dumps(list(object_list)), np.uint8).copy()
    for array in (np.array([content.size]), content):
        here.communicator.send(array, to, name="send_object_list")


def recv_object_list(
    object_list: list[Any],
    src: int | None = None,
    group: Group = None,
    device: Any = None,
    group_src: int | None = None,
    use_batch: bool = False,
) -> int:
    """Replace the objects in object_list by those, as many, that rank src (None: any rank) sends; the rank that did.

    It is the world's number; -1 outside the group. ValueError when they are not as many.
    """
    here = in_group(group, "recv_object_list")
    if here is None:
        return -1
    source = None if src is None and group_src is None else rank_of(here, src, group_src)
    size = np.empty(1, int)
    source = here.communicator.receive(size, source, name="recv_object_list")
    content = np.empty(int(size[0]), np.uint8)
    here.communicator.receive(content, source, name="recv_object_list")
    found = pickle.loads(content.tobytes())
    if len(found) != len(object_list):
        raise ValueError(f"recv_object_list: expected {len(object_list)} objects, found {len(found)}")
    object_list[:] = found
    return get_global_rank(here, source)
