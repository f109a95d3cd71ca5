"""State dicts of optimizers whose state is shared out over the ranks, for the tests of it."""

from __future__ import annotations

from typing import Any

import mpigrad
from mpigrad import ddp
from mpigrad.ddp import ZeroRedundancyOptimizer


def whole_state(optimizer: Any) -> Any:
    """The whole state dict on every rank."""
    if not isinstance(optimizer, ZeroRedundancyOptimizer):
        return optimizer.state_dict()
    for rank in range(ddp.get_world_size()):
        optimizer.consolidate_state_dict(to=rank)
        if rank == ddp.get_rank():
            found = optimizer.state_dict()
    return found


def assert_same_state(found: Any, expected: Any) -> None:
    assert found["param_groups"] == expected["param_groups"]
    assert list(found["state"]) == sorted(expected["state"])
    for number, values in expected["state"].items():
        assert list(found["state"][number]) == list(values)
        for name, value in values.items():
            other = found["state"][number][name]
            assert (other.shape, other.dtype) == (value.shape, value.dtype), name
            assert mpigrad.equal(other, value), name
