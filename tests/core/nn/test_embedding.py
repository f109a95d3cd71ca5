"""Embedding and EmbeddingBag as modules, against torch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

INDEX = np.array([[1, 4, 0], [4, 4, 2]])
OPTIONS: list[dict[str, Any]] = [
    {},
    {"padding_idx": -1},
    {"padding_idx": 2, "max_norm": 1.0},
    {"max_norm": 0.5, "norm_type": 1.0},
    {"scale_grad_by_freq": True},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_embedding(options: dict[str, Any], alike: Callable[..., None]) -> None:
    alike(lambda m: m.nn.Embedding(5, 3, **options), INDEX)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("options", OPTIONS[:-1])
def test_embedding_bag(mode: str, options: dict[str, Any], alike: Callable[..., None]) -> None:
    alike(lambda m: m.nn.EmbeddingBag(5, 3, mode=mode, **options), INDEX)
    alike(lambda m: m.nn.EmbeddingBag(5, 3, mode=mode, **options), INDEX.reshape(-1), np.array([0, 2]))


SAME: list[Callable[[Any], Any]] = [
    lambda m: m.nn.Embedding(3, 2, padding_idx=3),
    lambda m: m.nn.Embedding(3, 2, _weight=m.ones(2, 2)),
    lambda m: (e := m.nn.Embedding.from_pretrained(m.ones(2, 3)), e.weight.requires_grad, e(m.tensor([1])))[1:],
    lambda m: repr(m.nn.Embedding.from_pretrained(m.ones(2, 3), freeze=False, padding_idx=1)),
    lambda m: m.nn.Embedding.from_pretrained(m.ones(2)),
    lambda m: m.nn.EmbeddingBag.from_pretrained(m.ones(2, 3), mode="sum")(m.tensor([[0, 1]])),
]


@pytest.mark.parametrize("expression", SAME)
def test_as_in_torch(expression: Callable[[Any], Any], same: Callable[..., None]) -> None:
    same(expression)
