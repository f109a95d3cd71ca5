"""Optimizer: groups, state and hooks as in PyTorch; the update itself runs over whole stretches of flat memory."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

import numpy as np

from ..autograd import RemovableHandle, enable_grad, wrap
from ..backend import Array, array_module, device_of, to_device
from ..dtypes import float32, float64, get_default_dtype
from ..flat import Run, flatten, runs, with_gradients
from ..tensor import Tensor, zero_gradients

__all__ = ["Optimizer"]

FEW = 1024  # elements in a flat memory, see add_scaled

# Bytes that a rule works on at a time: on a CPU few enough that they stay in the cache through the rule's passes, on a
# GPU so many that starting the kernels costs nothing beside them. Both are many enough, and the scratch memory small.
CPU_BLOCK, GPU_BLOCK = 1 << 21, 1 << 24

NOT_NEGATIVE = {
    "lr": "learning rate",
    "eps": "epsilon value",
    "momentum": "momentum value",
    "weight_decay": "weight_decay value",
    "momentum_decay": "momentum_decay value",
    "lr_decay": "lr_decay value",
    "initial_accumulator_value": "initial_accumulator_value value",
}


def hyper_parameters(arguments: dict[str, Any], last: str = "") -> dict[str, Any]:
    """The defaults of an optimizer from the `locals()` of its constructor, checked where all optimizers agree.

    last: the names that come last, in their order, so that a state dict prints as PyTorch's.
    """
    options = {k: v for k, v in arguments.items() if k not in ("self", "params", "__class__")}
    options.update([(name, options.pop(name)) for name in last.split()])
    if isinstance(options["lr"], Tensor) and options["lr"].numel() != 1:
        raise ValueError("Tensor lr must be 1-element")
    for name, words in NOT_NEGATIVE.items():
        if not options.get(name, 0) >= 0:
            raise ValueError(f"Invalid {words}: {options[name]}")
    for index, beta in enumerate(options.get("betas", ())):
        if not 0.0 <= beta < 1.0:
            raise ValueError(f"Invalid beta parameter at index {index}: {beta}")
    if options.get("differentiable"):
        raise NotImplementedError("an update is not recorded on the tape: differentiable=True is not supported")
    if options.get("fused") and options.get("foreach"):
        raise RuntimeError("`fused` and `foreach` cannot be `True` together.")
    return options


class Lane(Run):
    """A run of parameters that are updated together: their elements in blocks, and what counts for all of them.

    scalars: state with one number per parameter, equal in the whole lane. fresh: no update has been made yet. few: the
    flat memory is small, of whatever part of it this lane is: so ranks that share it out compute the same bits.
    spare: memory for intermediate results by dtype and device, which an optimizer's lanes share; it grows here.
    """

    __slots__ = ("blocks", "few", "fresh", "scalars", "state")

    def __init__(
        self,
        run: Run,
        state: dict[str, Array],
        scalars: dict[str, np.ndarray],
        fresh: bool,
        spare: dict[tuple[Any, ...], list[Array]],
    ) -> None:
        super().__init__(run.tensors)
        self.scalars, self.fresh, self.few = scalars, fresh, self.home.values.size <= FEW
        xp, size = array_module(self.values), self.stop - self.start
        length = (CPU_BLOCK if xp is np else GPU_BLOCK) // self.values.itemsize
        kind, needed = (self.values.dtype, str(device_of(self.values))), min(size, length)
        if kind not in spare or spare[kind][0].size < needed:
            spare[kind] = [xp.empty(needed, self.values.dtype) for _ in range(3)]
        rows = (self.values, self.gradients, *state.values())
        self.blocks = []
        for start in range(0, size, length):
            values, gradients, *own = (row[start : start + length] for row in rows)
            self.blocks.append((values, gradients, *(a[: values.size] for a in spare[kind]), *own))

    def count(self) -> float:
        """Count an update, and return the number of them."""
        step = self.scalars["step"]
        step += 1
        return step.item()  # type: ignore[no-any-return]

    def each(self, group: dict[str, Any], weight_decay: float = 0.0) -> Iterator[tuple[Array, ...]]:
        """Per block: values, gradient, two arrays for intermediate results, and the state in the order declared.

        The gradient is that of the function to minimize, plus `weight_decay` times the values. It must not be changed.
        """
        maximize = group["maximize"]
        if not maximize and not weight_decay:
            for values, gradient, _, *rest in self.blocks:
                yield values, gradient, *rest
            return
        for values, gradient, other, scratch, *rest in self.blocks:
            if maximize:
                gradient = np.negative(gradient, out=other)
            if weight_decay:
                gradient = np.add(gradient, np.multiply(values, weight_decay, out=scratch), out=other)
            yield values, gradient, scratch, *rest


def add_scaled(p: Array, x: Array, factor: float, scratch: Array, few: bool) -> None:
    """p += factor * x, in place.

    PyTorch computes this fused, rounding once. So do we where there are few float32 elements; for many the last bit is
    not worth the time that float64 takes.
    """
    if few and p.dtype == np.float32:
        p[...] = x * np.float64(np.float32(factor)) + p
    else:
        p += np.multiply(x, factor, out=scratch)


def move_towards(average: Array, value: Array, weight: float, scratch: Array) -> None:
    """average += weight * (value - average), in place."""
    np.subtract(value, average, out=scratch)
    scratch *= weight
    average += scratch


def average_square(average: Array, value: Array, kept: float, scratch: Array) -> None:
    """average = kept * average + (1 - kept) * value**2, in place."""
    np.multiply(value, value, out=scratch)
    scratch *= 1 - kept
    average *= kept
    average += scratch


_hooks_of_all: defaultdict[str, list[Any]] = defaultdict(list)


def register_optimizer_step_pre_hook(hook: Callable[..., Any]) -> RemovableHandle:
    """Before every step of every optimizer call hook(optimizer, args, kwargs), which may return new args and kwargs."""
    return RemovableHandle(_hooks_of_all["step_pre"], hook)


def register_optimizer_step_post_hook(hook: Callable[..., None]) -> RemovableHandle:
    """After every step of every optimizer call hook(optimizer, args, kwargs)."""
    return RemovableHandle(_hooks_of_all["step_post"], hook)


def _with_hooks(step: Callable[..., Any]) -> Callable[..., Any]:
    """A step between its hooks, whose args begin with the optimizer. It remembers the step, for the schedulers."""

    @functools.wraps(step)
    def method(*args: Any, **kwargs: Any) -> Any:
        self = args[0]
        for hook in (*_hooks_of_all["step_pre"], *self._hooks["step_pre"]):
            changed = hook(self, args, kwargs)
            if changed is not None:
                if not isinstance(changed, tuple) or len(changed) != 2:
                    raise RuntimeError(
                        f"{step} must return None or a tuple of (new_args, new_kwargs), but got {changed}."
                    )
                args, kwargs = changed
        result = step(*args, **kwargs)
        if self._opt_called is False:
            self._opt_called = True
        for hook in (*self._hooks["step_post"], *_hooks_of_all["step_post"]):
            hook(self, args, kwargs)
        return result

    return method


class Optimizer:
    """Base class. A subclass declares its state in `_initial` and updates a lane in `_update` (or defines `step`).

    params: tensors, (name, tensor) pairs, or dicts with "params" and options of their own. TypeError or ValueError for
    anything else, for no parameters, and for one given twice.
    """

    _scalars: ClassVar[tuple[str, ...]] = ("step",)  # the state that has one number per parameter

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        if isinstance(params, Tensor):
            raise TypeError(
                "params argument given to the optimizer should be an iterable of Tensors or dicts, but got "
                f"{type(params).__name__}"
            )
        self.__setstate__({"defaults": defaults, "param_groups": [], "state": defaultdict(dict)})
        groups = list(params)
        if not groups:
            raise ValueError("optimizer got an empty parameter list")
        for group in groups if isinstance(groups[0], dict) else [{"params": groups}]:
            self.add_param_group(group)

    def __init_subclass__(cls) -> None:
        if "step" in cls.__dict__:
            cls.step = _with_hooks(cls.step)  # type: ignore[method-assign]

    def __getstate__(self) -> dict[str, Any]:
        return {"defaults": self.defaults, "state": self.state, "param_groups": self.param_groups}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.defaults: dict[str, Any] = state["defaults"]
        self.param_groups: list[dict[str, Any]] = state["param_groups"]
        self.state: defaultdict[Tensor, dict[str, Any]] = state["state"]
        self._lanes: dict[int, tuple[tuple[Any, ...], list[Lane]]] = {}  # per group: made for what, the lanes
        self._spare: dict[tuple[Any, ...], list[Array]] = {}
        self._hooks: defaultdict[str, list[Any]] = defaultdict(list)
        self._opt_called: bool | None = None  # whether a step was made since a scheduler began to watch

    def __repr__(self) -> str:
        text = f"{type(self).__name__} ("
        for number, group in enumerate(self.param_groups):
            options = [f"    {key}: {group[key]}\n" for key in sorted(group) if key != "params"]
            text += f"\nParameter Group {number}\n{''.join(options)}"
        return text + ")"

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Optimize more parameters, with options of their own."""
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        given = param_group["params"]
        if isinstance(given, set):
            raise TypeError(
                "optimizer parameters need to be organized in ordered collections, but the ordering of tensors in sets "
                "will change between runs. Please use a list instead."
            )
        given = [given] if isinstance(given, Tensor) else list(given)
        names = [item[0] for item in given if isinstance(item, tuple)]
        if names and len(names) != len(given):
            raise ValueError("all optimizer params should be with/without names. Some param names are missing")
        if self.param_groups and bool(names) != ("param_names" in self.param_groups[0]):
            raise ValueError(
                "all optimizer param groups should be with/without names. cannot add param group "
                f"{'with' if names else 'without'} names to the optimizer"
            )
        parameters = [item[1] for item in given] if names else given
        taken = set(self._numbered())
        for parameter in parameters:
            if not isinstance(parameter, Tensor):
                raise TypeError(
                    f"optimizer can only optimize Tensors, but one of the params is {type(parameter).__name__}"
                )
            if parameter.node is not None and not parameter.retains_grad:
                raise ValueError("can't optimize a non-leaf Tensor")
            if parameter in taken:
                raise ValueError("some parameters appear in more than one parameter group")
            taken.add(parameter)
        param_group["params"] = parameters
        if names:
            param_group["param_names"] = names
        for name, default in self.defaults.items():
            param_group.setdefault(name, default)
        self.param_groups.append(param_group)
        flatten(parameters)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients, or set them to 0."""
        zero_gradients(self._numbered(), set_to_none)

    @_with_hooks
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; with a closure, evaluate it first and return its loss."""
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        for number, group in enumerate(self.param_groups):
            self._update_group(number, group)
        return loss

    def _update_group(self, number: int, group: dict[str, Any]) -> None:
        """Update what has gradients in a group: lane by lane."""
        for lane in self._ready_lanes(number, group):
            self._update(lane, group)
            lane.fresh = False
            for parameter in lane.tensors:
                parameter.version[0] += 1

    def _initial(self, group: dict[str, Any]) -> dict[str, float]:
        """The names of a parameter's state, in PyTorch's order, with the values that it begins with."""
        return {}

    def _update(self, lane: Lane, group: dict[str, Any]) -> None:
        """Update the lane's values from its gradients, in place."""
        raise NotImplementedError(f"{type(self).__name__} defines neither _update nor step")

    # --- from parameters to lanes -----------------------------------------------------------------------------------

    def _ready_lanes(self, number: int, group: dict[str, Any]) -> list[Lane]:
        """The group's parameters that have gradients, as lanes: the ones of the last step where nothing changed."""
        active, initial = with_gradients(group["params"]), self._initial(group)
        made_for: tuple[Any, ...] = (*initial, *[p.home for p in active])
        known = self._lanes.get(number)
        if known is None or known[0] != made_for or (initial and active and active[0] not in self.state):
            self._lanes[number] = known = (made_for, self._build_lanes(active, initial))
        return known[1]

    def _build_lanes(self, active: list[Tensor], initial: dict[str, float]) -> list[Lane]:
        """Neighbours with the same kinds of state and equal scalars share a lane; their state moves along."""
        alike: dict[tuple[Any, ...], list[Tensor]] = {}
        for parameter in active:
            own = self.state.get(parameter, {})
            known = [n for n in initial if own.get(n) is not None]
            key = tuple([float(own[n]) if n in self._scalars else n for n in known])
            alike.setdefault(key, []).append(parameter)
        lanes = []
        scalar_type = (float64 if get_default_dtype() is float64 else float32).numpy
        for key, parameters in alike.items():
            for run in runs(parameters):
                state, scalars = {}, {}
                for name, start in initial.items():
                    if name in self._scalars:
                        first = self.state[run.tensors[0]].get(name)
                        number = np.array(start if first is None else float(first), scalar_type)
                        scalars[name] = number
                        for parameter in run.tensors:
                            self.state[parameter][name] = wrap(number)
                    else:
                        state[name] = self._gather_state(run, name, start)
                lanes.append(Lane(run, state, scalars, not key, self._spare))
        return lanes

    def _gather_state(self, run: Run, name: str, start: float) -> Array:
        """A state array for a run: what its parameters have of it already, else `start`."""
        state = array_module(run.values).full_like(run.values, start)
        for parameter in run.tensors:
            home, own = parameter.home, self.state[parameter]
            place = state[home.start - run.start : home.stop - run.start].reshape(parameter.array.shape)
            if own.get(name) is not None:
                place[...] = to_device(own[name].array, device_of(place))
            own[name] = wrap(place)
        return state

    # --- saving -----------------------------------------------------------------------------------------------------

    def _numbered(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def state_dict(self) -> dict[str, Any]:
        """State by parameter number, and the groups with parameter numbers in the place of parameters."""
        for hook in tuple(self._hooks["state_dict_pre"]):
            hook(self)
        numbers = {p: i for i, p in enumerate(self._numbered())}
        state = {numbers.get(p, p): values for p, values in self.state.items()}
        options = [{k: v for k, v in group.items() if k != "params"} for group in self.param_groups]
        groups = [
            {**own, "params": [numbers[p] for p in group["params"]]}
            for own, group in zip(options, self.param_groups, strict=True)
        ]
        found = {"state": state, "param_groups": groups}
        for hook in tuple(self._hooks["state_dict_post"]):
            found = hook(self, found) or found
        return found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a copy of a state_dict's values. ValueError when its groups are not shaped as these."""
        state_dict = state_dict.copy()
        for hook in tuple(self._hooks["load_state_dict_pre"]):
            state_dict = hook(self, state_dict) or state_dict
        groups = state_dict["param_groups"]
        if len(groups) != len(self.param_groups):
            raise ValueError("loaded state dict has a different number of parameter groups")
        if any(len(a["params"]) != len(b["params"]) for a, b in zip(groups, self.param_groups, strict=True)):
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the size of optimizer's group"
            )
        numbers = [number for group in groups for number in group["params"]]
        parameters = dict(zip(numbers, self._numbered(), strict=True))
        for own, loaded in zip(self.param_groups, groups, strict=True):
            for name in set(own) - {"params", "param_names"}:
                del own[name]
            own.update({k: _copied(v) for k, v in loaded.items() if k != "params"})
        self._take({parameters.get(number, number): values for number, values in state_dict["state"].items()})
        for hook in tuple(self._hooks["load_state_dict_post"]):
            hook(self)

    def _take(self, state: dict[Any, dict[str, Any]]) -> None:
        """Let the state be a copy of this."""
        self.state, self._lanes = defaultdict(dict), {}
        for parameter, values in state.items():
            self.state[parameter] = {
                k: _copied(v, parameter if k not in self._scalars else None) for k, v in values.items()
            }

    # --- hooks ------------------------------------------------------------------------------------------------------

    def register_step_pre_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Before every step call hook(optimizer, args, kwargs), which may return new args and kwargs."""
        return RemovableHandle(self._hooks["step_pre"], hook)

    def register_step_post_hook(self, hook: Callable[..., None]) -> RemovableHandle:
        """After every step call hook(optimizer, args, kwargs)."""
        return RemovableHandle(self._hooks["step_post"], hook)

    def register_state_dict_pre_hook(self, hook: Callable[[Any], None], prepend: bool = False) -> RemovableHandle:
        """Before every state_dict call hook(optimizer)."""
        return RemovableHandle(self._hooks["state_dict_pre"], hook, place=0 if prepend else None)

    def register_state_dict_post_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """After every state_dict call hook(optimizer, state_dict), which may return another one."""
        return RemovableHandle(self._hooks["state_dict_post"], hook, place=0 if prepend else None)

    def register_load_state_dict_pre_hook(self, hook: Callable[..., Any], prepend: bool = False) -> RemovableHandle:
        """Before every load_state_dict call hook(optimizer, state_dict), which may return another one."""
        return RemovableHandle(self._hooks["load_state_dict_pre"], hook, place=0 if prepend else None)

    def register_load_state_dict_post_hook(self, hook: Callable[[Any], None], prepend: bool = False) -> RemovableHandle:
        """After every load_state_dict call hook(optimizer)."""
        return RemovableHandle(self._hooks["load_state_dict_post"], hook, place=0 if prepend else None)


def _copied(value: Any, parameter: Tensor | None = None) -> Any:
    """A copy of a loaded value, whatever it consists of; tensors in the parameter's dtype and on its device."""
    if isinstance(value, Tensor):
        value = value.detach()
        return (value if parameter is None else value.to(parameter)).clone()
    if isinstance(value, (list, tuple)):
        return type(value)(_copied(v, parameter) for v in value)
    if isinstance(value, dict):
        return {k: _copied(v, parameter) for k, v in value.items()}
    return value
