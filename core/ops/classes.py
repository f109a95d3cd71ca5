"""Ops over class indices: one-hot vectors, and the losses of classifiers. `reduction`: "mean", "sum" or "none"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..autograd import RESULT, Node, Variable, record, wrap
from ..backend import Array, array_module
from ..dtypes import FLOATING, of
from .elementwise import clamp_min
from .linalg import linear
from .pointwise import cast, where
from .reduce import log_softmax, softmax_vjp
from .reduction import mode_of, reduced
from .shape import expand

# fmt: off
__all__ = [
    "cross_entropy", "linear_cross_entropy", "multi_margin_loss", "multilabel_margin_loss", "nll_loss", "one_hot",
]
# fmt: on

Flag = bool | None


def one_hot(input: Any, num_classes: int = -1) -> Any:
    """1 at each index along a new last dimension, 0 elsewhere (int64); num_classes -1: the largest index and one."""
    index = input.array
    if index.dtype != np.int64:
        raise RuntimeError("one_hot is only applicable to index tensor of type LongTensor.")
    if not index.size and num_classes <= 0:
        raise RuntimeError(
            "Can not infer total number of classes from empty tensor."
            if num_classes == -1
            else "Class values must be smaller than num_classes."
        )
    if index.size and index.min() < 0:
        raise RuntimeError("Class values must be non-negative.")
    if num_classes == -1:
        num_classes = int(index.max()) + 1
    elif index.size and index.max() >= num_classes:
        raise RuntimeError("Class values must be smaller than num_classes.")
    return wrap((index[..., None] == array_module(index).arange(num_classes)).astype(np.int64))


def nll_loss(
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: Flag = None,
    ignore_index: int = -100,
    reduce: Flag = None,
    reduction: str = "mean",
) -> Any:
    """Minus the log-probability of the target class, weighted by class; the mean is divided by the sum of weights.

    input (N, C) or (N, C, d1, ...) or (C,): log-probabilities; target: the same shape without C, class indices.
    """
    reduction = mode_of(size_average, reduce, reduction)
    logp, classes = input.array, target.array
    axis = 0 if logp.ndim == 1 else 1
    found = _check_classes(logp, classes, axis, ignore_index)
    _check_weight(weight, logp, axis)
    xp = array_module(logp)
    used = xp.ones(classes.shape, bool) if found is None else found
    index = xp.expand_dims(xp.where(used, classes, 0), axis)
    scale = used.astype(logp.dtype)
    if weight is not None:
        scale *= weight.array[index.squeeze(axis)]
    losses = xp.where(used, -xp.take_along_axis(logp, index, axis).squeeze(axis) * scale, 0)
    value = losses if reduction == "none" else losses.sum()
    total: Any = 1
    if reduction == "mean":
        total = scale.sum()
        value = value / total
        total = xp.where(used.any(), total, total.dtype.type(1))  # nothing flows back where nothing is used
    shape, dtype = logp.shape, logp.dtype

    def vjp(g: Any, index: Array, scale: Array) -> Any:
        towards = xp.zeros(shape, dtype)
        xp.put_along_axis(towards, index, xp.expand_dims(-scale, axis), axis)
        return (g / total if reduction != "none" else expand(g.reshape(index.shape), shape)) * towards

    return record("NllLossBackward0" if logp.ndim <= 2 else "NllLoss2DBackward0", value, (input, vjp, index, scale))


def cross_entropy(
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: Flag = None,
    ignore_index: int = -100,
    reduce: Flag = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:
    """The cross entropy between logits and targets.

    input (N, C), (N, C, d1, ...) or (C,): logits; target: class indices without the class dimension, or class
    probabilities of input's own shape. ValueError, IndexError or RuntimeError say what about the target is wrong.
    """
    reduction = mode_of(size_average, reduce, reduction)
    if not 0.0 <= label_smoothing <= 1.0:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
    axis = 0 if input.array.ndim == 1 else 1
    _check_weight(weight, input.array, axis)
    if target.array.dtype.kind not in FLOATING:
        return _of_classes(input, target.array, weight, axis, ignore_index, reduction, label_smoothing)
    if target.array.shape != input.array.shape:
        _check_batch(input.array, target.array, axis)
        raise RuntimeError(
            f"expected class indices (dtype int64), or class probabilities of input's shape "
            f"{list(input.array.shape)}; found {of(target.array.dtype)} of shape {list(target.array.shape)}"
        )
    if ignore_index >= 0:
        raise RuntimeError("ignore_index is not supported for floating point target")
    if label_smoothing:
        target = target * (1 - label_smoothing) + label_smoothing / input.array.shape[axis]
    logp = log_softmax(input, axis)
    if weight is not None:
        target = target * weight.reshape([-1 if i == axis else 1 for i in range(input.array.ndim)])
    losses = -(logp * target).sum(axis)
    return losses.sum() / max(losses.array.size, 1) if reduction == "mean" else reduced(losses, reduction)


def linear_cross_entropy(
    input: Any,
    linear_weight: Any,
    target: Any,
    *,
    linear_bias: Any = None,
    weight: Any = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: None = None,
) -> Any:
    """cross_entropy of the logits linear(input, linear_weight, linear_bias).

    input (N, K) or (K,); linear_weight (C, d1, ..., K) gives logits (N, C, d1, ...), linear_bias is (C, d1, ...).
    options: None, for the batch is not cut.
    RuntimeError for other shapes, and for an ignore_index where target holds class probabilities.
    """
    found, rows = input.array.shape, linear_weight.array.shape
    if len(found) not in (1, 2):
        raise RuntimeError(f"expected input with dimensionality 1 or 2, got {len(found)}")
    if len(rows) < 2:
        raise RuntimeError(f"expected linear_weight with dimensionality at least 2, got {len(rows)}")
    if found[-1] != rows[-1]:
        raise RuntimeError(
            "expected equal input and linear_weight last dimensions (in_features), "
            f"got {found[-1]} and {rows[-1]}, respectively"
        )
    if linear_bias is not None and linear_bias.array.shape != rows[:-1]:
        raise RuntimeError(f"expected linear_bias shape {rows[:-1]}, got {linear_bias.array.shape}")
    if len(rows) > 2 and len(found) == 1:
        raise RuntimeError(
            f"K-dimensional loss defined by linear_weight shape {rows} requires batched input, (N, {found[-1]}), "
            f"got unbatched input with shape {found}"
        )
    shape = (*found[:-1], *rows[:-1])
    if target.array.shape == shape and ignore_index is not None:
        raise RuntimeError("ignore_index cannot be specified when target contains probabilities")
    bias = None if linear_bias is None else linear_bias.reshape(-1)
    logits = linear(input, linear_weight.reshape(-1, rows[-1]), bias).reshape(shape)
    ignored = -100 if ignore_index is None else ignore_index
    return cross_entropy(
        logits, target, weight, ignore_index=ignored, reduction=reduction, label_smoothing=label_smoothing
    )


def _of_classes(
    input: Any, classes: Array, weight: Any, axis: int, ignore_index: int, reduction: str, smoothing: float
) -> Any:
    """Softmax, logarithm and choice in one: four passes over the logits, two on the way back.

    What is kept is e = exp(logits - largest) and its sums over the classes; the logits themselves are freed. With
    p = e / sums, 1 at the target class t, and the classes' weights w, the loss of a sample and its slope are

        hard * -log(p[t]) + soft * sum(w * -log(p)),    (hard + soft * sum(w)) * p - hard * 1[t] - soft * w

    where hard = (1 - smoothing) * w[t] and soft = smoothing / number of classes.
    """
    used = _check_classes(input.array, classes, axis, ignore_index)
    dtype = input.array.dtype
    x = input.array.astype(np.float32) if dtype.itemsize == 2 else input.array
    xp, count = array_module(x), x.shape[axis]
    if used is not None:
        classes = xp.where(used, classes, 0)
    at = _at(classes, axis, x.ndim)
    w = None if weight is None else weight.array.astype(x.dtype, copy=False)
    along = 1 if w is None else w.reshape([-1 if i == axis else 1 for i in range(x.ndim)])

    e = x - x.max(axis, keepdims=True) if x.size else x.copy()
    chosen = e[at]
    others = (e * along).sum(axis) if smoothing else 0
    np.exp(e, out=e)
    sums = e.sum(axis)
    logs = np.log(sums)
    hard = 1 - smoothing if w is None else w[classes] * (1 - smoothing)
    soft, mass = smoothing / max(count, 1), count if w is None else w.sum()
    losses = (logs - chosen) * hard
    if smoothing:
        losses += (logs * mass - others) * soft
    share: Any = 1.0
    if used is not None:
        losses, share = xp.where(used, losses, x.dtype.type(0)), used.astype(x.dtype)
    total: Any = 1
    if reduction == "mean":
        total = classes.size if w is None and used is None else (share if w is None else w[classes] * share).sum()
        losses = losses.sum() / x.dtype.type(total)
        if used is not None:
            total = xp.where(used.any(), total, x.dtype.type(1))  # nothing flows back where nothing is used
    elif reduction == "sum":
        losses = losses.sum()
    origin = input.node or input

    def vjp(g: Any, e: Array, sums: Array, hard: Any, share: Any) -> Any:
        if reduction == "mean":
            g = g / total  # before all else, so that the gradient `total` becomes exactly 1
        if isinstance(g, Variable):
            return lifted(g, e / xp.expand_dims(sums, axis), hard, share)
        weighted = g * share
        towards = e * xp.expand_dims(weighted * (hard + soft * mass) / sums, axis)
        towards[at] -= weighted * hard
        if smoothing:
            towards -= xp.expand_dims(weighted + xp.zeros_like(sums), axis) * (soft * along)
        return towards.astype(dtype, copy=False)

    def lifted(g: Any, p: Array, hard: Any, share: Any) -> Any:
        """The same under create_graph, with the graph of the softmax behind it."""
        source = origin
        if isinstance(origin, Node):
            source = wrap(p)
            source.node, source.needs = origin, True
        column: Callable[[Any], Any] = lambda v: wrap(
            xp.expand_dims(v + xp.zeros(p.shape[:axis] + p.shape[axis + 1 :], p.dtype), axis)
        )
        target = xp.zeros_like(p)
        target[at] += hard
        target += soft * along
        y = record("SoftmaxBackward0", p, (source, softmax_vjp(axis), RESULT))
        slope = (y * column(hard + soft * mass) - wrap(target)) * column(share)
        return cast(slope * (g.unsqueeze(axis) if reduction == "none" else g), dtype)

    name = "AddBackward0" if smoothing else "NllLossBackward0" if x.ndim <= 2 else "NllLoss2DBackward0"
    return record(name, xp.asarray(losses).astype(dtype, copy=False), (input, vjp, e, sums, hard, share))


def _at(classes: Array, axis: int, ndim: int) -> tuple[Array, ...]:
    """The index of every sample's class in an array with the classes along axis."""
    xp = array_module(classes)
    rows = [xp.arange(n).reshape((-1,) + (1,) * (classes.ndim - i - 1)) for i, n in enumerate(classes.shape)]
    return (*rows[:axis], classes, *rows[axis:])


def _check_classes(logp: Array, classes: Array, axis: int, ignore_index: int) -> Array | None:
    """Which targets count; None for all. An error for what is no target of these log-probabilities."""
    _check_batch(logp, classes, axis)
    if classes.dtype.kind not in "iu":
        raise RuntimeError(f"expected class indices of dtype int64 as target, found {of(classes.dtype)}")
    expected = logp.shape[:axis] + logp.shape[axis + 1 :]
    if classes.shape != expected:
        raise RuntimeError(f"Expected target size {list(expected)}, got {list(classes.shape)}")
    count = logp.shape[axis]
    if classes.size and classes.min() >= 0 and classes.max() < count and not 0 <= ignore_index < count:
        return None
    used = classes != ignore_index
    outside = used & ((classes < 0) | (classes >= count))
    if outside.any():
        raise IndexError(
            f"Target {int(classes[outside].ravel()[0])} is out of bounds: expected class indices from 0 to {count - 1}."
        )
    return used


def _check_batch(logp: Array, target: Array, axis: int) -> None:
    """ValueError unless there is a target for each sample."""
    if axis and target.shape[:1] != logp.shape[:1]:
        count = target.shape[0] if target.ndim else 1
        raise ValueError(f"Expected input batch_size ({logp.shape[0]}) to match target batch_size ({count}).")


def _check_weight(weight: Any, rows: Array, axis: int) -> None:
    """RuntimeError unless weight is None or has, of the dtype of rows, a number for each class along axis."""
    if weight is None:
        return
    if weight.array.shape != (rows.shape[axis],):
        raise RuntimeError(
            f"weight tensor should be defined either for all {rows.shape[axis]} classes or no classes but got weight "
            f"tensor of shape: {list(weight.array.shape)}"
        )
    if weight.array.dtype != rows.dtype:
        raise RuntimeError(f"expected weight of dtype {of(rows.dtype)} but found {of(weight.array.dtype)}")


# --- margins between classes ------------------------------------------------------------------------------------------


def multi_margin_loss(
    input: Any,
    target: Any,
    p: int = 1,
    margin: float = 1.0,
    weight: Any = None,
    size_average: Flag = None,
    reduce: Flag = None,
    reduction: str = "mean",
) -> Any:
    """The mean over the classes i but the target y of max(0, margin - input[y] + input[i])**p, times weight[y]."""
    reduction = mode_of(size_average, reduce, reduction)
    if p not in (1, 2):
        raise ValueError("only p == 1 and p == 2 supported")
    if weight is not None and weight.array.ndim != 1:
        raise ValueError("weight must be one-dimensional")
    rows, classes = _rows_and_classes("multi_margin_loss", input, target.array.reshape(-1))
    _check_classes(rows.array, classes, 1, -100)
    _check_weight(weight, rows.array, 1)
    at = _at(classes, 1, 2)
    losses = clamp_min(rows - rows[at].unsqueeze(1) + margin, 0) ** p
    if weight is not None:
        losses = losses * wrap(weight.array[classes][:, None])
    others = array_module(classes).ones(rows.array.shape, bool)
    others[at] = False
    losses = where(others, losses, 0.0).sum(1) / rows.array.shape[1]
    return reduced(losses if input.array.ndim > 1 else losses[0], reduction)


def multilabel_margin_loss(
    input: Any, target: Any, size_average: Flag = None, reduce: Flag = None, reduction: str = "mean"
) -> Any:
    """The sum over targets y and other classes i of max(0, 1 - input[y] + input[i]), divided by the classes' number.

    target has input's shape; the first -1 in a row ends its targets.
    """
    reduction = mode_of(size_average, reduce, reduction)
    if target.array.shape != input.array.shape:
        raise RuntimeError(f"inconsistent target size: {list(target.shape)} for input of size: {list(input.shape)}")
    rows, classes = _rows_and_classes("multilabel_margin_loss", input, np.atleast_2d(target.array))
    valid = np.cumprod(classes >= 0, 1).astype(bool)
    lines = array_module(classes).arange(len(classes))[:, None]
    others = array_module(classes).ones(rows.array.shape, bool)
    others[(lines + 0 * classes)[valid], classes[valid]] = False
    chosen = rows[lines, np.where(valid, classes, 0)]
    gaps = clamp_min(rows.unsqueeze(1) - chosen.unsqueeze(2) + 1, 0)
    losses = where(valid[:, :, None] & others[:, None, :], gaps, 0.0).sum((1, 2)) / rows.array.shape[1]
    return reduced(losses if input.array.ndim > 1 else losses[0], reduction)


def _rows_and_classes(op: str, input: Any, classes: Array) -> tuple[Any, Array]:
    """A batch of rows, also of one row; RuntimeError for other shapes."""
    if input.array.ndim > 2 or (not input.array.size and not input.array.shape[-1]):
        raise RuntimeError(
            f"{op}: expected non-empty vector or matrix with optional 0-dim batch size, got: {input.shape}"
        )
    rows = input if input.array.ndim == 2 else input.reshape(1, -1)
    if len(classes) != len(rows.array):
        raise RuntimeError(f"{op}: inconsistent target size, expected {len(rows.array)} but got {len(classes)}")
    return rows, classes
