"""Adam and its descendants: steps along a running mean of the gradients, scaled by how large they have been."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from .optimizer import Lane, Optimizer, average_square, hyper_parameters, move_towards

__all__ = ["Adam", "AdamW", "Adamax", "NAdam", "RAdam"]


def _decays(group: dict[str, Any]) -> tuple[float, float]:
    """What the weight decay adds to the gradient, and what it multiplies the values by: one of the two is neutral."""
    decay = group["weight_decay"]
    return (0.0, 1 - float(group["lr"]) * decay) if group["decoupled_weight_decay"] else (decay, 1.0)


class Adam(Optimizer):
    """p -= lr * m / (sqrt(v) + eps), m and v the bias-corrected running means of g and g**2.

    amsgrad: with the largest v so far. Source: Kingma & Ba, Adam, 2014, algorithm 1; Reddi et al., 2018 (AMSGrad).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ) -> None:
        super().__init__(
            params, hyper_parameters(locals(), "foreach capturable differentiable fused decoupled_weight_decay")
        )

    def _initial(self, group: dict[str, Any]) -> dict[str, float]:
        state = {"step": 0.0, "exp_avg": 0.0, "exp_avg_sq": 0.0}
        return {**state, "max_exp_avg_sq": 0.0} if group["amsgrad"] else state

    def _update(self, lane: Lane, group: dict[str, Any]) -> None:
        step, (beta1, beta2) = lane.count(), group["betas"]
        decay, shrink = _decays(group)
        # m / c1 / (sqrt(v) / c2 + eps) with both corrections moved into the numbers, which saves a pass
        correction = math.sqrt(1 - beta2**step)
        rate, eps = float(group["lr"]) * correction / (1 - beta1**step), group["eps"] * correction
        for p, g, s, _, m, v, *top in lane.each(group, decay):
            if shrink != 1.0:
                p *= shrink
            move_towards(m, g, 1 - beta1, s)
            average_square(v, g, beta2, s)
            np.sqrt(np.maximum(top[0], v, out=top[0]) if top else v, out=s)
            s += eps
            np.divide(m, s, out=s)
            s *= rate
            p -= s


class AdamW(Adam):
    """Adam with a weight decay that multiplies the values by 1 - lr * weight_decay and does not enter the gradient.

    Source: Loshchilov & Hutter, Decoupled weight decay regularization, 2017.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(params, **hyper_parameters(locals()), decoupled_weight_decay=True)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            group["decoupled_weight_decay"] = True


class Adamax(Optimizer):
    """p -= lr / (1 - beta1**t) * m / u, with u = max(beta2 * u, |g| + eps). Source: Kingma & Ba, 2014, algorithm 2."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
    ) -> None:
        super().__init__(params, hyper_parameters(locals()))

    def _initial(self, group: dict[str, Any]) -> dict[str, float]:
        return {"step": 0.0, "exp_avg": 0.0, "exp_inf": 0.0}

    def _update(self, lane: Lane, group: dict[str, Any]) -> None:
        step, (beta1, beta2) = lane.count(), group["betas"]
        rate = float(group["lr"]) / (1 - beta1**step)
        for p, g, s, _, m, u in lane.each(group, group["weight_decay"]):
            move_towards(m, g, 1 - beta1, s)
            np.abs(g, out=s)
            s += group["eps"]
            u *= beta2
            np.maximum(u, s, out=u)
            np.divide(m, u, out=s)
            s *= rate
            p -= s


class NAdam(Optimizer):
    """Adam with Nesterov's momentum, whose factor mu grows with the steps.

    Source: Dozat, Incorporating Nesterov momentum into Adam, 2016, with the schedule of mu given there.
    """

    _scalars = ("step", "mu_product")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(params, hyper_parameters(locals(), "foreach capturable differentiable"))

    def _initial(self, group: dict[str, Any]) -> dict[str, float]:
        return {"step": 0.0, "mu_product": 1.0, "exp_avg": 0.0, "exp_avg_sq": 0.0}

    def _update(self, lane: Lane, group: dict[str, Any]) -> None:
        step, (beta1, beta2), lr = lane.count(), group["betas"], float(group["lr"])
        decay, shrink = _decays(group)
        mu, following = (beta1 * (1 - 0.5 * 0.96 ** (t * group["momentum_decay"])) for t in (step, step + 1))
        product = lane.scalars["mu_product"]
        product *= mu
        of_gradient = lr * (1 - mu) / (1 - product.item())
        of_mean = lr * following / (1 - product.item() * following)
        for p, g, s, t, m, v in lane.each(group, decay):
            if shrink != 1.0:
                p *= shrink
            move_towards(m, g, 1 - beta1, s)
            average_square(v, g, beta2, s)
            np.divide(v, 1 - beta2**step, out=s)
            np.sqrt(s, out=s)
            s += group["eps"]
            for numerator, rate in ((g, of_gradient), (m, of_mean)):
                np.divide(numerator, s, out=t)
                t *= rate
                p -= t


class RAdam(Optimizer):
    """Adam that steps along the plain mean m until enough gradients are seen to know their variance.

    Source: Liu et al., On the variance of the adaptive learning rate and beyond, 2019, algorithm 2.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        super().__init__(
            params, hyper_parameters(locals(), "maximize foreach capturable decoupled_weight_decay differentiable")
        )

    def _initial(self, group: dict[str, Any]) -> dict[str, float]:
        return {"step": 0.0, "exp_avg": 0.0, "exp_avg_sq": 0.0}

    def _update(self, lane: Lane, group: dict[str, Any]) -> None:
        step, (beta1, beta2) = lane.count(), group["betas"]
        decay, shrink = _decays(group)
        unseen = 1 - beta2**step
        rate = float(group["lr"]) / (1 - beta1**step)
        longest = 2 / (1 - beta2) - 1
        length = longest - 2 * step * beta2**step / unseen  # of the mean that estimates the variance
        known = length > 5
        if known:
            rectified = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
            rate *= math.sqrt(unseen * rectified)
        for p, g, s, _, m, v in lane.each(group, decay):
            if shrink != 1.0:
                p *= shrink
            move_towards(m, g, 1 - beta1, s)
            average_square(v, g, beta2, s)
            if known:
                np.sqrt(v, out=s)
                s += group["eps"]
                np.divide(m, s, out=s)
                s *= rate
            else:
                np.multiply(m, rate, out=s)
            p -= s
