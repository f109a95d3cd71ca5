"""Attention by several heads: projections in, scaled dot-product attention, projection out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..autograd import wrap
from ..backend import array_module
from ..dtypes import FLOATING
from .attention import scaled_dot_product_attention
from .dropout import dropout
from .elementwise import where
from .join import cat
from .linalg import linear
from .pad import pad
from .reduce import softmax
from .shape import Size

__all__ = ["multi_head_attention_forward"]


def multi_head_attention_forward(
    query: Any,
    key: Any,
    value: Any,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Any,
    in_proj_bias: Any,
    bias_k: Any,
    bias_v: Any,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Any,
    out_proj_bias: Any,
    training: bool = True,
    key_padding_mask: Any = None,
    need_weights: bool = True,
    attn_mask: Any = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Any = None,
    k_proj_weight: Any = None,
    v_proj_weight: Any = None,
    static_k: Any = None,
    static_v: Any = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Any, Any]:
    """The output (L, N, E) and, with need_weights, the weights (N, L, S), or (N, heads, L, S) unless averaged.

    query (L, N, E), key and value (S, N, ...), or all without N. key_padding_mask (N, S): True (or -inf) where a key is
    left out; attn_mask (L, S) or (N * heads, L, S): True where attention is not allowed, or numbers that are added.
    is_causal says that attn_mask is the causal one. static_k and static_v (N * heads, S, E / heads) replace the
    projections. add_zero_attn appends a key and value of zeros. Source: Vaswani et al., 2017,
    https://arxiv.org/abs/1706.03762.
    """
    batched = _check(query, key, value, key_padding_mask, attn_mask, num_heads)
    if not batched:
        same = key is value
        query, key, value = (v.unsqueeze(1) for v in (query, key, value))
        value = key if same else value
        key_padding_mask = key_padding_mask if key_padding_mask is None else key_padding_mask.unsqueeze(0)
    length, batch, width = query.array.shape
    if is_causal and attn_mask is None:
        raise RuntimeError(
            "Need attn_mask if specifying the is_causal hint. You may use the Transformer module method "
            "`generate_square_subsequent_mask` to create this mask."
        )
    if width != embed_dim_to_check:
        raise AssertionError(f"was expecting embedding dimension of {embed_dim_to_check}, but got {width}")
    if width % num_heads:
        raise AssertionError(f"embed_dim {width} not divisible by num_heads {num_heads}")
    if use_separate_proj_weight:
        if key.array.shape[:2] != value.array.shape[:2]:
            raise AssertionError(
                f"key's sequence and batch dims {key.shape[:2]} do not match value's {value.shape[:2]}"
            )
        weights = (q_proj_weight, k_proj_weight, v_proj_weight)
        biases = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
        q, k, v = (linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True))
    else:
        if key.array.shape != value.array.shape:
            raise AssertionError(f"key shape {key.shape} does not match value shape {value.shape}")
        q, k, v = _projected(query, key, value, in_proj_weight, in_proj_bias)

    causal = is_causal and key_padding_mask is None and not need_weights
    mask = None if causal else _additive("attn_mask", attn_mask, q)
    padding = _additive("key_padding_mask", key_padding_mask, q)
    if mask is not None:
        shape = Size((batch * num_heads, length, key.array.shape[0])[mask.array.ndim == 2 :])
        if mask.array.shape != shape:
            raise RuntimeError(
                f"The shape of the {mask.array.ndim}D attn_mask is {mask.shape}, but should be {tuple(shape)}."
            )
        mask = mask.reshape(-1, 1 if mask.array.ndim == 2 else num_heads, *mask.array.shape[-2:])
    if bias_k is not None and bias_v is not None:
        if static_k is not None or static_v is not None:
            raise AssertionError(f"bias cannot be added to static {'value' if static_k is None else 'key'}.")
        k, v = (cat([x, b.expand(1, batch, width)]) for x, b in ((k, bias_k), (v, bias_v)))
    q, k, v = (
        _heads(x, num_heads) if static is None else static.reshape(batch, num_heads, *static.array.shape[1:])
        for x, static in ((q, None), (k, static_k), (v, static_v))
    )
    if add_zero_attn:
        zeros = wrap(array_module(k.array).zeros((batch, num_heads, 1, k.array.shape[-1]), k.array.dtype))
        k, v = cat([k, zeros], -2), cat([v, zeros], -2)
    keys = k.array.shape[-2]
    mask = mask if mask is None else pad(mask, (0, keys - mask.array.shape[-1]))
    if padding is not None:
        padding = pad(padding, (0, keys - padding.array.shape[-1]))
        padding = padding.reshape(batch, 1, 1, keys)
        mask = padding if mask is None else mask + padding
    dropout_p = dropout_p if training else 0.0
    if need_weights:
        scores = (q * math.sqrt(1 / q.array.shape[-1])) @ k.transpose(-2, -1)
        shares = dropout(softmax(scores if mask is None else scores + mask, -1), dropout_p)
        mixed = shares @ v
    else:
        mixed = scaled_dot_product_attention(q, k, v, mask, dropout_p, causal)
    output = linear(mixed.permute(2, 0, 1, 3).reshape(length, batch, width), out_proj_weight, out_proj_bias)
    output = output if batched else output.squeeze(1)
    if not need_weights:
        return output, None
    shares = shares.mean(1) if average_attn_weights else shares
    return output, shares if batched else shares.squeeze(0)


def _projected(query: Any, key: Any, value: Any, weight: Any, bias: Any) -> tuple[Any, Any, Any]:
    """The projections by the three parts of one weight: in as few products as there are different inputs."""
    if query is key is value:
        return linear(query, weight, bias).chunk(3, -1)  # type: ignore[no-any-return]
    parts = weight.chunk(3)
    biases = (None,) * 3 if bias is None else bias.chunk(3)
    q = linear(query, parts[0], biases[0])
    if key is value:
        width = query.array.shape[-1]
        k, v = linear(key, weight[width:], None if bias is None else bias[width:]).chunk(2, -1)
    else:
        k, v = linear(key, parts[1], biases[1]), linear(value, parts[2], biases[2])
    return q, k, v


def _heads(x: Any, heads: int) -> Any:
    """(L, N, E) as (N, heads, L, E / heads)."""
    length, batch, width = x.array.shape
    return x.reshape(length, batch, heads, width // heads).permute(1, 2, 0, 3)


def _additive(name: str, mask: Any, beside: Any) -> Any:
    """A mask as numbers to add: -inf where it is True. AssertionError for integers."""
    if mask is None or mask.array.dtype.kind in FLOATING:
        return mask
    if mask.array.dtype.kind != "b":
        raise AssertionError(f"only bool and floating types of {name} are supported")
    zero = beside.array.dtype.type(0)
    return wrap(where(mask.array, beside.array.dtype.type(-np.inf), zero))


def _check(query: Any, key: Any, value: Any, padding: Any, mask: Any, heads: int) -> bool:
    """Whether there is a batch dimension; AssertionError if the numbers of dimensions disagree."""
    ndim = query.array.ndim
    if ndim not in (2, 3):
        raise AssertionError(f"query should be unbatched 2D or batched 3D tensor but received {ndim}-D query tensor")
    what = "batched (3-D)" if ndim == 3 else "unbatched (2-D)"
    if key.array.ndim != ndim or value.array.ndim != ndim:
        raise AssertionError(
            f"For {what} `query`, expected `key` and `value` to be {ndim}-D but found {key.array.ndim}-D and "
            f"{value.array.ndim}-D tensors respectively"
        )
    if padding is not None and padding.array.ndim != ndim - 1:
        raise AssertionError(
            f"For {what} `query`, expected `key_padding_mask` to be `None` or {ndim - 1}-D but found "
            f"{padding.array.ndim}-D tensor instead"
        )
    expected = key.array.shape[: ndim - 1][::-1]
    if padding is not None and padding.array.shape != expected:
        raise AssertionError(f"Expected `key_padding_mask` shape to be {expected} but got {padding.array.shape}")
    if mask is not None and mask.array.ndim not in (2, 3):
        raise AssertionError(
            f"For {what} `query`, expected `attn_mask` to be `None`, 2-D or 3-D but found {mask.array.ndim}-D tensor "
            "instead"
        )
    if mask is not None and ndim == 2 and mask.array.ndim == 3:
        shape = (heads, query.array.shape[0], key.array.shape[0])
        if mask.array.shape != shape:
            raise AssertionError(f"Expected `attn_mask` shape to be {shape} but got {mask.shape}")
    return bool(ndim == 3)
