"""Communication hooks: gradients that take fewer bytes on the wire, for `DistributedDataParallel.register_comm_hook`.

    model.register_comm_hook(None, fp16_compress_hook)
    model.register_comm_hook(PowerSGDState(matrix_approximation_rank=2), powerSGD_hook)

They work on the communicator's thread, while backward goes on. What they give up is the last bits of the mean (halves,
int8), or they send a part and keep the rest for later steps (PowerSGD, in powersgd.py, and the largest elements), so
that nothing is lost: error feedback. `model.traffic()` reports the bytes. Every rank computes the same result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..core.backend import Array, array_module
from ..core.dtypes import bfloat16, float16
from ..core.tensor import Tensor
from .bucket import GradBucket
from .comm.protocol import Communicator, Work

__all__ = ["TopKState", "allreduce_hook", "bf16_compress_hook", "fp16_compress_hook", "int8_hook", "topk_hook"]

BLOCK = 256  # elements that share a scale in int8


class Pending:
    """The averaged gradients of a bucket, once the work is done: what a hook returns."""

    def __init__(self, work: Work, result: Tensor) -> None:
        self.work, self.result = work, result

    def wait(self) -> Tensor:
        """The gradients."""
        self.work.wait()
        return self.result


def in_thread(bucket: GradBucket, average: Callable[[Communicator, Array], None], name: str) -> Pending:
    """Let average(communicator, gradients) replace the gradients by their mean, on the communicator's thread.

    There it calls what transports implement, which blocks; starting collectives would wait for itself.
    """
    buffer = bucket.buffer()
    task = lambda: average(bucket.communicator, buffer.array)
    return Pending(bucket.communicator.start(task, f"{name} of gradient bucket {bucket.index()}"), buffer)


def allreduce_hook(state: Any, bucket: GradBucket) -> Pending:
    """The mean over the ranks, uncompressed, as the wrapper computes it without a hook."""

    def average(communicator: Communicator, gradients: Array) -> None:
        communicator._all_reduce_any(gradients, "sum")
        gradients /= gradients.dtype.type(communicator.size)
        bucket.sent(2 * share_of_others(communicator) * gradients.nbytes)

    return in_thread(bucket, average, "allreduce_hook")


def fp16_compress_hook(state: Any, bucket: GradBucket) -> Pending:
    """The mean over the ranks of gradients in float16, added up in float32: half the bytes. Beyond 65,504 is inf."""
    return in_thread(bucket, lambda c, g: _average_in(c, g, _Half(float16.numpy), bucket), "fp16_compress_hook")


def bf16_compress_hook(state: Any, bucket: GradBucket) -> Pending:
    """The mean over the ranks of gradients in bfloat16, added up in float32: half the bytes, all of the range."""
    return in_thread(bucket, lambda c, g: _average_in(c, g, _Half(bfloat16.numpy), bucket), "bf16_compress_hook")


def int8_hook(state: Any, bucket: GradBucket) -> Pending:
    """The mean over the ranks of gradients as 8-bit integers with a scale for 256 of them: a quarter of the bytes.

    Gradients are rounded to 1/127 of the largest of their 256, once on every rank and once more when added up; a block
    with an infinity or a NaN is all NaN.
    """
    return in_thread(bucket, lambda c, g: _average_in(c, g, _Int8(), bucket), "int8_hook")


def share_of_others(communicator: Communicator) -> float:
    """The share of an array that belongs to other ranks when each has an equal part."""
    return (communicator.size - 1) / communicator.size


def _average_in(communicator: Communicator, gradients: Array, code: _Half | _Int8, bucket: GradBucket) -> None:
    """Each rank gets its part of all ranks' gradients in code, adds up, and sends the mean in code to all."""
    size, xp = communicator.size, array_module(gradients)
    length = -(-gradients.size // (size * code.block)) * code.block
    rows = xp.zeros((size, length), np.float32)
    rows.reshape(-1)[: gradients.size] = gradients
    coded = code.encode(xp, rows)
    parts = xp.empty_like(coded)
    communicator._all_to_all(coded, parts)
    mean = code.decode(xp, parts)
    total = mean[0]
    for other in mean[1:]:  # in the order of the ranks
        total += other
    total /= np.float32(size)
    mine = code.encode(xp, total[None])[0]
    everybodys = xp.empty((size, *mine.shape), mine.dtype)
    communicator._all_gather(mine, everybodys)
    gradients[...] = code.decode(xp, everybodys).reshape(-1)[: gradients.size]
    bucket.sent(share_of_others(communicator) * (coded.nbytes + everybodys.nbytes))


class _Half:
    """Rows of float32 as halves."""

    block = 1

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype

    def encode(self, xp: Any, rows: Array) -> Array:
        return rows.astype(self.dtype)

    def decode(self, xp: Any, rows: Array) -> Array:
        return rows.astype(np.float32)


class _Int8:
    """Rows of float32 as bytes: those of the scales, then an integer for each element."""

    block = BLOCK

    def encode(self, xp: Any, rows: Array) -> Array:
        blocks = rows.reshape(len(rows), -1, BLOCK)
        scales = xp.abs(blocks).max(2) / np.float32(127)
        scales[~xp.isfinite(scales)] = np.nan
        numbers = xp.rint(blocks / xp.where(scales == 0, np.float32(1), scales)[..., None])
        integers = xp.nan_to_num(numbers).astype(np.int8)
        return xp.concatenate([scales.view(np.int8), integers.reshape(len(rows), -1)], 1)

    def decode(self, xp: Any, rows: Array) -> Array:
        head = rows.shape[1] // (BLOCK + 4) * 4
        scales = xp.ascontiguousarray(rows[:, :head]).view(np.float32)
        blocks = rows[:, head:].reshape(len(rows), -1, BLOCK).astype(np.float32)
        return (blocks * scales[..., None]).reshape(len(rows), -1)


class TopKState:
    """What `topk_hook` remembers: of each bucket the part of the gradients that this rank has not sent yet.

    ratio: the share of the elements that are sent in each step, above 0 to 1.
    """

    def __init__(self, ratio: float = 0.01) -> None:
        if not 0 < ratio <= 1:
            raise ValueError(f"TopKState: expected a ratio above 0 and up to 1, found {ratio}")
        self.ratio = ratio
        self.unsent: dict[Tensor, Array] = {}  # by a bucket's first parameter


def topk_hook(state: TopKState, bucket: GradBucket) -> Pending:
    """The mean over the ranks of each rank's largest gradients; the rest is added to the next step's.

    Stich, Cordonnier and Jaggi, "Sparsified SGD with memory", 2018. Each element that is sent takes its number (4
    bytes) along, and every rank receives those of all.
    """

    def average(communicator: Communicator, gradients: Array) -> None:
        xp = array_module(gradients)
        unsent = remembered(state.unsent, bucket, gradients)
        unsent += gradients
        count = max(1, round(state.ratio * gradients.size)) if gradients.size else 0
        chosen = xp.argpartition(xp.abs(unsent), gradients.size - count)[gradients.size - count :].astype(np.int32)
        values = unsent[chosen]
        unsent[chosen] = 0
        xp.nan_to_num(unsent, copy=False, nan=0, posinf=0, neginf=0)  # what is not finite spoils this step only
        places = xp.empty((communicator.size, count), np.int32)
        theirs = xp.empty((communicator.size, count), values.dtype)
        communicator._all_gather(chosen, places)
        communicator._all_gather(values, theirs)
        gradients[...] = 0
        for place, value in zip(places, theirs, strict=True):  # in the order of the ranks
            gradients[place] += value
        gradients /= gradients.dtype.type(communicator.size)
        bucket.sent((communicator.size - 1) * (chosen.nbytes + values.nbytes))

    return in_thread(bucket, average, "topk_hook")


def remembered(memory: dict[Tensor, Array], bucket: GradBucket, gradients: Array) -> Array:
    """What was remembered of a bucket; zeros at first, and when it has become another one."""
    key = bucket.parameters()[0]
    if key not in memory or memory[key].shape != gradients.shape or memory[key].dtype != gradients.dtype:
        memory[key] = array_module(gradients).zeros_like(gradients)
    return memory[key]
