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
]


@pytest.mark.parametrize(("name", "options"), DRAWS)
@pytest.mark.parametrize("shape", [(3, 5), (8, 4, 3, 3)])
def test_as_in_torch(name: str, options: dict[str, Any], shape: tuple[int, ...], torch: Any) -> None:
    results = []
    for m in (mpigrad, torch):
        m.manual_seed(1)
        tensor = m.nn.Parameter(m.zeros(shape))
        assert getattr(m.nn.init, name)(tensor, **options) is tensor
        assert tensor.is_leaf and tensor.requires_grad
        results.append(tensor.detach().numpy())
    compare = np.testing.assert_allclose if "normal" in name else np.testing.assert_array_equal
    compare(*results, **({"rtol": 1e-5, "atol": 1e-6} if "normal" in name else {}))


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
