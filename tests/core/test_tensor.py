"""Tensor's own methods: elements in and out, copies, printing, NumPy, and the texts of errors."""

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mpigrad
from mpigrad import nn

Expression = Callable[[Any], Any]


def row(m: Any) -> Any:
    return m.tensor([1.0, 2.0, 3.0])


def grid(m: Any) -> Any:
    return m.arange(6).reshape(2, 3)


def learned(m: Any) -> Any:
    return m.tensor([1.0, 2.0], requires_grad=True)


def named(m: Any, text: str) -> str:
    """A repr with the library's name in it."""
    return text.replace(f"{m.__name__}.", "")


SAME: list[Expression] = [
    # elements out
    lambda m: m.tensor(1.5).item(),
    lambda m: m.tensor([[7]]).item(),
    lambda m: m.tensor(True).item(),
    lambda m: row(m).item(),
    lambda m: m.zeros(0).item(),
    lambda m: grid(m).tolist(),
    lambda m: m.tensor(3).tolist(),
    lambda m: m.zeros(2, 0).tolist(),
    lambda m: [bool(m.tensor(0)), bool(m.tensor([2.0])), bool(m.tensor(False))],
    lambda m: bool(row(m)),
    lambda m: bool(m.zeros(0)),
    lambda m: [int(m.tensor(2.7)), float(m.tensor(2)), int(m.tensor([3]))],
    lambda m: int(row(m)),
    lambda m: list(range(5))[m.tensor(2)],
    lambda m: list(range(5))[m.tensor(2.0)],
    lambda m: list(range(5))[m.tensor([1, 2])],
    lambda m: [len(grid(m)), len(m.zeros(0, 3))],
    lambda m: len(m.tensor(1)),
    lambda m: [v.tolist() for v in grid(m)],
    lambda m: list(m.tensor(1)),
    lambda m: [a.item() + b.item() for a, b in zip(*grid(m), strict=True)],
    lambda m: [2 in grid(m), 9 in grid(m), m.tensor(2) in grid(m)],
    lambda m: [f"{m.tensor(1.25):.1f}", f"{m.tensor(7):03d}", f"{m.tensor(1.5)}", f"{row(m)}"],
    lambda m: f"{row(m):.1f}",
    lambda m: ["abc"[m.tensor(True)], "abc"[m.tensor(2)]],
    # what ops say about shapes and places
    lambda m: row(m).kthvalue(5),
    lambda m: m.ones(2, 2, 2).trace(),
    lambda m: m.tensor(1.0).roll(1, 0),
    lambda m: m.cat(row(m)),
    lambda m: m.stack(row(m)),
    lambda m: grid(m).scatter(0, m.tensor([0]), 1),
    lambda m: m.bucketize(row(m), m.ones(2, 2)),
    lambda m: m.zeros(0).aminmax(),
    lambda m: m.zeros(2, 0).aminmax(dim=1),
    lambda m: m.dot(row(m), row(m).half()),
    lambda m: m.take(row(m), m.tensor([1.0])),
    lambda m: m.normal(m.zeros(2), m.ones(3)),
    lambda m: m.full((2,), [1]),
    lambda m: m.eye(-1),
    lambda m: m.eye(2, -1),
    # beside NumPy's numbers
    lambda m: [np.sqrt(2.0) * learned(m), np.float64(1) - learned(m), np.float64(3) / learned(m)],
    lambda m: [np.float64(2) > learned(m), np.float64(2) == learned(m), np.int64(2) <= row(m), np.float32(2) != row(m)],
    lambda m: [np.float32(3) * grid(m), np.int64(7) % (grid(m) + 1), np.float64(2) * row(m).half()],
    lambda m: [learned(m) * np.float64(2), row(m).half() * np.float64(2), row(m) + np.int64(2)],
    lambda m: [np.int64(1) << grid(m), np.int64(6) >> grid(m), np.int64(1) ^ grid(m)],
    lambda m: [row(m).clamp(np.float64(0), np.float32(2)), row(m).lerp(row(m), np.float64(0.3))],
    lambda m: row(m).sum(np.int64(0)),
    lambda m: (np.sqrt(2.0) * learned(m)).grad_fn.name(),
    # what it is
    lambda m: [grid(m).size(), grid(m).size(-1), grid(m).dim(), grid(m).ndim, grid(m).numel(), grid(m).element_size()],
    lambda m: [grid(m).stride(), grid(m).T.stride(), grid(m).is_contiguous(), grid(m).T.is_contiguous()],
    lambda m: grid(m).size(2),
    lambda m: [repr(grid(m).shape), grid(m).shape.numel(), grid(m).shape == (2, 3), str(m.tensor(1).shape)],
    lambda m: [m.device("cpu"), str(m.device("cuda:1")), m.device("cuda", 1), m.device("cuda"), row(m).device],
    lambda m: [m.device("cuda", 1) == m.device("cuda:1"), m.device("cpu") == m.device("cuda"), m.device("cpu") == 0],
    lambda m: {m.device("cuda:0"): 1}[m.device("cuda", 0)],
    lambda m: [m.float32, m.int64, m.bool, m.long, m.float, m.double, m.float32.is_floating_point, m.int8.itemsize],
    # comparison with anything
    lambda m: [row(m) == None, row(m) != None, row(m) == "a", row(m) in [None]],  # noqa: E711
    # copies and casts
    lambda m: [row(m).double(), row(m).int(), row(m).long(), row(m).short(), row(m).bool(), row(m).half()],
    lambda m: [row(m).to(m.float64), row(m).to("cpu"), row(m).to("cpu", m.int32), row(m).to(grid(m))],
    lambda m: [(t := row(m)).to(m.float32) is t, t.to(m.float32, copy=True) is t, t.contiguous() is t, t.cpu() is t],
    lambda m: row(m).to(dtype=m.uint8).dtype,
    lambda m: [(+row(m)).tolist(), (-row(m)).tolist(), abs(-row(m)).tolist()],
    lambda m: [grid(m).T, grid(m).mT, grid(m).t(), m.zeros(2, 1).expand_as(grid(m)), grid(m).view_as(m.zeros(3, 2))],
    lambda m: [row(m).zero_(), row(m).fill_(2), row(m).copy_(m.tensor(5))],
    lambda m: row(m).add_(1).mul_(2).sub_(1).div_(3).pow_(2),
    # tensors beside what is none
    lambda m: [2 + row(m), 2 - row(m), 2 * row(m), 2 / row(m), 2 ** row(m), 7 // row(m), 7 % row(m), 6 & grid(m)],
    lambda m: row(m) * np.float64(2),
    lambda m: grid(m) + np.float32(0.5),
    lambda m: np.sum(row(m).numpy()),
    lambda m: np.asarray(row(m)).dtype,
    lambda m: np.asarray(row(m), dtype=np.int32).dtype,
    lambda m: np.asarray(learned(m)),
    lambda m: learned(m).numpy(),
    lambda m: learned(m).numpy(force=True).tolist(),
    lambda m: grid(m) @ 2,
    # errors
    lambda m: m.zeros(2, 2) @ m.zeros(50, 30),
    lambda m: m.zeros(2, 4, 3) @ m.zeros(2, 2),
    lambda m: m.zeros(3) @ m.zeros(4),
    lambda m: m.zeros(2, 3) @ m.zeros(4),
    lambda m: m.zeros(5, 2, 3) @ m.zeros(4),
    lambda m: m.zeros(5, 2, 3) @ m.zeros(4, 3, 2),
    lambda m: m.tensor(1.0) @ m.zeros(3),
    lambda m: m.zeros(2) + m.zeros(3),
    lambda m: m.zeros(4, 1, 3) * m.zeros(2, 2),
    lambda m: m.where(m.zeros(2).bool(), m.zeros(3), 1.0),
    lambda m: grid(m).view(4),
    lambda m: grid(m).reshape(-1, 4),
    lambda m: grid(m).view(-1, -1),
    lambda m: grid(m).T.view(6),
    lambda m: grid(m).expand(2, 4),
    lambda m: grid(m).transpose(0, 2),
    lambda m: grid(m).unsqueeze(4),
    lambda m: grid(m).squeeze(-3),
    lambda m: m.zeros(2, 3, 4).t(),
    lambda m: grid(m).flatten(1, 0),
    lambda m: row(m)[3],
    lambda m: row(m)[-4],
    lambda m: grid(m)[0, 3],
    lambda m: grid(m)[0, 0, 0],
    lambda m: grid(m)[m.tensor([0, 2])],
    lambda m: row(m)[m.tensor([0.0])],
    lambda m: row(m).__setitem__(3, 1.0),
    lambda m: row(m).__setitem__(slice(0, 2), row(m)),
    lambda m: grid(m).__setitem__(0, row(m)[:2].long()),
    lambda m: grid(m).__setitem__([0, 1], m.zeros(3, 3).long()),
    lambda m: m.cat([grid(m), m.zeros(3, 2)]),
    lambda m: m.cat([grid(m), row(m)]),
    lambda m: m.cat([m.tensor(1), m.tensor(2)]),
    lambda m: m.cat([row(m), 1]),
    lambda m: m.cat([]),
    lambda m: m.cat([row(m)], 1),
    lambda m: m.stack([row(m), m.zeros(2)]),
    lambda m: m.stack([]),
    lambda m: m.zeros(0).max(),
    lambda m: m.zeros(0).amin(),
    lambda m: m.zeros(2, 0).max(1),
    lambda m: m.zeros(2, 0).amax(1),
    lambda m: m.zeros(0).argmax(),
    lambda m: m.zeros(2, 0).argmin(1),
    lambda m: m.tensor(1.0).argmax(2),
    lambda m: row(m).sum(1),
    lambda m: grid(m).sum((0, 0)),
    lambda m: grid(m).var(),
    lambda m: m.tensor([2]) ** -1,
    lambda m: m.tensor([2]) // 0,
    lambda m: m.tensor([2]) % m.tensor([0]),
    lambda m: learned(m).__setattr__("grad", m.zeros(3)),
    lambda m: learned(m).__setattr__("grad", 3),
]  # fmt: skip
SAME_CLASS: list[Expression] = [
    lambda m: grid(m).mean(),
    lambda m: grid(m).softmax(0),
    lambda m: grid(m).permute(0, 0),
    lambda m: grid(m).permute(0),
    lambda m: grid(m).expand(6),
    lambda m: m.tensor(1.0)[0],
    lambda m: row(m)[1.0],
    lambda m: row(m)[m.tensor([True, False])],
    lambda m: grid(m)[[0, 1], [0, 1, 2]],
    lambda m: m.zeros(2, 3) @ m.zeros(3, 2).double(),
    lambda m: m.zeros(3) @ m.zeros(3).double(),
    lambda m: m.zeros(5, 2, 3) @ m.zeros(5, 4, 2),
    lambda m: m.eq(row(m), None),
    lambda m: row(m) + "a",
    lambda m: row(m) + None,
    lambda m: row(m) + [1, 2, 3],
    lambda m: m.tensor([True]) - m.tensor([True]),
    lambda m: -m.tensor([True]),
    lambda m: m.tensor([1.0]) & m.tensor([1.0]),
    lambda m: m.where(m.tensor([1, 0]), 1, 0),
    lambda m: m.nn.Parameter(m.tensor([1])),
    lambda m: m.device("tpu"),
    lambda m: m.device("cuda:x"),
    lambda m: learned(m).detach().to(m.int64).requires_grad_(),
]  # fmt: skip


@pytest.mark.parametrize("expression", SAME)
def test_as_in_torch(expression: Expression, same: Callable[[Expression], None]) -> None:
    same(expression)


@pytest.mark.parametrize("expression", SAME_CLASS)
def test_error_of_the_same_class(expression: Expression, same_class: Callable[[Expression], None]) -> None:
    same_class(expression)


REPRS: list[tuple[Expression, str]] = [
    (lambda m: row(m), "tensor([1., 2., 3.])"),
    (lambda m: learned(m), "tensor([1., 2.], requires_grad=True)"),
    (lambda m: learned(m) * 2, "tensor([2., 4.], grad_fn=<MulBackward0>)"),
    (lambda m: (learned(m) * 2).detach(), "tensor([2., 4.])"),
    (lambda m: learned(m).double(), "tensor([1., 2.], dtype=float64, grad_fn=<ToCopyBackward0>)"),
    (lambda m: row(m).half(), "tensor([1., 2., 3.], dtype=float16)"),
    (lambda m: row(m).int(), "tensor([1, 2, 3], dtype=int32)"),
    (lambda m: m.zeros(0).long(), "tensor([], dtype=int64)"),
    (lambda m: m.zeros(2, 0), "tensor([], size=(2, 0))"),
    (lambda m: m.tensor([True]), "tensor([True])"),
    (lambda m: nn_of(m).Parameter(row(m)), "Parameter containing:\ntensor([1., 2., 3.], requires_grad=True)"),
    (lambda m: m.Size([2, 3]), "Size([2, 3])"),
    (lambda m: learned(m).max(0), "return_types.max(\nvalues=tensor(2., grad_fn=<MaxBackward0>),\nindices=tensor(1))"),
]  # fmt: skip


def nn_of(m: Any) -> Any:
    return m.nn


@pytest.mark.parametrize(("make", "text"), REPRS)
def test_repr(make: Expression, text: str) -> None:
    assert named(mpigrad, repr(make(mpigrad))) == text


@pytest.mark.parametrize(("make", "text"), REPRS)
def test_repr_as_in_torch(make: Expression, text: str, torch: Any) -> None:
    assert named(torch, repr(make(torch))).replace("_ToCopy", "ToCopy") == text


class TestMemory:
    def test_numpy_is_shared(self) -> None:
        array = np.zeros(3)
        tensor = mpigrad.from_numpy(array)
        assert tensor.numpy() is array
        array[0] = 5
        tensor[1] = 6.0
        assert array.tolist() == tensor.tolist() == [5.0, 6.0, 0.0]
        assert np.asarray(tensor) is array
        assert np.array(tensor) is not array

    @pytest.mark.parametrize(
        "view",
        {
            "int": lambda t: t[0],
            "ints": lambda t: t[0, 0],
            "a scalar tensor": lambda t: t[mpigrad.tensor(0)],
            "slice": lambda t: t[:1],
            "None": lambda t: t[None],
            "T": lambda t: t.T,
            "transpose": lambda t: t.transpose(0, 1),
            "permute": lambda t: t.permute(1, 0),
            "view": lambda t: t.view(6),
            "reshape": lambda t: t.reshape(3, 2),
            "flatten": lambda t: t.flatten(),
            "squeeze": lambda t: t.unsqueeze(0).squeeze(0),
            "expand": lambda t: t.expand(4, 2, 3),
            "detach": lambda t: t.detach(),
            "data": lambda t: t.data,
            "iteration": lambda t: next(iter(t)),
            "Parameter": lambda t: nn.Parameter(t),
        }.items(),
        ids=lambda view: view[0],
    )
    def test_views_share_it(self, view: Any) -> None:
        tensor = mpigrad.zeros(2, 3)
        result = view[1](tensor)
        assert np.shares_memory(result.array, tensor.array)
        tensor.fill_(7)
        assert set(np.ravel(result.tolist())) == {7.0}
        assert result.data_ptr() == tensor.data_ptr()

    def test_copies_do_not(self) -> None:
        tensor = mpigrad.zeros(2, 3)
        for copied in (tensor.clone(), tensor[[0]], tensor.T.contiguous(), tensor.T.reshape(6), copy.deepcopy(tensor)):
            assert not np.shares_memory(copied.array, tensor.array)

    def test_writing_into_a_view(self) -> None:
        tensor = mpigrad.zeros(2, 3)
        tensor[0, 1] += 5
        tensor[1][2] = 3.0
        tensor.T[0].add_(1)
        assert tensor.tolist() == [[1.0, 5.0, 0.0], [1.0, 0.0, 3.0]]

    def test_data_is_replaced(self) -> None:
        tensor = learned(mpigrad)
        tensor.data = mpigrad.ones(3)
        assert tensor.requires_grad and tensor.tolist() == [1.0] * 3

    def test_numpy_functions_give_tensors(self) -> None:
        for got in (np.exp(row(mpigrad)), np.add(row(mpigrad), np.ones(3)), np.ones(3) * row(mpigrad)):
            assert type(got) is mpigrad.Tensor and got.shape == (3,)
        assert (row(mpigrad) + np.ones(3)).dtype is mpigrad.float64

    def test_numpy_writes_where_it_is_told(self) -> None:
        tensor, array = mpigrad.zeros(3), np.zeros(3, np.float32)
        assert np.add(tensor, 1, out=array) is array
        assert np.add(tensor, 1, out=tensor) is tensor
        array += tensor
        assert type(array) is np.ndarray and array.tolist() == [2.0] * 3
        quotient, rest = np.divmod(mpigrad.tensor([7.0]), 2)
        assert (quotient.tolist(), rest.tolist()) == ([3.0], [1.0])

    def test_uint8_indices_are_masks(self) -> None:
        mask = mpigrad.tensor([0, 1, 1], dtype=mpigrad.uint8)
        assert row(mpigrad)[mask].tolist() == [2.0, 3.0]


class TestCopies:
    def test_deepcopy(self) -> None:
        leaf = learned(mpigrad)
        (leaf * 3).sum().backward()
        twin, again = copy.deepcopy([leaf, leaf])
        assert twin is again and twin.requires_grad and twin.is_leaf
        assert twin.grad is not leaf.grad and twin.grad.tolist() == [3.0, 3.0]
        twin.data.fill_(0)
        assert leaf.tolist() == [1.0, 2.0]
        with pytest.raises(RuntimeError, match="Only Tensors created explicitly by the user"):
            copy.deepcopy(leaf * 2)

    def test_deepcopy_of_a_module(self) -> None:
        model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Dropout(0.1))
        model.tied = model[0].weight
        mpigrad.optim.SGD(model.parameters(), lr=0.1)  # flat memory
        model(mpigrad.ones(1, 2)).sum().backward()
        twin = copy.deepcopy(model)
        assert type(twin[0].weight) is nn.Parameter and twin.tied is twin[0].weight
        assert [p.tolist() for p in twin.parameters()] == [p.tolist() for p in model.parameters()]
        with mpigrad.no_grad():
            twin[0].weight.zero_()
        assert model[0].weight.tolist() != twin[0].weight.tolist()
        assert twin[0].weight.grad is None  # as in torch
        assert twin[0].weight.home is None

    def test_pickling_is_refused(self) -> None:
        for value in (row(mpigrad), nn.Linear(1, 1)):
            with pytest.raises(TypeError, match="is not pickled: save"):
                pickle.dumps(value)
        assert pickle.loads(pickle.dumps(mpigrad.device("cuda", 1))) == mpigrad.device("cuda", 1)


def test_every_tensor_is_its_own_key() -> None:
    a, b = row(mpigrad), row(mpigrad)
    assert {a: 1, b: 2}[a] == 1 and hash(a) != hash(b)


def test_dtypes_are_pickled_as_themselves() -> None:
    for dtype in (mpigrad.float32, mpigrad.int64, mpigrad.bool):
        assert pickle.loads(pickle.dumps(dtype)) is dtype
        assert copy.deepcopy(dtype) is dtype


def test_where_and_how_the_elements_lie() -> None:
    x = mpigrad.arange(12.0).reshape(3, 4)
    assert (x.is_cpu, x.is_cuda, x.is_sparse, x.layout, repr(x.layout)) == (
        True,
        False,
        False,
        mpigrad.strided,
        "mpigrad.strided",
    )
    assert x.pin_memory() is x and not x.is_pinned()
    assert (x.storage_offset(), x[1:].storage_offset(), x[1:][:, 2].storage_offset()) == (0, 4, 6)
    assert mpigrad.equal(x.mH, x.T) and x[:, mpigrad.newaxis].shape == (3, 1, 4)
    assert (mpigrad.inf, mpigrad.pi, mpigrad.e) == (math.inf, math.pi, math.e) and math.isnan(mpigrad.nan)
    mpigrad.set_default_device("cpu")
    assert mpigrad.get_default_device() == mpigrad.device("cpu") == mpigrad.ones(2).device
    mpigrad.set_default_device(None)
