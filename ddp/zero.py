"""ZeroRedundancyOptimizer: each rank keeps the optimizer's state of its own share of the parameters, and steps it.

The parameters lie side by side in flat memory (core/flat.py). Each rank owns one slice of every stretch of it, whatever
parameters it cuts through. A step updates this slice from the gradients, which all ranks have alike, and then every
rank gets all slices. Source: Rajbhandari et al., ZeRO: memory optimizations toward training trillion parameter models,
2019, stage 1.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from ..core.autograd import enable_grad, wrap
from ..core.backend import array_module
from ..core.flat import Home, Run, flatten, with_gradients
from ..core.optim.optimizer import Optimizer
from ..core.tensor import Tensor
from .process_group import ProcessGroup, world

__all__ = ["ZeroRedundancyOptimizer"]

State = dict[Any, dict[str, Any]]  # by parameter, by name


class ZeroRedundancyOptimizer(Optimizer):
    """An optimizer whose state is shared out over the ranks, so that each holds one part in world size of it.

    optimizer_class: any that updates element by element, as SGD, Adam and AdamW do; TypeError for others (LBFGS,
    Adafactor). defaults: its arguments. Parameters after a step are what the plain optimizer makes of them, to the bit.
    Every rank makes it with the same parameters, changes its groups alike and steps it at the same time, and the
    gradients are the same everywhere, as DistributedDataParallel leaves them. RuntimeError when parameters differ.

    To save, call `consolidate_state_dict` on every rank, then `state_dict` on the one that is to write: it is the plain
    optimizer's. To resume, on any number of ranks, give it to `load_state_dict` on every rank.

    parameters_as_bucket_view is there for PyTorch's callers and changes nothing: parameters always lie in flat memory.
    """

    state_is_sharded = True
    """Other ranks hold other parts of the state: it is not to be compared."""

    def __init__(
        self,
        params: Iterable[Any],
        optimizer_class: type[Optimizer],
        process_group: ProcessGroup | None = None,
        parameters_as_bucket_view: bool = False,
        overlap_with_ddp: bool = False,
        **defaults: Any,
    ) -> None:
        if overlap_with_ddp:
            raise ValueError("ZeroRedundancyOptimizer: expected overlap_with_ddp=False and calls of step, found True")
        if optimizer_class.step is not Optimizer.step or optimizer_class._update_group is not Optimizer._update_group:
            raise TypeError(
                "ZeroRedundancyOptimizer: expected an optimizer that updates element by element, as SGD and Adam do, "
                f"found {optimizer_class.__name__}, which works on whole parameters; use it as it is on every rank"
            )
        self._class: Any = optimizer_class
        self._arguments = defaults
        self.optim: Optimizer = self._class([{"params": []}], **defaults)  # completes the arguments, and checks them
        super().__init__(params, self.optim.defaults)
        comm = world(process_group)
        self._comm = comm.duplicate("optimizer state")
        self._homes: list[Home] = []  # where the parameters were when the latest step began
        self._stretches: list[Run] = []
        self._layout: list[list[int]] = []  # the numbers of the parameters in each stretch
        self._pieces: dict[Tensor, tuple[Tensor, slice]] = {}  # what this rank owns, as vectors, and of what elements
        self._consolidated = False
        self._settle()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; with a closure, evaluate it first and return its loss."""
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        self._settle()
        self._forget()
        active = with_gradients(self._numbered())
        for parameter, (piece, _) in self._pieces.items():
            if parameter._grad is None:
                piece._grad = None
            elif piece._grad is None:
                piece._grad = piece.home.lend()
        for number, group in enumerate(self.optim.param_groups):
            group.update(_options(self.param_groups[number]))  # what schedulers and users have changed
            self.optim._update_group(number, group)
        self._exchange()
        for parameter in active:
            parameter.version[0] += 1
        return loss

    def _exchange(self) -> None:
        """Let every rank have all slices."""
        comm, name, works = self._comm, "exchange of updated parameters", []
        for run in self._stretches:
            length = run.values.size // comm.size
            equal, rest = run.values[: length * comm.size].reshape(comm.size, length), run.values[length * comm.size :]
            if length:
                works.append(comm.all_gather_start(equal[comm.rank], equal, name))
            if rest.size:
                works.append(comm.broadcast_start(rest, comm.size - 1, name))
        for work in works:
            work.wait()

    # --- who owns what ------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Find the parameters where they lie now, new ones too; hand parts of the state over where slices changed."""
        parameters = self._numbered()
        homes = [parameter.home for parameter in parameters]
        if homes == self._homes:
            return
        stretches = flatten(parameters)
        numbers = {parameter: number for number, parameter in enumerate(parameters)}
        layout = [[numbers[parameter] for parameter in run.tensors] for run in stretches]
        if layout == self._layout:  # only their memory is another
            kept = {p: self.optim.state[piece] for p, (piece, _) in self._pieces.items() if piece in self.optim.state}
            self._cut(stretches)
            self.optim._take({self._pieces[parameter][0]: state for parameter, state in kept.items()})
        else:
            self._check_alike(layout)
            whole = self._gather_everywhere() if self._layout else {}
            self._cut(stretches)
            self._share_out(whole)
        self._layout, self._homes = layout, [parameter.home for parameter in parameters]

    def _check_alike(self, layout: list[list[int]]) -> None:
        """RuntimeError on every rank unless all optimize parameters of the same sizes, in the same order in memory."""
        sizes = [(parameter.array.dtype.name, parameter.numel()) for parameter in self._numbered()]
        facts = (self._class.__name__, sizes, layout)
        for rank, theirs in enumerate(everyone := self._comm.all_gather_object(facts, "comparison of parameters")):
            if theirs != everyone[0]:
                raise RuntimeError(
                    "ZeroRedundancyOptimizer: expected the same optimizer_class and the same parameters on every rank, "
                    f"found others on rank {rank} than on rank 0; build the model and its groups alike everywhere"
                )

    def _cut(self, stretches: list[Run]) -> None:
        """Own one slice of each stretch, by an optimizer that knows nothing else."""
        rank, size = self._comm.rank, self._comm.size
        self._stretches, self._pieces = stretches, {}
        for run in stretches:
            length = run.values.size // size
            begin = run.start + rank * length
            end = run.stop if rank == size - 1 else begin + length
            for parameter in run.tensors:
                home = parameter.home
                start, stop = max(begin, home.start), min(end, home.stop)
                if start < stop or (start == stop and not parameter.numel()):
                    piece = wrap(home.values[start:stop])
                    Home(home.values, home.gradients, start, piece)
                    self._pieces[parameter] = piece, slice(start - home.start, stop - home.start)
        groups = [
            {**_options(group), "params": [self._pieces[p][0] for p in group["params"] if p in self._pieces]}
            for group in self.param_groups
        ]
        self.optim = self._class(groups, **self._arguments)

    # --- saving -------------------------------------------------------------------------------------------------------

    def consolidate_state_dict(self, to: int = 0) -> None:
        """Bring the whole state to one rank, for its `state_dict`; the next step lets it go. Collective."""
        if not 0 <= to < self._comm.size:
            raise ValueError(f"consolidate_state_dict: expected a rank from 0 to {self._comm.size - 1}, found {to}")
        self._settle()
        self._forget()
        self.state.update(self._gather(to))
        self._consolidated = self._comm.rank == to

    def state_dict(self) -> dict[str, Any]:
        """The plain optimizer's. RuntimeError unless consolidate_state_dict has brought the state here since the step.

        It holds the memory that consolidate_state_dict has filled: no step changes it.
        """
        if not self._consolidated:
            raise RuntimeError(
                "Optimizer state has not been consolidated on this rank since the last step. Please call "
                f"`consolidate_state_dict(to={self._comm.rank})` on all ranks beforehand."
            )
        return super().state_dict()

    def _take(self, state: State) -> None:
        self._settle()
        self._forget()
        self._share_out(state)

    def _share_out(self, state: State) -> None:
        """Take over this rank's part of the whole state."""
        self.optim._take(
            {
                piece: {
                    name: value if name in self.optim._scalars else value.reshape(-1)[part]
                    for name, value in state[parameter].items()
                }
                for parameter, (piece, part) in self._pieces.items()
                if parameter in state
            }
        )

    def _forget(self) -> None:
        """Let what was consolidated go."""
        self.state = defaultdict(dict)
        self._consolidated = False

    def _gather(self, to: int) -> State:
        """The whole state on one rank, nothing on the others. Collective."""
        parameters, comm, name = self._numbered(), self._comm, "consolidation of optimizer states"
        numbers = {parameter: number for number, parameter in enumerate(parameters)}
        own = {
            (numbers[parameter], label): (part, value.array)
            for parameter, (piece, part) in self._pieces.items()
            for label, value in self.optim.state.get(piece, {}).items()
        }
        scalars = self.optim._scalars
        facts = {key: (part, array if key[1] in scalars else array.dtype) for key, (part, array) in own.items()}
        everyone = comm.all_gather_object(facts, name)
        if comm.rank != to:
            for label, (_, array) in own.items():
                if label[1] not in scalars:
                    comm.send(array, to, name=name)
            return {}
        whole: State = {}
        for rank, theirs in enumerate(everyone):
            for (number, label), (part, fact) in theirs.items():
                values, state = parameters[number].array, whole.setdefault(parameters[number], {})
                if label in scalars:
                    state[label] = wrap(fact)
                    continue
                if label not in state:
                    state[label] = wrap(array_module(values).empty(values.shape, fact))
                place = state[label].array.reshape(-1)[part]
                if rank == to:
                    place[...] = own[number, label][1]
                else:
                    comm.receive(place, rank, name=name)
        return dict(sorted(whole.items(), key=lambda item: numbers[item[0]]))

    def _gather_everywhere(self) -> State:
        """The whole state on every rank. Collective."""
        found = [self._gather(rank) for rank in range(self._comm.size)]
        return found[self._comm.rank]


def _options(group: dict[str, Any]) -> dict[str, Any]:
    """What a group says of its parameters."""
    return {name: value for name, value in group.items() if name not in ("params", "param_names")}
