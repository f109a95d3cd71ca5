"""GradScaler: keep small gradients of half precision above zero by scaling the loss."""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..backend import cuda_device_count
from ..dtypes import float16
from ..flat import runs, with_gradients
from ..optim import Optimizer
from ..tensor import Tensor

__all__ = ["GradScaler"]


class GradScaler:
    """Scales losses, unscales gradients, leaves out the steps whose gradients are not finite, and adapts the scale.

    After growth_interval steps in a row without infinity or NaN the scale grows by growth_factor; after a step with one
    it falls by backoff_factor. AssertionError for factors on the wrong side of 1, and for calls before `scale`.
    """

    def __init__(
        self,
        device: str = "cuda",
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        if enabled and device == "cuda" and cuda_device_count() == 0:
            warnings.warn("GradScaler is enabled, but CUDA is not available.  Disabling.", stacklevel=2)
            enabled = False
        self._enabled = enabled
        if not enabled:
            return
        if growth_factor <= 1.0:
            raise AssertionError("The growth factor must be > 1.0.")
        if backoff_factor >= 1.0:
            raise AssertionError("The backoff factor must be < 1.0.")
        self._scale, self._growth_tracker = float(np.float32(init_scale)), 0
        self._growth_factor, self._backoff_factor = growth_factor, backoff_factor
        self._growth_interval = growth_interval
        self._used = False  # whether something has been scaled
        self._stages: defaultdict[int, dict[str, Any]] = defaultdict(dict)  # of each optimizer since the last update

    def scale(self, outputs: Any) -> Any:
        """The outputs (a tensor, or iterables of tensors) times the scale."""
        if not self._enabled:
            return outputs
        if isinstance(outputs, Tensor):
            self._used = True
            if outputs.ndim == 0 and outputs.element_size() == 2:  # a single half does not stay one beside a scale
                outputs = outputs.float()
            return outputs * self._scale
        if isinstance(outputs, Iterable):
            scaled = map(self.scale, outputs)
            return type(outputs)(scaled) if isinstance(outputs, (list, tuple)) else scaled
        raise ValueError("outputs must be a Tensor or an iterable of Tensors")

    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide the gradients of the optimizer's parameters by the scale: to clip them before `step`.

        RuntimeError for the second call since the last update; ValueError for gradients in float16.
        """
        if not self._enabled:
            return
        self._check_used("unscale_")
        stage = self._stages[id(optimizer)]
        if "stepped" in stage:
            raise RuntimeError("unscale_() is being called after step().")
        if "finite" in stage:
            raise RuntimeError("unscale_() has already been called on this optimizer since the last update().")
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if any(p._grad is not None and p._grad.dtype is float16 for p in parameters):
            raise ValueError("Attempting to unscale FP16 gradients.")
        inverse = float(np.float32(1.0 / self._scale))
        for run in runs(with_gradients(parameters)):
            gradients = run.gradients
            # the extremes show infinity and NaN in two passes that allocate nothing
            extremes = (gradients.min(), gradients.max()) if gradients.size else ()
            stage["finite"] = stage.get("finite", True) and all(math.isfinite(float(v)) for v in extremes)
            gradients *= inverse

    def step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        """Unscale the gradients unless that has been done, then optimizer.step(*args, **kwargs) if all are finite."""
        if not self._enabled:
            return optimizer.step(*args, **kwargs)
        if "closure" in kwargs:
            raise RuntimeError("Closure use is not currently supported if GradScaler is enabled.")
        self._check_used("step")
        stage = self._stages[id(optimizer)]
        if "stepped" in stage:
            raise RuntimeError("step() has already been called since the last update().")
        if "finite" not in stage:
            self.unscale_(optimizer)
        if "finite" not in stage:
            raise AssertionError("No inf checks were recorded for this optimizer.")
        result = optimizer.step(*args, **kwargs) if stage["finite"] else None
        stage["stepped"] = True
        return result

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """Adapt the scale to what the steps since the last update have found, or set it."""
        if not self._enabled:
            return
        self._check_used("update")
        if new_scale is not None:
            self._scale = float(np.float32(float(new_scale)))
        else:
            found = [stage["finite"] for stage in self._stages.values() if "finite" in stage]
            if not found:
                raise AssertionError("No inf checks were recorded prior to update.")
            self._growth_tracker = self._growth_tracker + 1 if all(found) else 0
            if not all(found):
                self._scale = float(np.float32(self._scale * self._backoff_factor))
            elif self._growth_tracker == self._growth_interval:
                grown = float(np.float32(self._scale * self._growth_factor))
                self._scale, self._growth_tracker = grown if math.isfinite(grown) else self._scale, 0
        self._stages.clear()

    def _check_used(self, name: str) -> None:
        if not self._used:
            raise AssertionError(
                f"Attempted {name} but _scale is None.  This may indicate your script did not use scaler.scale(loss or "
                "outputs) earlier in the iteration."
            )

    def get_scale(self) -> float:
        """The scale; 1 when disabled."""
        return self._scale if self._enabled else 1.0

    def get_growth_factor(self) -> float:
        """By what the scale grows."""
        return self._growth_factor

    def set_growth_factor(self, new_factor: float) -> None:
        """By what the scale grows."""
        self._growth_factor = new_factor

    def get_backoff_factor(self) -> float:
        """By what the scale is multiplied where gradients were not finite."""
        return self._backoff_factor

    def set_backoff_factor(self, new_factor: float) -> None:
        """By what the scale is multiplied where gradients were not finite."""
        self._backoff_factor = new_factor

    def get_growth_interval(self) -> int:
        """After how many finite steps in a row the scale grows."""
        return self._growth_interval

    def set_growth_interval(self, new_interval: int) -> None:
        """After how many finite steps in a row the scale grows."""
        self._growth_interval = new_interval

    def is_enabled(self) -> bool:
        """Whether this scaler does anything."""
        return self._enabled

    def state_dict(self) -> dict[str, Any]:
        """The scale and how it adapts; empty when disabled."""
        if not self._enabled:
            return {}
        return {
            "scale": self._scale,
            "growth_factor": self._growth_factor,
            "backoff_factor": self._backoff_factor,
            "growth_interval": self._growth_interval,
            "_growth_tracker": self._growth_tracker,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state_dict's values. RuntimeError for an empty one."""
        if not self._enabled:
            return
        if not state_dict:
            raise RuntimeError(
                "The source state dict is empty, possibly because it was saved from a disabled instance of GradScaler."
            )
        for name, value in state_dict.items():
            setattr(self, name if name.startswith("_") else f"_{name}", value)
