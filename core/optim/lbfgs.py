"""L-BFGS: a quasi-Newton method that evaluates the loss several times in a step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from ..autograd import Variable, enable_grad, wrap
from ..backend import Array, array_module
from ..tensor import Tensor
from .optimizer import Optimizer, hyper_parameters

__all__ = ["LBFGS"]


class LBFGS(Optimizer):
    """Steps along -H g, where H estimates the inverse Hessian from the last history_size gradient differences.

    For one group of parameters, on one device. line_search_fn: None (the step length is lr) or "strong_wolfe". All
    state is the first parameter's. Source: Nocedal & Wright, Numerical optimization, 2006, algorithms 7.4 and 7.5.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
    ) -> None:
        if max_eval is None:
            max_eval = max_iter * 5 // 4
        super().__init__(params, hyper_parameters(locals()))
        if len(self.param_groups) != 1:
            raise ValueError("LBFGS doesn't support per-parameter options (parameter groups)")

    def step(self, closure: Callable[[], Any]) -> Any:
        """Up to max_iter iterations; closure clears the gradients, computes the loss and its gradients, returns it.

        Returns the loss from before the step.
        """
        group = self.param_groups[0]
        parameters, lr = group["params"], float(group["lr"])
        state = self.state[parameters[0]]
        state.setdefault("func_evals", 0)
        state.setdefault("n_iter", 0)

        def evaluate() -> tuple[Any, Array]:
            with enable_grad():
                result = closure()
            return result, _gradient(parameters)

        before, gradient = evaluate()
        loss, evaluations = float(before), 1
        state["func_evals"] += 1
        if abs(gradient).max() <= group["tolerance_grad"]:
            return before
        direction, rate, previous = (_array(state.get(k)) for k in ("d", "t", "prev_flat_grad"))
        lists = ("old_dirs", "old_stps", "ro", "al")
        changes, moves, ro, alphas = ([_array(v) for v in state.get(k) or ()] for k in lists)
        scale = _array(state.get("H_diag"))

        for iteration in range(1, group["max_iter"] + 1):
            state["n_iter"] += 1
            if state["n_iter"] == 1:
                direction, changes, moves, ro, scale = -gradient, [], [], [], 1
            else:
                change, move = gradient - previous, direction * rate
                curvature = change.dot(move)
                if curvature > 1e-10:
                    if len(changes) == group["history_size"]:
                        del changes[0], moves[0], ro[0]
                    changes.append(change)
                    moves.append(move)
                    ro.append(1.0 / curvature)
                    scale = curvature / change.dot(change)
                direction = -gradient
                alphas = [None] * len(moves)
                for i in reversed(range(len(moves))):
                    alphas[i] = moves[i].dot(direction) * ro[i]
                    direction -= alphas[i] * changes[i]
                direction *= scale
                for i, move in enumerate(moves):
                    direction += (alphas[i] - changes[i].dot(direction) * ro[i]) * move
            previous, previous_loss = gradient, loss
            rate = lr if state["n_iter"] > 1 else min(1.0, 1.0 / float(abs(gradient).sum())) * lr
            slope = float(gradient.dot(direction))
            if slope > -group["tolerance_change"]:
                break

            made = 0
            if group["line_search_fn"] is None:
                _move(parameters, direction, rate)
                if iteration != group["max_iter"]:  # the last one's loss would tell nobody anything
                    result, gradient = evaluate()
                    loss, made = float(result), 1
            elif group["line_search_fn"] != "strong_wolfe":
                raise RuntimeError("only 'strong_wolfe' is supported")
            else:
                kept = [p.array.copy() for p in parameters]

                def at(length: float, direction: Array = direction, kept: list[Array] = kept) -> _Point:
                    _move(parameters, direction, length)
                    result, gradient = evaluate()
                    for parameter, values in zip(parameters, kept, strict=True):
                        parameter.array[...] = values
                    return _Point(length, float(result), gradient, np.float64(float(gradient.dot(direction))))

                found, made = _strong_wolfe(
                    at, _Point(0.0, loss, gradient, np.float64(slope)), rate, float(abs(direction).max()),
                    group["max_eval"] - evaluations,
                )  # fmt: skip
                rate, loss, gradient = found.length, found.loss, found.gradient
                _move(parameters, direction, rate)
            evaluations += made
            state["func_evals"] += made
            if (
                iteration == group["max_iter"]
                or evaluations >= group["max_eval"]
                or abs(gradient).max() <= group["tolerance_grad"]
                or abs(direction * rate).max() <= group["tolerance_change"]
                or abs(loss - previous_loss) < group["tolerance_change"]
            ):
                break

        state["d"], state["t"] = wrap(direction), rate
        state["old_dirs"], state["old_stps"], state["ro"] = (list(map(wrap, many)) for many in (changes, moves, ro))
        state["al"] = [*map(wrap, alphas), *[None] * (group["history_size"] - len(alphas))]
        state["H_diag"] = scale if isinstance(scale, int) else wrap(scale)
        state["prev_flat_grad"], state["prev_loss"] = wrap(previous), previous_loss
        return before


def _array(value: Any) -> Any:
    """The array of what the state holds as a tensor."""
    return value.array if isinstance(value, Variable) else value


def _gradient(parameters: list[Tensor]) -> Array:
    """The gradients of all parameters in one row; 0 where there is none."""
    xp = array_module(parameters[0].array)
    rows = [xp.zeros_like(p.array) if p._grad is None else p._grad.array for p in parameters]
    return xp.concatenate([row.reshape(-1) for row in rows])


def _move(parameters: list[Tensor], direction: Array, length: float) -> None:
    start = 0
    for parameter in parameters:
        stop = start + parameter.numel()
        parameter.array += (length * direction[start:stop]).reshape(parameter.array.shape)
        parameter.version[0] += 1
        start = stop


class _Point(NamedTuple):
    """What is known of one step length: the loss, its gradient, and the slope along the direction."""

    length: float
    loss: float
    gradient: Array
    slope: np.float64


def _cubic_minimum(a: _Point, b: _Point, bounds: tuple[float, float] | None = None) -> float:
    """Where the cubic with both points' losses and slopes has its minimum, within bounds: Nocedal & Wright, (3.59)."""
    low, high = bounds or (min(a.length, b.length), max(a.length, b.length))
    if a.length > b.length:
        a, b = b, a
    d1 = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.length - b.length)
    square = d1**2 - a.slope * b.slope
    if not square >= 0:
        return (low + high) / 2
    d2 = np.sqrt(square)
    place = b.length - (b.length - a.length) * ((b.slope + d2 - d1) / (b.slope - a.slope + 2 * d2))
    return float(min(max(place, low), high))


def _strong_wolfe(
    at: Callable[[float], _Point], start: _Point, length: float, reach: float, most: int
) -> tuple[_Point, int]:
    """A step length that fulfils the strong Wolfe conditions (c1 = 1e-4, c2 = 0.9), and the number of evaluations.

    reach: the largest element of the direction; most: iterations. Source: Nocedal & Wright, algorithms 3.5 and 3.6.
    """

    def decreased(p: _Point) -> bool:
        return bool(p.loss <= start.loss + 1e-4 * p.length * start.slope)

    def flat(p: _Point) -> bool:
        return bool(abs(p.slope) <= -0.9 * start.slope)

    previous, point = start, at(length)
    count, done = 0, False
    bracket = [start, point]
    while count < most:
        if not decreased(point) or (count > 1 and point.loss >= previous.loss):
            bracket = [previous, point]
            break
        if flat(point):
            bracket, done = [point], True
            break
        if point.slope >= 0:
            bracket = [previous, point]
            break
        bounds = (point.length + 0.01 * (point.length - previous.length), point.length * 10)
        previous, point = point, at(_cubic_minimum(previous, point, bounds))
        bracket = [start, point]
        count += 1

    low, high = (0, 1) if bracket[0].loss <= bracket[-1].loss else (1, 0)
    near_the_end = False
    evaluations = count + 1
    while not done and count < most:
        least, largest = sorted(p.length for p in bracket)
        if (largest - least) * reach < 1e-9:
            break
        length, margin = _cubic_minimum(bracket[0], bracket[1]), 0.1 * (largest - least)
        if min(largest - length, length - least) >= margin:
            near_the_end = False
        elif near_the_end or not least < length < largest:  # twice in a row: the bracket would hardly shrink
            length = largest - margin if abs(length - largest) < abs(length - least) else least + margin
            near_the_end = False
        else:
            near_the_end = True
        point = at(length)
        evaluations, count = evaluations + 1, count + 1
        if not decreased(point) or point.loss >= bracket[low].loss:
            bracket[high] = point
            low, high = (0, 1) if bracket[0].loss <= bracket[1].loss else (1, 0)
        else:
            if flat(point):
                done = True
            elif point.slope * (bracket[high].length - bracket[low].length) >= 0:
                bracket[high] = bracket[low]
            bracket[low] = point
    return bracket[low], evaluations
