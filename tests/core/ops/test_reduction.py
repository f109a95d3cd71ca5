"""Means over a batch: the gradient that is their count comes out as each sample's own, to the bit."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from mpigrad.nn import functional as F

import mpigrad

UNIT = ("binary_cross_entropy",)  # of probabilities
SIGNS = ("soft_margin_loss", "hinge_embedding_loss")  # targets are 1 or -1
POINTWISE: dict[str, Callable[[Any, Any], Any]] = {
    name: getattr(F, name)
    for name in (
        *("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "poisson_nll_loss", "soft_margin_loss"),
        *("binary_cross_entropy", "binary_cross_entropy_with_logits"),
        *("hinge_embedding_loss", "multilabel_soft_margin_loss"),
    )
}
POINTWISE["kl_div"] = lambda x, t: F.kl_div(x, t, reduction="batchmean")
POINTWISE["cross_entropy, probabilities"] = F.cross_entropy
OF_CLASSES: dict[str, Callable[[Any, Any], Any]] = {
    "cross_entropy": F.cross_entropy,
    "cross_entropy, smooth": lambda x, t: F.cross_entropy(x, t, label_smoothing=0.1),
    "cross_entropy, each": lambda x, t: F.cross_entropy(x, t, reduction="none").mean(),
    "nll_loss": lambda x, t: F.nll_loss(F.log_softmax(x, 1), t),
    "multi_margin_loss": F.multi_margin_loss,
    "mean": lambda x, t: (F.cross_entropy(x, t, reduction="none") + x.square().sum(1) * 0.1).mean(),
    "halved": lambda x, t: F.cross_entropy(x, t) / 2 + F.cross_entropy(x.tanh(), t) * 0.25,
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", [*POINTWISE, *OF_CLASSES])
def test_a_mean_divides_first(name: str, dtype: Any) -> None:
    rng, columns = np.random.default_rng(0), 10
    x = rng.random((61, columns)).astype(dtype) if name in UNIT else rng.standard_normal((61, columns)).astype(dtype)
    t = rng.integers(0, columns, 61) if name in OF_CLASSES else rng.random((61, columns)).astype(dtype)
    t = np.sign(t - 0.5) if name in SIGNS else t
    loss = (POINTWISE | OF_CLASSES)[name]

    def gradient(lo: int, hi: int) -> np.ndarray:
        batch = mpigrad.tensor(x[lo:hi], requires_grad=True)
        value = loss(batch, mpigrad.tensor(t[lo:hi]))
        value.backward(mpigrad.full_like(value, hi - lo))
        assert batch.grad is not None
        return batch.grad.numpy()

    whole = gradient(0, 61)
    for edges in ([0, 1, 4, 17, 37, 61], [0, 24, 48, 61]):  # rows do not depend on their number or on their place
        parts = [gradient(lo, hi) for lo, hi in itertools.pairwise(edges)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
