"""Memory that is shared with NumPy, torch and CuPy, and the ways to hand it over."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mpigrad

Expression = Callable[[Any], Any]
DTYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]


def named(m: Any, name: str) -> Any:
    return mpigrad.bool_ if m is mpigrad and name == "bool" else getattr(m, name)


@pytest.mark.parametrize("name", DTYPES)
def test_to_and_from_torch(name: str, torch: Any) -> None:
    for here, there in ((mpigrad, torch), (torch, mpigrad)):
        source = here.arange(6).reshape(2, 3).to(named(here, name)).T
        found = there.from_dlpack(source)
        assert found.dtype is named(there, name) and found.stride() == source.stride()
        assert found.data_ptr() == source.data_ptr() and found.tolist() == source.tolist()
        found[0, 0] = 1
        assert source[0, 0].item() == 1


@pytest.mark.parametrize("name", DTYPES)
def test_capsules(name: str, torch: Any) -> None:
    """Those of the first version, which say nothing of writing."""
    from mpigrad.utils import dlpack

    source = torch.zeros(3).to(named(torch, name))
    found = dlpack.from_dlpack(torch.utils.dlpack.to_dlpack(source))
    found[1] = 1
    assert source.tolist() == [0, 1, 0] and found.dtype is named(mpigrad, name)
    capsule = dlpack.to_dlpack(found)
    assert torch.utils.dlpack.from_dlpack(capsule).tolist() == [0, 1, 0]
    with pytest.raises(RuntimeError, match="from_dlpack received an invalid capsule"):
        mpigrad.from_dlpack(capsule)


def test_numpy() -> None:
    array = np.arange(6.0).reshape(2, 3)[:, ::2]
    for tensor in (mpigrad.from_numpy(array), mpigrad.from_dlpack(array), mpigrad.asarray(array)):
        tensor[0, 0] += 1
        assert tensor.numpy().base is not None and np.shares_memory(tensor.numpy(), array)
        assert np.shares_memory(np.asarray(tensor), array) and np.shares_memory(np.from_dlpack(tensor), array)
    assert array[0, 0] == 3
    array.flags.writeable = False
    with pytest.raises((ValueError, RuntimeError)):  # nobody may write to it
        mpigrad.from_dlpack(array).zero_()


class Old:
    """An array of a library that knows only the first version of the protocol."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack__(self, stream: Any = None) -> Any:
        return self.array.__dlpack__()

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


def test_older_libraries() -> None:
    array = np.zeros(3)
    mpigrad.from_dlpack(Old(array))[1] = 1
    assert array.tolist() == [0, 1, 0]


def test_memory_outlives_its_first_owner(torch: Any) -> None:
    found = mpigrad.from_dlpack(torch.arange(10**6))
    kept = torch.from_dlpack(mpigrad.arange(10**6) + 1)
    assert found.sum().item() == 499999500000 and kept.sum().item() == 500000500000


def test_copy_and_device() -> None:
    array = np.zeros(3)
    assert not np.shares_memory(mpigrad.from_dlpack(array, copy=True).numpy(), array)
    assert np.shares_memory(mpigrad.from_dlpack(array, copy=False, device="cpu").numpy(), array)


SAME: list[Expression] = [
    lambda m: m.frombuffer(bytearray(b"abcdefgh"), dtype=m.int16),
    lambda m: m.frombuffer(bytearray(b"abcdefgh"), dtype=m.bfloat16, count=2, offset=2),
    lambda m: m.frombuffer(bytearray(b"abcdefgh"), dtype=m.float32, requires_grad=True),
    lambda m: m.frombuffer(np.arange(3.0), dtype=m.float64, count=-7),
    lambda m: m.frombuffer(bytearray(), dtype=m.uint8),
    lambda m: m.frombuffer(bytearray(b"abc"), dtype=m.int16),
    lambda m: m.frombuffer(bytearray(b"abcd"), dtype=m.int16, count=3),
    lambda m: m.frombuffer(bytearray(b"abcd"), dtype=m.int16, offset=1),
    lambda m: m.frombuffer(bytearray(b"abcd"), dtype=m.int16, offset=5),
    lambda m: m.frombuffer(bytearray(b"abcd"), dtype=m.int16, offset=-1),
    lambda m: m.frombuffer(bytearray(b"abcd"), dtype=m.int16, count=0),
    lambda m: m.frombuffer(3, dtype=m.int16),
    lambda m: m.asarray([1, 2]),
    lambda m: m.asarray(3.5, dtype=m.float64),
    lambda m: m.asarray(np.float32(3)),
    lambda m: m.asarray(bytearray(b"abcdefgh")),
    lambda m: m.asarray(bytearray(b"abc"), dtype=m.uint8),
    lambda m: m.asarray(m.ones(2), dtype=m.float64, requires_grad=True),
    lambda m: m.asarray(m.ones(2, requires_grad=True) * 2, requires_grad=True).grad_fn.name(),
    lambda m: m.asarray([1.0], requires_grad=True).requires_grad,
    lambda m: m.asarray([1], copy=False),
    lambda m: (x := m.ones(2), m.asarray(x) is x, m.asarray(x, copy=False) is x, m.asarray(x, copy=True) is x)[1:],
    lambda m: m.from_dlpack(3),
    lambda m: m.ones(2, requires_grad=True).__dlpack__(),
    lambda m: m.from_dlpack(m.ones(2, requires_grad=True)),
    lambda m: (m.ones(2, requires_grad=True) * 2).__dlpack__(),
    lambda m: m.ones(2).__dlpack__(stream=1),
    lambda m: m.ones(2).__dlpack_device__() == (1, 0),
    lambda m: hasattr(m.ones(2), "__cuda_array_interface__"),
    lambda m: m.ones(2, dtype=m.bfloat16).tolist(),
    lambda m: m.tensor(2.5, dtype=m.bfloat16).tolist(),
    lambda m: m.ones(2, requires_grad=True).numpy(),
    lambda m: m.ones(2, requires_grad=True).numpy(force=True),
    lambda m: np.asarray(m.ones(2, requires_grad=True)),
    lambda m: np.asarray(m.ones(2), dtype=np.int32),
    lambda m: m.from_numpy(np.arange(3, dtype=">i4")),
    lambda m: m.from_numpy(np.zeros(2, dtype=[("a", "i1"), ("b", "i4")])["b"]),
]
ERRORS: list[Expression] = [
    lambda m: m.from_numpy(np.arange(3)[::-1]),
    lambda m: m.from_numpy(np.zeros(3, complex).astype("c8").view("V8")),
    lambda m: m.from_numpy([1]),
    lambda m: m.frombuffer(bytearray(b"abcd")),
    lambda m: m.frombuffer(bytearray(b"abcd"), dtype=m.uint8, requires_grad=True),
    lambda m: m.asarray(np.ones(2), dtype=m.float32, copy=False),
    lambda m: m.asarray(m.ones(2), dtype=m.float64, copy=False),
    lambda m: m.ones(2).__cuda_array_interface__,
]


@pytest.mark.parametrize("expression", SAME)
def test_as_in_torch(expression: Expression, same: Callable[[Expression], None]) -> None:
    same(expression)


@pytest.mark.parametrize("expression", ERRORS)
def test_errors_of_the_same_class(expression: Expression, same_class: Callable[[Expression], None]) -> None:
    same_class(expression)


def test_array_protocol() -> None:
    tensor = mpigrad.ones(2)
    assert not np.shares_memory(np.array(tensor), tensor.numpy())
    assert np.shares_memory(np.asarray(tensor, copy=False), tensor.numpy())
    with pytest.raises(ValueError, match="Unable to avoid copy"):
        np.asarray(tensor, dtype=np.int32, copy=False)


def test_copies(same: Callable[[Expression], None]) -> None:
    def copies(m: Any) -> Any:
        leaf = m.nn.Parameter(m.ones(2))
        leaf.note, leaf.grad = ["kept"], m.ones(2)
        near, far = copy.copy(leaf), copy.deepcopy([leaf, leaf])
        near.data[0] = 5
        inner = copy.copy(leaf * 2)
        return [
            leaf, near, near.grad, near.note is leaf.note, type(near).__name__,
            far, far[0] is far[1], far[0].grad, hasattr(far[0], "note"), type(far[0]).__name__,
            inner.is_leaf, inner.requires_grad,
        ]  # fmt: skip

    same(copies)
    tensor = mpigrad.ones(2)
    tensor.note, tensor.grad = ["kept"], mpigrad.ones(2)  # type: ignore[attr-defined]
    far = copy.deepcopy(tensor)
    assert far.grad is not None and far.grad.tolist() == [1, 1] and far.grad is not tensor.grad
    assert far.note == ["kept"] and far.note is not tensor.note  # type: ignore[attr-defined]


def test_shared_parameters_stay_shared_in_a_copy(torch: Any) -> None:
    for m in (mpigrad, torch):
        model = m.nn.Sequential(m.nn.Linear(2, 2), m.nn.Linear(2, 2))
        model[1].weight = model[0].weight
        other = copy.deepcopy(model)
        assert other[0].weight is other[1].weight and other[0].weight is not model[0].weight
        other[0].weight.data[0, 0] = 77
        assert model[0].weight[0, 0] != 77 and other[1].weight[0, 0] == 77


@pytest.mark.gpu
@pytest.mark.skipif(mpigrad.core.backend.cuda_device_count() == 0, reason="needs a CUDA device")
def test_on_a_gpu() -> None:
    cupy = mpigrad.core.backend.cupy()
    tensor = mpigrad.arange(3.0, device="cuda")
    assert tensor.__dlpack_device__()[0] == 2
    for found in (cupy.from_dlpack(tensor), cupy.asarray(tensor), mpigrad.from_dlpack(tensor.array).array):
        assert found.data.ptr == tensor.data_ptr()
    assert mpigrad.from_dlpack(tensor, device="cpu").tolist() == [0, 1, 2]
    assert tensor.numpy(force=True).tolist() == [0, 1, 2]
