"""Autocast: within a block the ops that gain most compute in half precision, and those that lose most in float32.

While no block is active an op costs what it costs without this file: nothing in it asks. The first block that is
entered exchanges the bodies (`__code__`) of the ops listed here for one that casts the arguments and calls the body
which the op had; the last one that is left gives them back. So every reference to an op sees it, be it a method, a name
in nn.functional or a call inside another op. In threads that are not in a block themselves the op is called as it was.
"""

from __future__ import annotations

import importlib
import pkgutil
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import ContextDecorator
from typing import Any

import numpy as np

from .. import dtypes, ops
from ..autograd import Variable
from ..autograd import thread as tape
from ..backend import cuda_device_count
from ..ops.pointwise import cast

__all__ = ["autocast", "get_autocast_dtype", "is_autocast_available", "is_autocast_enabled"]

# PyTorch's lists: https://docs.pytorch.org/docs/stable/amp.html#autocast-op-reference. What PyTorch composes of listed
# ops is composed of them here too, and follows from them.
_PRODUCTS = """
    addbmm addmm baddbmm bmm conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d gru gru_cell linear
    lstm lstm_cell matmul mm rnn_relu rnn_relu_cell rnn_tanh rnn_tanh_cell scaled_dot_product_attention
"""
_LOSSES = """
    cosine_embedding_loss hinge_embedding_loss huber_loss kl_div l1_loss margin_ranking_loss mse_loss multi_margin_loss
    multilabel_margin_loss nll_loss poisson_nll_loss smooth_l1_loss soft_margin_loss triplet_margin_loss
    binary_cross_entropy_with_logits cross_entropy cdist prod
"""
LOW = {"cpu": set(_PRODUCTS.split()), "cuda": set(f"{_PRODUCTS} addmv addr mv prelu".split())}
FULL = {
    "cpu": set(f"{_LOSSES} binary_cross_entropy ctc_loss grid_sample inverse nanquantile quantile trace".split()),
    "cuda": set(
        f"""{_LOSSES} acos asin cosh cosine_similarity cumprod cumsum dist erfinv exp expm1 group_norm interpolate
        layer_norm log log10 log1p log2 log_softmax logsumexp norm pdist pow reciprocal renorm rsqrt sinh softmax
        softplus sum tan""".split()
    ),
}
# Norms take halves beside float32 weights: they compute in float32 and round to the input's dtype. On a GPU those that
# are in FULL do not round.
MIXED = {"batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm"}
DEFAULTS = {"cpu": "bfloat16", "cuda": "float16"}


class _Thread(threading.local):
    """Per thread: the low dtype of each device type that is in a block, and the weights cast within it."""

    low: dict[str, dtypes.dtype] | None = None
    casts: dict[tuple[Any, ...], Any] | None = None


thread = _Thread()


class _Op:
    """A listed op: itself, its own body, and the body that casts."""

    def __init__(self, name: str, function: types.FunctionType) -> None:
        self.name, self.function, self.own = name, function, function.__code__
        body = self._template.__code__  # its closure, if any, stays the op's own
        self.casting = body.replace(co_freevars=self.own.co_freevars, co_name=self.own.co_name)
        self.plain = types.FunctionType(
            self.own, function.__globals__, function.__name__, function.__defaults__, function.__closure__
        )
        self.plain.__kwdefaults__ = function.__kwdefaults__
        # the casting body finds its way back by a keyword that the op's own body does not know
        function.__kwdefaults__ = {**(function.__kwdefaults__ or {}), "_autocast": self}

    @staticmethod
    def _template(*args: Any, _autocast: _Op, **kwargs: Any) -> Any:
        return _autocast(args, kwargs)

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        low = thread.low
        first = next(_tensors((args, kwargs)), None) if low else None
        if low is None or first is None:
            return self.plain(*args, **kwargs)
        device = "cpu" if isinstance(first.array, np.ndarray) else "cuda"
        dtype = low.get(device)
        rounded = False
        if dtype is not None and self.name in FULL[device]:
            dtype = dtypes.float32
        elif dtype is not None and self.name in MIXED:
            rounded = len({t.array.dtype for t in _tensors((args, kwargs))}) > 1
            dtype = dtypes.float32 if rounded else None
        elif self.name not in LOW[device]:
            dtype = None
        if dtype is None:
            return self.plain(*args, **kwargs)
        thread.low = None
        try:
            result = self.plain(*_cast(args, dtype), **_cast(kwargs, dtype))
        finally:
            thread.low = low
        return cast(result, first.array.dtype) if rounded else result


def _tensors(value: Any) -> Iterator[Any]:
    if isinstance(value, Variable):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _cast(value: Any, dtype: dtypes.dtype) -> Any:
    """The floating-point tensors in it in this dtype; float64 stays what it is."""
    if isinstance(value, Variable):
        own = value.array.dtype
        if own == dtype.numpy or own == np.float64 or not dtypes.of(own).is_floating_point:
            return value
        if thread.casts is None or value.node is not None or not value.needs or dtype is dtypes.float32:
            return cast(value, dtype.numpy)
        # a weight is cast once for all its uses; an optimizer's step within the block changes its version
        key = (id(value), value.version[0], dtype, tape.recording)
        known = thread.casts.get(key)
        if known is None:
            known = thread.casts[key] = (value, cast(value, dtype.numpy))  # with the weight, so that the id stays its
        return known[1]
    if type(value) in (list, tuple):
        return type(value)(_cast(v, dtype) for v in value)
    return {k: _cast(v, dtype) for k, v in value.items()} if type(value) is dict else value


class _Exchange:
    """The exchange of bodies: counts the blocks of all threads."""

    lock = threading.Lock()
    blocks = 0
    listed: list[_Op] | None = None

    @classmethod
    def enter(cls) -> None:
        with cls.lock:
            if cls.listed is None:
                cls.listed = [_Op(name, function) for name, function in _find_ops()]
            cls.blocks += 1
            if cls.blocks == 1:
                for op in cls.listed:
                    op.function.__code__ = op.casting

    @classmethod
    def leave(cls) -> None:
        with cls.lock:
            cls.blocks -= 1
            if not cls.blocks:
                for op in cls.listed or ():
                    op.function.__code__ = op.own


def _find_ops() -> Iterator[tuple[str, types.FunctionType]]:
    """The listed ops among the functions of core/ops, each once."""
    names, seen = set().union(*LOW.values(), *FULL.values(), MIXED), set()
    for info in pkgutil.iter_modules(ops.__path__):
        module = importlib.import_module(f"{ops.__name__}.{info.name}")
        for name in names & vars(module).keys():
            function = getattr(module, name)
            if isinstance(function, types.FunctionType) and function not in seen:
                seen.add(function)
                yield name, function


class autocast(ContextDecorator):
    """A block, or a decorated function, in which listed ops compute in `dtype` (or in float32) on one type of device.

    device_type: "cpu" or "cuda". dtype: bfloat16 or float16; by default bfloat16 on a CPU and float16 on a GPU.
    enabled=False switches it off within another block. Blocks nest, and concern only their own thread. ValueError or
    RuntimeError for another device type; a UserWarning, and no effect, for another dtype and without a GPU.
    """

    def __init__(
        self,
        device_type: str,
        dtype: dtypes.dtype | None = None,
        enabled: bool = True,
        cache_enabled: bool | None = None,
    ) -> None:
        if not isinstance(device_type, str):
            raise ValueError(f"Expected `device_type` of type `str`, got: `{type(device_type)}`")
        if not is_autocast_available(device_type):
            raise RuntimeError(f"User specified an unsupported autocast device_type '{device_type}'")
        self.device, self.fast_dtype = device_type, get_autocast_dtype(device_type) if dtype is None else dtype
        if enabled and device_type == "cuda" and cuda_device_count() == 0:
            warnings.warn("CUDA is not available. Disabling autocast.", stacklevel=2)
            enabled = False
        elif enabled and self.fast_dtype.name not in DEFAULTS.values():
            name = device_type.upper()
            warnings.warn(
                f"In {name} autocast, but the target dtype is not supported. Disabling autocast.\n"
                f"{name} Autocast only supports dtypes of mpigrad.bfloat16, mpigrad.float16 currently.",
                stacklevel=2,
            )
            enabled = False
        self._enabled, self._cache = enabled, cache_enabled is not False
        self._before: list[tuple[Any, Any]] = []

    def _recreate_cm(self) -> autocast:
        return type(self)(self.device, self.fast_dtype, self._enabled, self._cache)

    def __call__(self, func: Callable[..., Any]) -> Any:
        if not callable(func):
            raise TypeError(
                f"autocast()(func) requires a callable, but got {type(func).__name__}. Did you mean to use autocast as "
                "a context manager?"
            )
        return super().__call__(func)

    def __enter__(self) -> autocast:
        self._before.append((thread.low, thread.casts))
        low = dict(thread.low or {})
        low.pop(self.device, None)
        if self._enabled:
            low[self.device] = self.fast_dtype
        thread.low = low or None
        thread.casts = (thread.casts or {}) if self._cache else None
        _Exchange.enter()
        return self

    def __exit__(self, *_: object) -> None:
        _Exchange.leave()
        thread.low, thread.casts = self._before.pop()


def is_autocast_available(device_type: str) -> bool:
    """Whether there is an autocast for this type of device."""
    return device_type in DEFAULTS


def is_autocast_enabled(device_type: str = "cuda") -> bool:
    """Whether this thread is in a block for this type of device."""
    return device_type in (thread.low or {})


def get_autocast_dtype(device_type: str) -> dtypes.dtype:
    """The low dtype of the block around, else the default one."""
    return (thread.low or {}).get(device_type) or getattr(dtypes, DEFAULTS[device_type])
