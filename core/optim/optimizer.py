"""Optimizer: parameter groups and state as in PyTorch; the update itself runs over whole stretches of flat memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..autograd import wrap
from ..backend import Array, array_module
from ..flat import Home, Run, flatten, gather_gradient, runs
from ..tensor import Tensor, zero_gradients

__all__ = ["Optimizer"]


class Lane(Run):
    """A run of parameters that are updated together, with their state beside them and the count of their updates."""

    __slots__ = ("scratch", "state", "steps")

    def __init__(self, run: Run, steps: int) -> None:
        super().__init__(run.tensors)
        self.steps = steps
        self.state: dict[str, Array] = {}
        self.scratch = array_module(self.values).empty_like(self.values)


class Optimizer:
    """Base class: a subclass updates a lane in `_update`.

    params: tensors, or dicts with "params" and options of their own. ValueError without any, or for one given twice.
    """

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        self.defaults = defaults
        self.param_groups: list[dict[str, Any]] = []
        self.state: dict[Tensor, dict[str, Tensor]] = {}
        self._steps: dict[Tensor, int] = {}
        self._lanes: list[tuple[tuple[Home, ...], list[Lane]]] = []  # per group: made for which homes, the lanes
        if isinstance(params, Tensor):
            raise TypeError(
                "params argument given to the optimizer should be an iterable of Tensors or dicts, found a Tensor"
            )
        groups = list(params)
        if not groups:
            raise ValueError("optimizer got an empty parameter list")
        for group in groups if isinstance(groups[0], dict) else [{"params": groups}]:
            self.add_param_group(group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Optimize more parameters, with options of their own."""
        given = param_group["params"]
        group = {**self.defaults, **param_group, "params": [given] if isinstance(given, Tensor) else list(given)}
        taken = {p for g in self.param_groups for p in g["params"]}
        for parameter in group["params"]:
            if not isinstance(parameter, Tensor):
                raise TypeError(
                    f"optimizer can only optimize Tensors, but one of the params is {type(parameter).__name__}"
                )
            if parameter.node is not None:
                raise ValueError("can't optimize a non-leaf Tensor")
            if parameter in taken:
                raise ValueError("some parameters appear in more than one parameter group")
            taken.add(parameter)
            self._steps[parameter] = 0
        self.param_groups.append(group)
        self._lanes.append(((), []))
        flatten(group["params"])

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients, or set them to 0."""
        zero_gradients(self._numbered(), set_to_none)

    def step(self, closure: Any = None) -> Any:
        """Update every parameter that has a gradient; with a closure, evaluate it first and return its loss."""
        loss = closure() if closure is not None else None
        for number, group in enumerate(self.param_groups):
            for lane in self._ready_lanes(number, group["params"]):
                lane.steps += 1
                self._update(lane, group)
                for parameter in lane.tensors:
                    parameter.version[0] += 1
        return loss

    def _update(self, lane: Lane, group: dict[str, Any]) -> None:
        """Update lane.values from lane.gradients in place."""
        raise NotImplementedError(f"{type(self).__name__} defines no _update")

    def _ready_lanes(self, number: int, parameters: list[Tensor]) -> list[Lane]:
        """The group's parameters that have gradients, as lanes: the ones of the last step where nothing changed."""
        active = []
        for parameter in parameters:
            grad = parameter._grad
            if grad is not None:
                active.append(parameter)
                if parameter.home is None:
                    flatten(parameters)
                if grad.array is not parameter.home.gradient:
                    gather_gradient(parameter)
        key = tuple([p.home for p in active])
        if key != self._lanes[number][0]:
            self._lanes[number] = (key, self._build_lanes(number, active))
        return self._lanes[number][1]

    def _build_lanes(self, number: int, active: list[Tensor]) -> list[Lane]:
        """Neighbours with equally many steps and the same kinds of state share a lane; their state moves along."""
        for lane in self._lanes[number][1]:
            self._steps.update(dict.fromkeys(lane.tensors, lane.steps))
        alike: dict[Any, list[Tensor]] = {}
        for parameter in active:
            alike.setdefault((self._steps[parameter], *self.state.get(parameter, ())), []).append(parameter)
        lanes = [Lane(run, steps) for (steps, *_), group in alike.items() for run in runs(group)]
        for lane in lanes:
            for name in self.state.get(lane.tensors[0], ()):
                self._add_state(lane, name)
        return lanes

    def _add_state(self, lane: Lane, name: str) -> Array:
        """A state array for a lane, filled with what its parameters have of it already, else 0."""
        lane.state[name] = state = array_module(lane.values).zeros_like(lane.values)
        for parameter in lane.tensors:
            home, own = parameter.home, self.state.setdefault(parameter, {})
            place = state[home.start - lane.start : home.stop - lane.start].reshape(parameter.array.shape)
            if name in own:
                place[...] = own[name].array
            own[name] = wrap(place)
        return state

    # --- saving -----------------------------------------------------------------------------------------------------

    def _numbered(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def state_dict(self) -> dict[str, Any]:
        """State by parameter number, and the groups with parameter numbers in the place of parameters."""
        for _, lanes in self._lanes:
            for lane in lanes:
                self._steps.update(dict.fromkeys(lane.tensors, lane.steps))
        numbers = {p: i for i, p in enumerate(self._numbered())}
        state = {numbers[p]: {**values, "step": self._steps[p]} for p, values in self.state.items()}
        groups = [{**g, "params": [numbers[p] for p in g["params"]]} for g in self.param_groups]
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state_dict's values. ValueError when its groups are not shaped as these."""
        groups = state_dict["param_groups"]
        found, expected = ([len(g["params"]) for g in many] for many in (groups, self.param_groups))
        if found != expected:
            raise ValueError(
                f"loaded state dict has parameter groups of sizes {found}, this optimizer has groups of {expected}"
            )
        for own, loaded in zip(self.param_groups, groups, strict=True):
            own.update({k: v for k, v in loaded.items() if k != "params"})
        parameters = self._numbered()
        self.state, self._lanes = {}, [((), []) for _ in groups]
        self._steps = dict.fromkeys(parameters, 0)
        for number, values in state_dict["state"].items():
            parameter = parameters[int(number)]
            self._steps[parameter] = int(values.get("step", 1))
            self.state[parameter] = {k: v.detach().clone() for k, v in values.items() if isinstance(v, Tensor)}
