"""Transformers, against torch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

draw = np.random.default_rng(0).standard_normal
SRC, TGT = (draw(shape).astype(np.float32) for shape in ((3, 2, 4), (5, 2, 4)))
PADDING = np.array([[False, False, True], [False, True, True]])
OPTIONS: list[dict[str, Any]] = [
    {},
    {"norm_first": True, "activation": "gelu", "dropout": 0.0},
    {"batch_first": True, "bias": False, "layer_norm_eps": 0.1},
    {"dropout": 0.5},
]
pytestmark = pytest.mark.filterwarnings("ignore")  # torch's, about its nested tensors


def encoded(module: Any, src: Any, padding: Any) -> Any:
    return module(src, src_key_padding_mask=padding)


def decoded(module: Any, tgt: Any, memory: Any, padding: Any) -> Any:
    return module(tgt, memory, memory_key_padding_mask=padding)


def both(module: Any, src: Any, tgt: Any) -> Any:
    mask = module.generate_square_subsequent_mask(5)
    return [module(src, tgt, tgt_mask=mask, tgt_is_causal=hint) for hint in (None, True)]


@pytest.mark.parametrize("options", OPTIONS)
def test_layers_and_stacks(options: dict[str, Any], alike: Callable[..., None]) -> None:
    first = options.get("batch_first")
    src, tgt = (a.swapaxes(0, 1) if first else a for a in (SRC, TGT))
    alike(lambda m: m.nn.TransformerEncoderLayer(4, 2, 6, **options), src, PADDING, call=encoded)
    alike(lambda m: m.nn.TransformerDecoderLayer(4, 2, 6, **options), tgt, src, PADDING, call=decoded)
    alike(
        lambda m: m.nn.TransformerEncoder(m.nn.TransformerEncoderLayer(4, 2, 6, **options), 2, m.nn.LayerNorm(4)),
        src,
        PADDING,
        call=encoded,
    )
    alike(
        lambda m: m.nn.TransformerDecoder(m.nn.TransformerDecoderLayer(4, 2, 6, **options), 2),
        tgt,
        src,
        PADDING,
        call=decoded,
    )
    alike(lambda m: m.nn.Transformer(4, 2, 1, 2, 6, **options), src, tgt, call=both)


def test_other_activations_and_no_batch(alike: Callable[..., None]) -> None:
    alike(lambda m: m.nn.TransformerEncoderLayer(4, 2, 6, activation=m.nn.SiLU()), SRC[:, 0])
    alike(lambda m: m.nn.TransformerEncoderLayer(4, 2, 6, activation=m.tanh), SRC)


SAME: list[Callable[[Any], Any]] = [
    lambda m: m.nn.Transformer.generate_square_subsequent_mask(3),
    lambda m: m.nn.TransformerEncoderLayer(4, 2, activation="tanh"),
    lambda m: m.nn.Transformer(4, 2, 1, 1, 6)(m.ones(3, 2, 4), m.ones(5, 3, 4)),
    lambda m: m.nn.Transformer(4, 2, 1, 1, 6)(m.ones(3, 2, 4), m.ones(5, 2, 6)),
]


@pytest.mark.parametrize("expression", SAME)
def test_as_in_torch(expression: Callable[[Any], Any], same: Callable[..., None]) -> None:
    same(expression)
