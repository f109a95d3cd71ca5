"""Module: what it computes, its state, and changes of it and everything below it."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any, Self

from .. import dtypes
from ..autograd import RemovableHandle, no_grad
from ..creation import empty_like
from ..tensor import Tensor, zero_gradients
from .hooks import BackwardHooks, ForwardHook
from .parameter import Buffer, Parameter
from .registry import Registry

__all__ = ["Buffer", "Module", "Parameter"]

EXTRA_STATE = "_extra_state"
Hooks = defaultdict[str, list[Any]]  # by the moment when they are called


class _IncompatibleKeys(namedtuple("IncompatibleKeys", ["missing_keys", "unexpected_keys"])):
    __slots__ = ()

    def __repr__(self) -> str:
        return super().__repr__() if any(self) else "<All keys matched successfully>"


class Module(Registry):
    """Base class of all networks: define `forward`, call the module.

    Attributes that are Parameters, Buffers or Modules are registered when they are assigned; another tensor becomes a
    buffer by `register_buffer`.
    """

    training: bool
    _call_hooks: Hooks | None = None
    _state_hooks: Hooks | None = None  # apart from those, as they leave calls alone

    def __init__(self) -> None:
        super().__init__()
        self.__dict__["training"] = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes."""
        raise NotImplementedError(f'Module [{type(self).__name__}] is missing the required "forward" function')

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._call_hooks is None:
            return self.forward(*args, **kwargs)
        hooks = self._call_hooks
        for hook in hooks["before forward"]:
            args, kwargs = hook.before(self, args, kwargs)
        gates = None
        if hooks["before backward"] or hooks["after backward"]:
            gates = BackwardHooks(self, hooks["before backward"], hooks["after backward"])
            args = gates.enter(args)
        result, left = None, [*hooks["after forward"]]
        try:
            result = self.forward(*args, **kwargs)
            while left:
                changed = left.pop(0).after(self, args, kwargs, result)
                result = result if changed is None else changed
        except Exception:
            for hook in left:
                if hook.always:
                    hook.after(self, args, kwargs, result)
            raise
        return result if gates is None else gates.leave(result)

    # --- hooks --------------------------------------------------------------------------------------------------------

    def _hook_calls(self, moment: str, hook: Any, prepend: bool = False) -> RemovableHandle:
        if self._call_hooks is None:
            self._call_hooks = defaultdict(list)
        return RemovableHandle(self._call_hooks[moment], hook, place=0 if prepend else None)

    def _hook_state(self, moment: str, hook: Any) -> RemovableHandle:
        if self._state_hooks is None:
            self._state_hooks = defaultdict(list)
        return RemovableHandle(self._state_hooks[moment], hook)

    def _called(self, moment: str) -> list[Any]:
        """The hooks that are called at a moment of saving or loading."""
        return self._state_hooks[moment] if self._state_hooks else []

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Call hook(module, args) before forward; what it returns replaces args.

        with_kwargs: hook(module, args, kwargs), which returns None or (args, kwargs).
        """

        return self._hook_calls("before forward", ForwardHook(hook, with_kwargs), prepend)

    def register_forward_hook(
        self,
        hook: Callable[..., Any],
        *,
        prepend: bool = False,
        with_kwargs: bool = False,
        always_call: bool = False,
    ) -> RemovableHandle:
        """Call hook(module, args, output) after forward; what it returns replaces the output.

        with_kwargs: hook(module, args, kwargs, output). always_call: even if forward, or a hook before this one,
        raises; output is what there is by then, or None.
        """
        return self._hook_calls("after forward", ForwardHook(hook, with_kwargs, always_call), prepend)

    def register_full_backward_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Call hook(module, grad_output) before the module's backward; what it returns replaces grad_output."""
        return self._hook_calls("before backward", hook, prepend)

    def register_full_backward_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Call hook(module, grad_input, grad_output) after its backward; what it returns replaces grad_input."""
        return self._hook_calls("after backward", hook, prepend)

    def register_state_dict_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call hook(module, prefix, keep_vars) before this module's entries are collected."""
        return self._hook_state("before state_dict", hook)

    def register_state_dict_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call hook(module, state_dict, prefix, local_metadata) after them; it changes the dict in place."""
        return self._hook_state("after state_dict", hook)

    def register_load_state_dict_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call hook(module, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs).

        It is called before loading, and may change the dict (a copy of the entries that start with prefix).
        """
        return self._hook_state("before load_state_dict", hook)

    def register_load_state_dict_post_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Call hook(module, incompatible_keys) after loading; it may change the two lists, before they are errors."""
        return self._hook_state("after load_state_dict", hook)

    # --- state --------------------------------------------------------------------------------------------------------

    def get_extra_state(self) -> Any:
        """What a subclass adds to its state dict, under the name "_extra_state"."""
        raise RuntimeError("Reached a code path in Module.get_extra_state() that should never be called.")

    def set_extra_state(self, state: Any) -> None:
        """Take over what get_extra_state gave."""
        raise RuntimeError("Reached a code path in Module.set_extra_state() that should never be called.")

    def _own_state(self) -> list[tuple[str, Any]]:
        """Parameters, then persistent buffers."""
        skipped = self._non_persistent_buffers_set
        return self._own("parameter") + [pair for pair in self._own("buffer") if pair[0] not in skipped]

    def state_dict(self, *, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """All parameters and persistent buffers by name, detached (unless keep_vars), sharing their memory."""
        found = OrderedDict() if destination is None else destination
        for hook in self._called("before state_dict"):
            hook(self, prefix, keep_vars)
        for name, value in self._own_state():
            found[prefix + name] = value if keep_vars else value.detach()
        if type(self).get_extra_state is not Module.get_extra_state:
            found[prefix + EXTRA_STATE] = self.get_extra_state()
        for name, child in self._own("module"):
            child.state_dict(destination=found, prefix=f"{prefix}{name}.", keep_vars=keep_vars)
        for hook in self._called("after state_dict"):
            if hook(self, found, prefix, {}) is not None:
                raise RuntimeError("state_dict post-hook must return None")
        return found

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> _IncompatibleKeys:
        """Copy the values in, or with `assign` take over the tensors themselves.

        RuntimeError lists all missing, unexpected (if strict) and misshapen entries; nothing has changed then.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"Expected state_dict to be dict-like, got {type(state_dict)}.")
        state = OrderedDict(state_dict)
        missing: list[str] = []
        unexpected: list[str] = []
        complaints: list[str] = []
        places: dict[str, tuple[Module, str]] = {}
        inside = [(f"{path}." if path else "", m) for path, m in self.named_modules(remove_duplicate=False)]
        for prefix, module in inside:
            for hook in module._called("before load_state_dict"):
                part = {k: state.pop(k) for k in [*state] if k.startswith(prefix)}
                hook(module, part, prefix, {}, True, missing, unexpected, complaints)
                state.update(part)
            places.update({prefix + name: (module, name) for name, _ in module._own_state()})
            if type(module).set_extra_state is not Module.set_extra_state:
                places[prefix + EXTRA_STATE] = (module, "")
        missing += [k for k in places if k not in state]
        unexpected += [k for k in state if k not in places]
        found = {k: v for k, v in state.items() if k in places}
        for key, value in found.items():
            module, name = places[key]
            if name:
                found[key], complaint = _fitting(key, value, getattr(module, name))
                complaints += complaint
        after = [(module, hook) for _, module in inside for hook in module._called("after load_state_dict")]
        keys = _IncompatibleKeys(missing, unexpected)
        if complaints or not after:
            self._complain(keys, complaints, strict)
        for key, value in found.items():
            module, name = places[key]
            if name:
                _load(module, name, value, assign)
            else:
                module.set_extra_state(value)
        for module, hook in after:
            hook(module, keys)
        self._complain(keys, complaints, strict)
        return keys

    def _complain(self, keys: _IncompatibleKeys, complaints: list[str], strict: bool) -> None:
        words = zip(("Missing", "Unexpected"), keys, strict=True) if strict else ()
        wrong = [
            f"{word} key(s) in state_dict: " + ", ".join(f'"{k}"' for k in found) + ". "
            for word, found in words
            if found
        ]
        if wrong + complaints:
            lines = "\n\t".join(wrong + complaints)
            raise RuntimeError(f"Error(s) in loading state_dict for {type(self).__name__}:\n\t{lines}")

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        memo[id(self)] = copy = type(self).__new__(type(self))
        copy.__dict__.update(deepcopy(self.__dict__, memo))
        return copy

    def __reduce__(self) -> Any:
        raise TypeError("a Module is not pickled: save its state_dict() with mpigrad.save_file")

    # --- changes of the whole -----------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Self:
        """Set training mode (dropout active) here and below."""
        if not isinstance(mode, bool):
            raise ValueError("training mode is expected to be boolean")
        self.training = mode
        for child in self.children():
            child.train(mode)
        return self

    def eval(self) -> Self:
        """Set evaluation mode here and below."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Freeze (False) or unfreeze all parameters."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters, or set them to 0."""
        zero_gradients(self.parameters(), set_to_none)

    def apply(self, fn: Callable[[Module], None]) -> Self:
        """Call fn on every sub-module and then on this one."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    def _apply(self, fn: Callable[[Any], Any], recurse: bool = True) -> Self:
        """Give every parameter, its gradient and every buffer the elements of fn(tensor); objects stay the same."""
        with no_grad():
            for tensor in (*self.parameters(recurse), *self.buffers(recurse)):
                for part in (tensor, tensor._grad):
                    if part is not None and (moved := fn(part)) is not part:
                        part.data = moved
        return self

    def to(
        self,
        *args: Any,
        dtype: Any = None,
        device: Any = None,
        non_blocking: bool = False,
        memory_format: Any = None,
    ) -> Self:
        """Move everything to a device, floating-point values to a dtype (or both as in a given tensor); in place.

        memory_format: accepted, as by Tensor.to.
        """
        for arg in args:
            if isinstance(arg, Tensor):
                dtype, device = arg.dtype, arg.device
            elif isinstance(arg, dtypes.dtype):
                dtype = arg
            elif arg is not None and not isinstance(arg, bool):
                device = arg
        if dtype is not None and not dtype.is_floating_point:
            raise TypeError(
                f"nn.Module.to only accepts floating point or complex dtypes, but got desired dtype={dtype}"
            )
        return self._apply(lambda t: t.to(device=device, dtype=dtype if t.dtype.is_floating_point else None))

    def cpu(self) -> Self:
        """To the host."""
        return self.to(device="cpu")

    def cuda(self, device: Any = None) -> Self:
        """To a GPU, the current one unless said."""
        return self.to(device="cuda" if device is None else device)

    def to_empty(self, *, device: Any, recurse: bool = True) -> Self:
        """To a device, with elements as the memory there happens to be."""
        return self._apply(lambda t: empty_like(t, device=device), recurse)

    def type(self, dst_type: dtypes.dtype) -> Self:
        """All values, integers too, in a dtype."""
        return self._apply(lambda t: t.to(dst_type))

    def float(self) -> Self:
        """Floating-point values in float32."""
        return self.to(dtypes.float32)

    def double(self) -> Self:
        """Floating-point values in float64."""
        return self.to(dtypes.float64)

    def half(self) -> Self:
        """Floating-point values in float16."""
        return self.to(dtypes.float16)

    def bfloat16(self) -> Self:
        """Floating-point values in bfloat16."""
        return self.to(dtypes.bfloat16)

    # --- printing -----------------------------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """What stands between the parentheses for this module itself."""
        return ""

    def __repr__(self) -> str:
        children = [f"({name}): {_indented(repr(child))}" for name, child in self._modules.items()]
        return _block(self._get_name(), self.extra_repr().split("\n") if self.extra_repr() else [], children)


def _block(name: str, extra: list[str], children: list[str]) -> str:
    """A module's printed form: on one line if it has no children, and says no more about itself than one line."""
    if len(extra) <= 1 and not children:
        return f"{name}({''.join(extra)})"
    return f"{name}(\n  " + "\n  ".join(extra + children) + "\n)"


def _indented(text: str) -> str:
    """Every line but the first moved in by two spaces."""
    return text.replace("\n", "\n  ")


def _fitting(key: str, value: Any, own: Tensor) -> tuple[Any, list[str]]:
    """The entry of a state dict as it can be loaded, and what is wrong about it."""
    if not isinstance(value, Tensor):
        return value, [
            f'While copying the parameter named "{key}", expected mpigrad.Tensor or Tensor-like object from checkpoint '
            f"but received {type(value)}"
        ]
    if own.array.ndim == 0 and value.array.shape == (1,):
        value = value.reshape(())
    if value.array.shape == own.array.shape:
        return value, []
    return value, [
        f"size mismatch for {key}: copying a param with shape {value.shape} from checkpoint, "
        f"the shape in current model is {own.shape}."
    ]


def _load(module: Module, name: str, value: Any, assign: bool) -> None:
    own = getattr(module, name)
    if not assign:
        with no_grad():
            own.copy_(value)
        return
    if isinstance(own, Parameter):
        value = value if isinstance(value, Parameter) else Parameter(value, requires_grad=False)
        value.requires_grad_(own.needs)
    module.__dict__[name] = value
