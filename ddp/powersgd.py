"""PowerSGD: gradients of matrices as products of two narrow ones.

Vogels, Karimireddy and Jaggi, "PowerSGD: practical low-rank gradient compression for distributed optimization", 2019.
A rank's matrix M, with what earlier steps have not sent (error feedback), goes through one step of subspace iteration:
P = the mean of M Q, with columns made orthonormal; Q = the mean of M^T P; the gradient is P Q^T, and M - P Q^T is kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..core.backend import Array, array_module
from ..core.dtypes import SINGLE
from ..core.tensor import Tensor
from .bucket import GradBucket
from .comm.protocol import Communicator
from .hooks import Pending, in_thread, remembered, share_of_others

__all__ = ["PowerSGDState", "powerSGD_hook"]


class PowerSGDState:
    """What `powerSGD_hook` remembers, and PyTorch's options of it.

    matrix_approximation_rank: columns of P and Q. start_powerSGD_iter: so many first steps are averaged exactly.
    min_compression_rate: matrices that would not become smaller by it are averaged exactly, as vectors are.
    use_error_feedback: keep what was not sent. warm_start: begin with the last step's Q. random_seed: of the first Q.
    ValueError for a rank below 1.
    """

    def __init__(
        self,
        process_group: None = None,
        matrix_approximation_rank: int = 1,
        start_powerSGD_iter: int = 1000,
        min_compression_rate: float = 2,
        use_error_feedback: bool = True,
        warm_start: bool = True,
        random_seed: int = 0,
    ) -> None:
        if matrix_approximation_rank < 1:
            raise ValueError(f"PowerSGDState: expected a rank of at least 1, found {matrix_approximation_rank}")
        self.rank, self.start, self.min_rate = matrix_approximation_rank, start_powerSGD_iter, min_compression_rate
        self.use_error_feedback, self.warm_start = use_error_feedback, warm_start
        self.generator = np.random.default_rng(random_seed)  # in step on all ranks, as the buckets are
        self.steps: dict[Tensor, int] = {}  # by a bucket's first parameter
        self.unsent: dict[Tensor, Array] = {}
        self.q: dict[Tensor, Array] = {}  # by parameter

    def first(self, parameter: Tensor, matrix: Array) -> Array:
        """The Q with which a step begins: the last one, or random numbers, the same on all ranks."""
        found = self.q.get(parameter) if self.warm_start else None
        if found is None:
            drawn = self.generator.standard_normal((matrix.shape[1], self.rank)).astype(matrix.dtype)
            found = array_module(matrix).asarray(drawn)
        return found

    def keep(self, parameter: Tensor, q: Array) -> None:
        """Begin the next step with this Q; not with one that is not finite."""
        if array_module(q).isfinite(q).all():
            self.q[parameter] = q
        else:
            self.q.pop(parameter, None)

    def narrow(self, parameter: Tensor) -> bool:
        """Whether a parameter's gradient is sent as two narrow matrices."""
        if parameter.array.ndim < 2 or not parameter.array.size:
            return False
        rows = parameter.array.shape[0]
        columns = parameter.array.size // rows
        return bool((rows + columns) * self.rank * self.min_rate < rows * columns)


def powerSGD_hook(state: PowerSGDState, bucket: GradBucket) -> Pending:
    """The mean over the ranks of gradients of low rank; what that leaves out is added to the next step's."""

    def average(communicator: Communicator, gradients: Array) -> None:
        parameters = bucket.parameters()
        step = state.steps[parameters[0]] = state.steps.get(parameters[0], 0) + 1
        if step <= state.start:
            _average([gradients], communicator, bucket)
            return
        unsent = remembered(state.unsent, bucket, gradients)
        gradients += unsent
        unsent[...] = gradients
        narrow: list[tuple[Tensor, Array]] = []
        wide: list[tuple[Tensor, Array]] = []
        for parameter, gradient in zip(parameters, bucket.gradients(), strict=True):
            (narrow if state.narrow(parameter) else wide).append((parameter, gradient.array))
        _average([array for _, array in wide], communicator, bucket)
        xp = array_module(gradients)
        matrices = [array.reshape(len(array), -1).astype(np.promote_types(array.dtype, SINGLE)) for _, array in narrow]
        qs = [state.first(parameter, m) for (parameter, _), m in zip(narrow, matrices, strict=True)]
        ps = [m @ q for m, q in zip(matrices, qs, strict=True)]
        _average(ps, communicator, bucket)
        ps = [xp.linalg.qr(p)[0] for p in ps]
        qs = [m.T @ p for m, p in zip(matrices, ps, strict=True)]
        _average(qs, communicator, bucket)
        for (parameter, array), p, q in zip(narrow, ps, qs, strict=True):
            array[...] = (p @ q.T).reshape(array.shape)
            state.keep(parameter, q)
        unsent -= gradients
        if not state.use_error_feedback:
            unsent[...] = 0
        at = 0
        for parameter in parameters:
            if not state.narrow(parameter):  # sent exactly
                unsent[at : at + parameter.array.size] = 0
            at += parameter.array.size
        xp.nan_to_num(unsent, copy=False, nan=0, posinf=0, neginf=0)  # what is not finite spoils this step only

    return in_thread(bucket, average, "powerSGD_hook")


def _average(arrays: Sequence[Array], communicator: Communicator, bucket: GradBucket) -> None:
    """Replace arrays by their means over the ranks, in one message for each dtype."""
    for dtype in dict.fromkeys(array.dtype for array in arrays):
        alike = [array for array in arrays if array.dtype == dtype]
        xp = array_module(alike[0])
        together = xp.concatenate([array.reshape(-1) for array in alike])
        communicator._all_reduce_any(together, "sum")
        together /= together.dtype.type(communicator.size)
        at = 0
        for array in alike:
            array[...] = together[at : at + array.size].reshape(array.shape)
            at += array.size
        bucket.sent(2 * share_of_others(communicator) * together.nbytes)
