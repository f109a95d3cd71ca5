"""Parameters as one vector and back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ...autograd import no_grad
from ...ops.join import cat
from ...tensor import Tensor

__all__ = ["parameters_to_vector", "vector_to_parameters"]


def _on_one_device(parameters: Iterable[Tensor]) -> list[Tensor]:
    everything = list(parameters)
    if len({str(p.device) for p in everything}) > 1:
        raise TypeError("Found two parameters on different devices, this is currently not supported.")
    return everything


def parameters_to_vector(parameters: Iterable[Tensor]) -> Any:
    """All elements of all parameters as one vector, on the tape."""
    return cat([p.view(-1) for p in _on_one_device(parameters)])


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Copy the elements of a vector into the parameters, in their order, unnoticed by autograd."""
    if not isinstance(vec, Tensor):
        raise TypeError(f"expected mpigrad.Tensor, but got: {type(vec).__name__}")
    start = 0
    with no_grad():
        for parameter in _on_one_device(parameters):
            stop = start + parameter.numel()
            parameter.data.copy_(vec[start:stop].view_as(parameter))
            start = stop
