"""The named tuples of ops with several results, e.g. `mpigrad.return_types.max`; they print as PyTorch's."""

from __future__ import annotations

from collections import namedtuple
from typing import Any


def _named(name: str, *fields: str) -> Any:
    """A tuple type that prints its module, its name and a line per field."""

    def text(self: Any) -> str:
        lines = ",\n".join(f"{field}={value!r}" for field, value in zip(fields, self, strict=True))
        return f"mpigrad.return_types.{name}(\n{lines})"

    return type(name, (namedtuple(name, fields),), {"__slots__": (), "__repr__": text, "__module__": __name__})


_VALUES_INDICES = ("values", "indices")
max, min = _named("max", *_VALUES_INDICES), _named("min", *_VALUES_INDICES)
cummax, cummin = _named("cummax", *_VALUES_INDICES), _named("cummin", *_VALUES_INDICES)
median, nanmedian = _named("median", *_VALUES_INDICES), _named("nanmedian", *_VALUES_INDICES)
sort, topk = _named("sort", *_VALUES_INDICES), _named("topk", *_VALUES_INDICES)
kthvalue, mode = _named("kthvalue", *_VALUES_INDICES), _named("mode", *_VALUES_INDICES)
aminmax = _named("aminmax", "min", "max")
linalg_eigh = _named("linalg_eigh", "eigenvalues", "eigenvectors")
linalg_svd, linalg_qr = _named("linalg_svd", "U", "S", "Vh"), _named("linalg_qr", "Q", "R")
linalg_slogdet = _named("linalg_slogdet", "sign", "logabsdet")
linalg_lstsq = _named("linalg_lstsq", "solution", "residuals", "rank", "singular_values")
