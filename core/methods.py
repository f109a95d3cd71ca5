"""The index of all ops that are methods of Tensor, with their operators and in-place forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from . import dtypes
from .arguments import accepting, publish_methods
from .autograd import Variable, wrap
from .backend import Array, array_module, device_of, is_array, to_host
from .generator import Generator, default_generator
from .ops import (
    activation,
    compare,
    contraction,
    decomposition,
    elementwise,
    extremes,
    index,
    join,
    linalg,
    rearrange,
    reduce,
    scan,
    slices,
    special,
    statistics,
    vectornorm,
)
from .ops import gather as gathering
from .ops import shape as shapes
from .ops import sort as sorting
from .ops.inplace import check_in_place, in_place, in_place_view

# the methods of these names hide the types from annotations in the class body
Float: TypeAlias = float
Int: TypeAlias = int
Bool: TypeAlias = bool


def _equality(op: Callable[..., Any]) -> Callable[..., Any]:
    """== and != beside anything: what is neither a tensor nor a number is not equal."""
    known = (Variable, bool, int, float, np.generic)
    return lambda self, other: op(self, other) if isinstance(other, known) or is_array(other) else NotImplemented


def _cast_to(dtype: dtypes.dtype) -> Callable[[Any], Any]:
    """The method named after a dtype: `x.double()`."""
    return lambda self: self.to(dtype)


def _made_by(name: str) -> Callable[..., Any]:
    """The method that calls a function of creation.py for the dtype and device of its tensor."""

    def method(self: Any, *args: Any, dtype: Any = None, device: Any = None, **names: Any) -> Any:
        from . import creation  # which needs the class that these methods are for

        make = accepting(getattr(creation, name))
        return make(*args, dtype=dtype or self.dtype, device=device or self.device, **names)

    return method


class Methods(Variable):
    """What an op module offers becomes a method here; `Tensor` inherits them."""

    __slots__ = ()

    # --- elementwise: arithmetic, rounding, exponential and trigonometric functions ---

    __add__ = __radd__ = elementwise.plus
    __sub__, __rsub__ = elementwise.minus, elementwise.reversed_minus
    __truediv__ = elementwise.quotient
    mul = multiply = __mul__ = __rmul__ = elementwise.mul
    pow = __pow__ = elementwise.pow
    floor_divide = __floordiv__ = elementwise.floor_divide
    remainder = __mod__ = elementwise.remainder
    neg = negative = __neg__ = elementwise.neg
    abs = absolute = __abs__ = elementwise.abs
    positive = __pos__ = elementwise.positive
    add, sub, subtract, div = elementwise.add, elementwise.sub, elementwise.subtract, elementwise.div
    divide, true_divide, square = elementwise.divide, elementwise.true_divide, elementwise.square
    float_power, reciprocal, addcmul = elementwise.float_power, elementwise.reciprocal, elementwise.addcmul
    addcdiv, lerp, maximum, minimum = elementwise.addcdiv, elementwise.lerp, elementwise.maximum, elementwise.minimum
    fmax, fmin, fmod, sign = elementwise.fmax, elementwise.fmin, elementwise.fmod, elementwise.sign
    sgn, copysign, hypot, heaviside = elementwise.sgn, elementwise.copysign, elementwise.hypot, elementwise.heaviside
    nextafter, ldexp, clamp, clip = elementwise.nextafter, elementwise.ldexp, elementwise.clamp, elementwise.clip
    clamp_min, clamp_max, nan_to_num = elementwise.clamp_min, elementwise.clamp_max, elementwise.nan_to_num
    xlogy, exp, exp2, expm1 = elementwise.xlogy, elementwise.exp, elementwise.exp2, elementwise.expm1
    log, log1p, log2, log10 = elementwise.log, elementwise.log1p, elementwise.log2, elementwise.log10
    sqrt, rsqrt, sin, cos = elementwise.sqrt, elementwise.rsqrt, elementwise.sin, elementwise.cos
    tan, asin, arcsin, acos = elementwise.tan, elementwise.asin, elementwise.arcsin, elementwise.acos
    arccos, atan, arctan, atan2 = elementwise.arccos, elementwise.atan, elementwise.arctan, elementwise.atan2
    arctan2, sinh, cosh, tanh = elementwise.arctan2, elementwise.sinh, elementwise.cosh, elementwise.tanh
    asinh, arcsinh, acosh, arccosh = elementwise.asinh, elementwise.arcsinh, elementwise.acosh, elementwise.arccosh
    atanh, arctanh, sigmoid, relu = elementwise.atanh, elementwise.arctanh, elementwise.sigmoid, elementwise.relu
    erf, deg2rad, rad2deg, floor = elementwise.erf, elementwise.deg2rad, elementwise.rad2deg, elementwise.floor
    ceil, trunc, fix, frac = elementwise.ceil, elementwise.trunc, elementwise.fix, elementwise.frac
    round = elementwise.round

    __iadd__, __isub__, __imul__ = in_place(elementwise.plus), in_place(elementwise.minus), in_place(elementwise.mul)
    __itruediv__, __ipow__ = in_place(elementwise.quotient), in_place(elementwise.pow)
    __ifloordiv__, __imod__ = in_place(elementwise.floor_divide), in_place(elementwise.remainder)
    add_, sub_, subtract_ = in_place(elementwise.add), in_place(elementwise.sub), in_place(elementwise.subtract)
    mul_, multiply_, div_ = in_place(elementwise.mul), in_place(elementwise.multiply), in_place(elementwise.div)
    divide_, true_divide_ = in_place(elementwise.divide), in_place(elementwise.true_divide)
    floor_divide_, remainder_ = in_place(elementwise.floor_divide), in_place(elementwise.remainder)
    fmod_, pow_ = in_place(elementwise.fmod), in_place(elementwise.pow)
    square_ = in_place(elementwise.square)
    neg_, negative_, abs_ = in_place(elementwise.neg), in_place(elementwise.negative), in_place(elementwise.abs)
    absolute_, reciprocal_ = in_place(elementwise.absolute), in_place(elementwise.reciprocal)
    addcmul_, addcdiv_ = in_place(elementwise.addcmul), in_place(elementwise.addcdiv)
    lerp_, sign_, sgn_ = in_place(elementwise.lerp), in_place(elementwise.sign), in_place(elementwise.sgn)
    copysign_, hypot_ = in_place(elementwise.copysign), in_place(elementwise.hypot)
    heaviside_, nextafter_ = in_place(elementwise.heaviside), in_place(elementwise.nextafter)
    ldexp_, clamp_, clip_ = in_place(elementwise.ldexp), in_place(elementwise.clamp), in_place(elementwise.clip)
    clamp_min_, clamp_max_ = in_place(elementwise.clamp_min), in_place(elementwise.clamp_max)
    nan_to_num_, xlogy_ = in_place(elementwise.nan_to_num), in_place(elementwise.xlogy)
    exp_, exp2_, expm1_ = in_place(elementwise.exp), in_place(elementwise.exp2), in_place(elementwise.expm1)
    log_, log1p_, log2_ = in_place(elementwise.log), in_place(elementwise.log1p), in_place(elementwise.log2)
    log10_, sqrt_, rsqrt_ = in_place(elementwise.log10), in_place(elementwise.sqrt), in_place(elementwise.rsqrt)
    sin_, cos_, tan_ = in_place(elementwise.sin), in_place(elementwise.cos), in_place(elementwise.tan)
    asin_, arcsin_, acos_ = in_place(elementwise.asin), in_place(elementwise.arcsin), in_place(elementwise.acos)
    arccos_, atan_, arctan_ = in_place(elementwise.arccos), in_place(elementwise.atan), in_place(elementwise.arctan)
    atan2_, arctan2_, sinh_ = in_place(elementwise.atan2), in_place(elementwise.arctan2), in_place(elementwise.sinh)
    cosh_, tanh_, asinh_ = in_place(elementwise.cosh), in_place(elementwise.tanh), in_place(elementwise.asinh)
    arcsinh_, acosh_ = in_place(elementwise.arcsinh), in_place(elementwise.acosh)
    arccosh_, atanh_ = in_place(elementwise.arccosh), in_place(elementwise.atanh)
    arctanh_, sigmoid_ = in_place(elementwise.arctanh), in_place(elementwise.sigmoid)
    relu_, erf_, deg2rad_ = in_place(elementwise.relu), in_place(elementwise.erf), in_place(elementwise.deg2rad)
    rad2deg_, floor_, ceil_ = in_place(elementwise.rad2deg), in_place(elementwise.floor), in_place(elementwise.ceil)
    trunc_, fix_, frac_ = in_place(elementwise.trunc), in_place(elementwise.fix), in_place(elementwise.frac)
    round_ = in_place(elementwise.round)

    hardshrink, prelu = activation.hardshrink, activation.prelu

    # --- elementwise: special functions ---

    lgamma, digamma, erfc, erfinv, i0 = special.lgamma, special.digamma, special.erfc, special.erfinv, special.i0
    logit, sinc, mvlgamma = special.logit, special.sinc, special.mvlgamma
    logaddexp, logaddexp2 = special.logaddexp, special.logaddexp2
    lgamma_, digamma_, erfc_ = in_place(special.lgamma), in_place(special.digamma), in_place(special.erfc)
    erfinv_, i0_, logit_ = in_place(special.erfinv), in_place(special.i0), in_place(special.logit)
    sinc_, mvlgamma_ = in_place(special.sinc), in_place(special.mvlgamma)

    def polygamma(self, n: Int) -> Any:
        """The n-th derivative of digamma."""
        return special.polygamma(n, self)

    polygamma_ = in_place(polygamma)

    # --- elementwise: comparison, logic and bits ---

    eq, ne, not_equal = compare.eq, compare.ne, compare.not_equal
    __eq__, __ne__ = _equality(compare.eq), _equality(compare.ne)
    lt = less = __lt__ = compare.lt
    le = less_equal = __le__ = compare.le
    gt = greater = __gt__ = compare.gt
    ge = greater_equal = __ge__ = compare.ge
    bitwise_and = __and__ = __rand__ = compare.bitwise_and
    bitwise_or = __or__ = __ror__ = compare.bitwise_or
    bitwise_xor = __xor__ = __rxor__ = compare.bitwise_xor
    bitwise_left_shift = __lshift__ = compare.bitwise_left_shift
    bitwise_right_shift = __rshift__ = compare.bitwise_right_shift
    bitwise_not = compare.bitwise_not
    logical_and, logical_or, logical_xor = compare.logical_and, compare.logical_or, compare.logical_xor
    logical_not, isnan, isinf, isfinite = compare.logical_not, compare.isnan, compare.isinf, compare.isfinite
    isposinf, isneginf, isreal, signbit = compare.isposinf, compare.isneginf, compare.isreal, compare.signbit
    isclose, allclose, equal = compare.isclose, compare.allclose, compare.equal

    __iand__, __ior__, __ixor__ = map(in_place, (compare.bitwise_and, compare.bitwise_or, compare.bitwise_xor))
    __ilshift__, __irshift__ = in_place(compare.bitwise_left_shift), in_place(compare.bitwise_right_shift)
    eq_, ne_, not_equal_ = in_place(compare.eq), in_place(compare.ne), in_place(compare.not_equal)
    lt_, less_, le_ = in_place(compare.lt), in_place(compare.less), in_place(compare.le)
    less_equal_, gt_, greater_ = in_place(compare.less_equal), in_place(compare.gt), in_place(compare.greater)
    ge_, greater_equal_ = in_place(compare.ge), in_place(compare.greater_equal)
    logical_and_, logical_or_ = in_place(compare.logical_and), in_place(compare.logical_or)
    logical_xor_, logical_not_ = in_place(compare.logical_xor), in_place(compare.logical_not)
    bitwise_and_, bitwise_or_ = in_place(compare.bitwise_and), in_place(compare.bitwise_or)
    bitwise_xor_, bitwise_not_ = in_place(compare.bitwise_xor), in_place(compare.bitwise_not)
    bitwise_left_shift_ = in_place(compare.bitwise_left_shift)
    bitwise_right_shift_ = in_place(compare.bitwise_right_shift)

    def where(self, condition: Any, other: Any) -> Any:
        """This tensor where condition holds, else other."""
        return elementwise.where(condition, self, other)

    def float_power_(self, exponent: Any) -> Any:
        """`float_power` in place; RuntimeError unless this is a tensor of float64."""
        if self.array.dtype != dtypes.DOUBLE:
            raise RuntimeError(
                f"the base given to float_power_ has dtype {dtypes.of(self.array.dtype).title} but the operation's "
                "result requires dtype Double"
            )
        return in_place(elementwise.float_power)(self, exponent)

    def __invert__(self) -> Any:
        if self.array.dtype.kind in dtypes.FLOATING:
            raise TypeError("~ (operator.invert) is only implemented on integer and Boolean-type tensors")
        return compare.bitwise_not(self)

    def __rtruediv__(self, other: Any) -> Any:
        return elementwise.mul(elementwise.reciprocal(self), other)  # PyTorch's order of rounding

    def __rfloordiv__(self, other: Any) -> Any:
        return elementwise.floor_divide(other, self)

    def __rmod__(self, other: Any) -> Any:
        return elementwise.remainder(other, self)

    def __rpow__(self, other: Any) -> Any:
        return elementwise.pow(other, self)

    def __rlshift__(self, other: Any) -> Any:
        return compare.bitwise_left_shift(other, self)

    def __rrshift__(self, other: Any) -> Any:
        return compare.bitwise_right_shift(other, self)

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
    norm, dist, renorm = vectornorm.norm, vectornorm.dist, vectornorm.renorm
    renorm_ = in_place(vectornorm.renorm)
    unique, unique_consecutive = statistics.unique, statistics.unique_consecutive
    bincount, histc, cov, corrcoef = statistics.bincount, statistics.histc, statistics.cov, statistics.corrcoef
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

    mH = mT  # there are no complex numbers to conjugate

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
    as_strided, as_strided_ = slices.as_strided, in_place_view(slices.as_strided)
    fill_diagonal_ = slices.fill_diagonal_
    split, split_with_sizes, chunk, unbind = join.split, join.split_with_sizes, join.chunk, join.unbind
    tensor_split, hsplit, vsplit, dsplit = join.tensor_split, join.hsplit, join.vsplit, join.dsplit

    # --- elements in other places -------------------------------------------------------------------------------------

    repeat, tile, repeat_interleave = rearrange.repeat, rearrange.tile, rearrange.repeat_interleave
    flip, fliplr, flipud = rearrange.flip, rearrange.fliplr, rearrange.flipud
    roll, rot90 = rearrange.roll, rearrange.rot90
    tril, triu = rearrange.tril, rearrange.triu
    tril_, triu_ = in_place(rearrange.tril), in_place(rearrange.triu)
    diag, diag_embed, diagflat = rearrange.diag, rearrange.diag_embed, rearrange.diagflat

    # --- indexing -----------------------------------------------------------------------------------------------------

    __getitem__ = index.getitem
    __setitem__ = index.setitem
    index_put = index.index_put
    index_put_ = in_place(index.index_put)
    gather, take, take_along_dim = gathering.gather, gathering.take, gathering.take_along_dim
    nonzero, argwhere = gathering.nonzero, gathering.argwhere
    scatter, scatter_add, scatter_reduce = gathering.scatter, gathering.scatter_add, gathering.scatter_reduce
    scatter_, scatter_add_ = in_place(gathering.scatter), in_place(gathering.scatter_add)
    scatter_reduce_ = in_place(gathering.scatter_reduce)
    index_select, index_add, index_add_ = gathering.index_select, gathering.index_add, in_place(gathering.index_add)
    index_copy, index_copy_ = gathering.index_copy, in_place(gathering.index_copy)
    index_fill, index_fill_ = gathering.index_fill, in_place(gathering.index_fill)
    masked_fill, masked_fill_ = gathering.masked_fill, in_place(gathering.masked_fill)
    masked_scatter, masked_scatter_ = gathering.masked_scatter, in_place(gathering.masked_scatter)
    masked_select = gathering.masked_select
    put, put_ = gathering.put, in_place(gathering.put)

    # --- matrix products ----------------------------------------------------------------------------------------------

    matmul = __matmul__ = linalg.matmul
    mm, bmm, mv, dot, vdot = linalg.mm, linalg.bmm, linalg.mv, linalg.dot, linalg.vdot
    outer, ger, inner, kron, cross = linalg.outer, linalg.ger, contraction.inner, contraction.kron, contraction.cross
    addmm, addmv, addr, addbmm = linalg.addmm, linalg.addmv, linalg.addr, linalg.addbmm
    det, slogdet, logdet = decomposition.det, decomposition.slogdet, decomposition.logdet
    inverse, pinverse = decomposition.inverse, decomposition.pinverse
    baddbmm, trace, matrix_power = linalg.baddbmm, linalg.trace, decomposition.matrix_power
    addmm_, addmv_, addr_ = in_place(linalg.addmm), in_place(linalg.addmv), in_place(linalg.addr)
    addbmm_, baddbmm_ = in_place(linalg.addbmm), in_place(linalg.baddbmm)

    def __rmatmul__(self, other: Any) -> Any:
        return linalg.matmul(wrap(other), self) if is_array(other) else NotImplemented

    # --- casts --------------------------------------------------------------------------------------------------------

    float, double = _cast_to(dtypes.float32), _cast_to(dtypes.float64)
    half, bfloat16 = _cast_to(dtypes.float16), _cast_to(dtypes.bfloat16)
    byte, char, short = _cast_to(dtypes.uint8), _cast_to(dtypes.int8), _cast_to(dtypes.int16)
    int, long, bool = _cast_to(dtypes.int32), _cast_to(dtypes.int64), _cast_to(dtypes.bool_)

    def type(self: Any, dtype: Any = None, non_blocking: Bool = False) -> Any:
        """The name of the tensor's legacy class, e.g. "mpigrad.FloatTensor"; with dtype the tensor in that dtype.

        dtype: a dtype, a legacy class or its name. ValueError for another name.
        """
        if dtype is None:
            place = "mpigrad" if isinstance(self.array, np.ndarray) else "mpigrad.cuda"
            return f"{place}.{dtypes.of(self.array.dtype).title}Tensor"
        if isinstance(dtype, str):
            named = {f"{d.title}Tensor": d for d in dtypes.ALL}
            if dtype.rpartition(".")[2] not in named:
                raise ValueError(f"invalid type: '{dtype}'")
            return self.to(named[dtype.rpartition(".")[2]])
        return self.to(dtype if isinstance(dtype, dtypes.dtype) else dtype.dtype)

    def type_as(self: Any, other: Any) -> Any:
        """In other's dtype, on other's device."""
        return self.to(other)

    def is_floating_point(self) -> Bool:
        """Whether the elements are floating-point numbers."""
        return dtypes.of(self.array.dtype).is_floating_point

    def is_complex(self) -> Bool:
        """Never: there are no complex dtypes."""
        return dtypes.of(self.array.dtype).is_complex

    def is_signed(self) -> Bool:
        """Whether the elements can be negative."""
        return dtypes.of(self.array.dtype).is_signed

    # --- new tensors of this tensor's dtype and device ---

    new_tensor, new_zeros, new_ones = _made_by("tensor"), _made_by("zeros"), _made_by("ones")
    new_full, new_empty = _made_by("full"), _made_by("empty")

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

    def copy_(self, other: Any, non_blocking: Bool = False) -> Any:
        """The elements of other, broadcast and cast to this tensor's shape and dtype."""
        index.setitem(self, ..., other.to(device=device_of(self.array)))
        return self

    def uniform_(self, a: Float = 0.0, b: Float = 1.0, *, generator: Generator | None = None) -> Any:
        """Independent draws from U(a, b)."""
        return self._draw((generator or default_generator).uniform(self.array.shape, a, b, self.array.dtype))

    def normal_(self, mean: Float = 0.0, std: Float = 1.0, *, generator: Generator | None = None) -> Any:
        """Independent draws from N(mean, std**2)."""
        return self._draw((generator or default_generator).normal(self.array.shape, mean, std, self.array.dtype))

    def bernoulli_(self, p: Any = 0.5, *, generator: Generator | None = None) -> Any:
        """1 with probability p (a number, or a tensor of probabilities), else 0."""
        shape = self.array.shape
        p = np.broadcast_to(to_host(p.array), shape) if isinstance(p, Variable) else p
        return self._draw((generator or default_generator).bernoulli(shape, p, self.array.dtype))

    def bernoulli(self, p: Float | None = None, *, generator: Generator | None = None) -> Any:
        """A new tensor: 1 with the probability that the element says (or p), else 0."""
        made = wrap(array_module(self.array).empty_like(self.array))
        return made.bernoulli_(self if p is None else p, generator=generator)

    def multinomial(self, num_samples: Int, replacement: Bool = False, *, generator: Generator | None = None) -> Any:
        """Indices drawn in proportion to the weights in this vector, or in each row of this matrix."""
        if dtypes.of(self.array.dtype).is_floating_point is False:
            raise RuntimeError(
                "multinomial only supports floating-point dtypes for input, got: " + dtypes.of(self.array.dtype).title
            )
        if not 1 <= self.array.ndim <= 2:
            raise RuntimeError("prob_dist must be 1 or 2 dim")
        if num_samples <= 0:
            raise RuntimeError("cannot sample n_sample <= 0 samples")
        values = (generator or default_generator).multinomial(to_host(self.array), num_samples, replacement)
        return wrap(array_module(self.array).asarray(values))

    def exponential_(self, lambd: Float = 1.0, *, generator: Generator | None = None) -> Any:
        """Independent exponential draws with rate lambd."""
        return self._draw((generator or default_generator).exponential(self.array.shape, lambd, self.array.dtype))

    def geometric_(self, p: Float, *, generator: Generator | None = None) -> Any:
        """How many trials with probability p there are up to the first success."""
        return self._draw((generator or default_generator).geometric(self.array.shape, p, self.array.dtype))

    def cauchy_(self, median: Float = 0.0, sigma: Float = 1.0, *, generator: Generator | None = None) -> Any:
        """Independent draws from the Cauchy distribution."""
        draw = (generator or default_generator).cauchy
        return self._draw(draw(self.array.shape, median, sigma, self.array.dtype))

    def log_normal_(self, mean: Float = 1.0, std: Float = 2.0, *, generator: Generator | None = None) -> Any:
        """exp of draws from N(mean, std**2)."""
        return self._draw((generator or default_generator).log_normal(self.array.shape, mean, std, self.array.dtype))

    def random_(self, low: Int | None = None, high: Int | None = None, *, generator: Generator | None = None) -> Any:
        """Integers from low (0 if left out: `random_(high)`) to high - 1, or all that the dtype holds from 0 on."""
        source, shape, dtype = generator or default_generator, self.array.shape, self.array.dtype
        if low is None:
            return self._draw(source.random(shape, dtype))
        return self._draw(
            source.randint(0, low, shape, dtype) if high is None else source.randint(low, high, shape, dtype)
        )

    def _draw(self, values: np.ndarray) -> Any:
        return self._write(values if isinstance(self.array, np.ndarray) else array_module(self.array).asarray(values))


publish_methods(Methods)
