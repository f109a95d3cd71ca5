"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from .optimizer import Lane, Optimizer

__all__ = ["SGD"]


class SGD(Optimizer):
    """p -= lr * v with v = momentum * v + (1 - dampening) * (g + weight_decay * p), v = g at the first step.

    nesterov: p -= lr * (g + momentum * v). Source: PyTorch's documentation of torch.optim.SGD (its form of momentum
    follows Sutskever et al., 2013, but for the place of lr).
    """

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
    ) -> None:
        for name, value in (("learning rate", lr), ("momentum value", momentum), ("weight_decay value", weight_decay)):
            if value < 0.0:
                raise ValueError(f"Invalid {name}: {value}")
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def _update(self, lane: Lane, group: dict[str, Any]) -> None:
        values, scratch, lr, momentum = lane.values, lane.scratch, group["lr"], group["momentum"]
        gradients = lane.gradients
        if group["maximize"]:
            gradients = -gradients
        if group["weight_decay"]:
            gradients = gradients + np.multiply(values, group["weight_decay"], out=scratch)
        if momentum:
            velocity = lane.state.get("momentum_buffer")
            if velocity is None:
                velocity = self._add_state(lane, "momentum_buffer")
                velocity[...] = gradients
            else:
                velocity *= momentum
                velocity += gradients if not group["dampening"] else gradients * (1 - group["dampening"])
            gradients = gradients + momentum * velocity if group["nesterov"] else velocity
        values -= np.multiply(gradients, lr, out=scratch)
