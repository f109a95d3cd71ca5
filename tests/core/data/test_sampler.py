"""Samplers: torch's order for the same seed, and where they leave the random stream."""

from collections.abc import Callable
from typing import Any

import pytest

import mpigrad


@pytest.fixture
def both(torch: Any, same: Any, same_class: Any) -> Callable[[Any], None]:
    """Run `expression(m, d, generator)` in both libraries with d their data module; compare results or errors."""
    import torch.utils.data as theirs

    def check(expression: Any) -> None:
        def run(m: Any, own: bool) -> Any:
            m.manual_seed(4)
            generator = m.Generator().manual_seed(8) if own else None
            found = expression(m, mpigrad.data if m is mpigrad else theirs, generator)
            return found, m.rand(1), m.rand(1, generator=generator)

        for own in (False, True):
            try:
                run(torch, own)
            except Exception:  # noqa: BLE001  (the class of the error is compared)
                same_class(lambda m, own=own: run(m, own))
            else:
                same(lambda m, own=own: run(m, own))

    return check


def passes(sampler: Any) -> Any:
    """Two passes, one that is broken off between them, and the length."""
    first = list(sampler)
    next(iter(sampler))
    return first, list(sampler), len(sampler)


WEIGHTS = [0.1, 0.9, 0.4, 0.7, 3.0, 0.6]
CASES: list[Any] = [
    lambda m, d, g: passes(d.SequentialSampler("abc")),
    lambda m, d, g: passes(d.RandomSampler(range(10), generator=g)),
    lambda m, d, g: passes(d.RandomSampler(range(10), num_samples=25, generator=g)),
    lambda m, d, g: passes(d.RandomSampler(range(10), num_samples=3, generator=g)),
    lambda m, d, g: passes(d.RandomSampler(range(10), True, generator=g)),
    lambda m, d, g: passes(d.RandomSampler(range(10), True, 70, g)),
    lambda m, d, g: passes(d.RandomSampler(range(10), True, 64, g)),
    lambda m, d, g: d.RandomSampler([], generator=g),
    lambda m, d, g: d.RandomSampler([1], 1),
    lambda m, d, g: d.RandomSampler([1], num_samples=0),
    lambda m, d, g: d.RandomSampler([1], num_samples=1.5),
    lambda m, d, g: passes(d.SubsetRandomSampler([3, 5, "a", 7], g)),
    lambda m, d, g: passes(d.WeightedRandomSampler(WEIGHTS, 50, True, g)),
    lambda m, d, g: passes(d.WeightedRandomSampler(WEIGHTS, 5, False, g)),
    lambda m, d, g: passes(d.WeightedRandomSampler(WEIGHTS, 1, True, g)),
    lambda m, d, g: passes(d.WeightedRandomSampler(m.tensor([1, 0, 2]), 9, generator=g)),
    lambda m, d, g: passes(d.WeightedRandomSampler([0.0, 1.0, 0.0], 2, generator=g)),
    lambda m, d, g: list(d.WeightedRandomSampler(WEIGHTS, 7, False, g)),
    lambda m, d, g: list(d.WeightedRandomSampler([0.0, 0.0], 2)),
    lambda m, d, g: list(d.WeightedRandomSampler([-1.0, 2.0], 2)),
    lambda m, d, g: list(d.WeightedRandomSampler([float("nan"), 2.0], 2)),
    lambda m, d, g: d.WeightedRandomSampler([[1.0]], 2),
    lambda m, d, g: d.WeightedRandomSampler([1.0], 0),
    lambda m, d, g: d.WeightedRandomSampler([1.0], True),
    lambda m, d, g: d.WeightedRandomSampler([1.0], 2, 1),
    lambda m, d, g: passes(d.BatchSampler(d.RandomSampler(range(10), generator=g), 3, False)),
    lambda m, d, g: passes(d.BatchSampler(d.RandomSampler(range(10), generator=g), 3, True)),
    lambda m, d, g: passes(d.BatchSampler(range(6), 3, True)),
    lambda m, d, g: list(d.BatchSampler([], 3, False)),
    lambda m, d, g: d.BatchSampler([1], True, False),
    lambda m, d, g: d.BatchSampler([1], 1.5, False),
    lambda m, d, g: d.BatchSampler([1], 2, 1),
    lambda m, d, g: iter(d.Sampler()),
]


@pytest.mark.parametrize("case", CASES)
def test_as_in_torch(case: Any, both: Any) -> None:
    both(case)
