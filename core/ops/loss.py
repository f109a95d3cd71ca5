"""Losses over a batch. `reduction`: "mean", "sum" or "none"."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..autograd import record, wrap
from ..backend import Array, array_module
from ..dtypes import FLOATING, of
from .pointwise import promoted, where
from .reduce import log_softmax
from .shape import expand

__all__ = ["cross_entropy", "mse_loss", "nll_loss"]


def _reduce(losses: Any, reduction: str) -> Any:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return losses if reduction == "none" else getattr(losses, reduction)()


def mse_loss(input: Any, target: Any, reduction: str = "mean") -> Any:
    """The squared differences; RuntimeError when the shapes differ (they are not broadcast against each other)."""
    if input.array.shape != target.array.shape:
        raise RuntimeError(
            f"mse_loss: expected input and target of one shape, found {list(input.array.shape)} and "
            f"{list(target.array.shape)}; reshape one of them"
        )
    a, b = promoted(input, target)
    difference = a.array - b.array
    value = _reduce(wrap(difference * difference), reduction).array
    scale = 2.0 if reduction != "mean" else 2.0 / difference.size if difference.size else math.nan
    towards_a, towards_b = lambda g, a, b: g * (a - b) * scale, lambda g, a, b: g * (b - a) * scale
    return record("MseLossBackward0", value, (a, towards_a, a, b), (b, towards_b, a, b))


def nll_loss(input: Any, target: Any, weight: Any = None, ignore_index: int = -100, reduction: str = "mean") -> Any:
    """Minus the log-probability of the target class, weighted by class; the mean is divided by the sum of weights.

    input (N, C) or (N, C, d1, ...) or (C,): log-probabilities; target: the same shape without C, class indices.
    """
    logp, classes = input.array, target.array
    axis = 0 if logp.ndim == 1 else 1
    _check_classes(logp, classes, axis, ignore_index)
    xp = array_module(logp)
    used = classes != ignore_index
    index = xp.expand_dims(xp.where(used, classes, 0), axis)
    scale = used.astype(logp.dtype)
    if weight is not None:
        scale *= weight.array[index.squeeze(axis)]
    losses = xp.where(used, -xp.take_along_axis(logp, index, axis).squeeze(axis) * scale, 0)
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    value = losses if reduction == "none" else losses.sum()
    if reduction == "mean":
        total = scale.sum()
        value, scale = value / total, xp.where(used, scale / total, 0)
    shape, dtype = logp.shape, logp.dtype

    def vjp(g: Any, index: Array, scale: Array) -> Any:
        towards = xp.zeros(shape, dtype)
        xp.put_along_axis(towards, index, xp.expand_dims(-scale, axis), axis)
        return (g if reduction != "none" else expand(g.reshape(index.shape), shape)) * towards

    return record("NllLossBackward0" if logp.ndim <= 2 else "NllLoss2DBackward0", value, (input, vjp, index, scale))


def _check_classes(logp: Array, classes: Array, axis: int, ignore_index: int) -> None:
    if classes.dtype.kind not in "iu":
        raise RuntimeError(f"expected class indices of dtype int64 as target, found {of(classes.dtype)}")
    expected = logp.shape[:axis] + logp.shape[axis + 1 :]
    if classes.shape != expected:
        if classes.shape[:1] != expected[:1]:
            count = classes.shape[0] if classes.ndim else 1
            raise ValueError(f"Expected input batch_size ({logp.shape[0]}) to match target batch_size ({count}).")
        raise RuntimeError(f"Expected target size {list(expected)}, got {list(classes.shape)}")
    outside = (classes != ignore_index) & ((classes < 0) | (classes >= logp.shape[axis]))
    if outside.any():
        raise IndexError(
            f"Target {int(classes[outside].ravel()[0])} is out of bounds: expected class indices from 0 to "
            f"{logp.shape[axis] - 1}."
        )


def cross_entropy(
    input: Any,
    target: Any,
    weight: Any = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:
    """The cross entropy between logits and targets.

    input (N, C), (N, C, d1, ...) or (C,): logits; target: class indices without the class dimension, or class
    probabilities of input's own shape. ValueError, IndexError or RuntimeError say what about the target is wrong.
    """
    axis = 0 if input.array.ndim == 1 else 1
    if target.array.dtype.kind in FLOATING:
        if target.array.shape != input.array.shape:
            raise RuntimeError(
                f"expected class indices (dtype int64), or class probabilities of input's shape "
                f"{list(input.array.shape)}; found {of(target.array.dtype)} of shape {list(target.array.shape)}"
            )
        return _soft(log_softmax(input, axis), target, weight, axis, reduction, label_smoothing)
    logp = log_softmax(input, axis)
    hard = nll_loss(logp, target, weight, ignore_index, reduction)
    if not label_smoothing:
        return hard
    _check_smoothing(label_smoothing)
    count = input.array.shape[axis]
    used = target.array != ignore_index
    shape = [1] * logp.array.ndim
    shape[axis] = count
    scaled = logp if weight is None else logp * weight.reshape(*shape)
    smooth = where(used, -scaled.sum(axis), 0.0)
    if reduction == "mean":
        total = used.sum() if weight is None else (weight.array[np.where(used, target.array, 0)] * used).sum()
        smooth = smooth.sum() / float(total)
    else:
        smooth = _reduce(smooth, reduction)
    return hard * (1 - label_smoothing) + smooth * (label_smoothing / count)


def _soft(logp: Any, target: Any, weight: Any, axis: int, reduction: str, label_smoothing: float) -> Any:
    count = logp.array.shape[axis]
    if label_smoothing:
        _check_smoothing(label_smoothing)
        target = target * (1 - label_smoothing) + label_smoothing / count
    if weight is not None:
        shape = [1] * logp.array.ndim
        shape[axis] = count
        target = target * weight.reshape(*shape)
    losses = -(logp * target).sum(axis)
    if reduction == "mean":
        return losses.sum() / max(losses.array.size, 1)
    return _reduce(losses, reduction)


def _check_smoothing(label_smoothing: float) -> None:
    if not 0.0 <= label_smoothing <= 1.0:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
