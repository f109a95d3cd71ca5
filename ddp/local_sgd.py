"""LocalSGD: replicas that step on their own gradients and meet every so many steps, for slow links.

Stich, "Local SGD converges fast and communicates little", 2018. With an outer optimizer it is DiLoCo: Douillard et al.,
"DiLoCo: distributed low-communication training of language models", 2023. Both are one thing here: where the ranks met
last is moved by the outer optimizer, whose gradient is how far the ranks have come since, backwards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from ..core.autograd import thread
from ..core.flat import flatten
from ..core.nn.module import Module
from ..core.nn.parameter import Parameter
from ..core.optim.optimizer import Optimizer, register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from ..core.optim.sgd import SGD
from ..core.tensor import Tensor
from .agreement import ALIKE, compare
from .buffers import Replicated
from .comm.protocol import Communicator
from .facts import facts_of
from .process_group import ProcessGroup, world
from .reducer import retire_earlier
from .steps import hear, steps_any_of
from .wrapper import Wrapper, batch_size


class LocalSGD(Wrapper):
    """Wraps a module whose ranks train apart and are averaged after every so many steps of its optimizer.

    Parameters and buffers start as rank 0's. Each step uses this rank's gradients only; after `every` steps all ranks
    go on from the mean over the samples that they have seen since they met. Every rank makes equally many steps, one
    with an empty batch too: it steps on gradients of zero, and weighs nothing. The state of the optimizer stays each
    rank's own. Between meetings the ranks differ: call `synchronize()` before evaluating or saving.

    outer: given the parameters where the ranks met last, an optimizer for them; it is in `.outer`, to be saved along.
    Without it the mean itself is where they meet (SGD with lr=1). DiLoCo's is
    `lambda params: SGD(params, lr=0.7, momentum=0.9, nesterov=True)` with `every` in the hundreds.

    ValueError for every < 1; RuntimeError when the module has nothing to learn, when the ranks' modules differ, or
    before init_process_group.
    """

    def __init__(
        self,
        module: Module,
        every: int,
        outer: Callable[[list[Tensor]], Optimizer] | None = None,
        process_group: ProcessGroup | None = None,
        *,
        communicator: Communicator | None = None,
    ) -> None:
        super().__init__(module)
        if every < 1:
            raise ValueError(f"LocalSGD: expected every >= 1 step, found {every}")
        learned = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        if not learned:
            raise RuntimeError("LocalSGD: expected a module with parameters that require a gradient, found none")
        if communicator is None:
            communicator = world(process_group)
        self.every = every
        self.comm = comm = communicator.duplicate("local steps")
        facts = {**facts_of("module", module), "every": str(every)}
        compare(comm, facts, "LocalSGD: expected the same module on every rank", ALIKE)
        for tensor in (*module.parameters(), *module.buffers()):
            comm.broadcast(tensor.array, 0, "broadcast of parameters and buffers")
        retire_earlier(learned)
        self.buffers_of_all = Replicated(module, comm)
        self.met: dict[Tensor, Tensor] = {p: Parameter(p.detach().clone()) for _, p in learned}  # where they met last
        self.runs = flatten(self.met.values())
        self.outer = SGD(self.met.values(), lr=1.0) if outer is None else outer(list(self.met.values()))
        self.samples = 0.0  # that this rank has seen since
        self._batch: float | None = None  # samples of the forward passes for the next step, or the latest
        self._stepped = False  # on them
        self._steps: WeakKeyDictionary[Optimizer, int] = WeakKeyDictionary()
        self._handles = (
            hear(register_optimizer_step_pre_hook, self._before_step),
            hear(register_optimizer_step_post_hook, self._after_step),
        )

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if thread.recording:
            before = 0 if self._stepped or self._batch is None else self._batch
            self._batch, self._stepped = before + batch_size((args, kwargs)), False
        return self.module(*args, **kwargs)

    def synchronize(self) -> None:
        """Let the ranks meet now. Collective."""
        facts = np.array([self.samples, *map(float, self.buffers_of_all.state())])
        self.comm.all_reduce(facts, "sum", "samples since the ranks met")
        weight, total = (self.samples, facts[0]) if facts[0] else (1.0, self.comm.size)  # nobody has seen any
        finish_buffers = self.buffers_of_all.combine_start(list(facts[1:]), weight, total)
        for parameter, met in self.met.items():
            np.subtract(met.array, parameter.array, out=met.home.gradient)
            met.grad = met.home.lend()
        works = [
            self.comm.weighted_sum_start(r.gradients, weight, lambda: total, "mean of local steps") for r in self.runs
        ]
        for work in works:
            work.wait()
        finish_buffers()
        self.outer.step()
        for parameter, met in self.met.items():
            parameter.array[...] = met.array
            parameter.version[0] += 1
        self.samples = 0.0
        self._steps.clear()

    def _before_step(self, optimizer: Optimizer) -> None:
        if self._batch == 0 and steps_any_of(optimizer, self.met.keys()):  # the mean over an empty batch is NaN
            for parameter in self.met:
                if parameter.grad is not None:
                    parameter.grad.zero_()

    def _after_step(self, optimizer: Optimizer) -> None:
        if not steps_any_of(optimizer, self.met.keys()):
            return
        if self._batch is None:
            raise RuntimeError("LocalSGD: expected a forward pass through the wrapper before a step, found none")
        if not self._stepped:
            self.samples, self._stepped = self.samples + self._batch, True
        self._steps[optimizer] = self._steps.get(optimizer, 0) + 1
        if self._steps[optimizer] == self.every:
            others = {other: count - self.every for other, count in self._steps.items()}
            self.synchronize()
            self._steps.update(others)  # an optimizer whose step comes after the meeting has it still to make

    def _loaded(self) -> None:
        self.buffers_of_all.remember()
        for parameter, met in self.met.items():
            met.array[...] = parameter.array
