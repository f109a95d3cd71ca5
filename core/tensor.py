"""Tensor: an array with a place on the tape. Its class body is the index of all ops."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np

from . import autograd, backend, dtypes
from .autograd import Node, RemovableHandle, Variable, bind_tensor_class, wrap
from .backend import CPU, Array, array_module, device_of, is_array, to_device, to_host
from .generator import Generator, default_generator
from .ops import elementwise, index, linalg, reduce
from .ops import shape as shapes
from .ops.shape import Size
from .printing import tensor_text

# Tensor's methods of these names hide the types from annotations in its body
Int: TypeAlias = int
Float: TypeAlias = float
Bool: TypeAlias = bool


def _in_place(op: Callable[..., Any]) -> Callable[..., Any]:
    """The form of an op that writes its result into its first input: `add_` from `add`."""

    def method(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        index.check_in_place(self, *args)
        before = wrap(self.array)
        before.needs, before.node = self.needs, self.node
        result = op(before, *args, **kwargs)
        if result.node is not None and any(item is before for edge in result.node.edges for item in edge[2]):
            before.array = self.array.copy()  # a vjp needs the elements from before
        return index.take_over(self, result)  # type: ignore[no-any-return]

    method.__name__ = f"{op.__name__}_"
    return method


def _equality(op: Callable[..., Any]) -> Callable[..., Any]:
    """== and != beside anything: what is neither a tensor nor a number is not equal."""
    known = (Variable, bool, int, float, np.generic)
    return lambda self, other: op(self, other) if isinstance(other, known) or is_array(other) else NotImplemented


def _cast_to(dtype: dtypes.dtype) -> Callable[[Tensor], Tensor]:
    """The method named after a dtype: `x.double()`."""
    return lambda self: self.to(dtype)


class Tensor(Variable):
    """A multi-dimensional array of one dtype that can record how it was computed."""

    def __new__(cls, data: Any = (), *, dtype: dtypes.dtype | None = None) -> Tensor:
        """A float32 tensor from nested lists or an array (PyTorch's legacy constructor; prefer `tensor`)."""
        tensor = Variable.__new__(cls)
        tensor.array = np.array(data, (dtype or dtypes.get_default_dtype()).numpy)
        tensor.needs, tensor.node, tensor.version = False, None, [0]
        return tensor

    # --- what it is -------------------------------------------------------------------------------------------------

    @property
    def shape(self) -> Size:
        """The sizes of all dimensions."""
        return Size(self.array.shape)

    @property
    def ndim(self) -> Int:
        """The number of dimensions."""
        return self.array.ndim  # type: ignore[no-any-return]

    @property
    def dtype(self) -> dtypes.dtype:
        """The element type."""
        return dtypes.of(self.array.dtype)

    @property
    def device(self) -> backend.device:
        """Where the elements live."""
        return device_of(self.array)

    def size(self, dim: Int | None = None) -> Any:
        """The shape, or the size of one dimension."""
        return self.shape if dim is None else self.array.shape[shapes.normalize_dim(dim, self.ndim)]

    def dim(self) -> Int:
        """The number of dimensions."""
        return self.ndim

    def numel(self) -> Int:
        """The number of elements."""
        return int(self.array.size)

    def element_size(self) -> Int:
        """The bytes of one element."""
        return int(self.array.itemsize)

    def stride(self) -> tuple[Int, ...]:
        """The step in elements along each dimension."""
        return tuple(s // self.array.itemsize for s in self.array.strides)

    def is_contiguous(self) -> Bool:
        """Whether the memory is in row-major order."""
        return bool(self.array.flags.c_contiguous)

    def data_ptr(self) -> Int:
        """The address of the first element."""
        array = self.array
        return int(array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr)

    # --- autograd ---------------------------------------------------------------------------------------------------

    @property
    def requires_grad(self) -> Bool:
        """Whether gradients flow to this tensor."""
        return self.needs

    @requires_grad.setter
    def requires_grad(self, value: Bool) -> None:
        self.requires_grad_(value)

    def requires_grad_(self, requires_grad: Bool = True) -> Tensor:
        """Set requires_grad; RuntimeError for integers, and for clearing it on a tensor with history."""
        if requires_grad and self.array.dtype.kind != "f":
            raise RuntimeError("only Tensors of floating point dtype can require gradients")
        if not requires_grad and self.node is not None:
            raise RuntimeError(
                "you can only change requires_grad flags of leaf variables. If you want to use a computed variable in "
                "a subgraph that doesn't require differentiation use var_no_grad = var.detach()."
            )
        self.needs = requires_grad
        return self

    @property
    def grad_fn(self) -> Node | None:
        """The op that made this tensor; None for a leaf."""
        return self.node

    @property
    def is_leaf(self) -> Bool:
        """Whether no recorded op made this tensor."""
        return self.node is None

    @property
    def grad(self) -> Tensor | None:
        """The accumulated gradient; None before a backward pass reached this leaf."""
        return self._grad  # type: ignore[no-any-return]

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if value is not None and not isinstance(value, Tensor):
            raise TypeError(
                f"assigned grad expected to be a Tensor or None but got grad of type {type(value).__name__}"
            )
        if value is not None and value.array.shape != self.array.shape:
            raise RuntimeError(
                f"attempting to assign a gradient of size '{list(value.shape)}' to a tensor of size "
                f"'{list(self.shape)}'. Please ensure that the gradient and the tensor are the same size"
            )
        self._grad = value

    def retain_grad(self) -> None:
        """Store the gradient of this non-leaf in `.grad` too, as the hooks leave it."""
        if not self.needs:
            raise RuntimeError("can't retain_grad on Tensor that has requires_grad=False")
        if self.node is None or self._retained is not None:
            return
        reference = weakref.ref(self)  # the node's hook must not keep its own tensor alive

        def keep(gradient: Tensor) -> None:
            if (tensor := reference()) is not None:
                tensor._grad = gradient.clone() if tensor._grad is None else tensor._grad + gradient

        self._retained = self.register_hook(keep)

    _retained: RemovableHandle | None = None

    @property
    def retains_grad(self) -> Bool:
        """Whether `retain_grad` made this non-leaf store its gradient."""
        return self._retained is not None

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
        """Call hook with this tensor's gradient in every backward pass; what it returns replaces the gradient."""
        if not self.needs:
            raise RuntimeError("cannot register a hook on a tensor that doesn't require gradient")
        if self.node is None:
            if self.gradient_hooks is None:
                self.gradient_hooks = []
            return RemovableHandle(self.gradient_hooks, hook)
        if self.node.hooks is None:
            self.node.hooks = []
        place = len(self.node.hooks) - self.retains_grad  # what retain_grad does comes last
        return RemovableHandle(self.node.hooks, hook, place=place)

    def register_post_accumulate_grad_hook(self, hook: Callable[[Tensor], None]) -> RemovableHandle:
        """Call hook with this leaf whenever a backward pass has made its gradient final."""
        if self.node is not None:
            raise RuntimeError("post accumulate grad hooks cannot be registered on non-leaf tensors")
        if self.hooks is None:
            self.hooks = []
        return RemovableHandle(self.hooks, hook)

    def backward(
        self, gradient: Tensor | None = None, retain_graph: Bool | None = None, create_graph: Bool = False
    ) -> None:
        """Accumulate the gradient of this tensor (weighted by `gradient`) into the leaves; see autograd.backward."""
        autograd.backward((self,), (gradient,), retain_graph, create_graph)

    @property
    def data(self) -> Tensor:
        """The same memory outside the tape: changing it in place goes unnoticed by autograd."""
        return wrap(self.array)

    @data.setter
    def data(self, value: Tensor) -> None:
        self.array, self.home = value.array, None

    def detach(self) -> Tensor:
        """The same memory without history."""
        tensor = wrap(self.array)
        tensor.version = self.version
        return tensor

    # --- elements out -----------------------------------------------------------------------------------------------

    def item(self) -> Any:
        """The only element as a Python number; RuntimeError when there are several."""
        if self.array.size != 1:
            raise RuntimeError(f"a Tensor with {self.array.size} elements cannot be converted to Scalar")
        return self.array.item()

    def tolist(self) -> Any:
        """Nested lists of Python numbers; a number for a scalar."""
        return to_host(self.array).tolist()

    def numpy(self, *, force: Bool = False) -> np.ndarray:
        """The NumPy array that shares this tensor's memory; an error with a gradient or on a GPU.

        force: without these errors, as a copy on the host where that is needed.
        """
        if force:
            return to_host(self.array)
        if self.needs:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")
        if not isinstance(self.array, np.ndarray):
            raise TypeError(
                f"can't convert {self.device} device type tensor to numpy. "
                "Use Tensor.cpu() to copy the tensor to host memory first."
            )
        return self.array

    def __array__(self, dtype: Any = None, copy: Bool | None = None) -> np.ndarray:
        array = self.numpy()
        return np.array(array, dtype) if copy else array if dtype is None else array.astype(dtype, copy=False)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        # NumPy's own function on a tensor: computed by NumPy, outside the tape, handed back as a tensor
        out = kwargs.get("out")
        if out is not None:
            kwargs["out"] = tuple(v.numpy() if isinstance(v, Tensor) else v for v in out)
        arrays = [v.numpy() if isinstance(v, Tensor) else v for v in inputs]
        result = getattr(ufunc, method)(*arrays, **kwargs)
        if out is not None:
            return out if isinstance(result, tuple) else out[0]
        return tuple(map(wrap, result)) if isinstance(result, tuple) else wrap(result)

    def __bool__(self) -> Bool:
        if self.array.size != 1:
            amount = "no" if self.array.size == 0 else "more than one"
            raise RuntimeError(f"Boolean value of Tensor with {amount} value{'s' * (amount == 'no')} is ambiguous")
        return bool(self.array.item())

    def _number(self) -> Any:
        if self.array.size != 1:
            raise ValueError("only one element tensors can be converted to Python scalars")
        return self.array.item()

    def __int__(self) -> Int:
        return int(self._number())

    def __float__(self) -> Float:
        return float(self._number())

    def __index__(self) -> Int:
        if self.array.dtype.kind not in "iu" or self.array.size != 1:
            raise TypeError("only integer tensors of a single element can be converted to an index")
        return int(self.array.item())

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.ndim == 0 else object.__format__(self, spec)

    def __len__(self) -> Int:
        if self.ndim == 0:
            raise TypeError("len() of a 0-d tensor")
        return int(self.array.shape[0])

    def __iter__(self) -> Iterator[Tensor]:
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d tensor")
        return (self[i] for i in range(len(self)))

    def __contains__(self, element: Any) -> Bool:
        return bool((self == element).array.any())

    def __hash__(self) -> Int:
        return id(self)

    def __repr__(self) -> str:
        return tensor_text(to_host(self.array), prefix="tensor(", suffixes=self._suffixes())

    def _suffixes(self) -> list[str]:
        data, found = self.array, []
        if not isinstance(data, np.ndarray):
            found.append(f"device='{self.device}'")
        usual = (dtypes.get_default_dtype(), dtypes.int64, dtypes.bool_) if data.size else (dtypes.get_default_dtype(),)
        if self.dtype not in usual:
            found.append(f"dtype={self.dtype}")
        if self.node is not None:
            found.append(f"grad_fn=<{self.node.name()}>")
        elif self.needs:
            found.append("requires_grad=True")
        return found

    def __deepcopy__(self, memo: dict[Int, Any]) -> Tensor:
        if self.node is not None:
            raise RuntimeError(
                "Only Tensors created explicitly by the user support the deepcopy protocol at the moment"
            )
        copy = Tensor.__new__(type(self), dtype=self.dtype)
        copy.array, copy.needs = self.array.copy(), self.needs
        copy._grad = None if self._grad is None else wrap(self._grad.array.copy())
        memo[id(self)] = copy
        return copy

    def __reduce__(self) -> Any:
        raise TypeError("a Tensor is not pickled: save a state dict with mpigrad.save_file")

    # --- copies -----------------------------------------------------------------------------------------------------

    def to(self, *args: Any, dtype: Any = None, device: Any = None, copy: Bool = False) -> Tensor:
        """In another dtype or on another device (both of `other` in `to(other)`); itself where nothing changes."""
        for arg in args:
            if isinstance(arg, Tensor):
                dtype, device = arg.dtype, arg.device
            elif isinstance(arg, dtypes.dtype):
                dtype = arg
            elif arg is not None:
                device = arg
        result = self if dtype is None else elementwise.cast(self, dtype.numpy)
        if device is not None:
            here, there = result.device, _device(device)
            data = to_device(result.array, there)
            if data is not result.array:
                source = result
                vjp = lambda g: to_device(g, here) if is_array(g) else g.to(device=here)
                result = autograd.record("ToCopyBackward0", data, (source, vjp))
        return shapes.clone(result) if copy and result is self else result

    def cpu(self) -> Tensor:
        """On the host."""
        return self.to(device=CPU)

    def cuda(self, index: Int = 0) -> Tensor:
        """On a GPU."""
        return self.to(device=_device(index))

    def astype(self, dtype: Any) -> Tensor:
        """NumPy's name for `to(dtype)`; takes NumPy dtypes."""
        return elementwise.cast(self, np.dtype(dtype))  # type: ignore[no-any-return]

    # --- in place ---------------------------------------------------------------------------------------------------

    def _write(self, values: Array) -> Tensor:
        """New elements that depend on no tensor."""
        index.check_in_place(self)
        self.array[...] = values
        self.version[0] += 1
        return self

    def zero_(self) -> Tensor:
        """All elements 0."""
        return self.fill_(0)

    def fill_(self, value: complex) -> Tensor:
        """All elements `value`."""
        index.setitem(self, ..., value)
        return self

    def copy_(self, source: Tensor) -> Tensor:
        """The elements of source, broadcast and cast to this tensor's shape and dtype."""
        index.setitem(self, ..., source.to(device=self.device))
        return self

    def uniform_(self, a: Float = 0.0, b: Float = 1.0, *, generator: Generator | None = None) -> Tensor:
        """Independent draws from U(a, b)."""
        return self._draw((generator or default_generator).uniform(self.array.shape, a, b, self.array.dtype))

    def normal_(self, mean: Float = 0.0, std: Float = 1.0, *, generator: Generator | None = None) -> Tensor:
        """Independent draws from N(mean, std**2)."""
        return self._draw((generator or default_generator).normal(self.array.shape, mean, std, self.array.dtype))

    def bernoulli_(self, p: Float = 0.5, *, generator: Generator | None = None) -> Tensor:
        """1 with probability p, else 0."""
        return self._draw((generator or default_generator).bernoulli(self.array.shape, p, self.array.dtype))

    def _draw(self, values: np.ndarray) -> Tensor:
        return self._write(values if isinstance(self.array, np.ndarray) else array_module(self.array).asarray(values))

    add_ = __iadd__ = _in_place(elementwise.add)
    sub_ = __isub__ = _in_place(elementwise.sub)
    mul_ = __imul__ = _in_place(elementwise.mul)
    div_ = __itruediv__ = _in_place(elementwise.div)
    pow_ = __ipow__ = _in_place(elementwise.pow)

    # --- the ops ----------------------------------------------------------------------------------------------------

    __getitem__ = index.getitem
    __setitem__ = index.setitem

    add = __add__ = __radd__ = elementwise.add
    sub = subtract = __sub__ = elementwise.sub
    __rsub__ = elementwise.rsub
    mul = multiply = __mul__ = __rmul__ = elementwise.mul
    div = divide = true_divide = __truediv__ = elementwise.div
    pow = __pow__ = elementwise.pow
    floor_divide = __floordiv__ = elementwise.floor_divide
    remainder = __mod__ = elementwise.remainder
    neg = negative = __neg__ = elementwise.neg
    abs = absolute = __abs__ = elementwise.abs
    matmul = mm = mv = dot = __matmul__ = linalg.matmul
    maximum, minimum, sign = elementwise.maximum, elementwise.minimum, elementwise.sign
    exp, log, sqrt, sin, cos = elementwise.exp, elementwise.log, elementwise.sqrt, elementwise.sin, elementwise.cos
    tanh, sigmoid, relu = elementwise.tanh, elementwise.sigmoid, elementwise.relu

    eq, ne = elementwise.eq, elementwise.ne
    __eq__, __ne__ = _equality(elementwise.eq), _equality(elementwise.ne)
    lt = less = __lt__ = elementwise.lt
    le = less_equal = __le__ = elementwise.le
    gt = greater = __gt__ = elementwise.gt
    ge = greater_equal = __ge__ = elementwise.ge
    logical_and, logical_or, logical_not = elementwise.logical_and, elementwise.logical_or, elementwise.logical_not
    bitwise_and = __and__ = __rand__ = elementwise.bitwise_and
    bitwise_or = __or__ = __ror__ = elementwise.bitwise_or
    bitwise_xor = __xor__ = __rxor__ = elementwise.bitwise_xor
    __invert__ = bitwise_not = elementwise.bitwise_not
    isnan, isinf, isfinite = elementwise.isnan, elementwise.isinf, elementwise.isfinite

    sum, mean, prod, var, std = reduce.sum, reduce.mean, reduce.prod, reduce.var, reduce.std
    max, min, amax, amin = reduce.max, reduce.min, reduce.amax, reduce.amin
    argmax, argmin, any, all = reduce.argmax, reduce.argmin, reduce.any, reduce.all
    softmax, log_softmax, logsumexp = reduce.softmax, reduce.log_softmax, reduce.logsumexp

    view, reshape, flatten, permute = shapes.view, shapes.reshape, shapes.flatten, shapes.permute
    transpose = swapaxes = shapes.transpose
    t, squeeze, unsqueeze, expand = shapes.t, shapes.squeeze, shapes.unsqueeze, shapes.expand
    contiguous, clone = shapes.contiguous, shapes.clone

    def view_as(self, other: Tensor) -> Tensor:
        """A view in other's shape."""
        return self.view(other.array.shape)  # type: ignore[no-any-return]

    def expand_as(self, other: Tensor) -> Tensor:
        """Broadcast to other's shape."""
        return self.expand(other.array.shape)  # type: ignore[no-any-return]

    def where(self, condition: Tensor, other: Any) -> Tensor:
        """This tensor where condition holds, else other."""
        return elementwise.where(condition, self, other)  # type: ignore[no-any-return]

    float, double, half = _cast_to(dtypes.float32), _cast_to(dtypes.float64), _cast_to(dtypes.float16)
    int, long, short, bool = (
        _cast_to(dtypes.int32),
        _cast_to(dtypes.int64),
        _cast_to(dtypes.int16),
        _cast_to(dtypes.bool_),
    )

    def __rtruediv__(self, other: Any) -> Tensor:
        return elementwise.div(other, self)  # type: ignore[no-any-return]

    def __rfloordiv__(self, other: Any) -> Tensor:
        return elementwise.floor_divide(other, self)  # type: ignore[no-any-return]

    def __rmod__(self, other: Any) -> Tensor:
        return elementwise.remainder(other, self)  # type: ignore[no-any-return]

    def __rpow__(self, other: Any) -> Tensor:
        return elementwise.pow(other, self)  # type: ignore[no-any-return]

    def __rmatmul__(self, other: Any) -> Tensor:
        return linalg.matmul(wrap(other), self)  # type: ignore[no-any-return]

    def __pos__(self) -> Tensor:
        return self

    @property
    def T(self) -> Tensor:
        """All dimensions reversed: a view."""
        return shapes.permute(self, tuple(reversed(range(self.ndim))))  # type: ignore[no-any-return]

    @property
    def mT(self) -> Tensor:
        """The last two dimensions exchanged: a view."""
        return shapes.transpose(self, -1, -2)  # type: ignore[no-any-return]


def _device(where: Any) -> backend.device:
    return where if isinstance(where, backend.device) else backend.device(where)


class Parameter(Tensor):
    """A tensor that a Module registers as something to learn; requires gradients by default."""

    def __new__(cls, data: Tensor | None = None, requires_grad: bool = True) -> Parameter:
        """Over the same memory as data."""
        parameter = Tensor.__new__(cls)
        if data is not None:
            parameter.array, parameter.version = data.array, data.version
        parameter.requires_grad_(requires_grad)
        return parameter  # type: ignore[return-value]

    def __repr__(self) -> str:
        return "Parameter containing:\n" + super().__repr__()


def zero_gradients(tensors: Iterable[Tensor], set_to_none: bool) -> None:
    """Forget the tensors' gradients, or set them to 0 (and take them off the tape)."""
    for tensor in tensors:
        if set_to_none or tensor._grad is None:
            tensor._grad = None
        else:
            tensor._grad.node, tensor._grad.needs = None, False
            tensor._grad.zero_()


bind_tensor_class(Tensor)
