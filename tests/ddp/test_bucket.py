"""Buckets: the last parameters first, up to a size, in flat memory."""

import numpy as np
import pytest

import mpigrad
from mpigrad import Parameter, nn
from mpigrad.ddp.bucket import MIB, make_buckets


def parameters(*sizes: int, dtype: mpigrad.dtype = mpigrad.float32) -> list[tuple[str, Parameter]]:
    return [(f"p{i}", Parameter(mpigrad.full((size,), float(i), dtype=dtype))) for i, size in enumerate(sizes)]


@pytest.mark.parametrize(
    "caps, expected",
    [
        ((MIB, MIB), ["p0, p1, p2, p3, p4"]),
        ((80, 120), ["p2, p3, p4", "p0, p1"]),  # 80 bytes, of which p3 has none, and 120
        ((79, 119), ["p3, p4", "p1, p2", "p0"]),
        ((40, 160), ["p3, p4", "p0, p1, p2"]),
        ((1, 1), ["p4", "p3", "p2", "p1", "p0"]),  # what is too large has a bucket of its own
    ],
)
def test_sizes(caps: tuple[float, float], expected: list[str]) -> None:
    found = [bucket.name for bucket in make_buckets(parameters(20, 10, 10, 0, 10), *caps)]
    assert found == [f"reduction of gradient bucket {i} ({names})" for i, names in enumerate(expected)]


def test_memory() -> None:
    named = parameters(3, 4, 5)
    buckets = make_buckets(named, 36, 36)
    assert [b.values.tolist() for b in buckets] == [[1.0] * 4 + [2.0] * 5, [0.0] * 3]
    for bucket in buckets:
        bucket.gradients[...] = np.arange(bucket.gradients.size)
        assert np.concatenate([p.home.gradient for p in bucket.tensors]).tolist() == bucket.gradients.tolist()
        assert bucket.holds()
    named[1][1].data = mpigrad.ones(4)
    assert [b.holds() for b in buckets] == [False, True]


def test_dtypes_have_buckets_of_their_own() -> None:
    named = [("a", parameters(2)[0][1]), ("b", parameters(2, dtype=mpigrad.float64)[0][1]), ("c", parameters(3)[0][1])]
    buckets = make_buckets(named, MIB, MIB)
    assert [(b.gradients.dtype, len(b.tensors)) for b in buckets] == [(np.float64, 1), (np.float32, 2)]


def test_a_shared_parameter_has_one_place() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    (bucket,) = make_buckets(list(model.named_parameters()), MIB, MIB)
    assert bucket.name.endswith("(0.weight, 0.bias, 2.bias)") and bucket.values.size == 15
