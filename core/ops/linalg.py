"""Matrix products: `matmul` and its special cases, and the products that are added to something."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..autograd import Into, record
from ..backend import Array, array_module, is_array
from ..dtypes import of
from .elementwise import mul
from .pointwise import cannot_broadcast, sum_to
from .shape import cannot_expand, reshape

# fmt: off
__all__ = [
    "addbmm", "addmm", "addmv", "addr", "baddbmm", "bmm", "dot", "ger", "matmul", "mm", "mv", "outer",
    "trace", "vdot",
]
# fmt: on

Op = Callable[..., Any]


def _mT(x: Any) -> Any:
    """The last two dimensions exchanged, for arrays and Tensors."""
    return x.swapaxes(-1, -2)


def matmul(input: Any, other: Any) -> Any:
    """The matrix product over the last two dimensions, broadcast over the others; vectors act as row and column.

    RuntimeError when the inner dimensions or the dtypes differ.
    """
    try:
        a, b = input.array, other.array
    except AttributeError:
        return _product_of_arrays(input, other)
    return _matmul(NAMES.get((a.ndim, b.ndim), "UnsafeViewBackward0"), input, other)


# what PyTorch's last step is called, by the number of dimensions of both factors
NAMES = {(1, 1): "DotBackward0", (2, 1): "MvBackward0", (1, 2): "SqueezeBackward4", (2, 2): "MmBackward0"}


def _matmul(name: str, input: Any, other: Any) -> Any:
    a, b = input.array, other.array
    if a.dtype is not b.dtype and a.dtype != b.dtype:
        _check(a, b)
    try:
        value = product(a, b)
    except ValueError:
        _check(a, b)
        raise RuntimeError(cannot_broadcast(a.shape[:-2], b.shape[:-2])) from None
    left, right = a.shape, b.shape
    return record(
        name,
        value,
        (input, lambda g, b: _towards_left(g, b, left), other),
        (other, lambda g, a: _towards_right(g, a, right), input),
    )


def product(a: Array, b: Array) -> Array:
    """a @ b, over a matrix b as one two-dimensional product; half precision adds up in float32."""
    if a.itemsize == 2 and a.dtype.kind not in "iu":
        return product(a.astype(np.float32), b.astype(np.float32)).astype(a.dtype)
    if a.dtype.kind == "b":
        raise NotImplementedError("\"addmm_impl_cpu_\" not implemented for 'Bool'")
    if b.ndim > 2 or not a.ndim * b.ndim:
        return a @ b
    if a.ndim > 2:
        return _rows(a).dot(b).reshape(a.shape[:-1] + b.shape[1:])
    return a.dot(b)  # the same product as @, with a third of the overhead


def _product_of_arrays(a: Any, b: Any) -> Any:
    if not (is_array(a) and is_array(b)):
        kinds = " and ".join(f"'{type(v).__name__}'" for v in (a, b))
        raise TypeError(f"unsupported operand type(s) for @: {kinds}")
    return product(a, b)


def _rows(x: Any) -> Any:
    """All but the last dimension as one, for arrays and Tensors."""
    shape = x.shape
    return x if len(shape) == 2 else x.reshape((math.prod(shape[:-1]), shape[-1]))


def _towards_left(g: Any, b: Any, shape: tuple[int, ...]) -> Any:
    """The gradient of a in a @ b. shape: a's."""
    if len(b.shape) == 1:
        return g * b if len(shape) == 1 else g.reshape((*g.shape, 1)) * b
    if len(shape) == 1:
        return sum_to(matmul(b, g.reshape((*g.shape, 1))).reshape(b.shape[:-1]), shape)
    if len(shape) == 2 < len(b.shape):  # a matrix before many: one product that also sums over them
        return matmul(_rows(_mT(g)).T, _rows(_mT(b)))
    return sum_to(matmul(g, _mT(b)), shape)


def _towards_right(g: Any, a: Any, shape: tuple[int, ...]) -> Any:
    """The gradient of b in a @ b. shape: b's."""
    if len(a.shape) == 1:
        # the product dropped the row: put it back
        return a * g if len(shape) == 1 else a.reshape((-1, 1)) * g.reshape((*g.shape[:-1], 1, g.shape[-1]))
    if len(shape) == 1:
        return matmul(_rows(a).T, g.reshape(-1))
    if len(shape) == 2:
        return matmul(_rows(a).T, _rows(g))
    return sum_to(matmul(_mT(a), g), shape)


CPP = {"float16": "c10::Half", "bfloat16": "c10::BFloat16", "float32": "float", "float64": "double"}  # in messages


def _check(a: Array, b: Array) -> None:
    if a.ndim == 0 or b.ndim == 0:
        raise RuntimeError(f"both arguments to matmul need to be at least 1D, but they are {a.ndim}D and {b.ndim}D")
    if a.dtype != b.dtype:
        names = [CPP.get(of(x.dtype).name, of(x.dtype).name) for x in (a, b)]
        raise RuntimeError(f"expected m1 and m2 to have the same dtype, but got: {names[0]} != {names[1]}")
    if a.shape[-1] != b.shape[0 if b.ndim == 1 else -2]:
        raise RuntimeError(_mismatch(a.shape, b.shape))


def _mismatch(a: tuple[int, ...], b: tuple[int, ...]) -> str:
    if len(a) == len(b) == 1:
        return (
            f"inconsistent tensor size, expected tensor [{a[0]}] and src [{b[0]}] to have the same number of elements, "
            f"but got {a[0]} and {b[0]} elements respectively"
        )
    rows = math.prod(a[:-1])
    if len(b) == 1:
        return f"size mismatch, got input ({rows}), mat ({rows}x{a[-1]}), vec ({b[0]})"
    return f"mat1 and mat2 shapes cannot be multiplied ({rows}x{a[-1]} and {b[-2]}x{b[-1]})"


def mm(input: Any, mat2: Any) -> Any:
    """The product of two matrices."""
    for name, matrix in (("self", input), ("mat2", mat2)):
        if matrix.array.ndim != 2:
            raise RuntimeError(f"{name} must be a matrix")
    return _matmul("MmBackward0", input, mat2)


def bmm(input: Any, mat2: Any) -> Any:
    """The products of two batches of matrices: (b, n, m) @ (b, m, p)."""
    a, b = input.array, mat2.array
    for name, batch in (("batch1", a), ("batch2", b)):
        if batch.ndim != 3:
            raise RuntimeError(f"{name} must be a 3D tensor")
    if a.shape[0] != b.shape[0] or a.shape[2] != b.shape[1]:
        raise RuntimeError(
            f"Expected size for first two dimensions of batch2 tensor to be: [{a.shape[0]}, {a.shape[2]}] "
            f"but got: [{b.shape[0]}, {b.shape[1]}]."
        )
    return _matmul("BmmBackward0", input, mat2)


def mv(input: Any, vec: Any) -> Any:
    """The product of a matrix and a vector."""
    a, b = input.array.ndim, vec.array.ndim
    if a != 2 or b != 1:
        raise RuntimeError(f"vector + matrix @ vector expected, got {b}, {a}, {b}")
    return _matmul("MvBackward0", input, vec)


def dot(input: Any, tensor: Any) -> Any:
    """The inner product of two vectors."""
    return _dot("DotBackward0", input, tensor)


def vdot(input: Any, other: Any) -> Any:
    """The inner product of two vectors (the first conjugated, were it complex)."""
    return _dot("VdotBackward0", input, other)


def _dot(name: str, input: Any, other: Any) -> Any:
    a, b = input.array, other.array
    if a.ndim != 1 or b.ndim != 1:
        raise RuntimeError(f"1D tensors expected, but got {a.ndim}D and {b.ndim}D tensors")
    if a.dtype != b.dtype:
        raise RuntimeError(
            f"dot : expected both vectors to have same dtype, but found {of(a.dtype).title} and {of(b.dtype).title}"
        )
    return _matmul(name, input, other)


def outer(input: Any, vec2: Any) -> Any:
    """The products of all pairs of elements of two vectors: (n, m)."""
    for name, vector in (("self", input), ("vec2", vec2)):
        if vector.array.ndim != 1:
            raise RuntimeError(f"outer: Expected 1-D argument {name}, but got {vector.array.ndim}-D")
    return mul(reshape(input, (-1, 1)), vec2)


def ger(input: Any, vec2: Any) -> Any:
    """PyTorch's older name of `outer`."""
    return outer(input, vec2)


def _added(name: str, ranks: tuple[int, int], value: Op, towards_left: Op, towards_right: Op) -> Op:
    """An op beta * input + alpha * (a times b), where input is broadcast and beta = 0 ignores what it holds.

    ranks: how many dimensions a and b must have. value, towards_left(g, b) and towards_right(g, a) are the product
    and its vector-Jacobian products.
    """

    def op(input: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> Any:
        x, left, right = input.array, a.array, b.array
        if (left.ndim, right.ndim) != ranks:
            raise RuntimeError(f"{op.__name__}: expected {ranks} dimensions, but got {left.ndim} and {right.ndim}")
        if not x.dtype == left.dtype == right.dtype:
            kinds = ", ".join(map(str, (of(x.dtype), of(left.dtype), of(right.dtype))))
            raise RuntimeError(f"{op.__name__}: expected one dtype, but got {kinds}")
        if x.dtype.kind in "biu":
            number = bool if x.dtype.kind == "b" else int
            alpha, beta = number(alpha), number(beta)
        try:
            result = value(left, right)
        except ValueError:
            raise RuntimeError(_mismatch(left.shape, right.shape)) from None
        if alpha != 1:
            result *= alpha
        if beta != 0:
            try:
                result += x if beta == 1 else x * beta
            except ValueError:
                raise RuntimeError(cannot_expand(x.shape, result.shape)) from None
        shape = x.shape
        return record(
            name,
            result,
            (input, lambda g: sum_to(g if beta == 1 else g * beta, shape)),
            (a, lambda g, b: towards_left(g if alpha == 1 else g * alpha, b), b),
            (b, lambda g, a: towards_right(g if alpha == 1 else g * alpha, a), a),
        )

    op.__name__ = op.__qualname__ = name.removesuffix("Backward0").lower()
    return op


def _summed_product(a: Array, b: Array) -> Array:
    """The sum over the batch of a @ b, as one product."""
    if a.shape[::2] != b.shape[:2]:
        raise ValueError
    return product(a.swapaxes(0, 1).reshape(a.shape[1], b.shape[0] * b.shape[1]), _rows(b))


addmm = _added("AddmmBackward0", (2, 2), product, lambda g, b: matmul(g, b.T), lambda g, a: matmul(a.T, g))
addmv = _added("AddmvBackward0", (2, 1), product, lambda g, b: g.reshape((-1, 1)) * b, lambda g, a: matmul(a.T, g))
addr = _added("AddrBackward0", (1, 1), np.multiply.outer, lambda g, b: matmul(g, b), lambda g, a: matmul(g.T, a))
baddbmm = _added("BaddbmmBackward0", (3, 3), product, lambda g, b: matmul(g, _mT(b)), lambda g, a: matmul(_mT(a), g))
addbmm = _added(
    "AddbmmBackward0", (3, 3), _summed_product, lambda g, b: matmul(g, _mT(b)), lambda g, a: matmul(_mT(a), g)
)


def trace(input: Any) -> Any:
    """The sum of a matrix's diagonal."""
    x = input.array
    if x.ndim != 2:
        raise RuntimeError(f"trace: expected a matrix, but got tensor with dim {input.array.ndim}")
    shape, dtype, xp = x.shape, x.dtype, array_module(x)
    value = x.trace(dtype=np.int64 if x.dtype.kind in "iub" else None)
    return record("TraceBackward0", value, (input, lambda g: g * xp.eye(*shape, dtype=dtype)))


def not_square(name: str, shape: tuple[int, ...]) -> str:
    """What is wrong about a matrix function of this shape."""
    if len(shape) < 2:
        return f"{name}: The input tensor A must have at least 2 dimensions."
    return f"{name}: A must be batches of square matrices, but they are {shape[-2]} by {shape[-1]} matrices"


def _product_into(a: Any, b: Any, out: Array | None) -> Any:
    """a @ b, written to `out` where it is given (arrays only)."""
    if out is None:
        return a @ b
    if out.size == 1:  # BLAS adds up in another order than PyTorch, which goes from the first to the last
        out[...] = np.add.accumulate(a[0] * b[:, 0])[-1:]
        return out
    return array_module(out).matmul(a, b, out=out)


def _rows_sum_into(g: Any, out: Array | None) -> Any:
    return g.sum(0) if out is None else g.sum(0, out=out)


def _rows_times(x: Array, w: Array) -> Array:
    """x @ w.T for matrices, in row-major order.

    With few rows OpenBLAS takes 15 to 35 % less time for the transposed product, the copy into order included.
    """
    if 2 * x.shape[0] >= w.shape[0]:
        return x @ w.T
    return array_module(x).ascontiguousarray((w @ x.T).T)


def linear(input: Any, weight: Any, bias: Any = None) -> Any:
    """input @ weight.T + bias over the last dimension; weight (out_features, in_features), bias (out_features,).

    One op: the gradients of weight and bias are computed straight into their place.
    """
    x, w = input.array, weight.array
    if w.ndim != 2 or x.ndim < 1 or x.shape[-1] != w.shape[1] or x.dtype != w.dtype:
        _check(x, w.T)
    if bias is not None and (bias.array.shape != (w.shape[0],) or bias.array.dtype != w.dtype):
        raise RuntimeError(
            f"linear: expected a bias of shape [{w.shape[0]}] and {of(w.dtype)}, found {list(bias.array.shape)} and "
            f"{of(bias.array.dtype)}"
        )
    flat = x.ndim == 2
    value = _rows_times(x, w) if flat and x.itemsize > 2 else product(x, w.T)
    rows: Callable[[Any], Any] = lambda v: v if flat else reshape(v, (-1, v.shape[-1]))
    terms: list[Any] = [
        (input, lambda g, w: matmul(g, w), weight),
        (weight, Into(lambda g, x, out: _product_into(rows(g).T, rows(x), out)), input),
    ]
    if bias is not None:
        value += bias.array
        terms.append((bias, Into(lambda g, out: _rows_sum_into(rows(g), out))))
    name = ("Addmm" if bias is not None else "Mm") if flat else ("View" if bias is not None else "UnsafeView")
    return record(f"{name}Backward0", value, *terms)
