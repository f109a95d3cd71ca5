"""MultiheadAttention, against torch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

draw = np.random.default_rng(0).standard_normal
Q, K, V = (draw(shape).astype(np.float32) for shape in ((3, 2, 4), (5, 2, 4), (5, 2, 4)))
PADDING = np.array([[False, False, False, False, True], [False, False, True, True, True]])
ALLOWED = np.array([[False, True, False, True, True]] * 3)
CAUSAL = np.triu(np.ones((3, 3), bool), 1)
OPTIONS: list[dict[str, Any]] = [
    {},
    {"bias": False},
    {"add_bias_kv": True, "add_zero_attn": True},
    {"kdim": 4, "vdim": 4, "dropout": 0.4},
    {"add_zero_attn": True, "dropout": 0.4},
]
CALLS: list[dict[str, Any]] = [
    {},
    {"need_weights": False},
    {"average_attn_weights": False},
    {"key_padding_mask": PADDING},
    {"key_padding_mask": PADDING, "attn_mask": ALLOWED, "need_weights": False},
    {"attn_mask": draw((4, 3, 5)).astype(np.float32)},
    {"attn_mask": draw((4, 3, 5)).astype(np.float32), "need_weights": False},
]


def called(**options: Any) -> Callable[..., Any]:
    """Call the module with the masks as tensors of its library."""

    def call(module: Any, *inputs: Any) -> Any:
        kind = type(inputs[0])
        made = {k: tensor(kind, v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
        return module(*inputs, **made)

    return call


def tensor(kind: Any, array: np.ndarray) -> Any:
    if kind.__module__.startswith("torch"):
        import torch as m
    else:
        import mpigrad as m  # type: ignore[no-redef]
    return m.from_numpy(array)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("call", CALLS)
def test_module(options: dict[str, Any], call: dict[str, Any], alike: Callable[..., None]) -> None:
    alike(lambda m: m.nn.MultiheadAttention(4, 2, **options), Q, K, V, call=called(**call))


def test_batch_first(alike: Callable[..., None]) -> None:
    first = [a.swapaxes(0, 1) for a in (Q, K, V)]
    alike(lambda m: m.nn.MultiheadAttention(4, 2, batch_first=True), *first)
    for flags in ({}, {"need_weights": False}, {"need_weights": False, "attn_mask": CAUSAL, "is_causal": True}):
        call = called(**flags)  # type: ignore[arg-type]
        alike(
            lambda m: m.nn.MultiheadAttention(4, 2, batch_first=True), first[0], call=lambda f, x, c=call: c(f, x, x, x)
        )
        alike(lambda m: m.nn.MultiheadAttention(4, 2), Q[:, 0], call=lambda f, x, c=call: c(f, x, x, x))


def test_other_sizes(alike: Callable[..., None]) -> None:
    alike(lambda m: m.nn.MultiheadAttention(4, 2, kdim=3, vdim=2), Q, K[..., :3], V[..., :2])
    alike(lambda m: m.nn.MultiheadAttention(4, 2, add_bias_kv=True, kdim=3), Q, K[..., :3], V)
    alike(lambda m: m.nn.MultiheadAttention(4, 2), Q, K, call=lambda f, q, k: f(q, k, k))
    alike(lambda m: m.nn.MultiheadAttention(4, 2), Q[:, 0], K[:, 0], V[:, 0])


def attend(m: Any, *shapes: tuple[int, ...], **options: Any) -> Any:
    return m.nn.MultiheadAttention(4, 2)(*[m.ones(s) for s in shapes], **options)


SAME: list[Callable[[Any], Any]] = [
    lambda m: m.nn.MultiheadAttention(4, 3),
    lambda m: m.nn.MultiheadAttention(4, 0),
    lambda m: attend(m, (4,), (4,), (4,)),
    lambda m: attend(m, (3, 2, 4), (3, 4), (3, 4)),
    lambda m: attend(m, (3, 2, 4), (5, 2, 4), (6, 2, 4)),
    lambda m: attend(m, (3, 2, 6), (5, 2, 6), (5, 2, 6)),
    lambda m: attend(m, *[(3, 2, 4)] * 3, attn_mask=m.ones(2, 2)),
    lambda m: attend(m, *[(3, 2, 4)] * 3, attn_mask=m.ones(2)),
    lambda m: attend(m, *[(3, 2, 4)] * 3, attn_mask=m.ones(3, 3).long()),
    lambda m: attend(m, *[(3, 2, 4)] * 3, key_padding_mask=m.ones(2)),
    lambda m: attend(m, *[(3, 2, 4)] * 3, is_causal=True),
]


@pytest.mark.parametrize("expression", SAME)
def test_as_in_torch(expression: Callable[[Any], Any], same: Callable[..., None]) -> None:
    same(expression)


@pytest.mark.parametrize("shape", [(2, 2), (1, 3)])
def test_a_padding_mask_of_another_shape(shape: tuple[int, ...], same_class: Callable[..., None]) -> None:
    same_class(lambda m: attend(m, *[(3, 2, 4)] * 3, key_padding_mask=m.ones(*shape)))
