"""ZeroRedundancyOptimizer: each rank keeps the optimizer's state of its own share of the parameters, and steps it.

The parameters lie side by side in flat memory (core/flat.py). Each rank owns one slice of every stretch of it, whatever
parameters it cuts through. A step updates this slice from the gradients, which all ranks have alike, and then every
rank gets all slices; in_backward.py has the way in which that costs nothing. Source: Rajbhandari et al., ZeRO: memory
optimizations toward training trillion parameter models, 2019, stage 1.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence, Set
from typing import Any

from ..core.autograd import enable_grad, wrap
from ..core.backend import array_module
from ..core.flat import Home, Run, flatten, with_gradients
from ..core.optim.optimizer import Optimizer
from ..core.tensor import Tensor
from .comm.protocol import even_cuts
from .in_backward import StepsInBackward
from .process_group import ProcessGroup, world

__all__ = ["ZeroRedundancyOptimizer"]

State = dict[Any, dict[str, Any]]  # by parameter, by name
Part = tuple[int, dict[str, Any], dict[str, Any]]  # a group of this rank's part: its number, itself, of what group


class ZeroRedundancyOptimizer(Optimizer):
    """An optimizer whose state is shared out over the ranks, so that each holds one part in world size of it.

    optimizer_class: any that updates element by element, as SGD, Adam and AdamW do; TypeError for others (LBFGS,
    Adafactor). defaults: its arguments. Parameters after a step are what the plain optimizer makes of them, to the bit.
    Every rank makes it with the same parameters, changes its groups alike and steps it at the same time, and the
    gradients are the same everywhere, as DistributedDataParallel leaves them. RuntimeError when parameters differ.

    To save, call `consolidate_state_dict` on every rank, then `state_dict` on the one that is to write: it is the plain
    optimizer's. To resume, on any number of ranks, give it to `load_state_dict` on every rank.

    overlap_with_ddp: step in backward, between the halves of DistributedDataParallel's reductions, each rank its slice
    of each bucket: no byte more is sent than without this optimizer, and no step is left to wait for. Make it with all
    parameters that a wrapped module learns. Each backward pass outside of no_sync() then steps, with the groups'
    options as they are when it begins, and leaves no gradients: there is nothing to clip, to unscale or to look at.
    Call `step` after it as ever: it tells schedulers and the comparison of replicas. ValueError for other parameters,
    and for a module wrapped with shards or check_finite, or with a communication hook; RuntimeError for a second
    backward pass before `step`, and for gradients that came another way.

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
        if optimizer_class.step is not Optimizer.step or optimizer_class._update_group is not Optimizer._update_group:
            raise TypeError(
                "ZeroRedundancyOptimizer: expected an optimizer that updates element by element, as SGD and Adam do, "
                f"found {optimizer_class.__name__}, which works on whole parameters; use it as it is on every rank"
            )
        self._class: Any = optimizer_class
        self._in_backward: StepsInBackward | None = None
        self._arguments = defaults
        self.optim: Optimizer = self._class([{"params": []}], **defaults)  # completes the arguments, and checks them
        super().__init__(params, self.optim.defaults)
        comm = world(process_group)
        self._comm = comm.duplicate("optimizer state")
        self._homes: list[Home] = []  # where the parameters were when the latest step began
        self._stretches: Sequence[Run] = []
        self._parts: list[list[Part]] = []
        self._layout: list[list[int]] = []  # the numbers of the parameters in each stretch
        self._pieces: dict[Tensor, tuple[Tensor, slice]] = {}  # what this rank owns, as vectors, and of what elements
        self._consolidated = False
        if overlap_with_ddp:
            self._in_backward = StepsInBackward(self)
            self._in_backward.connect()
        self._settle()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Optimize more parameters, with options of their own; ValueError with overlap_with_ddp=True."""
        if self._in_backward is not None:
            raise ValueError(
                "add_param_group: with overlap_with_ddp=True, expected all parameters when the optimizer is made, "
                "found more; wrap the module that learns them again and make a new optimizer"
            )
        super().add_param_group(param_group)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; with a closure, evaluate it first and return its loss.

        With overlap_with_ddp=True the backward pass has done that, also the one in the closure.
        """
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        if self._in_backward is not None:
            self._in_backward.answer()
            return loss
        self._settle()
        self._forget()
        self._take_options()
        active = with_gradients(self._numbered())
        chosen, works = frozenset(active), []
        for place, run in enumerate(self._stretches):
            self._step_slice(place, chosen)
            cuts, name = self._cuts(run.values.size), "exchange of updated parameters"
            works.append(self._comm.all_gather_slices_start(run.values, cuts, name))
        for work in works:
            work.wait()
        for parameter in active:
            parameter.version[0] += 1
        return loss

    def _take_options(self) -> None:
        """Let this rank's part have the options that schedulers and users have changed."""
        for part in self._parts:
            for _, own, whole in part:
                own.update(_options(whole))

    def _step_slice(self, place: int, active: Set[Tensor]) -> None:
        """Update this rank's slice of a stretch: of those of its parameters that are active."""
        for parameter in self._stretches[place].tensors:
            if parameter in self._pieces:
                piece = self._pieces[parameter][0]
                if parameter not in active:
                    piece._grad = None
                elif piece._grad is None:
                    piece._grad = piece.home.lend()
        for number, own, _ in self._parts[place]:
            self.optim._update_group(number, own)

    # --- who owns what ------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Find the parameters where they lie now, new ones too; hand parts of the state over where slices changed."""
        parameters = self._numbered()
        if self._in_backward is None and [parameter.home for parameter in parameters] != self._homes:
            self._settle_in(flatten(parameters))

    def _settle_in(self, stretches: Sequence[Run]) -> None:
        """The same when it is known where they lie."""
        parameters = self._numbered()
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
        facts = (self._class.__name__, self._in_backward is None, sizes, layout)
        for rank, theirs in enumerate(everyone := self._comm.all_gather_object(facts, "comparison of parameters")):
            if theirs != everyone[0]:
                raise RuntimeError(
                    "ZeroRedundancyOptimizer: expected the same optimizer_class and the same parameters on every rank, "
                    f"found others on rank {rank} than on rank 0; build the model and its groups alike everywhere"
                )

    def _cuts(self, size: int) -> list[slice]:
        """Which slice of a stretch of this size each rank owns."""
        if self._in_backward is not None:
            return self._in_backward.reducer.comm.cuts(size)
        return even_cuts(0, size, self._comm.size)

    def _cut(self, stretches: Sequence[Run]) -> None:
        """Own one slice of each stretch, by an optimizer that knows nothing else and has groups for each of them."""
        self._stretches, self._pieces, self._parts = stretches, {}, []
        groups: list[dict[str, Any]] = []
        for run in stretches:
            cut = self._cuts(run.values.size)[self._comm.rank]
            begin, end = run.start + cut.start, run.start + cut.stop
            for parameter in run.tensors:
                home = parameter.home
                start, stop = max(begin, home.start), min(end, home.stop)
                if start < stop or (start == stop and not parameter.numel()):
                    piece = wrap(home.values[start:stop])
                    Home(home.values, home.gradients, start, piece)
                    self._pieces[parameter] = piece, slice(start - home.start, stop - home.start)
            here, part = frozenset(run.tensors), []
            for whole in self.param_groups:
                pieces = [self._pieces[p][0] for p in whole["params"] if p in here and p in self._pieces]
                if pieces:
                    part.append((len(groups), own := {**_options(whole), "params": pieces}, whole))
                    groups.append(own)
            self._parts.append(part)
        self.optim = self._class(groups or [{"params": []}], **self._arguments)

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
