"""Shape ops: the op table, which of them are views, and errors."""

from types import ModuleType
from typing import Any

import numpy as np
import pytest

import mpigrad

normal = np.random.default_rng(0).standard_normal
A, B = normal((2, 3, 4)), normal((2, 3, 4))


def method(name: str, *arguments: Any) -> Any:
    return lambda m, a: getattr(a, name)(*arguments)


ROWS: list[tuple[Any, ...]] = [
    *[("reshape", method("reshape", *s), (A,)) for s in ((6, 4), ((4, -1),), (-1,), (2, 3, 4), ([2, 12],), (1, 24, 1))],
    *[("view", lambda m, a, s=s: a.contiguous().view(*s), (A,), "name") for s in ((6, 4), ((4, -1),), (-1,))],
    *[("flatten", method("flatten", *s), (A,), "name") for s in ((), (1,), (0, 1), (-2, -1), (1, 1))],
    *[("flatten", method("flatten"), (normal(s),)) for s in ((), (3,), (0, 2))],
    *[("permute", method("permute", *s), (A,)) for s in ((2, 0, 1), ((1, 0, 2),), (-1, 0, 1))],
    *[("transpose", method("transpose", *s), (A,)) for s in ((0, 1), (-1, 0), (1, 1))],
    *[("t", method("t"), (normal(s),)) for s in ((), (3,), (2, 3))],
    ("T", lambda m, a: a.T, (normal((2, 3)),)),
    ("mT", lambda m, a: a.mT, (A,)),
    *[("squeeze", method("squeeze", *s), (normal((1, 3, 1, 2)),)) for s in ((), (0,), (1,), (-2,))],
    ("squeeze", method("squeeze"), (normal(()),)),
    ("squeeze", method("squeeze", 0), (normal(()),)),
    ("squeeze", method("squeeze", (0, 1, 2)), (normal((1, 3, 1, 2)),)),
    *[("unsqueeze", method("unsqueeze", d), (normal((2, 3)),)) for d in (0, 1, 2, -1, -3)],
    ("unsqueeze", method("unsqueeze", 0), (normal(()),)),
    *[("expand", method("expand", *s), (normal((3, 1)),)) for s in ((3, 4), (-1, 4), (2, 3, 4), ((2, -1, -1),))],
    ("expand", method("expand", 2, 2), (normal(()),)),
    ("expand", method("expand", 3, 0), (normal((3, 1)),)),
    ("expand_as", lambda m, a, b: a.expand_as(b), (normal((3, 1)), normal((3, 2)))),
    ("view_as", lambda m, a, b: a.contiguous().view_as(b), (normal((2, 3)), normal((3, 2))), "name"),
    ("contiguous", lambda m, a: a.transpose(0, 1).contiguous(), (A,), "name"),
    ("clone", method("clone"), (A,)),
    ("clone", lambda m, a: a.transpose(0, 1).clone(), (A,)),
    *[("reshape", lambda m, a, s=s: m.reshape(a, s), (A,)) for s in ((6, -1), (24,))],
    ("reshape", method("reshape", ()), (normal(1),)),
    ("reshape", method("reshape", -1, 2), (normal((0, 2)),)),
    ("reshape", lambda m, a: a[:, :1].reshape(2, 2, 2), (A,), "name"),
    ("view", lambda m, a: a[:, :1].view(2, 4), (A,), "contiguous"),
    ("view", lambda m, a: a.view(m.int32), (np.arange(6).reshape(2, 3),), "contiguous"),
    ("view", lambda m, a: a.view(m.int64), (np.arange(6, dtype=np.int32).reshape(3, 2),), "contiguous"),
    ("view", lambda m, a: a.view(m.float64), (np.arange(4),)),
    ("reshape_as", lambda m, a, b: a.reshape_as(b), (A, normal((4, 6)))),
    ("ravel", lambda m, a: m.ravel(a), (A,), "name"),
    ("ravel", method("ravel"), (normal(()),)),
    *[("unflatten", lambda m, a, s=s: m.unflatten(a, 2, s), (A,), "name") for s in ((2, 2), (-1, 2), [1, 4, 1])],
    ("unflatten", method("unflatten", -3, (2, 1)), (A,), "name"),
    ("swapaxes", lambda m, a: m.swapaxes(a, 0, -1), (A,)),
    ("swapdims", method("swapdims", 0, 1), (A,)),
    ("transpose", method("transpose", 0, -1), (normal(()),)),
    ("transpose", lambda m, a: a.transpose_(0, 1), (np.arange(6).reshape(2, 3),)),
    *[
        ("movedim", lambda m, a, s=s: m.movedim(a, *s), (A,))
        for s in ((0, 2), (-1, 0), ((0, 1), (2, 0)), ((2, 0), (0, 1)))
    ],
    ("moveaxis", method("moveaxis", 1, 0), (A,)),
    ("movedim", method("movedim", 0, 0), (normal(()),), "name"),
    ("adjoint", lambda m, a: m.adjoint(a), (A,)),
    ("H", lambda m, a: a.H, (normal((2, 3)),)),
    ("broadcast_to", lambda m, a: m.broadcast_to(a, (4, 2, 3)), (normal((2, 1)),)),
    (
        "broadcast_tensors",
        lambda m, a, b, c: m.broadcast_tensors(a, b, c),
        (normal((2, 1)), normal((4, 1, 3)), normal(())),
    ),
    ("broadcast_shapes", lambda m, a: m.zeros(m.broadcast_shapes((2, 1), (3,), 1)), (A,)),
    *[("atleast_1d", lambda m, a: m.atleast_1d(a), (normal(s),)) for s in ((), 3)],
    *[("atleast_2d", lambda m, a: m.atleast_2d(a), (normal(s),), "name") for s in ((), 3, (2, 2))],
    *[("atleast_3d", lambda m, a: m.atleast_3d(a), (normal(s),), "name") for s in ((), 3, (2, 2), (1, 1, 1, 2))],
    ("atleast_3d", lambda m, a, b: m.atleast_3d(a, b) + m.atleast_1d([a, b]), (normal(2), normal((2, 2)))),
]

# in place: shapes that change under a tensor which has views, and is one
IN_PLACE: list[Any] = [
    lambda m, a: (a.unsqueeze_(0), a.mul_(2), a),
    lambda m, a: ((b := a[0]), a.t_(), b.mul_(3), a.add_(1), b, a),
    lambda m, a: ((b := a.t()), b.transpose_(0, 1), b.mul_(3), a, b),
    lambda m, a: ((b := a.view(3, 2, 1)), b.squeeze_(-1), a.mul_(2), b[0].add_(1), a, b),
    lambda m, a: (a.squeeze_(), a.unsqueeze_(1).squeeze_(1), a.swapaxes_(0, 1), a),
]


@pytest.mark.parametrize("change", IN_PLACE)
def test_views_in_place(change: Any, torch: ModuleType) -> None:
    def run(m: Any) -> Any:
        leaf = m.arange(6.0).reshape(2, 3).requires_grad_()
        *_, last = results = [v for v in change(m, leaf * 1.0) if v is not None]
        (last * last).sum().backward()
        return [v.tolist() for v in results], leaf.grad.tolist(), last.stride()

    assert run(mpigrad) == run(torch)


def cube(m: Any) -> Any:
    return m.arange(24.0).reshape(4, 3, 2)


SAME: list[Any] = [
    lambda m: cube(m).reshape(-2, 3),
    lambda m: cube(m).reshape(-1, 5),
    lambda m: cube(m).reshape(-1, -1),
    lambda m: m.zeros(0, 3).reshape(-1, 0),
    lambda m: [m.zeros(2, 4).view(m.float64).shape, m.zeros(2).view(m.uint8).shape, m.tensor(1.0).view(m.int32)],
    lambda m: [cube(m).mT.is_contiguous(), cube(m).movedim(0, 2).stride()],
    lambda m: cube(m).unflatten(0, (2, 3)),
    lambda m: cube(m).unflatten(0, ()),
    lambda m: cube(m).movedim((0, 0), (1, 2)),
    lambda m: cube(m).permute(0, 1),
    lambda m: cube(m).permute(0, 0, 1),
    lambda m: cube(m).H,
    lambda m: m.zeros(3).H,
    lambda m: m.zeros(3).mT,
    lambda m: m.zeros(3).adjoint(),
    lambda m: cube(m).squeeze((0, 0)),
    lambda m: cube(m).expand(-1, 4, 3, 2),
    lambda m: m.broadcast_shapes((2, 3), (4,)),
    lambda m: m.broadcast_shapes((2, 1), (4,), 3),
    lambda m: [m.broadcast_shapes((2, 1), 4), m.broadcast_shapes((), (1,)), m.broadcast_shapes((0, 1), (1, 2))],
    lambda m: m.broadcast_tensors(cube(m), m.zeros(5)),
    lambda m: [cube(m).shape[1:], cube(m).shape[0], cube(m).shape + (2,), (2,) + cube(m).shape, 2 * cube(m).shape],
    lambda m: [m.Size([2, 3]).numel(), m.Size() + m.Size((1,)), m.Size((1, 2))[::-1], m.Size((1, 2)) * 2],
    lambda m: m.zeros(2, requires_grad=True).unsqueeze_(0),
]  # fmt: skip


@pytest.mark.parametrize("expression", SAME)
def test_as_torch(expression: Any, same: Any) -> None:
    same(expression)


def test_errors(same_class: Any) -> None:
    same_class(lambda m: m.zeros(3).view(m.float64))
    same_class(lambda m: m.tensor(1.0).view(m.float64))
    same_class(lambda m: cube(m).mT.view(m.int16))
    same_class(lambda m: cube(m).view(2.0))


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a.unflatten(0, (2, 1)),
        lambda a: a.movedim(0, 2),
        lambda a: a.mT,
        lambda a: a[0].H,
        lambda a: a.broadcast_to((1, 2, 3, 4)),
        lambda a: a.view(mpigrad.int32),
        lambda a: a.ravel(),
    ],
)
def test_views_share_memory(view: Any) -> None:
    a = mpigrad.zeros(2, 3, 4)
    shown = view(a)
    assert np.shares_memory(shown.array, a.array)
    assert shown.version is a.version
