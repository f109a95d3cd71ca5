"""Recurrent networks."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

from .. import creation
from ..dtypes import dtype as Dtype
from ..ops.join import cat, stack
from ..ops.recurrent import GATES, recurrent
from . import functional, init
from .module import Module, Parameter
from .utils.rnn import PackedSequence

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNBase", "RNNCell"]


class _Recurrent(Module):
    """All weights from U(-k, k), k = 1 / sqrt(hidden_size)."""

    hidden_size: int

    def reset_parameters(self) -> None:
        """Draw the start values anew."""
        bound = 1 / math.sqrt(self.hidden_size) if self.hidden_size > 0 else 0
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def _add(self, suffix: str, sizes: dict[str, tuple[int, ...] | None], device: Any, dtype: Dtype | None) -> None:
        """Parameters of these shapes, or None, under their names and the suffix."""
        for name, shape in sizes.items():
            made = None if shape is None else Parameter(creation.empty(shape, device=device, dtype=dtype))
            setattr(self, name + suffix, made)


class RNNBase(_Recurrent):
    """Layers of recurrence over sequences, in both directions if bidirectional.

    input (T, N, input_size), (N, T, input_size) if batch_first, (T, input_size), or a PackedSequence. Returns the
    outputs of the last layer (..., directions * P) and the last states (layers * directions, N, P), where P is
    proj_size or else hidden_size. mode: "LSTM", "GRU", "RNN_TANH" or "RNN_RELU".
    """

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Dtype | None = None,
    ) -> None:
        super().__init__()
        if mode not in GATES:
            raise ValueError(f"Unrecognized RNN mode: {mode}")
        for name, flag in (("bias", bias), ("batch_first", batch_first)):
            if not isinstance(flag, bool):
                raise TypeError(f"{name} should be of type bool, got: {type(flag).__name__}")
        _check_sizes(input_size, hidden_size, num_layers, proj_size, dropout)
        if dropout > 0 and num_layers == 1:
            warnings.warn(
                "dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects "
                f"num_layers greater than 1, but got dropout={dropout} and num_layers={num_layers}",
                stacklevel=3,
            )
        self.mode, self.input_size, self.hidden_size, self.num_layers = mode, input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout = bias, batch_first, float(dropout)
        self.bidirectional, self.proj_size = bidirectional, proj_size
        gates, out = GATES[mode] * hidden_size, proj_size or hidden_size
        self._suffixes = ["", "_reverse"] if bidirectional else [""]
        for layer in range(num_layers):
            for suffix in self._suffixes:
                sizes: dict[str, tuple[int, ...] | None] = {
                    "weight_ih": (gates, len(self._suffixes) * out if layer else input_size),
                    "weight_hh": (gates, out),
                    "bias_ih": (gates,) if bias else None,
                    "bias_hh": (gates,) if bias else None,
                    "weight_hr": (proj_size, hidden_size) if proj_size else None,
                }
                self._add(f"_l{layer}{suffix}", sizes, device, dtype)
        self.reset_parameters()

    def flatten_parameters(self) -> None:
        """Nothing: only cuDNN would want the weights in one piece."""

    def forward(self, input: Any, hx: Any = None) -> Any:
        packed = isinstance(input, PackedSequence)
        data = input.data if packed else input
        if not packed and data.array.ndim not in (2, 3):
            name = type(self).__name__
            raise ValueError(f"{name}: Expected input to be 2D or 3D, got {data.array.ndim}D instead")
        batched = packed or data.array.ndim == 3
        if not packed:
            data = data if batched else data.unsqueeze(1)
            data = data.transpose(0, 1) if self.batch_first and batched else data
        states = self._states(data, input.batch_sizes if packed else None, hx, batched)
        if data.array.shape[-1] != self.input_size:
            raise RuntimeError(
                f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got {data.array.shape[-1]}"
            )
        if packed:
            sizes: Sequence[int] = input.batch_sizes.tolist()
            if input.sorted_indices is not None and hx is not None:
                states = [s[:, input.sorted_indices] for s in states]
            rows, last = self._layers(data, states, sizes)
            output: Any = PackedSequence(rows, *input[1:])
            if input.unsorted_indices is not None:
                last = [s[:, input.unsorted_indices] for s in last]
        else:
            steps, batch, width = data.array.shape
            rows, last = self._layers(data.reshape(steps * batch, width), states, [batch] * steps)
            output = rows.reshape(steps, batch, rows.array.shape[-1])
            output = output.transpose(0, 1) if self.batch_first and batched else output
            if not batched:
                output, last = output.squeeze(1), [s.squeeze(1) for s in last]
        return output, tuple(last) if self.mode == "LSTM" else last[0]

    def _layers(self, data: Any, states: list[Any], sizes: Sequence[int]) -> tuple[Any, list[Any]]:
        """The output rows of the last layer, and the last states."""
        found: list[Any] = []
        for layer in range(self.num_layers):
            outputs = []
            for direction, suffix in enumerate(self._suffixes):
                place = layer * len(self._suffixes) + direction
                w_ih, w_hh, b_ih, b_hh, w_hr = (
                    getattr(self, f"{name}_l{layer}{suffix}")
                    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
                )
                start = [s[place] for s in states] + [None]
                gates = functional.linear(data, w_ih, b_ih)
                reverse = suffix == "_reverse"
                y, *last = recurrent(self.mode, gates, start[0], start[1], w_hh, b_hh, w_hr, sizes, reverse)
                outputs.append(y)
                found.append(last)
            data = outputs[0] if len(outputs) == 1 else cat(outputs, -1)
            if layer < self.num_layers - 1:
                data = functional.dropout(data, self.dropout, self.training)
        return data, [stack(parts) for parts in zip(*found, strict=True) if parts[0] is not None]

    def _states(self, data: Any, batch_sizes: Any, hx: Any, batched: bool) -> list[Any]:
        """The states to start from, with a batch dimension: those given, checked, or zeros."""
        batch = data.array.shape[1] if batch_sizes is None else int(batch_sizes[0])
        count = self.num_layers * len(self._suffixes)
        widths = [self.proj_size or self.hidden_size, self.hidden_size][: 1 + (self.mode == "LSTM")]
        if hx is None:
            return [creation.zeros(count, batch, n, dtype=data.dtype, device=data.device) for n in widths]
        states = list(hx) if self.mode == "LSTM" else [hx]
        if any(s.array.ndim != 2 + batched for s in states):
            found = ", ".join(f"{s.array.ndim}-D" for s in states)
            kind = f"For {'batched 3-D' if batched else 'unbatched 2-D'} input, "
            if self.mode == "LSTM":
                raise RuntimeError(f"{kind}hx and cx should also be {2 + batched}-D but got ({found}) tensors")
            raise RuntimeError(f"{kind}hx should also be {2 + batched}-D but got {found} tensor")
        states = states if batched else [s.unsqueeze(1) for s in states]
        for i, (state, width) in enumerate(zip(states, widths, strict=True)):
            if state.array.shape != (count, batch, width):
                name = f"hidden[{i}]" if self.mode == "LSTM" else "hidden"
                raise RuntimeError(f"Expected {name} size {(count, batch, width)}, got {list(state.array.shape)}")
        return states

    def extra_repr(self) -> str:
        usual = {"proj_size": 0, "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0}
        usual["bidirectional"] = False
        shown = [f"{name}={getattr(self, name)}" for name, value in usual.items() if getattr(self, name) != value]
        return ", ".join([str(self.input_size), str(self.hidden_size), *shown])


def _check_sizes(input_size: int, hidden_size: int, num_layers: int, proj_size: int, dropout: Any) -> None:
    if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout <= 1:
        raise ValueError(
            "dropout should be a number in range [0, 1] representing the probability of an element being zeroed"
        )
    for name, size in (("input_size", input_size), ("hidden_size", hidden_size)):
        if not isinstance(size, int):
            raise TypeError(f"{name} should be of type int, got: {type(size).__name__}")
        if size <= 0:
            raise ValueError(f"{name} must be greater than zero")
    if num_layers <= 0:
        raise ValueError("num_layers must be greater than zero")
    if proj_size < 0:
        raise ValueError("proj_size should be a positive integer or zero to disable projections")
    if proj_size >= hidden_size:
        raise ValueError("proj_size has to be smaller than hidden_size")


class RNN(RNNBase):
    """h = tanh(W_ih x + b_ih + W_hh h + b_hh), or relu of that; options as in RNNBase."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        *args: Any,
        **options: Any,
    ) -> None:
        if options.get("proj_size", 0) > 0:
            raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'.")
        super().__init__(f"RNN_{nonlinearity.upper()}", input_size, hidden_size, num_layers, *args, **options)
        self.nonlinearity = nonlinearity


class LSTM(RNNBase):
    """Long short-term memory; hx and the last states are pairs (hidden, cell). Options as in RNNBase."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__("LSTM", *args, **options)


class GRU(RNNBase):
    """Gated recurrent units; options as in RNNBase."""

    def __init__(self, *args: Any, **options: Any) -> None:
        if options.get("proj_size", 0) > 0:
            raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
        super().__init__("GRU", *args, **options)


class _Cell(_Recurrent):
    """One step of a layer: input (N, input_size) or (input_size,), the states likewise; zeros if not given."""

    mode: str

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Dtype | None = None
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        gates = GATES[self.mode] * hidden_size
        several = (gates,) if bias else None
        sizes: Any = {"weight_ih": (gates, input_size), "weight_hh": (gates, hidden_size)}
        self._add("", {**sizes, "bias_ih": several, "bias_hh": several}, device, dtype)
        self.reset_parameters()

    def _step(self, input: Any, states: Sequence[Any] | None) -> list[Any]:
        name, mode, ndim = type(self).__name__, self.mode, input.array.ndim
        if ndim not in (1, 2):
            raise ValueError(f"{name}: Expected input to be 1D or 2D, got {ndim}D instead")
        for i, state in enumerate(states or ()):
            if state.array.ndim not in (1, 2):
                what = f"hx[{i}]" if mode == "LSTM" else "hidden"
                raise ValueError(f"{name}: Expected {what} to be 1D or 2D, got {state.array.ndim}D instead")
        rows = input if ndim == 2 else input.unsqueeze(0)
        batch, width = rows.array.shape
        if width != self.input_size:
            raise RuntimeError(f"input has inconsistent input_size: got {width} expected {self.input_size}")
        if states is None:
            zeros = creation.zeros(batch, self.hidden_size, dtype=input.dtype, device=input.device)
            states = [zeros] * (1 + (mode == "LSTM"))
        elif ndim == 1:
            states = [s.unsqueeze(0) for s in states]
        for i, state in enumerate(states):
            if state.array.shape != (batch, self.hidden_size):
                raise RuntimeError(
                    f"hidden{i} has inconsistent shape: got {list(state.array.shape)} expected "
                    f"{[batch, self.hidden_size]}"
                )
        w_ih, w_hh, b_ih, b_hh = (getattr(self, name) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        start = [*states, None]
        gates = functional.linear(rows, w_ih, b_ih)
        _, *last = recurrent(mode, gates, start[0], start[1], w_hh, b_hh, None, [batch])
        found = [s for s in last if s is not None]
        return found if ndim == 2 else [s.squeeze(0) for s in found]

    def extra_repr(self) -> str:
        return ", ".join([str(self.input_size), str(self.hidden_size)] + ([] if self.bias else ["bias=False"]))


class RNNCell(_Cell):
    """One step of an RNN: the next hidden state."""

    mode = "RNN_TANH"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Dtype | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, device, dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: Any, hx: Any = None) -> Any:
        if self.nonlinearity not in ("tanh", "relu"):
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        self.mode = f"RNN_{self.nonlinearity.upper()}"
        return self._step(input, None if hx is None else [hx])[0]

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity}")


class LSTMCell(_Cell):
    """One step of an LSTM: the next hidden and cell state."""

    mode = "LSTM"

    def forward(self, input: Any, hx: tuple[Any, Any] | None = None) -> tuple[Any, Any]:
        hidden, cell = self._step(input, hx)
        return hidden, cell


class GRUCell(_Cell):
    """One step of a GRU: the next hidden state."""

    mode = "GRU"

    def forward(self, input: Any, hx: Any = None) -> Any:
        return self._step(input, None if hx is None else [hx])[0]
