"""What all schedulers share: the rates of the groups, the steps, and saving."""

from __future__ import annotations

import types
import warnings
from typing import Any

from ...tensor import Tensor
from ..optimizer import Optimizer

__all__ = ["LRScheduler", "_LRScheduler"]

EPOCH_IS_DEPRECATED = (
    "The epoch parameter in `scheduler.step()` was not necessary and is being deprecated where possible. Please use "
    "`scheduler.step()` to step the scheduler. During the deprecation, if epoch is different from None, the closed "
    "form is used instead of the new chainable form, where available."
)
STEPPED_TOO_EARLY = (
    "Detected call of `lr_scheduler.step()` before `optimizer.step()`. You should call them in the opposite order: "
    "`optimizer.step()` before `lr_scheduler.step()`. Failure to do this will result in skipping the first value of "
    "the learning rate schedule."
)


def _value(value: Any) -> Any:
    """A rate of its own: a copy where it is a tensor."""
    return value.clone() if isinstance(value, Tensor) else value


def rates_of(optimizer: Optimizer, key: str = "lr") -> list[Any]:
    """The rate of each group."""
    return [_value(group[key]) for group in optimizer.param_groups]


def set_rate(group: dict[str, Any], value: Any) -> None:
    """Set a group's rate; a tensor keeps its identity."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(float(value))
    else:
        group["lr"] = value


def per_group(name: str, optimizer: Optimizer, value: Any) -> list[Any]:
    """One value per parameter group; ValueError for a list of another length."""
    count = len(optimizer.param_groups)
    if not isinstance(value, (list, tuple)):
        value = [value] * count
    if len(value) != count:
        raise ValueError(
            f"{name} must have the same length as optimizer.param_groups. {name} has {len(value)} values, param_groups "
            f"has {count}."
        )
    return [_value(v) for v in value]


def checked_optimizer(optimizer: Any) -> Optimizer:
    """The optimizer itself; TypeError for anything else."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
    return optimizer


class LRScheduler:
    """Base class: a subclass computes the groups' rates from `last_epoch`, `base_lrs` and the rates before.

    A subclass outside of this library overrides `get_lr`.

    last_epoch: resume after so many steps; KeyError when the groups have no "initial_lr" then.
    """

    _get_lr_called_within_step = False
    _is_initial = False

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        self.optimizer = checked_optimizer(optimizer)
        for number, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", _value(group["lr"]))
            elif "initial_lr" not in group:
                raise KeyError(
                    f"param 'initial_lr' is not specified in param_groups[{number}] when resuming scheduler with "
                    "last_epoch >= 0: load the optimizer's state first"
                )
        self.base_lrs = rates_of(optimizer, "initial_lr")
        self.last_epoch = last_epoch
        optimizer._opt_called = bool(optimizer._opt_called)
        self._initial_step()

    def _initial_step(self) -> None:
        self._step_count = 0
        self._is_initial = True
        self.step()
        self._is_initial = False

    def get_last_lr(self) -> list[Any]:
        """The rate of each group, as the last step has set it."""
        return self._last_lr

    def get_lr(self) -> list[Any]:
        """The rate of each group for `last_epoch`; called by `step`."""
        if not self._get_lr_called_within_step:
            warnings.warn(
                "To get the last learning rate computed by the scheduler, please use `get_last_lr()`.", stacklevel=2
            )
        return self._compute()

    def _compute(self) -> list[Any]:
        raise NotImplementedError(f"{type(self).__name__} defines no get_lr")

    def step(self, epoch: int | None = None) -> None:
        """Set the rates for the next epoch, or for the given one (deprecated, as in PyTorch)."""
        if self._step_count == 1 and not self.optimizer._opt_called:
            warnings.warn(STEPPED_TOO_EARLY, stacklevel=2)
        self._step_count += 1
        if epoch is not None:
            warnings.warn(EPOCH_IS_DEPRECATED, stacklevel=2)
        self._update_lr(epoch)

    def _update_lr(self, epoch: int | None = None) -> None:
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        self._get_lr_called_within_step = True
        closed = None if epoch is None else getattr(self, "_get_closed_form_lr", None)
        rates = self.get_lr() if closed is None else closed()
        self._get_lr_called_within_step = False
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            set_rate(group, rate)
        self._last_lr = rates_of(self.optimizer)

    def state_dict(self) -> dict[str, Any]:
        """All attributes but the optimizer; of functions nothing, of callable objects their attributes."""
        return {k: _saved(v) for k, v in self.__dict__.items() if k != "optimizer"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state_dict's values."""
        for name, value in state_dict.items():
            self.__dict__[name] = _loaded(self.__dict__.get(name), value)


def _saved(value: Any) -> Any:
    if isinstance(value, LRScheduler):
        return value.state_dict()
    if isinstance(value, (list, tuple)):
        return type(value)(_saved(v) for v in value)
    if isinstance(value, types.FunctionType):
        return None
    return value.__dict__.copy() if callable(value) else value


def _loaded(own: Any, value: Any) -> Any:
    if isinstance(own, LRScheduler):
        own.load_state_dict(value)
        return own
    if callable(own):
        own.__dict__.update(value or {})
        return own
    if isinstance(own, (list, tuple)) and any(isinstance(v, LRScheduler) or callable(v) for v in own):
        return type(own)(map(_loaded, own, value))
    return value


_LRScheduler = LRScheduler  # PyTorch's older name, of which many schedulers out there inherit
