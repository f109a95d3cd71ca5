"""Scaled dot-product attention, fused by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..autograd import RESULT
from ..backend import Array, array_module
from ..dtypes import of
from ..generator import default_generator
from .fused import record_fused
from .pointwise import sum_to, where
from .reduce import softmax

__all__ = ["scaled_dot_product_attention"]


def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """softmax(query @ key.T * scale + mask) @ value; scale is 1 / sqrt(E) unless given.

    query (..., L, E), key (..., S, E), value (..., S, Ev) give (..., L, Ev). attn_mask, broadcast to (..., L, S): bool,
    True where attention is allowed, or numbers that are added. is_causal: position i sees the positions up to i.
    enable_gqa: a head of key and value serves several heads (dimension -3) of query. Where a row sees nothing the
    result is 0. Source: Vaswani et al., 2017, https://arxiv.org/abs/1706.03762.
    """
    _check(query, key, value, attn_mask, is_causal)
    if enable_gqa:
        return _grouped(query, key, value, attn_mask, dropout_p, is_causal, scale)
    q, k, v = query.array, key.array, value.array
    xp, dtype = array_module(q), q.dtype
    if dtype.itemsize < 4:  # computed in float32
        q, k, v = (a.astype(np.float32) for a in (q, k, v))
    factor = q.dtype.type(1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    shift = xp.tri(q.shape[-2], k.shape[-2], dtype=bool) if is_causal else None
    if attn_mask is not None:
        shift = attn_mask.array
    added = attn_mask if shift is not None and shift.dtype.kind != "b" else None
    if shift is not None and added is None:
        shift = xp.where(shift, q.dtype.type(0), q.dtype.type(-np.inf))

    # many small products take half the time where the right matrix is in order
    def scores() -> Array:
        result = np.matmul(q, np.multiply(k.swapaxes(-1, -2), factor, order="C"))
        if shift is not None:
            result += shift
        return result

    weights = _softmax(scores)
    kept, drop = weights, None
    if dropout_p > 0:
        drop = xp.asarray(default_generator.bernoulli(weights.shape, 1 - dropout_p, weights.dtype))
        drop *= drop.dtype.type(1 / (1 - dropout_p) if dropout_p < 1 else 0)
        kept = weights * drop
    result = _rows_first(kept, v)

    def vjp(g: Array, q: Array, k: Array, v: Array, added: Any, weights: Array, kept: Array, result: Array) -> Any:
        g, k, v = (a.astype(weights.dtype, copy=False) for a in (g, k, v))
        yield 2, sum_to(np.matmul(kept.swapaxes(-1, -2), g), v.shape).astype(dtype, copy=False)
        towards = np.matmul(g, xp.ascontiguousarray(v.swapaxes(-1, -2)))
        if drop is not None:
            towards *= drop
        towards -= np.matmul(g[..., None, :], result[..., None])[..., 0]  # the sum of weights * towards
        towards *= weights
        if added is not None:
            yield 3, sum_to(towards, added.shape).astype(dtype)  # a copy: towards is scaled below
        towards *= factor
        yield 0, sum_to(np.matmul(towards, k), q.shape).astype(dtype, copy=False)
        yield 1, sum_to(np.matmul(towards.swapaxes(-1, -2), q), k.shape).astype(dtype, copy=False)

    def composition(q: Any, k: Any, v: Any, added: Any) -> Any:
        scores = (q * float(factor)) @ k.transpose(-1, -2)
        scores = scores if added is None else scores + added
        if shift is None:
            weights = softmax(scores, -1)
        else:
            allowed = shift > -np.inf
            seen = allowed.any(-1, keepdims=True)  # a softmax of nothing but -inf is NaN, and so is its gradient
            weights = where(seen, softmax(where(allowed | ~seen, scores, -math.inf), -1), 0.0)
        return (weights if drop is None else weights * drop) @ v

    name, saved = "ScaledDotProductFlashAttentionForCpuBackward0", (weights, kept, RESULT)
    array = result.astype(dtype, copy=False)
    return record_fused(name, array, (query, key, value, added), vjp, composition, *saved)


def _check(query: Any, key: Any, value: Any, attn_mask: Any, is_causal: bool) -> None:
    dtypes = [of(v.array.dtype) for v in (query, key, value)]
    if len(set(dtypes)) > 1:
        raise RuntimeError(
            "Expected query, key, and value to have the same dtype, but got query.dtype: {} key.dtype: {} and "
            "value.dtype: {} instead.".format(*dtypes)
        )
    if min(v.array.ndim for v in (query, key, value)) < 2:
        raise RuntimeError(
            "Expected query, key, and value to all be  at least 2 dimensional, but got query.dim: {} key.dim: {} and "
            "value.dim: {} instead.".format(*[v.array.ndim for v in (query, key, value)])
        )
    if attn_mask is None:
        return
    if is_causal:
        raise RuntimeError("_scaled_dot_product_attention: Explicit attn_mask should not be set when is_causal=True")
    if attn_mask.array.dtype.kind != "b" and attn_mask.array.dtype != query.array.dtype:
        raise RuntimeError(
            f"Expected attn_mask dtype to be bool or float or to match query dtype, but got attn_mask.dtype: "
            f"{attn_mask.dtype} and  query.dtype: {query.dtype} instead."
        )


def _grouped(query: Any, key: Any, value: Any, attn_mask: Any, dropout_p: float, causal: bool, scale: Any) -> Any:
    """With several heads of query to one of key and value, which are broadcast over them."""
    heads, shared = query.array.shape[-3], key.array.shape[-3]
    if heads % shared or value.array.shape[-3] != shared:
        raise RuntimeError(
            "Number of heads in key and value must divide the number of heads in query, but got "
            f"query {heads}, key {shared} and value {value.array.shape[-3]}"
        )

    def split(x: Any, heads: int) -> Any:
        shape = x.array.shape
        return x.reshape(*shape[:-3], heads, shape[-3] // heads, *shape[-2:])

    if attn_mask is not None and attn_mask.array.ndim > 2:
        attn_mask = split(attn_mask, shared if attn_mask.array.shape[-3] > 1 else 1)
    result = scaled_dot_product_attention(
        split(query, shared), split(key, shared), split(value, shared), attn_mask, dropout_p, causal, scale
    )
    return result.reshape(*query.array.shape[:-1], result.array.shape[-1])


def _softmax(scores: Callable[[], Array]) -> Array:
    """The softmax along the last dimension; a row of -inf gives 0.

    Less the largest of all scores, which takes a twentieth of the time of the largest in each row. Where a row's
    exponentials come close to underflow, all is done again by rows.
    """
    weights = scores()
    if not weights.size:
        return weights
    ones = array_module(weights).ones(weights.shape[-1], weights.dtype)
    weights -= weights.max()
    np.exp(weights, out=weights)
    total = weights @ ones
    if not (total > 1e-30).all():
        weights = scores()
        top = weights.max(-1, keepdims=True)
        weights -= np.where(top > -np.inf, top, weights.dtype.type(0))
        np.exp(weights, out=weights)
        total = weights @ ones
        total = np.where(total == 0, total.dtype.type(1), total)
    weights *= (1 / total)[..., None]
    return weights


def _rows_first(weights: Array, v: Array) -> Array:
    """weights @ v, in memory with the rows before the heads: to join the heads afterwards takes no copy."""
    if v.ndim < 3 or weights.shape[:-2] != v.shape[:-2]:
        return np.matmul(weights, v)
    shape = (*weights.shape[:-3], weights.shape[-2], weights.shape[-3], v.shape[-1])
    result = array_module(v).empty(shape, v.dtype).swapaxes(-2, -3)
    return np.matmul(weights, v, out=result)
