"""Optimizers with a step size per element, from the history of its gradients (Adam's family is in adam.py)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ..creation import full_like, tensor
from ..dtypes import float32
from .optimizer import Lane, Optimizer, average_square, hyper_parameters, move_towards

__all__ = ["Adadelta", "Adagrad", "RMSprop", "Rprop"]


class Adagrad(Optimizer):
    """p -= lr / (1 + (t - 1) * lr_decay) * g / (sqrt(sum of g**2) + eps). Source: Duchi, Hazan & Singer, 2011.

    Its state exists from the start, also for parameters without gradient.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(
            params,
            hyper_parameters(locals(), "weight_decay initial_accumulator_value foreach maximize differentiable fused"),
        )
        for parameter in self._numbered():
            total = full_like(parameter.detach(), initial_accumulator_value)
            self.state[parameter] = {"step": tensor(0.0, dtype=float32), "sum": total}

    def _initial(self, group: dict[str, Any]) -> dict[str, float]:
        return {"step": 0.0, "sum": self.defaults["initial_accumulator_value"]}

    def _update(self, lane: Lane, group: dict[str, Any]) -> None:
        rate = float(group["lr"]) / (1 + (lane.count() - 1) * group["lr_decay"])
        for p, g, s, _, total in lane.each(group, group["weight_decay"]):
            total += np.multiply(g, g, out=s)
            np.sqrt(total, out=s)
            s += group["eps"]
            np.divide(g, s, out=s)
            s *= rate
            p -= s


class Adadelta(Optimizer):
    """p -= lr * d with d = sqrt(mean of d**2 + eps) / sqrt(mean of g**2 + eps) * g. Source: Zeiler, 2012."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        defaults = hyper_parameters(locals(), "capturable foreach differentiable")
        if not 0.0 <= rho <= 1.0:
            raise ValueError(f"Invalid rho value: {rho}")
        super().__init__(params, defaults)

    def _initial(self, group: dict[str, Any]) -> dict[str, float]:
        return {"step": 0.0, "square_avg": 0.0, "acc_delta": 0.0}

    def _update(self, lane: Lane, group: dict[str, Any]) -> None:
        lane.count()
        lr, rho, eps = float(group["lr"]), group["rho"], group["eps"]
        for p, g, s, t, square, moved in lane.each(group, group["weight_decay"]):
            average_square(square, g, rho, s)
            np.sqrt(np.add(moved, eps, out=t), out=t)
            t /= np.sqrt(np.add(square, eps, out=s), out=s)
            t *= g
            average_square(moved, t, rho, s)
            t *= lr
            p -= t


class RMSprop(Optimizer):
    """p -= lr * g / (sqrt(mean of g**2) + eps); centered: less the square of the mean of g; with momentum on the whole.

    Source: Hinton, Neural networks for machine learning, lecture 6, 2012; centered: Graves, 2013, equations 38 to 45.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        defaults = hyper_parameters(
            locals(), "alpha eps centered weight_decay capturable foreach maximize differentiable"
        )
        if not alpha >= 0.0:
            raise ValueError(f"Invalid alpha value: {alpha}")
        super().__init__(params, defaults)

    def _initial(self, group: dict[str, Any]) -> dict[str, float]:
        state = {"step": 0.0, "square_avg": 0.0}
        if group["momentum"] > 0:
            state["momentum_buffer"] = 0.0
        if group["centered"]:
            state["grad_avg"] = 0.0
        return state

    def _update(self, lane: Lane, group: dict[str, Any]) -> None:
        lane.count()
        lr, alpha, momentum = float(group["lr"]), group["alpha"], group["momentum"]
        for p, g, s, t, square, *more in lane.each(group, group["weight_decay"]):
            average_square(square, g, alpha, s)
            scale = square
            if group["centered"]:
                mean = more[-1]
                move_towards(mean, g, 1 - alpha, s)
                scale = np.subtract(square, np.multiply(mean, mean, out=s), out=t)
            np.sqrt(scale, out=s)
            s += group["eps"]
            np.divide(g, s, out=s)
            if momentum > 0:
                velocity = more[0]
                velocity *= momentum
                velocity += s
                np.multiply(velocity, lr, out=s)
            else:
                s *= lr
            p -= s


class Rprop(Optimizer):
    """p -= step_size * sign(g): the step sizes grow while the sign stays, and shrink when it changes.

    Where it has changed, the element waits for a step. Source: Riedmiller & Braun, 1993, in the variant iRprop- of
    Igel & Huesken, 2000.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        defaults = hyper_parameters(locals(), "foreach maximize differentiable capturable")
        if not 0.0 < etas[0] < 1.0 < etas[1]:
            raise ValueError(f"Invalid eta values: {etas[0]}, {etas[1]}")
        super().__init__(params, defaults)

    def _initial(self, group: dict[str, Any]) -> dict[str, float]:
        return {"step": 0.0, "prev": 0.0, "step_size": float(group["lr"])}

    def _update(self, lane: Lane, group: dict[str, Any]) -> None:
        lane.count()
        (shrink, grow), (smallest, largest) = group["etas"], group["step_sizes"]
        for p, g, s, _, before, size in lane.each(group):
            agreement = np.sign(np.multiply(g, before, out=s), out=s)
            turned = agreement < 0
            size *= np.where(turned, shrink, np.where(agreement > 0, grow, 1.0)).astype(size.dtype)
            np.clip(size, smallest, largest, out=size)
            before[...] = g
            before[turned] = 0
            np.sign(before, out=s)
            s *= size
            p -= s
