"""Pooling: the largest element or the mean of every window."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..autograd import RESULT, Variable, record, wrap
from ..backend import Array, array_module, kernels
from ..dtypes import of
from .along import picked, placed
from .elementwise import abs, relu, sign
from .pointwise import only
from .reduce import mean
from .resample import Lines, read_lines
from .windows import Grid, Ints, inner, offsets, padded, per_dim, starts, windows

# fmt: off
__all__ = [
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d",
    "adaptive_max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "lp_pool1d", "lp_pool2d", "lp_pool3d",
    "max_pool1d", "max_pool2d", "max_pool3d", "max_unpool1d", "max_unpool2d", "max_unpool3d",
]
# fmt: on

Size = int | Sequence[int]


def _numbers(op: str, name: str, value: Size, n: int) -> Ints:
    numbers = per_dim(value, n)
    if len(numbers) != n:
        wanted = ("", "one int", "two ints", "three ints")[n]
        raise RuntimeError(f"{op}: {name} must either be a single int, or a tuple of {wanted}")
    return numbers


def _grid(
    op: str, x: Array, n: int, kernel: Size, stride: Size | None, padding: Size, dilation: Size, ceil_mode: bool
) -> Grid:
    """The windows to pool; with ceil_mode the last one may begin inside the image and end outside the padding."""
    kernel = _numbers(op, "kernel_size", kernel, n)
    if stride is not None and not isinstance(stride, int) and len(stride) == 0:
        stride = None
    steps = kernel if stride is None else _numbers(op, "stride", stride, n)
    pads, spread = _numbers(op, "padding", padding, n), _numbers(op, "dilation", dilation, n)
    for name, numbers in (("kernel size", kernel), ("stride", steps), ("dilation", spread)):
        if min(numbers) < 1:
            raise RuntimeError(f"{op}: {name} should be greater than zero, but got {list(numbers)}")
    for k, p, d in zip(kernel, pads, spread, strict=True):
        if p < 0:
            raise RuntimeError(f"pad must be non-negative, but got pad: {p}")
        if p > ((k - 1) * d + 1) // 2:
            raise RuntimeError(
                f"pad should be at most half of effective kernel size, but got pad={p}, kernel_size={k} and "
                f"dilation={d}"
            )
    if x.ndim not in (n + 1, n + 2) or 0 in x.shape[-n - 1 :]:
        raise RuntimeError(
            f"{op}: Expected {n + 1}D or {n + 2}D (batch mode) tensor with optional 0 dim batch size for input, but "
            f"got:{list(x.shape)}"
        )
    size, outs, ends = x.shape[-n:], [], []
    for m, k, s, p, d in zip(size, kernel, steps, pads, spread, strict=True):
        left = m + 2 * p - d * (k - 1) - 1
        out = -(-left // s) + 1 if ceil_mode else left // s + 1
        out -= (out - 1) * s >= m + p
        outs.append(out)
        ends.append((p, max(p, (out - 1) * s + d * (k - 1) + 1 - m - p)))
    if min(outs) < 1:
        before, after = ("x".join(map(str, (x.shape[-n - 1], *v))) for v in (size, outs))
        raise RuntimeError(f"Given input size: ({before}). Calculated output size: ({after}). Output size is too small")
    return Grid(size, tuple(outs), kernel, steps, tuple(ends), spread)


def _pooled(reduce: Any, x: Array, grid: Grid) -> Array:
    """`reduce` (a binary ufunc) over the windows of padded images, dimension by dimension."""
    source = x
    for axis, (k, d, s, out) in enumerate(
        zip(grid.kernel, grid.dilation, grid.stride, grid.outs, strict=True), x.ndim - len(grid.size)
    ):
        before = (slice(None),) * axis
        parts = [x[(*before, slice(j * d, j * d + s * (out - 1) + 1, s))] for j in range(k)]
        x = parts[0]
        if k > 1:
            x = reduce(x, parts[1])
            for part in parts[2:]:
                reduce(x, part, out=x)
    return x.copy() if max(grid.kernel) == 1 and (x is source or x.base is not None) else x


# --- maxima -----------------------------------------------------------------------------------------------------------


def _places(x: Array, y: Array, grid: Grid) -> Array:
    """For each window of the images x the place in it of its largest element y: the first one; of NaN the last."""
    xp, count = array_module(x), math.prod(grid.kernel)
    view = windows(padded(x, grid.padding, np.nan if x.dtype.kind not in "iu" else np.iinfo(x.dtype).min), grid)
    missed = xp.ones(y.shape, bool)
    place = xp.zeros(y.shape, np.uint8 if count < 256 else np.int64)
    for at in list(offsets(grid.kernel))[:-1]:  # what is in none of these is in the last
        missed &= _at(view, at, grid) != y
        place += missed.view(np.uint8)
    unknown = np.isnan(y)
    if unknown.any():
        view = windows(padded(x, grid.padding), grid)
        for i, at in enumerate(offsets(grid.kernel)):
            xp.copyto(place, i, where=unknown & np.isnan(_at(view, at, grid)))
    return place


def _at(view: Array, place: Ints, grid: Grid) -> Array:
    """One element of every window."""
    return view[(*(slice(None),) * (view.ndim - 2 * len(place)), *place)]


def _spread(g: Any, place: Array, grid: Grid) -> Any:
    """Gradients moved to where the largest elements were; where windows overlap they add up."""
    if isinstance(g, Variable):
        value = _spread(g.array, place, grid)
        return record("MaxPoolBackwardBackward0", value, (g, lambda h, place: _collected(h, place, grid), place))
    apart = all(s > r for s, r in zip(grid.stride, grid.reach, strict=True))
    images = array_module(g).zeros((*g.shape[: -len(grid.size)], *grid.padded_size), g.dtype)
    if fast := kernels(g):
        places, rows = starts(grid)
        shape = (-1, len(rows), grid.outs[-1])
        planes = images.reshape(-1, math.prod(grid.padded_size))
        fast.add_to_places(g.reshape(shape), place.reshape(shape), places, rows, grid.stride[-1], planes)
        return inner(images, grid.padding)
    view = windows(images, grid)
    for i, at in enumerate(offsets(grid.kernel)):
        here = _at(view, at, grid)
        if apart:
            only(g, place == i, here)
        else:
            here += only(g, place == i)
    return inner(images, grid.padding)


def _collected(h: Any, place: Array, grid: Grid) -> Any:
    """The elements at the places: the transpose of _spread."""
    if isinstance(h, Variable):
        value = _collected(h.array, place, grid)
        return record("MaxPoolBackward0", value, (h, lambda g, place: _spread(g, place, grid), place))
    view = windows(padded(h, grid.padding), grid)
    result = array_module(h).zeros(place.shape, h.dtype)
    for i, at in enumerate(offsets(grid.kernel)):
        result += only(_at(view, at, grid), place == i)
    return result


def _flat(place: Array, grid: Grid) -> Array:
    """Places in windows as places in the unpadded image, counted row by row."""
    xp, n, total = array_module(place), len(grid.size), 0
    for i, inside in enumerate(xp.unravel_index(place.astype(np.int64), grid.kernel)):
        starts = xp.arange(grid.outs[i]).reshape(-1, *[1] * (n - 1 - i)) * grid.stride[i] - grid.padding[i][0]
        total = (total + inside * grid.dilation[i] + starts) * (grid.size[i + 1] if i + 1 < n else 1)
    return total


def _max_pool(n: int) -> Callable[..., Any]:
    node = f"MaxPool{n}DWithIndicesBackward0" if n > 1 else "SqueezeBackward1"

    def max_pool(
        input: Any,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Any:
        x = input.array
        if x.dtype.kind == "b" or (n == 1 and x.dtype.kind in "iu"):
            raise NotImplementedError(f'"{max_pool.__name__}" not implemented for {of(x.dtype)} tensors')
        grid = _grid(max_pool.__name__, x, n, kernel_size, stride, padding, dilation, ceil_mode)
        lowest = -np.inf if x.dtype.kind not in "iu" else np.iinfo(x.dtype).min
        y = _pooled(np.maximum, padded(x, grid.padding, lowest), grid)

        def vjp(g: Any, x: Any, y: Any) -> Any:
            x, y = (v.array if isinstance(v, Variable) else v for v in (x, y))
            return _spread(g, _places(x, y, grid), grid)

        if not return_indices:
            return record(node, y, (input, vjp, input, RESULT))
        place = _places(x, y, grid)
        value = record(node, y, (input, lambda g, place: _spread(g, place, grid), place))
        return value, wrap(_flat(place, grid))

    max_pool.__name__ = max_pool.__qualname__ = f"max_pool{n}d"
    max_pool.__doc__ = f"""The largest element of every window over the last {n} dimensions.

    input (N, C, ...) or (C, ...); stride is kernel_size by default. With return_indices also where it lies, counted
    over the image row by row. RuntimeError for windows that do not fit.
    """
    return max_pool


def _max_unpool(n: int) -> Callable[..., Any]:
    node = f"MaxUnpool{n}DBackward0" if n > 1 else "SqueezeBackward1"

    def max_unpool(
        input: Any,
        indices: Any,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        output_size: Sequence[int] | None = None,
    ) -> Any:
        x, where = input.array, indices.array
        op = max_unpool.__name__
        kernel = _numbers(op, "kernel_size", kernel_size, n)
        steps, pads = (
            kernel if stride is None else _numbers(op, "stride", stride, n),
            _numbers(op, "padding", padding, n),
        )
        if where.dtype != np.int64:
            raise RuntimeError(f"elements in indices should be type int64 but got: {of(where.dtype)}")
        if where.shape != x.shape:
            raise RuntimeError(
                f"Expected shape of indices to be same as that of the input tensor ({list(x.shape)}) but got indices "
                f"tensor with shape: {list(where.shape)}"
            )
        lead, outs = x.shape[:-n], x.shape[-n:]
        if output_size is not None and len(output_size) not in (n, n + 2):
            raise ValueError(
                f"output_size should be a sequence containing {n} or {n + 2} elements, but it has a length of "
                f"'{len(output_size)}'"
            )
        usual = tuple((m - 1) * s - 2 * p + k for m, s, p, k in zip(outs, steps, pads, kernel, strict=True))
        size = usual if output_size is None else tuple(output_size)[-n:]
        for i, (wanted, middle, s) in enumerate(zip(size, usual, steps, strict=True)):
            if output_size is not None and not middle - s < wanted < middle + s:
                raise ValueError(
                    f'invalid output_size "{tuple(size)}" (dim {i} must be between {middle - s} and {middle + s})'
                )
        plane, shape = math.prod(size), x.shape
        wrong = (where < 0) | (where >= plane)
        if wrong.any():
            raise RuntimeError(
                f"Found an invalid max index: {int(where[wrong][0])} (output volumes are of size "
                f"{'x'.join(map(str, size))})"
            )
        flat = where.reshape(*lead, math.prod(outs))
        value = placed(x.reshape(flat.shape), flat, len(lead), plane, True).reshape(*lead, *size)
        back = lambda g, flat: picked("GatherBackward0", g.reshape((*lead, plane)), flat, len(lead)).reshape(shape)
        return record(node, value, (input, back, flat))

    max_unpool.__name__ = max_unpool.__qualname__ = f"max_unpool{n}d"
    max_unpool.__doc__ = f"""The elements back where max_pool{n}d with return_indices found them, zeros elsewhere.

    output_size: the size of the images if it is not the smallest one. RuntimeError for indices that lie outside.
    """
    return max_unpool


def _adaptive(op: str, x: Array, n: int, output_size: Any) -> tuple[Ints, list[Array]]:
    """The sizes that are asked for, and for each dimension the lines (T, out) of each window, the last one repeated."""
    given = (output_size,) * n if isinstance(output_size, int) or output_size is None else tuple(output_size)
    if len(given) != n:
        raise RuntimeError(f"{op}: output_size must be {n}")
    if x.dtype.kind in "iub":
        raise NotImplementedError(f'"{op}" not implemented for {of(x.dtype)} tensors')
    if x.ndim not in (n + 1, n + 2):
        kind = ValueError if n > 1 and x.ndim <= n else RuntimeError
        raise kind(f"{op}(): Expected {n + 1}D or {n + 2}D tensor, but got {list(x.shape)}")
    size = x.shape[-n:]
    outs = tuple(m if out is None else out for m, out in zip(size, given, strict=True))
    if min(outs) < 0:
        raise RuntimeError(
            f"{op}: elements of output_size must be greater than or equal to 0 but received {list(outs)}"
        )
    lines = []
    for m, out in zip(size, outs, strict=True):
        i = np.arange(out)
        starts, ends = i * m // max(out, 1), -(-(i + 1) * m // max(out, 1))
        longest = int((ends - starts).max(initial=1))
        lines.append(np.minimum(starts + np.arange(longest)[:, None], ends - 1))
    return outs, lines


def _adaptive_max_pool(n: int) -> Callable[..., Any]:
    node = f"AdaptiveMaxPool{n}DBackward0" if n > 1 else "SqueezeBackward1"

    def adaptive_max_pool(input: Any, output_size: Any, return_indices: bool = False) -> Any:
        x = input.array
        outs, lines = _adaptive(adaptive_max_pool.__name__, x, n, output_size)
        size, lead, shape = x.shape[-n:], x.shape[:-n], x.shape
        for dim in range(x.ndim - n - (x.ndim == n + 1), x.ndim):
            if not shape[dim]:
                raise RuntimeError(
                    f"{adaptive_max_pool.__name__}(): Expected input to have non-zero size for non-batch dimensions, "
                    f"but input has sizes {list(shape)} with dimension {dim} being empty"
                )
        places: Any = 0
        for i, index in enumerate(lines):  # becomes (*outs, *window)
            dims = [1] * (2 * n)
            dims[i], dims[n + i] = index.shape[::-1]
            places = places * size[i] + index.T.reshape(dims)
        xp = array_module(x)
        places = xp.asarray(places.reshape(math.prod(outs), math.prod(map(len, lines))))
        plane = x.reshape(*lead, math.prod(size))
        where = places[xp.arange(len(places)), plane[..., places].argmax(-1)]
        value = np.take_along_axis(plane, where, -1).reshape(*lead, *outs)

        def vjp(g: Any, where: Array) -> Any:
            return placed(g.reshape(where.shape), where, len(lead), math.prod(size), False).reshape(shape)

        result = record(node, value, (input, vjp, where))
        return (result, wrap(where.reshape(value.shape))) if return_indices else result

    adaptive_max_pool.__name__ = adaptive_max_pool.__qualname__ = f"adaptive_max_pool{n}d"
    adaptive_max_pool.__doc__ = f"""The largest element of every window, as many windows as output_size says.

    input (N, C, ...) or (C, ...) with {n} spatial dimensions; output_size: an int, or one (or None) for each of them.
    With return_indices also where it lies, counted over the image row by row.
    """
    return adaptive_max_pool


# --- means ------------------------------------------------------------------------------------------------------------


def _sums(x: Any, grid: Grid) -> Any:
    """The sum of every window."""
    if isinstance(x, Variable):
        return record("SumPoolBackward0", _sums(x.array, grid), (x, lambda g: _spread_sums(g, grid)))
    return _pooled(np.add, padded(x, grid.padding), grid)


def _spread_sums(g: Any, grid: Grid) -> Any:
    """The transpose of _sums: g added to all elements of its window."""
    if isinstance(g, Variable):
        return record("SumPoolBackwardBackward0", _spread_sums(g.array, grid), (g, lambda h: _sums(h, grid)))
    for axis, (k, s, out, size) in enumerate(
        zip(grid.kernel, grid.stride, grid.outs, grid.padded_size, strict=True), g.ndim - len(grid.size)
    ):
        wider = array_module(g).zeros((*g.shape[:axis], size, *g.shape[axis + 1 :]), g.dtype)
        for j in range(k):
            part = wider[(*(slice(None),) * axis, slice(j, j + s * (out - 1) + 1, s))]
            if s >= k:
                part[...] = g
            else:
                part += g
        g = wider
    return inner(g, grid.padding)


def _counts(grid: Grid, include_padding: bool) -> Array | int:
    """How many elements every window has; what lies beyond the padding never counts."""
    counts: Any = np.ones((), np.int64)
    for m, k, s, out, (p, _) in zip(grid.size, grid.kernel, grid.stride, grid.outs, grid.padding, strict=True):
        starts = np.arange(out) * s - p
        ends = np.minimum(starts + k, m + p)
        counts = counts[..., None] * (ends - starts if include_padding else np.minimum(ends, m) - np.maximum(starts, 0))
    return int(counts.flat[0]) if (counts == counts.flat[0]).all() else counts


def _means(node: str, input: Any, grid: Grid, divisor: Any) -> Any:
    x = input.array
    total = _sums(x, grid)
    if x.dtype.kind in "iu":
        value = np.trunc(total / divisor).astype(x.dtype)
    else:
        divisor = divisor if isinstance(divisor, int) else array_module(x).asarray(divisor, x.dtype)
        value = total / divisor
    return record(node, value, (input, lambda g: _spread_sums(g / divisor, grid)))


def _avg_pool(n: int) -> Callable[..., Any]:
    node = f"AvgPool{n}DBackward0" if n > 1 else "SqueezeBackward1"

    def avg_pool(
        input: Any,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Any:
        if divisor_override == 0:
            raise RuntimeError("divisor must be not zero")
        grid = _grid(avg_pool.__name__, input.array, n, kernel_size, stride, padding, 1, ceil_mode)
        return _means(node, input, grid, divisor_override or _counts(grid, count_include_pad))

    avg_pool.__name__ = avg_pool.__qualname__ = f"avg_pool{n}d"
    avg_pool.__doc__ = f"""The mean of every window over the last {n} dimensions; stride is kernel_size by default.

    input (N, C, ...) or (C, ...). Zeros of the padding count unless count_include_pad is false; divisor_override
    divides the sums in the place of a count. RuntimeError for windows that do not fit.
    """
    return avg_pool


def _adaptive_avg_pool(n: int) -> Callable[..., Any]:
    node = f"AdaptiveAvgPool{n}DBackward0" if n > 1 else "SqueezeBackward1"

    def adaptive_avg_pool(input: Any, output_size: Any) -> Any:
        x = input.array
        outs, lines = _adaptive(adaptive_avg_pool.__name__, x, n, output_size)
        size = x.shape[-n:]
        if n > 1 and max(outs) == min(outs) == 1:
            return mean(input, tuple(range(-n, 0)), True)
        if min(outs) and not any(m % out for m, out in zip(size, outs, strict=True)):
            kernel = tuple(m // out for m, out in zip(size, outs, strict=True))
            grid = Grid(size, outs, kernel, kernel, ((0, 0),) * n, (1,) * n)
            return _means(node, input, grid, math.prod(kernel))
        steps = []
        for dim, (m, index) in enumerate(zip(size, lines, strict=True), x.ndim - n):
            count = index[-1:] - index[:1] + 1
            steps.append(Lines(dim, m, index, (np.arange(len(index))[:, None] < count) / count))
        return read_lines(node, input, steps)

    adaptive_avg_pool.__name__ = adaptive_avg_pool.__qualname__ = f"adaptive_avg_pool{n}d"
    adaptive_avg_pool.__doc__ = f"""The mean of every window, as many windows as output_size says.

    input (N, C, ...) or (C, ...) with {n} spatial dimensions; output_size: an int, or one (or None) for each of them.
    """
    return adaptive_avg_pool


def _lp_pool(n: int) -> Callable[..., Any]:
    def lp_pool(
        input: Any, norm_type: float, kernel_size: Size, stride: Size | None = None, ceil_mode: bool = False
    ) -> Any:
        kernel = _numbers(lp_pool.__name__, "kernel_size", kernel_size, n)
        means = AVG_POOLS[n - 1](input**norm_type, kernel, stride, 0, ceil_mode)
        return (sign(means) * relu(abs(means)) * math.prod(kernel)) ** (1.0 / norm_type)

    lp_pool.__name__ = lp_pool.__qualname__ = f"lp_pool{n}d"
    lp_pool.__doc__ = f"""(sum of x ** norm_type) ** (1 / norm_type) of every window over the last {n} dimensions.

    input (N, C, ...) or (C, ...); stride is kernel_size by default.
    """
    return lp_pool


max_pool1d, max_pool2d, max_pool3d = map(_max_pool, (1, 2, 3))
max_unpool1d, max_unpool2d, max_unpool3d = map(_max_unpool, (1, 2, 3))
adaptive_max_pool1d, adaptive_max_pool2d, adaptive_max_pool3d = map(_adaptive_max_pool, (1, 2, 3))
avg_pool1d, avg_pool2d, avg_pool3d = AVG_POOLS = tuple(map(_avg_pool, (1, 2, 3)))
adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d = map(_adaptive_avg_pool, (1, 2, 3))
lp_pool1d, lp_pool2d, lp_pool3d = map(_lp_pool, (1, 2, 3))
