"""Recurrent networks and packed sequences, against torch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mpigrad

draw = np.random.default_rng(0).standard_normal
X = draw((4, 3, 5)).astype(np.float32)
OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_layers": 2, "bidirectional": True, "batch_first": True},
    {"num_layers": 3, "dropout": 0.4, "bias": False},
    {"bidirectional": True, "num_layers": 2, "dropout": 0.5},
]
KINDS = ["RNN", "GRU", "LSTM"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", OPTIONS)
def test_layers(kind: str, options: dict[str, Any], alike: Callable[..., None]) -> None:
    alike(lambda m: getattr(m.nn, kind)(5, 2, **options), X)
    alike(lambda m: getattr(m.nn, kind)(5, 2, **options), X[:, 0])
    states = [draw((options.get("num_layers", 1) * (1 + options.get("bidirectional", 0)), n, 2)) for n in (3, 4)]
    state = states[bool(options.get("batch_first"))].astype(np.float32)
    start = (lambda f, x, h: f(x, (h, h * 2))) if kind == "LSTM" else (lambda f, x, h: f(x, h))
    alike(lambda m: getattr(m.nn, kind)(5, 2, **options), X, state, call=start)


@pytest.mark.filterwarnings("ignore:LSTM with projections")  # torch's, that it takes its slow way
def test_other_options(alike: Callable[..., None]) -> None:
    alike(lambda m: m.nn.RNN(5, 2, 2, "relu"), X)
    alike(lambda m: m.nn.LSTM(5, 3, 2, proj_size=2, bidirectional=True), X)


@pytest.mark.parametrize("kind", [f"{kind}Cell" for kind in KINDS])
@pytest.mark.parametrize("options", [{}, {"bias": False}])
def test_cells(kind: str, options: dict[str, Any], alike: Callable[..., None]) -> None:
    for x, state in ((X[0], draw((3, 2))), (X[0, 0], draw(2))):
        start = (lambda f, x, h: f(x, (h, h * 2))) if kind == "LSTMCell" else (lambda f, x, h: f(x, h))
        alike(lambda m: getattr(m.nn, kind)(5, 2, **options), x)
        alike(lambda m: getattr(m.nn, kind)(5, 2, **options), x, state.astype(np.float32), call=start)


def test_relu_cell(alike: Callable[..., None]) -> None:
    alike(lambda m: m.nn.RNNCell(5, 2, nonlinearity="relu"), X[0])


def sequences(m: Any, *lengths: int) -> list[Any]:
    return [m.arange(2.0 * n).reshape(n, 2) for n in lengths]


def packed(m: Any, *lengths: int, **options: Any) -> Any:
    return m.nn.utils.rnn.pack_sequence(sequences(m, *lengths), **options)


def trained(m: Any) -> Any:
    x = m.ones(3, 2, 1).requires_grad_()
    rnn = m.nn.utils.rnn
    pack = rnn.pack_padded_sequence(x, [1, 3], enforce_sorted=False)
    padded, lengths = rnn.pad_packed_sequence(pack._replace(data=pack.data * 2), total_length=4)
    (padded * m.arange(4.0).reshape(4, 1, 1)).sum().backward()
    return [padded, lengths, x.grad]


SAME: list[Callable[[Any], Any]] = [
    lambda m: list(packed(m, 3, 2, 2)),
    lambda m: list(packed(m, 1, 3, 2, enforce_sorted=False)),
    lambda m: list(packed(m, 1, 3).data),
    lambda m: m.nn.utils.rnn.pad_packed_sequence(packed(m, 1, 3, 2, enforce_sorted=False), padding_value=7.0),
    lambda m: m.nn.utils.rnn.pad_packed_sequence(packed(m, 3, 2), batch_first=True, total_length=4),
    lambda m: m.nn.utils.rnn.pad_packed_sequence(packed(m, 3, 2), total_length=2),
    lambda m: m.nn.utils.rnn.unpack_sequence(packed(m, 1, 3, enforce_sorted=False)),
    lambda m: m.nn.utils.rnn.pad_sequence(sequences(m, 1, 3)),
    lambda m: m.nn.utils.rnn.pad_sequence(sequences(m, 1, 3), True, -1.0, "left"),
    lambda m: m.nn.utils.rnn.pad_sequence([m.ones(2), m.ones(1)]),
    lambda m: m.nn.utils.rnn.unpad_sequence(m.arange(6.0).reshape(3, 2), m.tensor([1, 3])),
    lambda m: list(m.nn.utils.rnn.pack_padded_sequence(m.ones(2, 3, 1), m.tensor([3, 1]), batch_first=True)),
    lambda m: list(packed(m, 2, 1).to(m.float64)),
    lambda m: [list(p) for p in (packed(m, 2).double(), packed(m, 2).double().float(), packed(m, 1).half().cpu())],
    lambda m: m.nn.utils.rnn.pack_sequence([]),
    lambda m: m.nn.utils.rnn.pack_padded_sequence(m.ones(3, 2), [2, 0]),
    trained,
    lambda m: m.nn.LSTM(5, 2, proj_size=2),
    lambda m: m.nn.GRU(5, 2, proj_size=1),
    lambda m: m.nn.GRU(0, 2),
    lambda m: m.nn.GRU(5, 0),
    lambda m: m.nn.GRU(5, 2, 0),
    lambda m: m.nn.GRU(5, 2, dropout=2),
    lambda m: m.nn.RNN(5, 2, nonlinearity="sin"),
    lambda m: m.nn.GRU(5, 2)(m.ones(5)),
    lambda m: m.nn.GRU(5, 2)(m.ones(3, 2, 4)),
    lambda m: m.nn.GRU(5, 2)(m.ones(3, 2, 5), m.ones(1, 3, 2)),
    lambda m: m.nn.GRU(5, 2)(m.ones(3, 2, 5), m.ones(3, 2)),
    lambda m: m.nn.LSTM(5, 2)(m.ones(3, 2, 5), (m.ones(1, 2, 2), m.ones(1, 2, 3))),
    lambda m: m.nn.LSTM(5, 2)(m.ones(3, 5), (m.ones(1, 2, 2), m.ones(1, 2, 3))),
    lambda m: m.nn.LSTMCell(5, 2)(m.ones(3, 3, 5)),
    lambda m: m.nn.GRUCell(5, 2)(m.ones(3, 5), m.ones(3, 1, 2)),
]
SAME_CLASS: list[Callable[[Any], Any]] = [
    lambda m: m.nn.RNNBase("MLP", 5, 2),
    lambda m: m.nn.GRUCell(5, 2)(m.ones(3, 4)),
    lambda m: m.nn.GRUCell(5, 2)(m.ones(3, 5), m.ones(3, 3)),
    lambda m: m.nn.utils.rnn.pack_padded_sequence(m.ones(3, 2), [1, 3]),
    lambda m: m.nn.utils.rnn.pack_padded_sequence(m.ones(3, 2), [3]),
    lambda m: m.nn.utils.rnn.pad_sequence(sequences(m, 1, 3), padding_side="up"),
]


@pytest.mark.parametrize("expression", SAME)
def test_as_in_torch(expression: Callable[[Any], Any], same: Callable[..., None]) -> None:
    same(expression)


@pytest.mark.parametrize("expression", SAME_CLASS)
def test_error_of_the_same_class(expression: Callable[[Any], Any], same_class: Callable[..., None]) -> None:
    same_class(expression)


def test_dropout_on_a_single_layer_is_warned_about() -> None:
    from mpigrad import nn

    with pytest.warns(UserWarning, match="dropout option adds dropout after all but last recurrent layer"):
        nn.GRU(2, 2, dropout=0.5)


@pytest.mark.parametrize("kind", ["RNN", "GRU"])
def test_outputs_changed_in_place(kind: str, alike: Callable[..., None]) -> None:
    """The gradient does not need them; torch refuses this of its LSTM."""
    alike(lambda m: getattr(m.nn, kind)(5, 2), X, call=lambda f, x: f(x)[0].mul_(2))


def test_packing_more_than_there_is() -> None:
    """PyTorch reads on behind the padded tensor."""
    with pytest.raises(RuntimeError, match="Expected lengths of at most 3, but found 4"):
        mpigrad.nn.utils.rnn.pack_padded_sequence(mpigrad.ones(3, 2), [4, 1])
