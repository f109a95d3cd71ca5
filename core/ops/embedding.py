"""Looking up rows of a matrix, alone or summed in bags."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..autograd import Variable, record, wrap
from ..backend import Array, array_module, sum_rows
from ..dtypes import of
from .join import cat

__all__ = ["embedding", "embedding_bag"]


def embedding(
    input: Any,
    weight: Any,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Any:
    """The rows of weight (V, D) at the indices input (...): (..., D). IndexError for an index outside [0, V).

    padding_idx: a row that gets no gradient. max_norm: rows that are looked up are first scaled down, in place, to at
    most this norm. scale_grad_by_freq: gradients are divided by how often the index occurs in input. sparse gradients
    there are none: NotImplementedError.
    """
    if sparse:
        raise NotImplementedError("expected sparse=False: gradients are dense here")
    if weight.array.ndim != 2:
        raise RuntimeError("'weight' must be 2-D")
    index, count = _indices(input, "embedding"), weight.array.shape[0]
    if padding_idx is not None:
        if not -count <= padding_idx < count:
            raise AssertionError("Padding_idx must be within num_embeddings")
        padding_idx %= count
    if index.size and (index.min() < 0 or index.max() >= count):
        raise IndexError("index out of range in self")
    if max_norm is not None:
        _renormalize(weight, index, max_norm, norm_type)
    factor = _factor(index, weight.array.dtype, count, padding_idx, scale_grad_by_freq) if weight.needs else None

    def vjp(g: Any) -> Any:
        return _summed(g if factor is None else g * factor, index, count)

    return record("EmbeddingBackward0", weight.array.take(index, 0), (weight, vjp))


def _indices(input: Any, caller: str) -> Array:
    index = input.array
    if index.dtype not in (np.int64, np.int32):
        raise RuntimeError(
            "Expected tensor for argument #1 'indices' to have one of the following scalar types: Long, Int; but got "
            f"{of(index.dtype)} instead (while checking arguments for {caller})"
        )
    return index


def _renormalize(weight: Any, index: Array, max_norm: float, norm_type: float) -> None:
    """Scale the rows at index down to a norm of at most max_norm."""
    used = np.unique(index)
    rows = weight.array[used]
    norms = np.linalg.norm(rows, norm_type, axis=1, keepdims=True)
    weight.array[used] = np.where(norms > max_norm, rows * (max_norm / (norms + 1e-7)).astype(rows.dtype), rows)
    weight.version[0] += 1


def _factor(index: Array, dtype: Any, count: int, padding_idx: int | None, by_frequency: bool) -> Array | None:
    """What the gradient of each row looked up is multiplied with; None for 1."""
    if padding_idx is None and not by_frequency:
        return None
    factor = array_module(index).ones((*index.shape, 1), dtype)
    if by_frequency:
        factor /= np.bincount(index.ravel(), minlength=count)[index][..., None]
    if padding_idx is not None:
        factor[index == padding_idx] = 0
    return factor


def _summed(g: Any, index: Array, count: int) -> Any:
    """The transpose of looking up, for arrays and Tensors: the rows of g summed by their index."""
    rows, places = g.reshape((index.size, g.shape[-1])), index.reshape(-1)
    if isinstance(rows, Variable):
        value = sum_rows(places, rows.array, count)
        return record("EmbeddingDenseBackwardBackward0", value, (rows, lambda g: g[places]))
    return sum_rows(places, rows, count)


def embedding_bag(
    input: Any,
    weight: Any,
    offsets: Any = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Any = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Any:
    """The rows of weight (V, D) at the indices of each bag, joined to one: their "sum", "mean" or "max".

    input (B, N): B bags of N indices; or (N,) with offsets (B,): where each bag starts (include_last_offset: and a last
    one, where all end). per_sample_weights: a factor for each index, with mode "sum". padding_idx: an index that is
    left out of its bag. An empty bag gives 0.
    """
    index, starts = _bags(input, offsets, per_sample_weights, mode, include_last_offset)
    xp, columns = array_module(index), weight.array.shape[1]
    bags = len(starts)
    bag = xp.searchsorted(starts, xp.arange(index.size), "right") - 1
    factors = None if per_sample_weights is None else per_sample_weights.reshape(-1)
    if padding_idx is not None:
        kept = index != padding_idx % weight.array.shape[0]
        index, bag = index[kept], bag[kept]
        factors = None if factors is None else factors[wrap(kept)]
    rows = embedding(wrap(index), weight, None, max_norm, norm_type, scale_grad_by_freq, sparse)
    if mode == "max":
        # each bag's first largest element, by column; an empty bag takes a row of zeros
        best = xp.full((bags, columns), index.size)
        if index.size:
            first = xp.searchsorted(bag, xp.arange(bags))
            full = xp.bincount(bag, minlength=bags) > 0
            top = np.maximum.reduceat(rows.array, first[full], 0)[(xp.cumsum(full) - 1)[bag]]
            place = xp.where(rows.array == top, xp.arange(index.size)[:, None], index.size)
            best[full] = np.minimum.reduceat(place, first[full], 0)
        padded = cat([rows, wrap(xp.zeros((1, columns), rows.array.dtype))])
        return padded[best, xp.arange(columns)]
    if factors is not None:
        rows = rows * factors.unsqueeze(-1)
    dtype = rows.array.dtype
    total = record("EmbeddingBagBackward0", sum_rows(bag, rows.array, bags), (rows, lambda g: g[bag]))
    if mode == "sum":
        return total
    return total / wrap(np.maximum(xp.bincount(bag, minlength=bags), 1).astype(dtype)[:, None])


def _bags(input: Any, offsets: Any, factors: Any, mode: str, include_last: bool) -> tuple[Array, Array]:
    """The indices in a row, and where each bag starts; ValueError, NotImplementedError or RuntimeError."""
    index = _indices(input, "embedding_bag")
    xp = array_module(index)
    if factors is not None and factors.array.shape != index.shape:
        raise ValueError(
            f"embedding_bag: If per_sample_weights ({list(factors.array.shape)}) is not None, then it must have the "
            f"same shape as the input ({list(index.shape)})"
        )
    if index.ndim == 2:
        if offsets is not None:
            raise ValueError(
                "if input is 2D, then offsets has to be None, as input is treated is a mini-batch of fixed length "
                f"sequences. However, found offsets of type {type(offsets)}"
            )
        starts = xp.arange(index.shape[0]) * index.shape[1]
    elif index.ndim != 1:
        raise ValueError(f"input has to be 1D or 2D Tensor, but got Tensor of dimension {index.ndim}")
    else:
        if not isinstance(offsets, Variable):
            raise ValueError("offsets has to be a 1D Tensor but got None")
        if offsets.array.ndim != 1:
            raise ValueError("offsets has to be a 1D Tensor")
        starts = offsets.array[:-1] if include_last else offsets.array
        if len(starts) and starts[0] != 0:
            raise RuntimeError(
                "offsets[0] has to be 0, i.e., the first sequence in the mini-batch has to start from position 0. "
                f"However, got {int(starts[0])}"
            )
        if len(starts) and starts[-1] > index.size:
            raise RuntimeError(
                f"offsets[-1] can not be greater than input's length {index.size} but got offsets[-1] of "
                f"{int(starts[-1])}"
            )
    if mode not in ("sum", "mean", "max"):
        raise ValueError("mode has to be one of sum, mean or max")
    if factors is not None and mode != "sum":
        raise NotImplementedError(
            "embedding_bag: per_sample_weights was not None. per_sample_weights is only supported for mode='sum' "
            f"(got mode='{mode}'). Please open a feature request on GitHub."
        )
    return index.reshape(-1), starts
