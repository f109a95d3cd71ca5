"""How the losses of a batch become one number, and what the arguments for that mean."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from ..autograd import record
from ..backend import Array, array_module
from ..dtypes import in_single
from .pointwise import promoted
from .shape import broadcast_tensors

Slope = Callable[..., Any]


def mode_of(size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    """The reduction, checked: "none", "mean" or "sum"; the two older arguments take precedence where they are given."""
    if size_average is not None or reduce is not None:
        each = reduce is not None and not reduce
        reduction = "none" if each else "mean" if size_average is None or size_average else "sum"
        warnings.warn(
            f"size_average and reduce args will be deprecated, please use reduction='{reduction}' instead.",
            stacklevel=4,
        )
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def reduced(losses: Any, reduction: str) -> Any:
    """The losses of a batch, their sum or their mean."""
    return losses if reduction == "none" else losses.sum() if reduction == "sum" else losses.mean()


def pair_of(input: Any, target: Any) -> tuple[Any, Any]:
    """Two tensors of one dtype and shape; PyTorch's warning where that takes broadcasting."""
    a, b = promoted(input, target)
    if a.array.shape != b.array.shape:
        warnings.warn(
            f"Using a target size ({b.shape}) that is different to the input size ({a.shape}). This will likely lead "
            "to incorrect results due to broadcasting. Please ensure they have the same size.",
            stacklevel=4,
        )
        a, b = broadcast_tensors(a, b)
    return a, b


def pointwise(
    name: str, a: Any, b: Any, value: Callable[[Array, Array], Array], da: Slope, db: Slope, reduction: str
) -> Any:
    """The reduced value(a, b) of two tensors of one shape; da(a, b) and db(a, b) are its slopes."""
    losses = in_single(value, a.array, b.array)
    count: float = 1
    if reduction != "none":
        result = losses.sum()
        if reduction == "mean":
            count = losses.size or 1
            result = result / losses.dtype.type(losses.size)
        losses = result
    return record(
        f"{name}Backward0",
        array_module(a.array).asarray(losses),
        (a, lambda g, a, b: da(a, b) * (g / count), a, b),
        (b, lambda g, a, b: db(a, b) * (g / count), a, b),
    )
