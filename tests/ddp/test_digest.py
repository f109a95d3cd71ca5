"""The digest sees every bit and nothing else."""

import re

import numpy as np
import pytest

import mpigrad
from mpigrad import Tensor, ddp, nn, optim
from mpigrad.ddp.digest import digest_arrays, stretches

BASE = np.arange(12, dtype=np.float32).reshape(3, 4)


def digest(**arrays: np.ndarray) -> str:
    return ddp.digest({name: mpigrad.from_numpy(array) for name, array in arrays.items()})


def flipped(array: np.ndarray, element: int, bit: int) -> np.ndarray:
    changed = array.copy()
    changed.view(np.uint32).reshape(-1)[element] ^= np.uint32(1 << bit)
    return changed


OTHERS = {
    "lowest bit": {"a": flipped(BASE, 5, 0)},
    "sign of zero": {"a": flipped(BASE, 0, 31)},
    "name": {"b": BASE},
    "dtype, same bits": {"a": BASE.view(np.int32)},
    "dtype, same values": {"a": BASE.astype(np.float64)},
    "shape": {"a": BASE.reshape(4, 3)},
    "one more dimension": {"a": BASE[None]},
    "one more tensor": {"a": BASE, "b": BASE[:0]},
    "nothing": {},
}


@pytest.mark.parametrize("change", OTHERS)
def test_changes(change: str) -> None:
    assert digest(**OTHERS[change]) != digest(a=BASE)


def test_order_and_names_count() -> None:
    empty, two = mpigrad.zeros(0), mpigrad.ones(2)
    states: list[dict[str, Tensor]] = [{"a": empty, "b": two}, {"b": two, "a": empty}, {"a float32 [0];b": two}]
    assert len({ddp.digest(state) for state in states}) == 3


@pytest.mark.parametrize(
    "same",
    [
        np.asfortranarray(BASE),
        np.repeat(BASE, 2, axis=1)[:, ::2],
        np.repeat(BASE, 3, axis=0)[1::3],
    ],
)
def test_layout_does_not_count(same: np.ndarray) -> None:
    assert digest(a=same) == digest(a=BASE)


def test_form() -> None:
    assert re.fullmatch("[0-9a-f]{32}", digest(a=BASE))
    assert digest(a=np.asarray(np.float32(1.5))) != digest(a=np.float32([1.5]))
    assert digest(a=np.zeros((0, 3), np.float32)) != digest(a=np.zeros((3, 0), np.float32))


def test_flat_memory_and_wrapping_do_not_count(world: object) -> None:
    def main() -> tuple[str, str, str]:
        model = nn.Linear(3, 2)
        for parameter in model.parameters():
            parameter.data = mpigrad.full_like(parameter, 0.25)
        before = ddp.digest(model.state_dict())
        wrapped = ddp.DistributedDataParallel(model)
        return before, ddp.digest(model.state_dict()), ddp.digest(wrapped.state_dict())

    assert len({d for digests in world(main) for d in digests}) == 1  # type: ignore[operator]


def test_where_arrays_lie_does_not_count() -> None:
    flat = np.random.default_rng(0).normal(size=60).astype(np.float32)
    views = [flat[:12].reshape(3, 4), flat[12:13].reshape(()), flat[13:13], flat[13:40], flat[40:]]
    copies = [view.copy() for view in views]
    assert digest_arrays(views) == digest_arrays(copies) == digest_arrays([flat])
    assert digest_arrays([np.asfortranarray(views[0])]) == digest_arrays(views[:1]) != digest_arrays([views[0].T])
    assert digest_arrays(views[::-1]) != digest_arrays(views)
    assert len(digest_arrays([])) == 16


def test_neighbours_are_digested_at_once() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    list(optim.Adam(model.parameters()).param_groups)  # which lays the parameters out
    assert len(list(stretches([p.array for p in model.parameters()]))) == 1
    other = np.arange(6.0)
    assert [s.tobytes() for s in stretches([other[:2], other[3:]])] == [other[:2].tobytes(), other[3:].tobytes()]
    wide = [np.zeros(2), np.zeros(2)]
    assert len(list(stretches(wide))) == 2
