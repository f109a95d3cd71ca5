"""Sequences of different lengths as one tensor: padded, or packed without padding."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Sequence
from typing import Any

import numpy as np

from ... import creation, dtypes
from ...autograd import Variable, wrap
from ...backend import device_of, to_device, to_host
from ...ops.join import stack
from ...ops.pad import pad

__all__ = [
    "PackedSequence",
    "pack_padded_sequence",
    "pack_sequence",
    "pad_packed_sequence",
    "pad_sequence",
    "unpack_sequence",
    "unpad_sequence",
]


class PackedSequence(namedtuple("_Packed", ["data", "batch_sizes", "sorted_indices", "unsorted_indices"])):
    """The elements of all sequences, longest first, step by step: batch_sizes[t] of them belong to step t.

    sorted_indices say where each sequence was before sorting, unsorted_indices where it is now; None if sorted before.
    """

    __slots__ = ()

    def __new__(
        cls, data: Any, batch_sizes: Any = None, sorted_indices: Any = None, unsorted_indices: Any = None
    ) -> PackedSequence:
        if unsorted_indices is None and sorted_indices is not None:
            unsorted_indices = _inverse(sorted_indices)
        return super().__new__(cls, data, batch_sizes, sorted_indices, unsorted_indices)

    def to(self, *args: Any, **options: Any) -> PackedSequence:
        """With the data in another dtype or on another device."""
        data = self.data.to(*args, **options)
        moved = [i if i is None else i.to(device=data.device) for i in self[2:]]
        return type(self)(data, self.batch_sizes, *moved)

    def double(self) -> PackedSequence:
        """With the data in float64."""
        return self.to(dtypes.float64)

    def float(self) -> PackedSequence:
        """With the data in float32."""
        return self.to(dtypes.float32)

    def half(self) -> PackedSequence:
        """With the data in float16."""
        return self.to(dtypes.float16)

    def cpu(self) -> PackedSequence:
        """On the host."""
        return self.to(device="cpu")

    def cuda(self, device: int = 0) -> PackedSequence:
        """On a GPU."""
        return self.to(device=f"cuda:{device}")

    @property
    def is_cuda(self) -> bool:
        """Whether the data is on a GPU."""
        return bool(self.data.device.type == "cuda")


def _inverse(permutation: Any) -> Any:
    return wrap(np.argsort(permutation.array))


def pack_padded_sequence(
    input: Any, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """Pack sequences padded to one length: input (T, N, ...), or (N, T, ...) if batch_first, lengths (N,).

    enforce_sorted: the lengths must not increase; else they are sorted, and the order is remembered.
    """
    sizes = to_host(lengths.array) if isinstance(lengths, Variable) else np.asarray(lengths, np.int64)
    padded = input.transpose(0, 1) if batch_first else input
    if len(sizes) != padded.array.shape[1]:
        raise RuntimeError(
            f"Expected `len(lengths)` to be equal to batch_size, but got {len(sizes)} (batch_size="
            f"{padded.array.shape[1]})"
        )
    indices: tuple[Any, ...] = ()
    if not enforce_sorted:
        order = np.argsort(-sizes, kind="stable")
        sizes = sizes[order]
        indices = _beside(order, input), _beside(np.argsort(order), input)
        padded = padded[:, indices[0]]
    if (sizes[1:] > sizes[:-1]).any():
        raise RuntimeError(
            "`lengths` array must be sorted in decreasing order when `enforce_sorted` is True. You can pass "
            "`enforce_sorted=False` to pack_padded_sequence and/or pack_sequence to sidestep this requirement if you "
            "do not need ONNX exportability."
        )
    if (sizes <= 0).any():
        raise RuntimeError(
            "Length of all samples has to be greater than 0, but found an element in 'lengths' that is <= 0"
        )
    if sizes.max() > len(padded.array):
        raise RuntimeError(f"Expected lengths of at most {len(padded.array)}, but found {sizes.max()} in 'lengths'")
    inside = _inside(sizes)
    return PackedSequence(padded[: len(inside)][_beside(inside, input)], wrap(inside.sum(1)), *indices)


def _beside(array: np.ndarray, other: Any) -> Any:
    """A tensor of the array, on the other tensor's device."""
    return wrap(to_device(array, device_of(other.array)))


def _inside(lengths: np.ndarray) -> np.ndarray:
    """Which elements of the padded (T, N) belong to a sequence: row by row they are in packed order."""
    return np.arange(lengths.max(initial=0))[:, None] < lengths


def pad_packed_sequence(
    sequence: PackedSequence, batch_first: bool = False, padding_value: float = 0.0, total_length: int | None = None
) -> tuple[Any, Any]:
    """The sequences padded to the longest, or to total_length, and their lengths, in the order from before packing."""
    data, sizes = sequence.data, to_host(sequence.batch_sizes.array)
    steps, batch = len(sizes), int(sizes[0])
    if total_length is not None and total_length < steps:
        raise ValueError(
            "Expected total_length to be at least the length of the longest sequence in input, but got "
            f"total_length={total_length} and max sequence length being {steps}"
        )
    shape = (total_length or steps, batch, *data.array.shape[1:])
    padded = creation.full(shape, padding_value, dtype=data.dtype, device=data.device)
    inside = np.arange(batch) < sizes[:, None]
    whole = np.zeros(shape[:2], bool)
    whole[:steps] = inside
    padded[_beside(whole, data)] = data
    lengths = inside.sum(0)
    if sequence.unsorted_indices is not None:
        padded = padded[:, sequence.unsorted_indices]
        lengths = lengths[to_host(sequence.unsorted_indices.array)]
    return padded.transpose(0, 1) if batch_first else padded, wrap(lengths)


def pad_sequence(
    sequences: Any, batch_first: bool = False, padding_value: float = 0.0, padding_side: str = "right"
) -> Any:
    """Sequences (T_i, ...) padded to the longest, as (T, N, ...), or (N, T, ...) if batch_first."""
    if padding_side not in ("left", "right"):
        raise RuntimeError(f"Expected padding_side to be one of left or right, but got {padding_side}.")
    parts = list(sequences)
    if not parts:
        raise RuntimeError("received an empty list of sequences")
    longest = max(len(part) for part in parts)
    ends = [(0, longest - len(part)) if padding_side == "right" else (longest - len(part), 0) for part in parts]
    before = [[0, 0] * (part.array.ndim - 1) for part in parts]
    padded = [pad(p, (*rest, *end), value=padding_value) for p, rest, end in zip(parts, before, ends, strict=True)]
    return stack(padded, 0 if batch_first else 1)


def unpad_sequence(padded_sequences: Any, lengths: Any, batch_first: bool = False) -> list[Any]:
    """The sequences that pad_sequence padded: views."""
    rows = padded_sequences if batch_first else padded_sequences.transpose(0, 1)
    return [row[: int(n)] for row, n in zip(rows, lengths, strict=True)]


def pack_sequence(sequences: Sequence[Any], enforce_sorted: bool = True) -> PackedSequence:
    """Pack sequences (T_i, ...), without padding them first."""
    lengths = [len(sequence) for sequence in sequences]
    return pack_padded_sequence(pad_sequence(sequences), lengths, enforce_sorted=enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list[Any]:
    """The sequences that pack_sequence packed."""
    return unpad_sequence(*pad_packed_sequence(packed_sequences, batch_first=True), batch_first=True)
