"""Reading and writing by index: the op table, views, and errors."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mpigrad
from mpigrad.core.backend import sum_rows

normal = np.random.default_rng(0).standard_normal
A = normal((4, 3, 2))


def read(key: Any) -> Any:
    """a[key], with tensors in the place of arrays."""
    return lambda m, a: a[tensors(m, key)]


def tensors(m: Any, key: Any) -> Any:
    if isinstance(key, tuple):
        return tuple(tensors(m, k) for k in key)
    return m.from_numpy(key) if isinstance(key, np.ndarray) else key


def written(key: Any) -> Any:
    """A copy of a, with a value written at key."""

    def call(m: Any, a: Any, value: Any) -> Any:
        copy = a.clone()
        copy[tensors(m, key)] = value
        return copy

    return call


ROWS_OF_A = np.array([[0, 2], [2, 3]])
MASK = np.array([True, False, True, False])
BASIC: list[Any] = [
    0,
    -1,
    slice(1, 3),
    slice(None, None, 2),
    ...,
    None,
    (0, 1),
    (slice(None), 1),
    (..., 0),
    (1, ..., 0),
]
BASIC += [(0, 1, 1), (None, 0), (slice(2, 2),), (slice(-2, None), slice(None), 0), (..., None), ()]
ADVANCED: list[Any] = [[0, 2], [], ROWS_OF_A, MASK, (MASK, 1), (ROWS_OF_A, 0), (slice(None), [0, 0, 2]), np.array(2)]
ADVANCED += [([0, 1], [2, 2]), (ROWS_OF_A, slice(None), np.array([[0, 1], [1, 1]])), A > 0, np.array([2, 1], np.int32)]
ADVANCED += [
    (0, slice(None), [1, 0]),
    ([1, 0], None, [1, 1]),
    (slice(None), [1, 0], 0),
    (A[:, :, 0] > 0, 1),
    ([1], ..., 0),
]
DISTINCT: list[Any] = [[0, 2], [], MASK, (MASK, 1), np.array(2), ([0, 1], [2, 2]), A > 0, (0, slice(None), [1, 0])]
DISTINCT += [(slice(None), [1, 0], 0), (A[:, :, 0] > 0, 1), ([1], ..., 0)]
ROWS: list[tuple[Any, ...]] = [
    *[("getitem", read(key), (A,), "name") for key in BASIC + ADVANCED],
    ("getitem", read(0), (normal(3),)),
    ("getitem", read(slice(1, 2)), (normal(3),)),
    ("getitem", read(None), (normal(3),)),
    ("getitem", read([0, 0]), (normal(3),)),
    ("getitem", read(...), (normal(()),), "name"),
    ("getitem", read(None), (normal(()),), "name"),
    *[("setitem", written(key), (A, np.asarray(normal(()))), "name") for key in BASIC + DISTINCT],
    ("setitem", written(0), (A, normal((3, 2))), "name"),
    ("setitem", written(0), (A, normal((1, 3, 2))), "name"),
    ("setitem", written(slice(1, 3)), (A, normal(2)), "name"),
    ("setitem", written(slice(1, 3)), (A, normal((1, 3, 1))), "name"),
    ("setitem", written(MASK), (A, normal((2, 3, 2))), "name"),
    ("setitem", written(MASK), (A, 1.5), "name"),
    ("setitem", written((slice(None), 1)), (A, 2), "name"),
    ("setitem", written(slice(0, 2)), (A, np.float32([1, 2])), "name"),
    ("index_put", lambda m, a, i, v: m.index_put(a, (i,), v), (A, np.array([1, 3]), normal((2, 3, 2)))),
    ("index_put", lambda m, a, i, v: a.index_put((i, i), v, accumulate=True), (A, np.array([1, 1]), normal(2))),
    ("index_put", lambda m, a, i, v: a.index_put([i], v), (A, MASK, normal((1, 1)))),
]  # fmt: skip


def cube(m: Any) -> Any:
    return m.arange(24.0).reshape(4, 3, 2)


def set_at(m: Any, index: Any, value: Any) -> Any:
    a = cube(m)
    a[index] = value
    return a


SAME: list[Any] = [
    # what counts as an index
    lambda m: [cube(m)[range(2)], cube(m)[[True, False, True, True]], cube(m)[[0, True]], cube(m)[[]]],
    lambda m: [cube(m)[[slice(0, 1), 0]], cube(m)[[[0, 1], [1, 0]]], cube(m)[[None]], cube(m)[[m.tensor(1), 0]]],
    lambda m: [cube(m)[np.int64(1)], cube(m)[np.array([0, 1])], cube(m)[m.tensor(1) : 3], cube(m)[..., 0, ...]],
    lambda m: [cube(m)[m.tensor(1, dtype=m.uint8)], cube(m)[m.tensor([1, 0, 0, 1], dtype=m.uint8)]],
    lambda m: [cube(m)[True, 0], cube(m)[0, :, True], cube(m)[[0, 1], True, [0, 1]], cube(m)[:, [0, 1], ..., [0, 1]]],
    lambda m: cube(m)[m.tensor([0, 1], dtype=m.int16)],
    lambda m: cube(m)[m.tensor([0.5])],
    lambda m: cube(m)[1.5],
    lambda m: cube(m)[object()],
    lambda m: cube(m)[::-1],
    lambda m: cube(m)[::0],
    lambda m: cube(m)[0:1.5],
    # out of range, and shapes that do not fit
    lambda m: cube(m)[4],
    lambda m: cube(m)[0, -4],
    lambda m: cube(m)[None, 5],
    lambda m: cube(m)[..., 9],
    lambda m: cube(m)[:, [5]],
    lambda m: cube(m)[[0], [[1, -9]]],
    lambda m: m.zeros(0)[[0]],
    lambda m: cube(m)[0, 0, 0, 0],
    lambda m: m.tensor(1.0)[:],
    lambda m: cube(m)[m.tensor([True, False])],
    lambda m: cube(m)[:, m.ones(3, 4).bool()],
    lambda m: cube(m)[[0, 1], [0, 1, 2]],
    lambda m: cube(m)[m.tensor([True, True, True, False]), [0, 1]],
    # assignment
    lambda m: [set_at(m, 0, 1.5), set_at(m, (), 2), set_at(m, None, True), set_at(m, False, 5.0)],
    lambda m: [set_at(m, slice(0, 2), m.ones(1, 1, 2)), set_at(m, 0, m.ones(3, 2).double()), set_at(m, 0, np.int64(3))],
    lambda m: set_at(m, [0, 1], m.ones(1, 2, 3, 2)),
    lambda m: [(a := cube(m)).__setitem__((..., 0), a[..., 1]), a],
    lambda m: set_at(m, slice(None, None, -1), 1.0),
    lambda m: set_at(m, (slice(None), [5]), 1.0),
    lambda m: set_at(m, (0, True), 1),
    lambda m: set_at(m, 7, 1.0),
    lambda m: set_at(m, [0, 1], m.ones(3)),
    lambda m: set_at(m, m.tensor([True, False, False, False]), m.ones(2, 3, 2)),
    lambda m: set_at(m, 0, m.ones(4)),
    lambda m: set_at(m, [0, 1], m.ones(2, 3, 2).double()),
    lambda m: set_at(m, [0, 1], m.tensor(1)),
    lambda m: set_at(m, m.tensor([True, False, False, False]), m.tensor(1.5).double()),
    lambda m: set_at(m, 0, None),
    lambda m: set_at(m, 0, "a"),
    lambda m: cube(m).index_put((m.tensor([0, 1]),), m.ones(3, 2).double()),
    lambda m: cube(m).index_put((m.tensor([0, 1]),), m.ones(5)),
    lambda m: cube(m).index_put(m.tensor([0, 1]), m.ones(5)),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("expression", SAME)
def test_as_torch(expression: Any, same: Any) -> None:
    same(expression)


@pytest.mark.parametrize(
    "key", [0, (0, 1), (slice(None), 1), slice(1, 2), slice(None), None, ..., (), (..., None), (slice(None),) * 2, True]
)  # fmt: skip
def test_names_of_nodes(key: Any, same: Any) -> None:
    same(lambda m: (cube(m).requires_grad_() * 1)[key].grad_fn.name())


def test_lists_and_arrays_can_be_assigned() -> None:
    a = mpigrad.zeros(2, 3)
    a[0] = [1, 2, 3]
    a[:, 1] = np.array([5.0, 6.0])
    assert a.tolist() == [[1, 5, 3], [0, 6, 0]]


def test_the_gradient_of_a_lookup_sums_rows_fast() -> None:
    index = np.random.default_rng(0).integers(0, 65, 768)
    values = np.random.default_rng(1).standard_normal((768, 128)).astype(np.float32)
    expected = np.zeros((65, 128), np.float32)
    np.add.at(expected, index, values)
    np.testing.assert_allclose(sum_rows(index, values, 65), expected, rtol=1e-4, atol=1e-5)
    for dtype in (np.float16, np.int8, np.int64):
        got = sum_rows(np.array([1, 1, 0]), np.ones((3, 2, 2), dtype), 3)
        assert got.dtype == dtype
        assert got.tolist() == [[[1, 1]] * 2, [[2, 2]] * 2, [[0, 0]] * 2]
    for wrong in ([-1], [3]):
        with pytest.raises(IndexError, match="from 0 to 2"):
            sum_rows(np.array(wrong), np.ones((1, 2)), 3)


# --- any index at all -------------------------------------------------------------------------------------------------


@st.composite
def shapes_and_indices(draw: Any) -> tuple[tuple[int, ...], Any]:
    """A shape, and an index that mostly fits it; arrays stand for tensors."""
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=4)))
    common = tuple(draw(st.lists(st.integers(0, 3), max_size=2)))  # what all index arrays are broadcast to
    parts: list[Any] = []
    at, gaps = 0, draw(st.integers(0, 1))
    while at < len(shape) and draw(st.integers(0, 6)):
        kind = draw(st.sampled_from(["int", "slice", "none", "...", "tensor", "bool", "mask", "list"]))
        size = shape[at]
        if not size and kind in ("int", "tensor", "list"):
            kind = "slice"
        low, high = (-size, size - 1) if kind != "int" or draw(st.integers(0, 19)) else (-5, 5)
        if kind == "int":
            parts.append(draw(st.integers(low, high)))
        elif kind == "slice":
            bound = st.none() | st.integers(-5, 5)
            parts.append(slice(draw(bound), draw(bound), draw(st.none() | st.integers(1, 3))))
        elif kind == "none":
            parts.append(None)
        elif kind == "...":
            if not gaps:
                continue
            parts.append(...)
            gaps -= 1
            at = draw(st.integers(at, len(shape)))
            continue
        elif kind == "bool":
            parts.append(draw(st.booleans()))
        elif kind == "mask":
            span = draw(st.integers(1, len(shape) - at))
            values = st.lists(st.booleans(), min_size=(n := math.prod(shape[at : at + span])), max_size=n)
            parts.append(np.array(draw(values), bool).reshape(shape[at : at + span]))
            at += span
            continue
        else:
            found = common[draw(st.integers(0, len(common))) :]
            found = tuple(1 if draw(st.integers(0, 4)) == 0 else n for n in found)
            values = st.lists(st.integers(low, high), min_size=(n := math.prod(found)), max_size=n)
            array = np.array(draw(values), np.int64).reshape(found)
            parts.append(array.tolist() if kind == "list" else array)
        at += kind not in ("none", "bool")
    parts += [slice(None)] * (len(shape) - at) if any(part is ... for part in parts) else []
    return shape, parts[0] if len(parts) == 1 and draw(st.booleans()) else tuple(parts)


anything = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.filterwarnings("ignore")
@anything
@given(shapes_and_indices())
def test_reading_at_any_index(same: Any, case: tuple[tuple[int, ...], Any]) -> None:
    shape, index = case
    whole = np.arange(math.prod(shape), dtype=float).reshape(shape)

    def read(m: Any) -> Any:
        a = m.from_numpy(whole).requires_grad_()
        value = a[tensors(m, index)]
        weights = m.arange(value.numel()).reshape(value.shape).double()
        m.autograd.backward((value * weights).sum())
        return value, a.grad

    same(read)


@pytest.mark.filterwarnings("ignore")
@anything
@given(shapes_and_indices(), st.booleans())
def test_writing_at_any_index(same: Any, case: tuple[tuple[int, ...], Any], add: bool) -> None:
    shape, index = case
    whole = np.arange(math.prod(shape), dtype=float).reshape(shape)

    def write(m: Any) -> Any:
        a = m.from_numpy(whole).requires_grad_()
        value = m.tensor(2.5, dtype=m.float64, requires_grad=True)
        b = a * 2.0
        if add:
            b[tensors(m, index)] += value
        else:
            b[tensors(m, index)] = value
        (b * b).sum().backward()
        return b, a.grad, m.zeros((), dtype=m.float64) if value.grad is None else value.grad

    same(write)
