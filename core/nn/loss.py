"""Losses as modules: each is the function of nn.functional of a similar name, which says what it computes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..dtypes import dtype as Dtype
from ..tensor import Tensor
from . import functional
from .distance import PairwiseDistance
from .linear import Linear
from .module import Module
from .settings import Loss

# fmt: off
__all__ = [
    "BCELoss", "BCEWithLogitsLoss", "CTCLoss", "CosineEmbeddingLoss", "CrossEntropyLoss", "GaussianNLLLoss",
    "HingeEmbeddingLoss", "HuberLoss", "KLDivLoss", "L1Loss", "LinearCrossEntropyLoss", "MSELoss", "MarginRankingLoss",
    "MultiLabelMarginLoss", "MultiLabelSoftMarginLoss", "MultiMarginLoss", "NLLLoss", "PoissonNLLLoss", "SmoothL1Loss",
    "SoftMarginLoss", "TripletMarginLoss", "TripletMarginWithDistanceLoss",
]
# fmt: on


class L1Loss(Loss):
    """The absolute differences."""

    function = functional.l1_loss
    size_average: bool | None = None
    reduce: bool | None = None
    reduction: str = "mean"


class MSELoss(Loss):
    """The squared differences."""

    function = functional.mse_loss
    size_average: bool | None = None
    reduce: bool | None = None
    reduction: str = "mean"


class SmoothL1Loss(Loss):
    """0.5 * d**2 / beta where the difference d is below beta, abs(d) - 0.5 * beta elsewhere."""

    function = functional.smooth_l1_loss
    size_average: bool | None = None
    reduce: bool | None = None
    reduction: str = "mean"
    beta: float = 1.0


class HuberLoss(Loss):
    """0.5 * d**2 where the difference d is below delta, delta * (abs(d) - 0.5 * delta) elsewhere."""

    function = functional.huber_loss
    reduction: str = "mean"
    delta: float = 1.0


class CrossEntropyLoss(Loss):
    """The cross entropy between logits and class indices (or class probabilities)."""

    function = functional.cross_entropy
    weight: Tensor | None = None
    size_average: bool | None = None
    ignore_index: int = -100
    reduce: bool | None = None
    reduction: str = "mean"
    label_smoothing: float = 0.0


class LinearCrossEntropyLoss(Module):
    """The cross entropy between a linear function of the input and class indices (or class probabilities).

    input (N, in_features), logits (N, num_classes, *out_features).
    """

    weight: Tensor | None

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        out_features: tuple[int, ...] = (),
        bias: bool = False,
        device: Any = None,
        dtype: Dtype | None = None,
        reduction: str = "mean",
        weight: Tensor | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        options: None = None,
    ) -> None:
        if weight is not None and weight.shape != (num_classes,):
            raise RuntimeError(f"expected weight shape to be {(num_classes,)}, got {tuple(weight.shape)}")
        if not 0 <= label_smoothing <= 1:
            raise RuntimeError(f"expected label_smoothing to be in range [0, 1], got {label_smoothing}")
        super().__init__()
        self.num_classes, self.out_features = num_classes, out_features
        self.reduction, self.ignore_index, self.label_smoothing = reduction, ignore_index, label_smoothing
        self.options = options
        self.register_buffer("weight", weight)
        self.linear = Linear(in_features, math.prod(out_features, start=num_classes), bias, device, dtype)

    def forward(self, input: Any, target: Any) -> Any:
        shape, bias = (self.num_classes, *self.out_features), self.linear.bias
        return functional.linear_cross_entropy(
            input,
            self.linear.weight.reshape(*shape, self.linear.in_features),
            target,
            linear_bias=None if bias is None else bias.reshape(shape),
            weight=self.weight,
            reduction=self.reduction,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
        )

    def extra_repr(self) -> str:
        settings: dict[str, Any] = {"in_features": self.linear.in_features, "num_classes": self.num_classes}
        settings |= {"out_features": self.out_features, "bias": self.linear.bias is not None}
        settings |= {name: getattr(self, name) for name in ("reduction", "ignore_index", "label_smoothing", "options")}
        return ", ".join(f"{name}={value}" for name, value in settings.items())


class NLLLoss(Loss):
    """Minus the log-probability of the target class."""

    function = functional.nll_loss
    weight: Tensor | None = None
    size_average: bool | None = None
    ignore_index: int = -100
    reduce: bool | None = None
    reduction: str = "mean"


class BCELoss(Loss):
    """-(target * log(input) + (1 - target) * log(1 - input)), of probabilities."""

    function = functional.binary_cross_entropy
    weight: Tensor | None = None
    size_average: bool | None = None
    reduce: bool | None = None
    reduction: str = "mean"


class BCEWithLogitsLoss(Loss):
    """BCELoss of sigmoid(input); pos_weight counts positives that often."""

    function = functional.binary_cross_entropy_with_logits
    weight: Tensor | None = None
    size_average: bool | None = None
    reduce: bool | None = None
    reduction: str = "mean"
    pos_weight: Tensor | None = None


class KLDivLoss(Loss):
    """target * (log(target) - input): the Kullback-Leibler divergence of log-probabilities."""

    function = functional.kl_div
    size_average: bool | None = None
    reduce: bool | None = None
    reduction: str = "mean"
    log_target: bool = False


class CTCLoss(Loss):
    """Minus the log-probability of all ways to spread a target over the steps of an input.

    Called with log_probs, targets, input_lengths and target_lengths.
    """

    function = functional.ctc_loss
    blank: int = 0
    reduction: str = "mean"
    zero_infinity: bool = False


class PoissonNLLLoss(Loss):
    """exp(input) - target * input: the loss of a logarithmic rate."""

    function = functional.poisson_nll_loss
    log_input: bool = True
    full: bool = False
    size_average: bool | None = None
    eps: float = 1e-8
    reduce: bool | None = None
    reduction: str = "mean"


class GaussianNLLLoss(Loss):
    """0.5 * (log(var) + (input - target)**2 / var); called with input, target and var."""

    function = functional.gaussian_nll_loss
    full: bool = False
    eps: float = 1e-6
    reduction: str = "mean"


class HingeEmbeddingLoss(Loss):
    """input where target is 1, max(0, margin - input) where it is -1."""

    function = functional.hinge_embedding_loss
    margin: float = 1.0
    size_average: bool | None = None
    reduce: bool | None = None
    reduction: str = "mean"


class MarginRankingLoss(Loss):
    """max(0, margin - target * (input1 - input2))."""

    function = functional.margin_ranking_loss
    margin: float = 0.0
    size_average: bool | None = None
    reduce: bool | None = None
    reduction: str = "mean"


class CosineEmbeddingLoss(Loss):
    """1 - cosine of two vectors where target is 1, max(0, cosine - margin) where it is -1."""

    function = functional.cosine_embedding_loss
    margin: float = 0.0
    size_average: bool | None = None
    reduce: bool | None = None
    reduction: str = "mean"


class SoftMarginLoss(Loss):
    """log(1 + exp(-target * input))."""

    function = functional.soft_margin_loss
    size_average: bool | None = None
    reduce: bool | None = None
    reduction: str = "mean"


class MultiLabelSoftMarginLoss(Loss):
    """The mean over the labels of the binary cross entropy of logits."""

    function = functional.multilabel_soft_margin_loss
    weight: Tensor | None = None
    size_average: bool | None = None
    reduce: bool | None = None
    reduction: str = "mean"


class MultiMarginLoss(Loss):
    """The mean over the classes i but the target y of max(0, margin - input[y] + input[i])**p."""

    function = functional.multi_margin_loss
    p: int = 1
    margin: float = 1.0
    weight: Tensor | None = None
    size_average: bool | None = None
    reduce: bool | None = None
    reduction: str = "mean"


class MultiLabelMarginLoss(Loss):
    """The sum over targets y and other classes i of max(0, 1 - input[y] + input[i]), over their number."""

    function = functional.multilabel_margin_loss
    size_average: bool | None = None
    reduce: bool | None = None
    reduction: str = "mean"


class TripletMarginLoss(Loss):
    """max(0, margin + distance(anchor, positive) - distance(anchor, negative)), by the p-norm."""

    function = functional.triplet_margin_loss
    margin: float = 1.0
    p: float = 2.0
    eps: float = 1e-6
    swap: bool = False
    size_average: bool | None = None
    reduce: bool | None = None
    reduction: str = "mean"


class TripletMarginWithDistanceLoss(Loss):
    """TripletMarginLoss with a distance of one's own."""

    function = functional.triplet_margin_with_distance_loss
    distance_function: Callable[[Any, Any], Any] | None = None
    margin: float = 1.0
    swap: bool = False
    reduction: str = "mean"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.distance_function is None:
            self.distance_function = PairwiseDistance()
