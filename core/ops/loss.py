"""Losses that compare tensors elementwise, or vectors. `reduction`: "mean", "sum" or "none" (a loss for each).

The older arguments size_average and reduce are accepted as PyTorch does, with its warning.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from ..autograd import Variable, no_grad
from .activation import logsigmoid, softplus
from .distance import pairwise_distance
from .elementwise import abs as absolute
from .elementwise import clamp_min, exp, log, log1p, minimum, sigmoid, sign, sqrt, xlogy
from .pointwise import cannot_broadcast, where
from .reduction import mode_of, pair_of, pointwise, reduced

# fmt: off
__all__ = [
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "cosine_embedding_loss", "gaussian_nll_loss",
    "hinge_embedding_loss", "huber_loss", "kl_div", "l1_loss", "margin_ranking_loss", "mse_loss",
    "multilabel_soft_margin_loss", "poisson_nll_loss", "smooth_l1_loss", "soft_margin_loss", "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
]
# fmt: on

Flag = bool | None


# --- distances --------------------------------------------------------------------------------------------------------


def _weighted(losses: Any, weight: Any, reduction: str, *, by_weight: bool) -> Any:
    """Losses times weights; by_weight: their mean is divided by the sum of the weights."""
    if weight.array.shape != losses.array.shape:
        raise ValueError("Weights and input must have the same size.")
    weighted = losses * weight
    return weighted.sum() / weight.sum() if by_weight and reduction == "mean" else reduced(weighted, reduction)


def l1_loss(
    input: Any,
    target: Any,
    size_average: Flag = None,
    reduce: Flag = None,
    reduction: str = "mean",
    weight: Any = None,
) -> Any:
    """The absolute differences; with weights their mean is divided by the sum of these."""
    reduction = mode_of(size_average, reduce, reduction)
    a, b = pair_of(input, target)
    losses = absolute(a - b)
    return reduced(losses, reduction) if weight is None else _weighted(losses, weight, reduction, by_weight=True)


def mse_loss(
    input: Any,
    target: Any,
    size_average: Flag = None,
    reduce: Flag = None,
    reduction: str = "mean",
    weight: Any = None,
) -> Any:
    """The squared differences; with weights their mean is divided by the sum of these."""
    reduction = mode_of(size_average, reduce, reduction)
    a, b = pair_of(input, target)
    each = "none" if weight is not None else reduction
    losses = pointwise("MseLoss", a, b, lambda a, b: np.square(a - b), _twice, lambda a, b: _twice(b, a), each)
    return losses if weight is None else _weighted(losses, weight, reduction, by_weight=True)


def _twice(a: Any, b: Any) -> Any:
    return (a - b) * 2


def smooth_l1_loss(
    input: Any,
    target: Any,
    size_average: Flag = None,
    reduce: Flag = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> Any:
    """0.5 * d**2 / beta where the difference d is below beta, abs(d) - 0.5 * beta elsewhere.

    Source: Girshick, 2015, https://arxiv.org/abs/1504.08083.
    """
    reduction = mode_of(size_average, reduce, reduction)
    if beta < 0:
        raise RuntimeError("smooth_l1_loss does not support negative values for beta.")
    if beta == 0:
        return l1_loss(input, target, reduction=reduction)
    return _bent("SmoothL1Loss", input, target, reduction, beta, 1 / beta)


def huber_loss(input: Any, target: Any, reduction: str = "mean", delta: float = 1.0, weight: Any = None) -> Any:
    """0.5 * d**2 where the difference d is below delta, delta * (abs(d) - 0.5 * delta) elsewhere (Huber, 1964)."""
    reduction = mode_of(None, None, reduction)
    if delta <= 0:
        raise RuntimeError("huber_loss does not support non-positive values for delta.")
    if weight is None:
        return _bent("HuberLoss", input, target, reduction, delta, 1.0)
    return _weighted(_bent("HuberLoss", input, target, "none", delta, 1.0), weight, reduction, by_weight=False)


def _bent(name: str, input: Any, target: Any, reduction: str, width: float, slope: float) -> Any:
    """slope * d**2 / 2 up to abs(d) = width, and the tangent from there on."""

    def value(a: Any, b: Any) -> Any:
        distance = np.abs(a - b)
        near = np.minimum(distance, width)
        return near * (distance - 0.5 * near) * slope

    def towards(a: Any, b: Any) -> Any:
        d = a - b
        return where(absolute(d) < width, d, sign(d) * width) * slope

    a, b = pair_of(input, target)
    return pointwise(name, a, b, value, towards, lambda a, b: towards(b, a), reduction)


# --- probabilities ----------------------------------------------------------------------------------------------------


def binary_cross_entropy(
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: Flag = None,
    reduce: Flag = None,
    reduction: str = "mean",
) -> Any:
    """-(target * log(input) + (1 - target) * log(1 - input)), of probabilities; a logarithm is at least -100."""
    reduction = mode_of(size_average, reduce, reduction)
    x, t = input.array, target.array
    if x.shape != t.shape:
        raise ValueError(
            f"Using a target size ({target.shape}) that is different to the input size ({input.shape}) is deprecated. "
            "Please ensure they have the same size."
        )
    if x.dtype != t.dtype:
        raise RuntimeError(f"Found dtype {target.dtype} but expected {input.dtype}")
    if not ((x >= 0) & (x <= 1)).all():
        raise RuntimeError("all elements of input should be between 0 and 1")

    def value(p: Any, t: Any) -> Any:
        return (t - 1) * np.maximum(np.log1p(-p), -100) - t * np.maximum(np.log(p), -100)

    slope: Callable[[Any, Any], Any] = lambda p, t: (p - t) / _at_least((1 - p) * p, 1e-12)
    towards_target: Callable[[Any, Any], Any] = lambda p, t: _at_least(log1p(-p), -100.0) - _at_least(log(p), -100.0)
    each = reduction if weight is None else "none"
    losses = pointwise("BinaryCrossEntropy", input, target, value, slope, towards_target, each)
    return losses if weight is None else reduced(losses * weight, reduction)


def _at_least(a: Any, low: float) -> Any:
    return where(a < low, low, a)


def binary_cross_entropy_with_logits(
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: Flag = None,
    reduce: Flag = None,
    reduction: str = "mean",
    pos_weight: Any = None,
) -> Any:
    """binary_cross_entropy(sigmoid(input), target) without overflow; pos_weight counts positives that often."""
    reduction = mode_of(size_average, reduce, reduction)
    if input.array.shape != target.array.shape:
        raise ValueError(f"Target size ({target.shape}) must be the same as input size ({input.shape})")
    w = 1.0 if pos_weight is None else pos_weight.array
    count: Callable[[Any], Any] = lambda t: 1.0 if pos_weight is None else t * (w - 1) + 1

    def value(x: Any, t: Any) -> Any:
        lost = np.maximum(-x, 0) + np.log1p(np.exp(-np.abs(x)))  # -log(sigmoid(x))
        return (1 - t) * x + count(t) * lost

    def slope(x: Any, t: Any) -> Any:
        return sigmoid(x) - t if pos_weight is None else (1 - t) - count(t) * sigmoid(-x)

    towards_target: Callable[[Any, Any], Any] = lambda x, t: -x if pos_weight is None else -x - logsigmoid(x) * (w - 1)
    each = reduction if weight is None else "none"
    try:
        losses = pointwise("BinaryCrossEntropyWithLogits", input, target, value, slope, towards_target, each)
        return losses if weight is None else reduced(losses * weight, reduction)
    except ValueError:
        raise RuntimeError(cannot_broadcast(input.array.shape, np.shape(w))) from None


def kl_div(
    input: Any,
    target: Any,
    size_average: Flag = None,
    reduce: Flag = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Any:
    """target * (log(target) - input): the Kullback-Leibler divergence of log-probabilities from probabilities.

    log_target: target holds log-probabilities. reduction "batchmean" divides the sum by the first dimension, as the
    mathematical definition does.
    """
    if reduction == "mean" and size_average is None and reduce is None:
        warnings.warn(
            "reduction: 'mean' divides the total loss by both the batch size and the support size."
            "'batchmean' divides only by the batch size, and aligns with the KL div math definition."
            "'mean' will be changed to behave the same as 'batchmean' in the next major release.",
            stacklevel=2,
        )
    losses = exp(target) * (target - input) if log_target else xlogy(target, target) - target * input
    if reduction != "batchmean":
        return reduced(losses, mode_of(size_average, reduce, reduction))
    return losses.sum() / input.array.shape[0] if input.array.ndim else losses.sum()


def poisson_nll_loss(
    input: Any,
    target: Any,
    log_input: bool = True,
    full: bool = False,
    size_average: Flag = None,
    eps: float = 1e-8,
    reduce: Flag = None,
    reduction: str = "mean",
) -> Any:
    """exp(input) - target * input, or input - target * log(input + eps); full adds Stirling's term for target > 1."""
    reduction = mode_of(size_average, reduce, reduction)
    losses = exp(input) - target * input if log_input else input - target * log(input + eps)
    if full:
        stirling = target * log(target) - target + 0.5 * log(2 * math.pi * target)
        losses = losses + where(target <= 1, 0.0, stirling)
    return reduced(losses, reduction)


def gaussian_nll_loss(
    input: Any, target: Any, var: Any, full: bool = False, eps: float = 1e-6, reduction: str = "mean"
) -> Any:
    """0.5 * (log(var) + (input - target)**2 / var), with a variance of at least eps; full adds 0.5 * log(2 pi)."""
    if not isinstance(var, Variable):
        if var < 0:
            raise ValueError("var has negative entry/entries")
        var = input.detach() * 0 + var
    shape, own = input.array.shape, var.array.shape
    if (var.array < 0).any():
        raise ValueError("var has negative entry/entries")
    if own != shape:
        if shape[:-1] == own:
            var = var.unsqueeze(-1)
        elif len(shape) != len(own) or sum(m for n, m in zip(shape, own, strict=True) if n != m) != 1:
            raise ValueError("var is of incorrect size")
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not valid")
    var = var.clone()
    with no_grad():
        var.clamp_(min=eps)
    losses = 0.5 * (log(var) + (input - target) ** 2 / var)
    return reduced(losses + 0.5 * math.log(2 * math.pi) if full else losses, reduction)


# --- margins ----------------------------------------------------------------------------------------------------------


def hinge_embedding_loss(
    input: Any,
    target: Any,
    margin: float = 1.0,
    size_average: Flag = None,
    reduce: Flag = None,
    reduction: str = "mean",
) -> Any:
    """input where target is 1, max(0, margin - input) where it is -1."""
    losses = where(target != 1, clamp_min(margin - input, 0), 0.0) + where(target != -1, input, 0.0)
    return reduced(losses, mode_of(size_average, reduce, reduction))


def margin_ranking_loss(
    input1: Any,
    input2: Any,
    target: Any,
    margin: float = 0,
    size_average: Flag = None,
    reduce: Flag = None,
    reduction: str = "mean",
) -> Any:
    """max(0, margin - target * (input1 - input2)): input1 should be the larger one where target is 1, not where -1."""
    if not input1.array.ndim == input2.array.ndim == target.array.ndim:
        raise RuntimeError(
            f"margin_ranking_loss : All input tensors should have same dimension but got sizes: input1: "
            f"{input1.shape}, input2: {input2.shape}, target: {target.shape} "
        )
    return reduced(clamp_min(-target * (input1 - input2) + margin, 0), mode_of(size_average, reduce, reduction))


def cosine_embedding_loss(
    input1: Any,
    input2: Any,
    target: Any,
    margin: float = 0,
    size_average: Flag = None,
    reduce: Flag = None,
    reduction: str = "mean",
) -> Any:
    """1 - cosine of two vectors where target is 1, max(0, cosine - margin) where it is -1."""
    if target.array.ndim not in (0, 1):
        raise RuntimeError("0D or 1D target tensor expected, multi-target not supported")
    dims = target.array.ndim + 1
    if input1.array.ndim != dims or input2.array.ndim != dims:
        raise RuntimeError(
            f"{target.array.ndim}D target tensor expects {dims}D input tensors, but found inputs with sizes "
            f"{list(input1.shape)} and {list(input2.shape)}."
        )
    dim, tiny = dims - 1, 1e-12
    lengths = ((input1 * input1).sum(dim) + tiny) * ((input2 * input2).sum(dim) + tiny)
    cosine = (input1 * input2).sum(dim) / sqrt(lengths)
    losses = where(target == 1, 1 - cosine, 0.0) + where(target == -1, clamp_min(cosine - margin, 0), 0.0)
    return reduced(losses, mode_of(size_average, reduce, reduction))


def soft_margin_loss(
    input: Any, target: Any, size_average: Flag = None, reduce: Flag = None, reduction: str = "mean"
) -> Any:
    """log(1 + exp(-target * input))."""
    a, b = pair_of(input, target)
    slope: Callable[[Any, Any], Any] = lambda a, b: -b * sigmoid(-(a * b))
    reduction = mode_of(size_average, reduce, reduction)
    return pointwise(
        "SoftMarginLoss",
        a,
        b,
        lambda a, b: softplus(-(a * b), 1.0, math.inf),
        slope,
        lambda a, b: slope(b, a),
        reduction,
    )


def multilabel_soft_margin_loss(
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: Flag = None,
    reduce: Flag = None,
    reduction: str = "mean",
) -> Any:
    """-(target * log(sigmoid(input)) + (1 - target) * log(sigmoid(-input))), the mean over the last dimension."""
    losses = -(target * logsigmoid(input) + (1 - target) * logsigmoid(-input))
    if weight is not None:
        losses = losses * weight
    losses = losses.sum(-1) / input.array.shape[-1]
    return reduced(losses, mode_of(size_average, reduce, reduction))


def triplet_margin_loss(
    anchor: Any,
    positive: Any,
    negative: Any,
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
    size_average: Flag = None,
    reduce: Flag = None,
    reduction: str = "mean",
) -> Any:
    """triplet_margin_with_distance_loss with the p-norm of the difference plus eps as the distance."""
    return triplet_margin_with_distance_loss(
        anchor,
        positive,
        negative,
        distance_function=lambda a, b: pairwise_distance(a, b, p, eps),
        margin=margin,
        swap=swap,
        reduction=mode_of(size_average, reduce, reduction),
    )


def triplet_margin_with_distance_loss(
    anchor: Any,
    positive: Any,
    negative: Any,
    *,
    distance_function: Callable[[Any, Any], Any] | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> Any:
    """max(0, margin + distance(anchor, positive) - distance(anchor, negative)).

    swap: the negative's distance is that to the positive where that is smaller (Balntas et al., 2016).
    """
    reduction = mode_of(None, None, reduction)
    if margin <= 0:
        raise ValueError(f"margin must be greater than 0, got {margin}")
    dims = [v.array.ndim for v in (anchor, positive, negative)]
    if len(set(dims)) > 1:
        raise RuntimeError(
            f"The anchor, positive, and negative tensors are expected to have the same number of dimensions, but got: "
            f"anchor {dims[0]}D, positive {dims[1]}D, and negative {dims[2]}D inputs"
        )
    distance = distance_function or pairwise_distance
    near, far = distance(anchor, positive), distance(anchor, negative)
    if swap:
        far = minimum(far, distance(positive, negative))
    return reduced(clamp_min(near - far + margin, 0), reduction)
