"""Adafactor: an adaptive method whose state for a matrix is one row and one column."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ..autograd import wrap
from ..backend import Array, array_module
from ..creation import tensor
from ..dtypes import finfo, float32, of
from ..tensor import Tensor
from .optimizer import Optimizer

__all__ = ["Adafactor"]


class Adafactor(Optimizer):
    """Steps of size min(lr, 1 / sqrt(t)) relative to each parameter's own root mean square.

    The second moments of a matrix are estimated from those of its rows and columns. d: updates with a larger root mean
    square are scaled down to it. Each parameter is scaled by itself, so this one works parameter by parameter. Source:
    Shazeer & Stern, Adafactor: adaptive learning rates with sublinear memory cost, 2018, algorithms 4 and 5.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
    ) -> None:
        if isinstance(lr, Tensor) and lr.numel() != 1:
            raise ValueError("Tensor lr must be 1-element")
        if not beta2_decay <= 0.0:
            raise ValueError(f"beta2_decay should be <= 0 but is: {beta2_decay}")
        if not d >= 1.0:
            raise ValueError(f"Clipping threshold d should be >= 1 but is: {d}")
        not_negative = {
            "Learning rate": lr,
            "epsilon1": 0.0 if eps[0] is None else eps[0],
            "epsilon2": eps[1],
            "weight_decay": weight_decay,
        }
        for words, value in not_negative.items():
            if not value >= 0.0:
                raise ValueError(f"{words} should be >= 0 but is: {value}")
        defaults = {
            "lr": lr,
            "beta2_decay": beta2_decay,
            "eps": eps,
            "d": d,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def _update_group(self, number: int, group: dict[str, Any]) -> None:
        for parameter in group["params"]:
            if parameter._grad is not None:
                state = self.state[parameter]
                if not state:
                    state.update(_initial_state(parameter.array))
                _update(parameter.array, parameter._grad.array, state, group)
                parameter.version[0] += 1


def _initial_state(values: Array) -> dict[str, Tensor]:
    """PyTorch's state: the variances of rows and columns, of all elements where there are no rows."""
    xp, shape, dtype = array_module(values), values.shape, values.dtype
    step = tensor(0.0, dtype=float32)
    if values.ndim < 2:
        return {"step": step, "variance": wrap(xp.zeros(shape, dtype))}
    rows, columns = (*shape[:-1], 1), (*shape[:-2], 1, shape[-1])
    return {"step": step, "row_var": wrap(xp.zeros(rows, dtype)), "col_var": wrap(xp.zeros(columns, dtype))}


def _root_mean_square(values: Array) -> float:
    return float(np.sqrt((values * values).sum())) / values.size**0.5 if values.size else 0.0


def _update(values: Array, gradient: Array, state: dict[str, Any], group: dict[str, Any]) -> None:
    """One parameter's step."""
    state["step"].array += 1
    step, lr = state["step"].item(), float(group["lr"])
    smallest, least_scale = group["eps"]
    if smallest is None:
        smallest = finfo(of(values.dtype)).eps
    new = step ** group["beta2_decay"]
    rate = max(least_scale, _root_mean_square(values)) * min(lr, 1 / step**0.5)
    if group["weight_decay"]:
        values *= 1 - lr * group["weight_decay"]

    squares = gradient * gradient
    if gradient.ndim < 2:
        variance = state["variance"].array
        variance += new * (squares - variance)
        estimate = variance
    else:
        rows, columns = state["row_var"].array, state["col_var"].array
        rows += new * (squares.mean(-1, keepdims=True) - rows)
        columns += new * (squares.mean(-2, keepdims=True) - columns)
        estimate = rows * columns / np.maximum(rows.mean(-2, keepdims=True), smallest)
    update = gradient / np.sqrt(np.maximum(estimate, smallest * smallest))
    clipped = max(1.0, _root_mean_square(update) / group["d"])
    values -= (rate / clipped * (-1 if group["maximize"] else 1)) * update
