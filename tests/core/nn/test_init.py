"""Start values: torch's, drawn in its order."""

from typing import Any

import numpy as np
import pytest
from mpigrad.nn import init

import mpigrad

DRAWS: list[tuple[str, dict[str, Any]]] = [
    ("uniform_", {}),
    ("uniform_", {"a": -2.0, "b": 3.0}),
    ("normal_", {}),
    ("normal_", {"mean": 1.0, "std": 0.02}),
    ("constant_", {"val": 0.3}),
    ("zeros_", {}),
    ("ones_", {}),
    ("kaiming_uniform_", {}),
    ("kaiming_uniform_", {"a": 5**0.5, "mode": "fan_out"}),
    ("kaiming_uniform_", {"nonlinearity": "relu"}),
    ("kaiming_normal_", {"nonlinearity": "tanh"}),
    ("kaiming_normal_", {"mode": "fan_out", "nonlinearity": "relu"}),
    ("xavier_uniform_", {}),
    ("xavier_uniform_", {"gain": 2.0}),
    ("xavier_normal_", {"gain": 0.5}),
    ("trunc_normal_", {}),
    ("trunc_normal_", {"mean": 0.5, "std": 0.2, "a": 0.3, "b": 0.9}),
    ("trunc_normal_", {"std": 1.0, "a": 1.0, "b": 2.0}),
    ("trunc_normal_", {"mean": -3.0, "std": 1.0, "a": 0.0, "b": 1.0}),
    ("orthogonal_", {}),
    ("orthogonal_", {"gain": 2.0}),
    ("eye_", {}),
    ("dirac_", {}),
    ("dirac_", {"groups": 2}),
    ("sparse_", {"sparsity": 0.4}),
    ("sparse_", {"sparsity": 0.9, "std": 2.0}),
]
INEXACT = {"normal_", "kaiming_normal_", "xavier_normal_", "trunc_normal_", "orthogonal_", "sparse_"}
DIMENSIONS = {"eye_": (2,), "sparse_": (2,), "dirac_": (3, 4, 5)}


@pytest.mark.parametrize(("name", "options"), DRAWS)
@pytest.mark.parametrize("shape", [(3, 5), (8, 4, 3, 3), (6, 2, 3), (17, 4)])
@pytest.mark.filterwarnings("ignore:mean is more than 2 std")
def test_as_in_torch(name: str, options: dict[str, Any], shape: tuple[int, ...], torch: Any) -> None:
    if len(shape) not in DIMENSIONS.get(name, (len(shape),)):
        pytest.skip("another number of dimensions")
    results = []
    for m in (mpigrad, torch):
        m.manual_seed(1)
        tensor = m.nn.Parameter(m.zeros(shape))
        assert getattr(m.nn.init, name)(tensor, **options) is tensor
        assert tensor.is_leaf and tensor.requires_grad
        results.append(tensor.detach().numpy())
    compare = np.testing.assert_allclose if INEXACT & {name} else np.testing.assert_array_equal
    compare(*results, **({"rtol": 1e-5, "atol": 1e-6} if INEXACT & {name} else {}))


@pytest.mark.parametrize("nonlinearity", ["linear", "sigmoid", "tanh", "relu", "selu", "leaky_relu"])
@pytest.mark.parametrize("param", [None, 0.2])
def test_gain(nonlinearity: str, param: float | None, torch: Any) -> None:
    assert init.calculate_gain(nonlinearity, param) == torch.nn.init.calculate_gain(nonlinearity, param)


def test_errors() -> None:
    with pytest.raises(ValueError, match="Unsupported nonlinearity gelu"):
        init.calculate_gain("gelu")
    with pytest.raises(ValueError, match="Mode fan not supported"):
        init.kaiming_uniform_(mpigrad.zeros(2, 2), mode="fan")
    with pytest.raises(ValueError, match="can not be computed for tensor with fewer than 2 dimensions"):
        init.xavier_uniform_(mpigrad.zeros(2))


Expression = Any
SAME: list[Expression] = [
    lambda m: m.nn.init.eye_(m.ones(2)),
    lambda m: m.nn.init.dirac_(m.ones(2, 2)),
    lambda m: m.nn.init.dirac_(m.ones(3, 2, 2), groups=2),
    lambda m: m.nn.init.orthogonal_(m.ones(2)),
    lambda m: m.nn.init.orthogonal_(m.ones(0, 2)),
    lambda m: m.nn.init.sparse_(m.ones(2), 0.1),
    lambda m: m.nn.init.calculate_gain("leaky_relu", "steep"),
    lambda m: m.nn.init.calculate_gain("leaky_relu", True),
    lambda m: [m.nn.init.calculate_gain(f"conv{n}d") for n in (1, 2, 3)],
    lambda m: m.nn.init.calculate_gain("conv_transpose2d"),
]


@pytest.mark.parametrize("expression", SAME)
def test_special_cases(expression: Expression, same: Any) -> None:
    same(expression)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (3, 2, 2)])
def test_orthogonal_is(shape: tuple[int, ...]) -> None:
    rows = init.orthogonal_(mpigrad.zeros(shape).double(), gain=3.0).numpy().reshape(shape[0], -1)
    few = rows if rows.shape[0] <= rows.shape[1] else rows.T
    np.testing.assert_allclose(few @ few.T, 9 * np.eye(len(few)), atol=1e-12)


def test_nothing_to_initialise_warns() -> None:
    with pytest.warns(UserWarning, match="zero-element tensors is a no-op"):
        init.kaiming_uniform_(mpigrad.zeros(0, 3))
    with pytest.warns(UserWarning, match="mean is more than 2 std"):
        init.trunc_normal_(mpigrad.zeros(3), 9.0)
