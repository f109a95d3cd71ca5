"""The index of all ops that are methods of Tensor, with their operators and in-place forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from . import dtypes
from .autograd import Variable, wrap
from .backend import Array, array_module, device_of, is_array
from .generator import Generator, default_generator
from .ops import activation, contraction, elementwise, extremes, index, join, linalg, reduce, scan, slices
from .ops import shape as shapes
from .ops import sort as sorting
from .ops.inplace import check_in_place, in_place, in_place_view

# the methods of these names hide the types from annotations in the class body
Float: TypeAlias = float


def _equality(op: Callable[..., Any]) -> Callable[..., Any]:
    """== and != beside anything: what is neither a tensor nor a number is not equal."""
    known = (Variable, bool, int, float, np.generic)
    return lambda self, other: op(self, other) if isinstance(other, known) or is_array(other) else NotImplemented


def _cast_to(dtype: dtypes.dtype) -> Callable[[Any], Any]:
    """The method named after a dtype: `x.double()`."""
    return lambda self: self.to(dtype)


class Methods(Variable):
    """What an op module offers becomes a method here; `Tensor` inherits them."""

    __slots__ = ()

    # --- elementwise --------------------------------------------------------------------------------------------------

    add_ = __iadd__ = in_place(elementwise.add)
    sub_ = __isub__ = in_place(elementwise.sub)
    mul_ = __imul__ = in_place(elementwise.mul)
    div_ = __itruediv__ = in_place(elementwise.div)
    pow_ = __ipow__ = in_place(elementwise.pow)

    clamp_, clip_ = in_place(elementwise.clamp), in_place(elementwise.clip)
    hardshrink, prelu = activation.hardshrink, activation.prelu
    exp_, log_, sqrt_, relu_ = map(in_place, (elementwise.exp, elementwise.log, elementwise.sqrt, elementwise.relu))
    tanh_, sigmoid_, neg_, abs_ = map(
        in_place, (elementwise.tanh, elementwise.sigmoid, elementwise.neg, elementwise.abs)
    )

    add = __add__ = __radd__ = elementwise.add
    sub = subtract = __sub__ = elementwise.sub
    __rsub__ = elementwise.rsub
    mul = multiply = __mul__ = __rmul__ = elementwise.mul
    div = divide = true_divide = __truediv__ = elementwise.div
    pow = __pow__ = elementwise.pow
    floor_divide = __floordiv__ = elementwise.floor_divide
    remainder = __mod__ = elementwise.remainder
    neg = negative = __neg__ = elementwise.neg
    abs = absolute = __abs__ = elementwise.abs
    maximum, minimum, sign = elementwise.maximum, elementwise.minimum, elementwise.sign
    exp, log, sqrt, sin, cos = elementwise.exp, elementwise.log, elementwise.sqrt, elementwise.sin, elementwise.cos
    expm1, log1p, rsqrt, reciprocal = elementwise.expm1, elementwise.log1p, elementwise.rsqrt, elementwise.reciprocal
    square, tan, erf, xlogy, lerp = (
        elementwise.square,
        elementwise.tan,
        elementwise.erf,
        elementwise.xlogy,
        elementwise.lerp,
    )
    floor, ceil, trunc, round = elementwise.floor, elementwise.ceil, elementwise.trunc, elementwise.round
    clamp = clip = elementwise.clamp
    clamp_min, clamp_max = elementwise.clamp_min, elementwise.clamp_max
    tanh, sigmoid, relu = elementwise.tanh, elementwise.sigmoid, elementwise.relu

    eq, ne = elementwise.eq, elementwise.ne
    __eq__, __ne__ = _equality(elementwise.eq), _equality(elementwise.ne)
    lt = less = __lt__ = elementwise.lt
    le = less_equal = __le__ = elementwise.le
    gt = greater = __gt__ = elementwise.gt
    ge = greater_equal = __ge__ = elementwise.ge
    logical_and, logical_or, logical_not = elementwise.logical_and, elementwise.logical_or, elementwise.logical_not
    bitwise_and = __and__ = __rand__ = elementwise.bitwise_and
    bitwise_or = __or__ = __ror__ = elementwise.bitwise_or
    bitwise_xor = __xor__ = __rxor__ = elementwise.bitwise_xor
    __invert__ = bitwise_not = elementwise.bitwise_not
    isnan, isinf, isfinite = elementwise.isnan, elementwise.isinf, elementwise.isfinite

    def where(self, condition: Any, other: Any) -> Any:
        """This tensor where condition holds, else other."""
        return elementwise.where(condition, self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return elementwise.div(other, self)

    def __rfloordiv__(self, other: Any) -> Any:
        return elementwise.floor_divide(other, self)

    def __rmod__(self, other: Any) -> Any:
        return elementwise.remainder(other, self)

    def __rpow__(self, other: Any) -> Any:
        return elementwise.pow(other, self)

    def __pos__(self) -> Any:
        return self

    # --- reductions ---------------------------------------------------------------------------------------------------

    sum, mean, prod, var, std = reduce.sum, reduce.mean, reduce.prod, reduce.var, reduce.std
    nansum, nanmean, count_nonzero = reduce.nansum, reduce.nanmean, reduce.count_nonzero
    any, all = reduce.any, reduce.all
    max, min, amax, amin = extremes.max, extremes.min, extremes.amax, extremes.amin
    aminmax, argmax, argmin = extremes.aminmax, extremes.argmax, extremes.argmin
    median, nanmedian, mode, kthvalue = sorting.median, sorting.nanmedian, sorting.mode, sorting.kthvalue
    sort, argsort, msort, topk = sorting.sort, sorting.argsort, sorting.msort, sorting.topk
    quantile, nanquantile = sorting.quantile, sorting.nanquantile
    cumsum, cumprod, cummax, cummin = scan.cumsum, scan.cumprod, scan.cummax, scan.cummin
    logcumsumexp, diff = scan.logcumsumexp, scan.diff
    cumsum_, cumprod_ = in_place(scan.cumsum), in_place(scan.cumprod)
    softmax, log_softmax, logsumexp = reduce.softmax, reduce.log_softmax, reduce.logsumexp

    # --- shape --------------------------------------------------------------------------------------------------------

    view, reshape, flatten, permute = shapes.view, shapes.reshape, shapes.flatten, shapes.permute
    view_as, reshape_as, ravel, unflatten = shapes.view_as, shapes.reshape_as, shapes.ravel, shapes.unflatten
    transpose = swapaxes = swapdims = shapes.transpose
    movedim = moveaxis = shapes.movedim
    t, adjoint, squeeze, unsqueeze = shapes.t, shapes.adjoint, shapes.squeeze, shapes.unsqueeze
    expand, expand_as, broadcast_to = shapes.expand, shapes.expand_as, shapes.broadcast_to
    contiguous, clone = shapes.contiguous, shapes.clone
    squeeze_, unsqueeze_ = in_place_view(shapes.squeeze), in_place_view(shapes.unsqueeze)
    transpose_ = swapaxes_ = swapdims_ = in_place_view(shapes.transpose)
    t_ = in_place_view(shapes.t)

    @property
    def T(self) -> Any:
        """All dimensions reversed: a view."""
        return shapes.permute(self, tuple(reversed(range(self.array.ndim))))

    @property
    def mT(self) -> Any:
        """The last two dimensions exchanged: a view."""
        return shapes.matrices_transposed(self, "tensor.mT")

    @property
    def H(self) -> Any:
        """A matrix transposed (there are no complex numbers to conjugate): a view."""
        if self.array.ndim not in (0, 2):
            raise RuntimeError(
                f"tensor.H is only supported on matrices (2-D tensors). Got {self.array.ndim}-D tensor."
                + " For batches of matrices, consider using tensor.mH" * (self.array.ndim > 2)
            )
        return shapes.transpose(self, 0, -1)

    # --- parts --------------------------------------------------------------------------------------------------------

    narrow, select, diagonal, unfold = slices.narrow, slices.select, slices.diagonal, slices.unfold
    split, split_with_sizes, chunk, unbind = join.split, join.split_with_sizes, join.chunk, join.unbind
    tensor_split, hsplit, vsplit, dsplit = join.tensor_split, join.hsplit, join.vsplit, join.dsplit

    # --- indexing -----------------------------------------------------------------------------------------------------

    __getitem__ = index.getitem
    __setitem__ = index.setitem

    # --- matrix products ----------------------------------------------------------------------------------------------

    matmul = __matmul__ = linalg.matmul
    mm, bmm, mv, dot, vdot = linalg.mm, linalg.bmm, linalg.mv, linalg.dot, linalg.vdot
    outer, ger, inner, kron, cross = linalg.outer, linalg.ger, contraction.inner, contraction.kron, contraction.cross
    addmm, addmv, addr, addbmm = linalg.addmm, linalg.addmv, linalg.addr, linalg.addbmm
    baddbmm, trace, matrix_power = linalg.baddbmm, linalg.trace, linalg.matrix_power
    addmm_, addmv_, addr_ = in_place(linalg.addmm), in_place(linalg.addmv), in_place(linalg.addr)
    addbmm_, baddbmm_ = in_place(linalg.addbmm), in_place(linalg.baddbmm)

    def __rmatmul__(self, other: Any) -> Any:
        return linalg.matmul(wrap(other), self)

    # --- casts --------------------------------------------------------------------------------------------------------

    float, double, half = _cast_to(dtypes.float32), _cast_to(dtypes.float64), _cast_to(dtypes.float16)
    int, long, short, bool = (
        _cast_to(dtypes.int32),
        _cast_to(dtypes.int64),
        _cast_to(dtypes.int16),
        _cast_to(dtypes.bool_),
    )

    # --- filling ------------------------------------------------------------------------------------------------------

    def _write(self, values: Array) -> Any:
        """New elements that depend on no tensor."""
        check_in_place(self)
        self.array[...] = values
        self.version[0] += 1
        return self

    def zero_(self) -> Any:
        """All elements 0."""
        return self.fill_(0)

    def fill_(self, value: complex) -> Any:
        """All elements `value`."""
        index.setitem(self, ..., value)
        return self

    def copy_(self, source: Any) -> Any:
        """The elements of source, broadcast and cast to this tensor's shape and dtype."""
        index.setitem(self, ..., source.to(device=device_of(self.array)))
        return self

    def uniform_(self, a: Float = 0.0, b: Float = 1.0, *, generator: Generator | None = None) -> Any:
        """Independent draws from U(a, b)."""
        return self._draw((generator or default_generator).uniform(self.array.shape, a, b, self.array.dtype))

    def normal_(self, mean: Float = 0.0, std: Float = 1.0, *, generator: Generator | None = None) -> Any:
        """Independent draws from N(mean, std**2)."""
        return self._draw((generator or default_generator).normal(self.array.shape, mean, std, self.array.dtype))

    def bernoulli_(self, p: Float = 0.5, *, generator: Generator | None = None) -> Any:
        """1 with probability p, else 0."""
        return self._draw((generator or default_generator).bernoulli(self.array.shape, p, self.array.dtype))

    def _draw(self, values: np.ndarray) -> Any:
        return self._write(values if isinstance(self.array, np.ndarray) else array_module(self.array).asarray(values))
