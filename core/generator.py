"""PyTorch's CPU random stream: the same seed gives the same numbers, drawn with NumPy's Mersenne Twister.

u32 is one draw of the MT19937 engine, u64 two of them, the first in the high half. Each method spends as many draws as
PyTorch's does, so the two streams stay aligned whatever the calls. The values are PyTorch's bit for bit; only normals
may differ by a few units in the last place, as the logarithms and cosines of two mathematical libraries do.
"""

from __future__ import annotations

import contextlib
import math
import operator
import secrets
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import backend
from .backend import CPU
from .dtypes import FLOATING, HALVES, finfo, of

# fmt: off
__all__ = [
    "Generator", "default_generator", "drawing_from", "get_rng_state", "initial_seed", "manual_seed", "seed",
    "set_rng_state",
]
# fmt: on

Shape = int | Sequence[int]

DEFAULT_SEED = 67280421310721
_SLICE = 2**14  # numbers that are computed at once: their temporaries stay in the cache, which is several times faster
_WORDS = 624  # of the engine's state
_STATE = np.dtype(
    [("seed", "<u8"), ("left", "<i4"), ("seeded", "<i4"), ("next", "<u8"), ("key", "<u8", _WORDS), ("normal_x", "<f8")]
    + [("normal", "<f8"), ("normal_rho", "<f8"), ("has_normal", "<i4"), ("unused", "<i4", 3)]
)


def _sizes(shape: Shape) -> tuple[int, ...]:
    sizes = tuple(shape) if isinstance(shape, Sequence) else (operator.index(shape),)
    for size in sizes:
        if size < 0:
            raise RuntimeError(f"Trying to create tensor with negative dimension {size}: {list(sizes)}")
    return sizes


def _floating(dtype: DTypeLike, caller: str) -> tuple[np.dtype[Any], np.dtype[Any]]:
    """The dtype asked for and the one to compute in."""
    d = np.dtype(dtype)
    if d.kind not in FLOATING:
        raise NotImplementedError(f"{caller} gives a floating dtype, but `dtype` is {d}")
    return d, np.dtype(np.float64 if d == np.float64 else np.float32)


def _whole(d: np.dtype[Any]) -> int:
    """The number up to which a floating dtype has all integers."""
    return round(2 / finfo(of(d)).eps)


def _exact_sum(a: NDArray[np.float64], b: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """a + b, and what its rounding lost (Knuth)."""
    total = a + b
    added = total - a
    return total, (a - (total - added)) + (b - added)


def _odd_sum(a: NDArray[np.float64], b: Any) -> NDArray[np.float64]:
    """a + b, where inexact rounded to an odd last bit: a later rounding to fewer bits then errs no more."""
    total, lost = _exact_sum(a, b)
    if lost.any():
        even = total.view(np.int64) & 1 == 0
        total = np.where(even & (lost != 0), np.nextafter(total, np.copysign(np.inf, lost)), total)
    return total


def _fused(u: NDArray[Any], scale: float, shift: float) -> NDArray[Any]:
    """u * scale + shift with one rounding, as by a fused multiply-add (Boldo and Melquiond, 2008)."""
    if u.dtype == np.float32:  # float64 holds the product exactly
        return _odd_sum(u.astype(np.float64) * scale, shift).astype(np.float32)
    product = u * scale
    if shift == 0 or scale > 2.0**990:  # nothing to fuse; or the splitting below would overflow
        return product + shift
    split = 2.0**27 + 1  # Dekker's exact product
    scale_high = split * scale - (split * scale - scale)
    scale_low = scale - scale_high
    u_high = split * u - (split * u - u)
    u_low = u - u_high
    error = ((u_high * scale_high - product) + u_high * scale_low + u_low * scale_high) + u_low * scale_low
    small, smaller = _exact_sum(error, shift)
    total, lost = _exact_sum(product, small)
    return total + _odd_sum(lost, smaller)


def _box_muller(u: NDArray[Any]) -> None:
    """Make standard normals of uniforms, flat in blocks of 16: the first 8 give the radius, the last 8 the angle."""
    for at in range(0, u.size, _SLICE):
        blocks = u[at : at + _SLICE].reshape(-1, 2, 8)
        radius = np.sqrt(-2 * np.log(1 - blocks[:, 0]))
        angle = blocks[:, 1] * u.dtype.type(2 * math.pi)
        np.multiply(radius, np.cos(angle), out=blocks[:, 0])
        np.multiply(radius, np.sin(angle), out=blocks[:, 1])


class Generator:
    """A stream of random numbers that equals `torch.Generator`'s on the CPU; each object has a stream of its own.

    A fresh one starts from PyTorch's default seed. `copy.copy`, `copy.deepcopy` and pickle keep the position.
    """

    def __init__(self, device: Any = "cpu") -> None:
        if backend.device(device).type != "cpu":
            raise RuntimeError(f"Generator draws the CPU's stream: `device` must be 'cpu', but is {str(device)!r}")
        self.device = CPU
        self._engine = np.random.MT19937(0)
        self.manual_seed(DEFAULT_SEED)

    def manual_seed(self, seed: int) -> Generator:
        """Restart from a seed in [-2^63, 2^64), of which the low 32 bits count; negative ones stand for 2^64 + seed."""
        try:
            value = operator.index(seed)
        except TypeError:
            raise RuntimeError(f"manual_seed expected a long, but got {type(seed).__name__}") from None
        if not -(2**63) <= value < 2**64:
            raise ValueError(f"Overflow when unpacking long long: the seed must be in [-2^63, 2^64), but is {value}")
        self._seed = value % 2**64
        self._engine._legacy_seeding(self._seed % 2**32)
        self._spare_normal: float | None = None
        return self

    def manual_key(self, *key: int) -> Generator:
        """Restart from several numbers in [0, 2^64), such as (seed, step, shard): a stream of its own for each key.

        The engine is seeded by init_by_array of Matsumoto and Nishimura (2002), with two words for each number.
        """
        words = [word for number in key for word in (number % 2**32, number >> 32)]
        self._seed = key[0]
        self._engine._legacy_seeding(words)
        self._spare_normal = None
        return self

    def seed(self) -> int:
        """Restart from a seed of the operating system's randomness, and return it."""
        return self.manual_seed(secrets.randbits(64)).initial_seed()

    def initial_seed(self) -> int:
        """The seed this stream started from."""
        return self._seed

    def get_state(self) -> Any:
        """The exact position in the stream: a uint8 tensor of 5056 elements, see `state_bytes`."""
        from .autograd import wrap  # the tape needs this module to replay random numbers

        return wrap(self.state_bytes())

    def state_bytes(self) -> NDArray[np.uint8]:
        """The exact position in the stream, as 5056 bytes in the layout of PyTorch's CPU generator.

        `torch.Generator.set_state` takes them too. Little endian: the seed as u64; as i32, i32 and u64 the draws left
        in the engine's block plus 1, the number 1 and the place in the block; the engine's 624 words as u64; three f64,
        of which the second is the spare normal; as i32 whether there is one; 12 bytes unused.
        """
        engine = self._engine.state["state"]
        state = np.zeros((), _STATE)
        position = int(engine["pos"]) % _WORDS  # NumPy's 624, an exhausted block, is PyTorch's left=1
        state["seed"], state["key"], state["seeded"] = self._seed, engine["key"], 1
        state["next"], state["left"] = position, _WORDS + 1 - position if position else 1
        if self._spare_normal is not None:
            state["normal"], state["has_normal"] = self._spare_normal, 1
        return np.frombuffer(bytearray(state.tobytes()), np.uint8)

    def set_state(self, state: Any) -> Generator:
        """Go to a position that `get_state`, ours or PyTorch's, gave; RuntimeError if the bytes cannot be one."""
        data = np.asarray(state)
        if data.dtype != np.uint8 or data.shape != (_STATE.itemsize,):
            raise RuntimeError(
                f"a generator's state is a uint8 array of shape ({_STATE.itemsize},), "
                f"but got {data.dtype} of shape {data.shape}"
            )
        fields = np.frombuffer(data.tobytes(), _STATE)[0]
        left, key = int(fields["left"]), fields["key"]
        placed = left == 1 or (1 < left <= _WORDS and left + int(fields["next"]) == _WORDS + 1)
        if fields["seeded"] != 1 or not placed or key.max() >= 2**32 or not key.any():
            raise RuntimeError("Invalid mt19937 state: the bytes are not those of a generator")
        engine = self._engine.state
        engine["state"] = {"key": key.astype(np.uint32), "pos": _WORDS + 1 - left}
        self._engine.state = engine
        self._seed = int(fields["seed"])
        self._spare_normal = float(fields["normal"]) if fields["has_normal"] else None
        return self

    def clone_state(self) -> Generator:
        """A new generator at the same position."""
        return Generator().set_state(self.state_bytes())

    def __getstate__(self) -> NDArray[np.uint8]:
        return self.state_bytes()

    def __setstate__(self, state: NDArray[np.uint8]) -> None:
        self.device, self._engine = CPU, np.random.MT19937(0)
        self.set_state(state)

    def random_raw(self, n: int) -> NDArray[np.uint32]:
        """n draws u32."""
        return self._engine.random_raw(n).astype(np.uint32)

    def _random_raw64(self, n: int) -> NDArray[np.uint64]:
        """n draws u64."""
        pairs = self._engine.random_raw(2 * n).reshape(n, 2)
        return (pairs[:, 0] << np.uint64(32)) | pairs[:, 1]

    def _unit(self, n: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """n uniforms in [0, 1): the low 24 bits of u32 for float32, the low 53 bits of u64 for float64."""
        if dtype == np.float64:
            return (self._random_raw64(n) & (2**53 - 1)).view(np.int64) * 2.0**-53
        unit: NDArray[Any] = (self.random_raw(n) & (2**24 - 1)).view(np.int32).astype(np.float32)
        unit *= np.float32(2.0**-24)
        return unit

    def random_int64(self) -> int:
        """One int64 in [0, 2^63), as from PyTorch's `random_()`; its DataLoader seeds itself with these."""
        return int(self._random_raw64(1)[0]) % 2**63

    def rand(self, shape: Shape, dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """Uniform in [0, 1), floating."""
        return self.uniform(shape, 0.0, 1.0, dtype)

    def uniform(self, shape: Shape, low: float = 0.0, high: float = 1.0, dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """Uniform in [low, high), floating: u * (high - low) + low, rounded once; what rounds up to high becomes low.

        RuntimeError if a bound, or high - low, is not finite in the dtype, or if low > high.
        """
        d, wide = _floating(dtype, "uniform")
        limit = finfo(of(d)).max
        for name, bound in (("from", low), ("to", high)):
            if not abs(bound) <= limit:
                raise RuntimeError(f"{name} is out of bounds for {d}")
        if low > high:
            raise RuntimeError(f"uniform_ expects to return a [from, to) range, but found from={low:g} > to={high:g}")
        if high - low > limit:
            raise RuntimeError(
                f"uniform_ expects to-from <= {limit:g} in {d}, but found to={high:g} and from={low:g} "
                "which result in to-from to exceed the limit"
            )
        sizes = _sizes(shape)
        values = self._unit(math.prod(sizes), wide)
        if (low, high) == (0, 1) and d == wide:
            return values.reshape(sizes)
        lowest, highest = wide.type(low), wide.type(high)
        scale, shift = float(highest - lowest), float(lowest)
        for at in range(0, values.size, _SLICE):
            values[at : at + _SLICE] = _fused(values[at : at + _SLICE], scale, shift)
        out = values.astype(d, copy=False)
        np.copyto(out, d.type(lowest), where=out >= d.type(highest))
        return out.reshape(sizes)

    def normal(self, shape: Shape, mean: float = 0.0, std: float = 1.0, dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """Normal, floating, by Box and Muller; RuntimeError if std is negative.

        Fewer than 16 come one by one in float64, and the sine's half of a pair waits for the next such call. Otherwise
        all come in blocks of 16, the last of which starts 16 before the end and has draws of its own.
        """
        d, wide = _floating(dtype, "normal")
        if not std >= 0:
            raise RuntimeError(f"normal expects std >= 0.0, but found std {std:g}")
        sizes = _sizes(shape)
        n = math.prod(sizes)
        if n < 16:
            return (self._normals_one_by_one(n) * std + mean).astype(d).reshape(sizes)
        whole = n // 16 * 16
        spent = whole if d in HALVES else n  # a tail that is redrawn has first cost its draws, but not in a half
        u = self._unit(spent + (16 if n > whole else 0), wide)
        _box_muller(u[:whole])
        if n > whole:
            _box_muller(u[-16:])
            u[n - 16 : n] = u[-16:]
        out = u[:n]
        out *= std
        out += mean
        return out.astype(d, copy=False).reshape(sizes)

    def _normals_one_by_one(self, n: int) -> NDArray[np.float64]:
        return np.array([self._one_normal() for _ in range(n)], np.float64)

    def _one_normal(self) -> float:
        if self._spare_normal is not None:
            value, self._spare_normal = self._spare_normal, None
            return value
        u1, u2 = self._unit(2, np.dtype(np.float64)).tolist()
        radius, angle = math.sqrt(-2 * math.log1p(-u2)), 2 * math.pi * u1
        self._spare_normal = radius * math.sin(angle)
        return radius * math.cos(angle)

    def randint(self, low: int, high: int, shape: Shape, dtype: DTypeLike = np.int64) -> NDArray[Any]:
        """Integers in [low, high): low + u32 % (high - low), or u64 % from a range of 2^28 on.

        RuntimeError for an empty range or a bound that the dtype does not hold; a floating dtype holds those integers
        below which it has all.
        """
        d, low, high = np.dtype(dtype), operator.index(low), operator.index(high)
        if low >= high:
            raise RuntimeError(f"random_ expects 'from' to be less than 'to', but got from={low} >= to={high}")
        if d.kind in FLOATING:
            last = _whole(d)
            first = -last
        else:
            first, last = (0, 1) if d == np.bool_ else (int(np.iinfo(d).min), int(np.iinfo(d).max))
        for name, bound in (("from", low), ("to - 1", high - 1)):
            if not first <= bound <= last:
                raise RuntimeError(f"{name} is out of bounds for {d}")
        sizes, span = _sizes(shape), high - low
        n = math.prod(sizes)
        draws: NDArray[Any] = self.random_raw(n) if span < 2**28 else self._random_raw64(n)
        if span < 2**64:
            draws %= draws.dtype.type(span)
        else:  # all of int64: the bits as they are
            low = 0
        values = draws.astype(np.int64)
        values += low  # wraps where it must: the sum is in range though a remainder of u64 need not be
        return values.astype(d).reshape(sizes)

    def randperm(self, n: int) -> NDArray[np.int64]:
        """A permutation of 0..n-1: for i in turn, swap the elements at i and at i + u32 % (n - i).

        n must be below 2^32 / 20, where PyTorch goes over to another algorithm.

        The swaps are done all at once. Place i is final after step i, which took from place t = i + z what was there:
        what step j had put there, the last j < i with the same t, or t itself. Step j put there what it found at place
        j: what the last step with j for its t had put, and so on, a chain of about log n that is halved per round.
        """
        (n,) = _sizes(n)
        if n >= (2**32 - 1) // 20:
            raise NotImplementedError(f"randperm supports n < 2^32 / 20, but n is {n}")
        step = np.arange(n)
        target = step.copy()
        target[:-1] += (self.random_raw(max(n - 1, 0)) % np.arange(n, 1, -1, dtype=np.uint32)).view(np.int32)
        moved = target > step
        found = step.copy()  # what step i finds at place i
        found[target[moved]] = step[moved]  # the last assignment to a place stays
        while not np.array_equal(found, further := found[found]):
            found = further
        bits = n.bit_length()
        order = np.sort(target << bits | step)  # by target, then by step; faster than an argsort
        same = order[1:] >> bits == order[:-1] >> bits
        order &= (1 << bits) - 1
        target[order[1:][same]] = found[order[:-1][same]]
        return target

    def random(self, shape: Shape, dtype: DTypeLike = np.int64) -> NDArray[Any]:
        """Integers over all that the dtype holds from 0 on: floating dtypes up to where they skip integers."""
        d = np.dtype(dtype)
        last = _whole(d) if d.kind in FLOATING else 1 if d.kind == "b" else int(np.iinfo(d).max)
        sizes = _sizes(shape)
        n = math.prod(sizes)
        wide = d.itemsize == 8
        draws: NDArray[Any] = self._random_raw64(n) if wide else self.random_raw(n)
        draws %= draws.dtype.type(last + 1)
        return draws.astype(d).reshape(sizes)

    def _doubles(self, shape: Shape) -> NDArray[np.float64]:
        """Uniforms in [0, 1), whatever the dtype is that the caller makes of them."""
        sizes = _sizes(shape)
        return self._unit(math.prod(sizes), np.dtype(np.float64)).reshape(sizes)

    def exponential(self, shape: Shape, lambd: float = 1.0, dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """Exponential with rate lambd: -log(1 - u) / lambd; RuntimeError unless lambd > 0."""
        d, _ = _floating(dtype, "exponential")
        if not lambd > 0:
            raise RuntimeError(f"exponential_ expects lambda > 0.0, but found lambda={lambd:g}")
        return (np.log1p(-self._doubles(shape)) * (-1 / lambd)).astype(d)

    def geometric(self, shape: Shape, p: float, dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """The trials up to the first success: ceil(log(u) / log(1 - p)); RuntimeError unless 0 < p < 1."""
        if not 0 < p < 1:
            raise RuntimeError(f"geometric_ expects p to be in (0, 1), but got p={p:g}")
        return np.ceil(np.log(self._doubles(shape)) / math.log1p(-p)).astype(dtype)

    def cauchy(
        self, shape: Shape, median: float = 0.0, sigma: float = 1.0, dtype: DTypeLike = np.float32
    ) -> NDArray[Any]:
        """Cauchy: median + sigma * tan(pi * (u - 1/2)); RuntimeError unless sigma > 0."""
        if np.dtype(dtype).kind not in FLOATING:
            raise RuntimeError("Cauchy distribution is a continuous probability distribution. dtype must be floating")
        if not sigma > 0:
            raise RuntimeError(f"cauchy_ expects sigma > 0.0, but found sigma={sigma:g}")
        return (median + sigma * np.tan(math.pi * (self._doubles(shape) - 0.5))).astype(dtype)

    def log_normal(
        self, shape: Shape, mean: float = 1.0, std: float = 2.0, dtype: DTypeLike = np.float32
    ) -> NDArray[Any]:
        """exp of normals, which come one by one in float64; RuntimeError unless std > 0."""
        d, _ = _floating(dtype, "log_normal")
        if not std > 0:
            raise RuntimeError(f"log_normal_ expects std > 0.0, but found std={std:g}")
        return np.exp(self._normals_one_by_one(math.prod(_sizes(shape))) * std + mean).astype(d).reshape(_sizes(shape))

    def bernoulli(self, shape: Shape, p: Any, dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """1 with probability p, else 0: a float64 uniform < p, whatever the dtype. Dropout's mask is bernoulli(1 - p).

        p: a number, or an array of probabilities, which unless they are float64 are compared to float32 uniforms.
        RuntimeError unless 0 <= p <= 1.
        """
        if isinstance(p, np.ndarray):
            if p.dtype.kind not in FLOATING or not ((p >= 0) & (p <= 1)).all():
                raise RuntimeError("Expected p_in >= 0 && p_in <= 1 to be true, but got false.")
            wide = np.dtype(np.float64 if p.dtype == np.float64 else np.float32)
            hits: NDArray[Any] = self._unit(math.prod(_sizes(shape)), wide).reshape(_sizes(shape)) < p.astype(wide)
            return hits.astype(np.dtype(dtype))
        if not 0 <= p <= 1:
            raise RuntimeError(f"bernoulli_ expects p to be in [0, 1], but got p={p:g}")
        sizes = _sizes(shape)
        bits = self._random_raw64(math.prod(sizes)) & (2**53 - 1)
        threshold: int = math.ceil(p * 2.0**53)
        return (bits < threshold).astype(dtype).reshape(sizes)

    def multinomial(self, weights: NDArray[Any], num_samples: int, replacement: bool = False) -> NDArray[np.int64]:
        """num_samples indices of the last dimension of weights, drawn with probabilities proportional to them.

        One sample, or several without replacement: the largest of weight / exponential draw (Efraimidis and Spirakis,
        2006). With replacement: where uniform draws fall in the running sum. RuntimeError for weights that are
        negative, not finite or all 0, and for more samples than weights without replacement.
        """
        p = np.asarray(weights)
        p = p if p.dtype.kind in FLOATING else p.astype(np.float64)
        if not replacement and num_samples > p.shape[-1]:
            raise RuntimeError("cannot sample n_sample > prob_dist.size(-1) samples without replacement")
        for wrong, what in (
            (
                not np.isfinite(p).all() or (p < 0).any(),
                "probability tensor contains either `inf`, `nan` or element < 0",
            ),
            ((p.sum(-1) <= 0).any(), "invalid multinomial distribution (sum of probabilities <= 0)"),
        ):
            if wrong:
                raise RuntimeError(what)
        if not replacement or num_samples == 1:
            keys = p / self.exponential(p.shape, 1.0, p.dtype)
            order: NDArray[np.int64] = np.argsort(-keys, -1, kind="stable")
            return order[..., :num_samples]
        rows = p.reshape(-1, p.shape[-1])
        edges = np.cumsum(rows, -1)
        edges /= edges[:, -1:]
        edges[:, -1] = 1
        draws = self._doubles((len(rows), num_samples))
        found = [np.searchsorted(edge, draw) for edge, draw in zip(edges, draws, strict=True)]
        return np.array(found, np.int64).reshape(*p.shape[:-1], num_samples)


class _Thread(threading.local):
    stream: Generator | None = None  # what the default generator draws from in this thread


_thread = _Thread()


def _redirected(name: str) -> Any:
    """An attribute that is another generator's while the thread draws from it."""
    return property(
        lambda self: (_thread.stream or self).__dict__[name],
        lambda self, value: (_thread.stream or self).__dict__.__setitem__(name, value),
    )


class _DefaultGenerator(Generator):
    """The generator of whoever names none."""

    _engine, _seed, _spare_normal = _redirected("_engine"), _redirected("_seed"), _redirected("_spare_normal")


default_generator = _DefaultGenerator()


@contextlib.contextmanager
def drawing_from(generator: Generator) -> Iterator[None]:
    """Within the block this thread draws from generator where it would from the default one, which stays as it is."""
    before, _thread.stream = _thread.stream, generator
    try:
        yield
    finally:
        _thread.stream = before


def manual_seed(seed: int) -> Generator:
    """Restart the default generator from a seed, and return it; see `Generator.manual_seed`."""
    return default_generator.manual_seed(seed)


def seed() -> int:
    """Restart the default generator from the operating system's randomness, and return the seed."""
    return default_generator.seed()


def initial_seed() -> int:
    """The seed of the default generator."""
    return default_generator.initial_seed()


def get_rng_state() -> Any:
    """The position of the default generator, as a uint8 tensor."""
    return default_generator.get_state()


def set_rng_state(new_state: Any) -> None:
    """Put the default generator at a position that `get_rng_state` gave."""
    default_generator.set_state(new_state)


@contextlib.contextmanager
def fork_rng(devices: Any = None, enabled: bool = True) -> Iterator[None]:
    """After the block the default generator goes on where it was before. devices: accepted; there is one generator."""
    state = default_generator.state_bytes()
    try:
        yield
    finally:
        if enabled:
            default_generator.set_state(state)
