"""Reading and writing by index: the op table, views, and errors."""

from typing import Any

import numpy as np

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
