"""Stochastic gradient descent, plain, with momentum, and averaged."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from .optimizer import Lane, Optimizer, add_scaled, hyper_parameters, move_towards

__all__ = ["ASGD", "SGD"]


class SGD(Optimizer):
    """p -= lr * v with v = momentum * v + (1 - dampening) * (g + weight_decay * p), v = g at the first step.

    nesterov: p -= lr * (g + momentum * v). Source: PyTorch's documentation of torch.optim.SGD (its form of momentum
    follows Sutskever et al., 2013, but for the place of lr).
    """

    _scalars = ()

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        defaults = hyper_parameters(locals())
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        super().__init__(params, defaults)

    def _initial(self, group: dict[str, Any]) -> dict[str, float]:
        return {"momentum_buffer": 0.0} if group["momentum"] else {}

    def _update(self, lane: Lane, group: dict[str, Any]) -> None:
        lr, momentum = float(group["lr"]), group["momentum"]
        new = 1.0 if lane.fresh else 1.0 - group["dampening"]
        for p, g, s, _, *velocity in lane.each(group, float(group["weight_decay"])):
            direction = g
            if momentum:
                direction = v = velocity[0]
                v *= momentum
                v += g if new == 1.0 else np.multiply(g, new, out=s)
                if group["nesterov"]:
                    direction = np.add(g, np.multiply(v, momentum, out=s), out=s)
            add_scaled(p, direction, -lr, s, lane.few)


class ASGD(Optimizer):
    """p -= eta * (g + lambd * p), with eta = lr / (1 + lambd * lr * t)**alpha; "ax" is the mean of p from step t0 on.

    Source: Polyak & Juditsky, Acceleration of stochastic approximation by averaging, 1992.
    """

    _scalars = ("step", "eta", "mu")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ) -> None:
        super().__init__(params, hyper_parameters(locals()))

    def _initial(self, group: dict[str, Any]) -> dict[str, float]:
        return {"step": 0.0, "eta": float(group["lr"]), "mu": 1.0, "ax": 0.0}

    def _update(self, lane: Lane, group: dict[str, Any]) -> None:
        lr, lambd, step = float(group["lr"]), group["lambd"], lane.count()
        eta, mu = lane.scalars["eta"].item(), lane.scalars["mu"].item()
        for p, g, s, _, ax in lane.each(group, group["weight_decay"]):
            p *= 1 - lambd * eta
            p -= np.multiply(g, eta, out=s)
            if mu == 1:
                ax[...] = p
            else:
                move_towards(ax, p, mu, s)
        lane.scalars["eta"][...] = lr / (1 + lambd * lr * step) ** group["alpha"]
        lane.scalars["mu"][...] = 1 / max(1, step - group["t0"])
