"""Limits for gradients. Gradients that lie side by side in flat memory are handled as one array."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from types import GeneratorType
from typing import Any

import numpy as np

from ...autograd import wrap
from ...backend import Array, array_module
from ...flat import runs
from ...tensor import Tensor

__all__ = ["clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm"]

Tensors = Tensor | Iterable[Tensor]


def _gradients(parameters: Sequence[Tensor], *, changed: bool) -> Iterator[Array]:
    """The arrays of all gradients, neighbours as one. changed: count the change that is about to be made."""
    together = []
    for parameter in parameters:
        grad = parameter._grad
        if grad is None:
            continue
        if changed:
            grad.version[0] += 1
        if parameter.home is not None and grad.array is parameter.home.gradient:
            together.append(parameter)
        else:
            yield grad.array
    for run in runs(together):
        yield run.gradients


def _as_list(tensors: Tensors) -> list[Tensor]:
    return [tensors] if isinstance(tensors, Tensor) else list(tensors)


def _norm(arrays: Sequence[Array], norm_type: float) -> Tensor:
    """The norm of all elements together, in the dtype of the first array; norm_type may be "inf"."""
    norm_type = float(norm_type)
    if not arrays:
        return wrap(np.zeros((), np.float32))
    first = arrays[0]
    parts = [a.astype(np.float32) if a.dtype.itemsize == 2 else a for a in arrays]
    norms = [np.linalg.norm(a.reshape(-1), norm_type) for a in parts]
    xp = array_module(first)
    total = norms[0] if len(norms) == 1 and norm_type else np.linalg.norm(xp.asarray(norms), norm_type)
    return wrap(xp.asarray(total, dtype=first.dtype))


def _checked(total: Tensor, norm_type: float, error_if_nonfinite: bool) -> Tensor:
    if error_if_nonfinite and not math.isfinite(total.item()):
        raise RuntimeError(
            f"The total norm of order {float(norm_type)} for gradients from `parameters` is non-finite, so it cannot "
            "be clipped. To disable this error and scale the gradients by the non-finite norm anyway, set "
            "`error_if_nonfinite=False`"
        )
    return total


def get_total_norm(
    tensors: Tensors, norm_type: float = 2.0, error_if_nonfinite: bool = False, foreach: bool | None = None
) -> Tensor:
    """The norm of all elements of all tensors. RuntimeError for NaN and infinity where that is asked for."""
    return _checked(_norm([t.array for t in _as_list(tensors)], norm_type), norm_type, error_if_nonfinite)


def clip_grads_with_norm_(
    parameters: Tensors, max_norm: float, total_norm: Tensor, foreach: bool | None = None
) -> None:
    """Scale the gradients in place so that a total norm of total_norm becomes at most max_norm."""
    factor = np.minimum(float(max_norm) / (total_norm.array + 1e-6), 1.0)
    if isinstance(factor, (np.ndarray, np.generic)) and factor == 1:  # on a GPU the comparison would wait
        return
    for gradient in _gradients(_as_list(parameters), changed=True):
        gradient *= factor.astype(gradient.dtype)


def clip_grad_norm_(
    parameters: Tensors,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Scale all gradients in place so that their norm, taken together, is at most max_norm; returns what it was.

    foreach is accepted: the gradients are always handled together.
    """
    everything = _as_list(parameters)
    if isinstance(parameters, GeneratorType) and not everything:
        warnings.warn("`parameters` is an empty generator, no gradient clipping will occur.", stacklevel=2)
    if float(norm_type):
        arrays = list(_gradients(everything, changed=False))
    else:  # as PyTorch has it, this counts the tensors whose own count is not 0
        arrays = [p._grad.array for p in everything if p._grad is not None]
    total = _checked(_norm(arrays, norm_type), norm_type, error_if_nonfinite)
    clip_grads_with_norm_(everything, max_norm, total)
    return total


def clip_grad_value_(parameters: Tensors, clip_value: float, foreach: bool | None = None) -> None:
    """Clip each element of all gradients to [-clip_value, clip_value], in place."""
    limit: Any = float(clip_value)
    for gradient in _gradients(_as_list(parameters), changed=True):
        np.clip(gradient, -limit, limit, out=gradient)
