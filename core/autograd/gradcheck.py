"""Gradients held against finite differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .engine import grad
from .tape import Variable, wrap

__all__ = ["gradcheck", "gradgradcheck"]


class GradcheckError(RuntimeError):
    """A gradient that is not the derivative."""


def gradcheck(
    func: Callable[..., Any],
    inputs: Any,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    check_batched_grad: bool = False,
    fast_mode: bool = True,
    directions: int = 4,
) -> bool:
    """Whether the gradients of func(*inputs) are its derivatives: float64 inputs that require gradients.

    Each input is moved along random directions of length 1; the difference quotient, weighted by random numbers per
    output, must equal the gradient's part along the direction to within atol + rtol * its size. Two evaluations a
    direction, whatever the size (PyTorch's fast_mode; there is no other). RuntimeError naming the input, unless
    raise_exception is False. nondet_tol, check_undefined_grad, check_batched_grad: accepted.
    """
    arguments = tuple(inputs) if isinstance(inputs, Sequence) else (inputs,)
    places = [n for n, a in enumerate(arguments) if isinstance(a, Variable) and a.needs]
    if not places:
        raise ValueError("gradcheck expects at least one input tensor to require gradient, found none")
    for n in places:
        if arguments[n].array.dtype != np.float64:
            raise ValueError(
                f"gradcheck expected input {n} in float64, found {arguments[n].array.dtype}: differences "
                "of lower precision say nothing"
            )
    draw = np.random.default_rng(0).standard_normal
    outputs = _learned(func(*arguments))
    if not outputs:
        raise ValueError("gradcheck expected an output that requires gradients, found none")
    weights = [draw(o.array.shape) for o in outputs]
    learned: list[Any] = [arguments[n] for n in places]
    found = grad(outputs, learned, [wrap(np.asarray(w)) for w in weights], allow_unused=True)

    def value(n: int, moved: Any) -> float:
        leaf = wrap(moved)
        leaf.needs = True
        results = _learned(func(*arguments[:n], leaf, *arguments[n + 1 :]))
        return sum(float((r.array * w).sum()) for r, w in zip(results, weights, strict=True))

    for n, gradient in zip(places, found, strict=True):
        x = arguments[n].array
        for _ in range(directions if x.size else 0):
            way = draw(x.shape)
            way /= np.sqrt((way * way).sum())
            slope = (value(n, x + eps * way) - value(n, x - eps * way)) / (2 * eps)
            along = 0.0 if gradient is None else float((gradient.array * way).sum())
            if not abs(slope - along) <= atol + rtol * abs(slope):
                if raise_exception:
                    raise GradcheckError(
                        f"expected the gradient of input {n} to be {slope:.6g} along a random direction (difference "
                        f"quotient), found {along:.6g}"
                    )
                return False
    return True


def gradgradcheck(
    func: Callable[..., Any],
    inputs: Any,
    grad_outputs: Any = None,
    *,
    gen_non_contig_grad_outputs: bool = False,
    **options: Any,
) -> bool:
    """`gradcheck` of the gradients of func, weighted by grad_outputs or at random: are the second derivatives right?

    gen_non_contig_grad_outputs: accepted. options: those of `gradcheck`.
    """
    arguments = tuple(inputs) if isinstance(inputs, Sequence) else (inputs,)
    outputs = _learned(func(*arguments))
    draw = np.random.default_rng(1).standard_normal
    if grad_outputs is None:
        weights = [wrap(np.asarray(draw(o.array.shape))) for o in outputs]
    else:
        given = grad_outputs if isinstance(grad_outputs, Sequence) else (grad_outputs,)
        weights = [weight.detach() for weight in given]
    for weight in weights:
        weight.needs = True
    # the gradients are functions of the inputs and, linearly, of the weights

    def gradients(*values: Any) -> Any:
        given, weights = values[: len(arguments)], values[len(arguments) :]
        learned: list[Any] = [v for v in given if isinstance(v, Variable) and v.needs]
        return tuple(
            g
            for g in grad(_learned(func(*given)), learned, weights, create_graph=True, allow_unused=True)
            if g is not None
        )

    return gradcheck(gradients, (*arguments, *weights), **options)


def _learned(result: Any) -> list[Any]:
    values = result if isinstance(result, (tuple, list)) else (result,)
    return [v for v in values if isinstance(v, Variable) and v.needs]
