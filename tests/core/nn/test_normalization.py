"""Layer, RMS, group, batch and instance normalisation as modules, against torch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

draw = np.random.default_rng(0).standard_normal
SHAPES = [(4, 3), (4, 3, 5), (2, 3, 4, 2), (2, 3, 2, 2, 2)]
DIGITS = dict(zip(SHAPES, (1, 1, 2, 3), strict=True))
OPTIONS: list[dict[str, Any]] = [
    {},
    {"affine": True, "track_running_stats": True},
    {"affine": False, "momentum": None},
    {"affine": True, "bias": False, "track_running_stats": False, "eps": 0.1},
    {"momentum": 0.3, "track_running_stats": True},
]
CASES: list[tuple[Callable[[Any], Any], tuple[int, ...]]] = [
    (lambda m: m.nn.LayerNorm(5), (2, 5)),
    (lambda m: m.nn.LayerNorm([3, 5], eps=0.1, bias=False), (2, 3, 5)),
    (lambda m: m.nn.LayerNorm((5,), elementwise_affine=False), (2, 5)),
    (lambda m: m.nn.RMSNorm(5), (2, 5)),
    (lambda m: m.nn.RMSNorm((3, 5), 0.1, False), (2, 3, 5)),
    (lambda m: m.nn.GroupNorm(2, 4), (2, 4, 3)),
    (lambda m: m.nn.GroupNorm(2, 4, bias=False), (2, 4, 3)),
    (lambda m: m.nn.GroupNorm(2, 4, affine=False), (2, 4, 3)),
    (lambda m: m.nn.LocalResponseNorm(2, 0.1), (2, 4, 3)),
    *[
        (lambda m, name=f"{kind}Norm{DIGITS[shape]}d", o=o: getattr(m.nn, name)(3, **o), shape)
        for kind in ("Batch", "Instance")
        for shape in SHAPES
        for o in OPTIONS
        if (kind, len(shape)) != ("Instance", 2)
    ],
    *[(lambda m, n=n: getattr(m.nn, f"InstanceNorm{n}d")(3), (3, 2, 4, 2)[: n + 1]) for n in (1, 2, 3)],
]  # fmt: skip
SAME: list[Callable[[Any], Any]] = [
    lambda m: m.nn.BatchNorm1d(3)(m.ones(3)),
    lambda m: m.nn.BatchNorm2d(3)(m.ones(2, 3)),
    lambda m: m.nn.BatchNorm1d(3)(m.ones(1, 3)),
    lambda m: m.nn.InstanceNorm1d(3)(m.ones(3)),
    lambda m: m.nn.InstanceNorm1d(2, affine=True)(m.ones(2, 3, 4)),
    lambda m: m.nn.GroupNorm(2, 3),
    lambda m: twice(m).state_dict(),
    lambda m: (n := twice(m)).reset_running_stats() or n.state_dict(),
    lambda m: n.double().state_dict() if (n := m.nn.BatchNorm1d(2)) else None,
]


def twice(m: Any) -> Any:
    """With the mean of all batches, which are exact numbers here."""
    norm = m.nn.BatchNorm1d(2, momentum=None)
    for scale in (1.0, 3.0):
        norm(m.tensor([[0.0, 2.0], [2.0, 4.0]]) * scale)
    return norm


@pytest.mark.parametrize(("build", "shape"), CASES)
def test_module(build: Callable[[Any], Any], shape: tuple[int, ...], alike: Callable[..., None]) -> None:
    x = draw(shape).astype(np.float32)
    alike(build, x, x[::-1] * 2, call=lambda module, a, b: [module(a), module(b)])


@pytest.mark.parametrize("expression", SAME)
def test_as_in_torch(expression: Callable[[Any], Any], same: Callable[..., None]) -> None:
    same(expression)


def test_features_that_do_not_match_are_warned_about(torch: Any) -> None:
    from mpigrad import nn, ones

    with pytest.warns(UserWarning, match="input's size at dim=1 does not match num_features"):
        nn.InstanceNorm1d(2)(ones(2, 3, 4))
