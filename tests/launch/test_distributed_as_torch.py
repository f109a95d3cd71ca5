"""What scripts for PyTorch do between ranks, run by PyTorch itself with gloo and by mpigrad: both print the same."""

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mpigrad import ddp

IDIOMS = """
import os
import sys
import warnings
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed import ReduceOp, all_reduce, get_rank, get_world_size

LINES = []


def say(*words):
    LINES.append(" ".join(str(word) for word in words))


def prepare(folder):
    "rank 0 first, the others find what it has made"
    made = Path(folder, "data.txt")
    if get_rank() == 0:
        made.write_text("prepared")
    dist.barrier()
    say("data", made.read_text())


def share_config():
    config = [{"lr": 0.1, "layers": (3, 4)}, "run 7"] if get_rank() == 0 else [None, None]
    dist.broadcast_object_list(config, src=0)
    say("config", config)
    mine = [None]
    dist.scatter_object_list(mine, [f"part {r}" for r in range(get_world_size())] if get_rank() == 0 else None, src=0)
    say("mine", mine)


def reduce_metrics(dtype):
    "a dict of metrics, meaned over the ranks in one call; sums, extremes"
    rank = get_rank()
    metrics = {"loss": 0.7 + rank, "accuracy": 0.25 * (rank + 1)}
    packed = torch.tensor(list(metrics.values()), dtype=dtype)
    with torch.no_grad():
        all_reduce(packed, op=ReduceOp.AVG)
    say("metrics", dict(zip(metrics, packed.tolist())), packed)
    total = torch.tensor([rank + 2.0, 5.0], dtype=dtype)
    dist.reduce(total, dst=0)
    if rank == 0:
        say("total", total / get_world_size())
    for op in (ReduceOp.SUM, ReduceOp.PRODUCT, ReduceOp.MIN, ReduceOp.MAX, ReduceOp.BAND, ReduceOp.BOR, ReduceOp.BXOR):
        counts = torch.tensor([[rank + 3, 6], [7 - rank, 0]])
        work = all_reduce(counts, op, async_op=True)
        work.wait()
        say("counts", counts, work.is_completed())
    half = torch.full((3,), 1.0 + rank).to(torch.bfloat16)
    all_reduce(half)
    say("half", half)


def gather_predictions():
    "of uneven lengths: pad to the longest, cut off again"
    rank, size = get_rank(), get_world_size()
    predictions = torch.arange(3 + 2 * rank).float() * (rank + 1)
    length = torch.tensor([predictions.numel()])
    lengths = [torch.zeros_like(length) for _ in range(size)]
    dist.all_gather(lengths, length)
    longest = max(int(n) for n in lengths)
    padded = torch.cat([predictions, predictions.new_zeros(longest - predictions.numel())])
    found = [torch.empty_like(padded) for _ in range(size)]
    dist.all_gather(found, padded)
    say("predictions", torch.cat([part[: int(n)] for part, n in zip(found, lengths)]))
    whole = torch.empty(size * longest)
    dist.all_gather_into_tensor(whole, padded)
    dist.all_gather_single(whole, padded + 1)
    say("whole", whole)
    names = [None] * size
    dist.all_gather_object(names, {"rank": rank, "n": predictions.numel()})
    say("names", names)
    parts = [torch.zeros(2) for _ in range(size)] if rank == 0 else None
    dist.gather(torch.tensor([rank, rank + 0.5]), gather_list=parts, dst=0)
    say("parts", parts)


def stop_early():
    "rank 0 decides, all leave the loop in the same epoch"
    best, patience = float("inf"), 0
    for epoch, loss in enumerate([1.0, 0.5, 0.6, 0.55, 0.7, 0.4]):
        stop = torch.zeros(1, dtype=torch.int)
        if get_rank() == 0:
            best, patience = (loss, 0) if loss < best else (best, patience + 1)
            stop += int(patience == 3)
        dist.broadcast(stop, src=0)
        if stop.item():
            break
    say("stopped after", epoch)


def subgroups():
    rank, size = get_rank(), get_world_size()
    groups = [dist.new_group([r]) for r in range(size)]
    everyone = dist.new_group(ranks=list(range(size)), timeout=timedelta(seconds=40))
    mine = groups[rank]
    say("ranks", dist.get_process_group_ranks(mine), dist.get_rank(mine), dist.get_world_size(mine), mine.size())
    say("numbers", dist.get_group_rank(mine, rank), dist.get_global_rank(mine, 0), mine.rank())
    say("outside", dist.get_rank(groups[rank - 1]), dist.get_world_size(groups[rank - 1]))
    alone, together = torch.tensor([rank + 1.0]), torch.tensor([rank + 1.0])
    dist.all_reduce(alone, group=mine)
    dist.all_reduce(together, op=dist.ReduceOp.MAX, group=everyone)
    dist.broadcast(alone, src=rank, group=mine)
    say("sums", alone, together, groups[rank - 1] == dist.GroupMember.NON_GROUP_MEMBER)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        say("nothing", dist.all_reduce(alone, group=groups[rank - 1]), alone, [str(w.message) for w in seen])
    dist.destroy_process_group(mine)


def exchange():
    rank, size = get_rank(), get_world_size()
    row = torch.zeros(3)
    dist.scatter(row, [torch.full((3,), float(r)) for r in range(size)] if rank == 0 else None, src=0)
    say("scattered", row)
    out = torch.zeros(2)
    dist.reduce_scatter_single(out, torch.arange(2.0 * size) + rank)
    say("reduced", out)
    dist.reduce_scatter(out, [torch.full((2,), float(r + rank)) for r in range(size)], op=ReduceOp.MAX)
    say("reduced", out)
    out = torch.zeros(size)
    dist.all_to_all_single(out, torch.arange(float(size)) + 10 * rank)
    say("exchanged", out)
    counts = [rank + 1] * size
    rows = torch.zeros(sum(range(1, size + 1)))
    dist.all_to_all_single(rows, torch.full((sum(counts),), float(rank)), list(range(1, size + 1)), counts)
    say("rows", rows)
    after, before = (rank + 1) % size, (rank - 1) % size
    got = torch.zeros(2, 2)
    ops = [dist.P2POp(dist.isend, torch.full((2, 2), float(rank)), after), dist.P2POp(dist.irecv, got, before)]
    for work in dist.batch_isend_irecv(ops):
        work.wait()
    say("ring", got)
    if rank == 0:
        dist.send(got, dst=1, tag=3)
    elif rank == 1:
        say("from", dist.recv(got, src=0, tag=3), got)


def average_gradients():
    "data parallelism by hand, as tutorials do it"
    torch.manual_seed(1)
    model = nn.Linear(3, 2)
    for p in model.parameters():
        dist.broadcast(p.data, 0)
    model(torch.ones(4, 3) * (get_rank() + 1)).pow(2).mean().backward()
    for p in model.parameters():
        dist.all_reduce(p.grad.data, op=dist.ReduceOp.SUM)
        p.grad.data /= get_world_size()
    say("gradients", [[round(v, 4) for v in p.grad.flatten().tolist()] for p in model.parameters()])


def mistakes():
    t, rank = torch.ones(2), get_rank()
    for call in (
        lambda: dist.all_reduce([1.0]),
        lambda: dist.all_gather((t, t), t),
        lambda: dist.all_gather([t, 3], t),
        lambda: dist.all_gather([torch.ones(2).double()] * 2, t),
        lambda: dist.broadcast(t),
        lambda: dist.broadcast(t, 0, group_src=0),
        lambda: dist.all_reduce(t, ReduceOp.BXOR),
        lambda: dist.send(t, rank),
        lambda: dist.P2POp(dist.broadcast, t, 0),
        lambda: dist.batch_isend_irecv([t]),
        lambda: dist.scatter_object_list([], [1, 2]),
        lambda: dist.new_group([0, 0]),
        lambda: dist.new_group([0, 7]),
        lambda: dist.init_process_group("gloo"),
    ):
        try:
            call()
        except Exception as error:
            say(type(error).__name__, str(error).splitlines()[0])


def main(rank, size, folder):
    assert dist.is_available() and dist.is_gloo_available() and not dist.is_initialized()
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    say(dist.is_initialized(), dist.get_backend(), dist.group.WORLD.size(), dist.get_process_group_ranks(None))
    prepare(folder)
    share_config()
    for dtype in (torch.float32, torch.float64):
        reduce_metrics(dtype)
    gather_predictions()
    stop_early()
    subgroups()
    exchange()
    average_gradients()
    mistakes()
    dist.monitored_barrier(timeout=timedelta(seconds=30))
    lines = [None] * size if rank == 0 else None
    dist.gather_object(LINES, lines, dst=0)
    if rank == 0:
        print("\\n".join(f"{number}: {line}" for number, said in enumerate(lines) for line in said))
    dist.destroy_process_group()
    assert not dist.is_initialized()


if __name__ == "__main__":
    mp.spawn(main, args=(2, os.getcwd()), nprocs=2)
"""


def test_idioms(tmp_path: Path, jobs: Any) -> None:
    (tmp_path / "idioms.py").write_text(IDIOMS)
    done = jobs.run("run", "-n", 2, "--as-torch", "idioms.py")
    assert done.code == 0, done.err
    assert len(done.out.splitlines()) > 80
    try:
        reference = subprocess.run(
            [sys.executable, "idioms.py"], cwd=tmp_path, env=jobs.env, capture_output=True, text=True, timeout=120
        )
    except subprocess.TimeoutExpired:
        pytest.fail("PyTorch's own run takes too long")
    if "No module named 'torch'" in reference.stderr:
        pytest.skip("the oracle extra (torch) is not installed")
    assert reference.returncode == 0, reference.stderr
    assert done.out.replace("mpigrad.", "torch.").splitlines() == reference.stdout.splitlines()


def test_signatures() -> None:
    """PyTorch's functions take what PyTorch's take, in that order and with those defaults."""
    theirs = pytest.importorskip("torch.distributed", reason="the oracle extra (torch) is not installed")
    same = 0
    for name in ddp.__all__:
        function, original = getattr(ddp, name), getattr(theirs, name, None)
        if not (inspect.isfunction(function) or name == "P2POp") or original is None:
            continue
        ours, expected = (list(inspect.signature(f).parameters.values()) for f in (function, original))
        if name == "init_process_group":  # and one thing more; one is private
            ours, expected = ours[:-1], expected[:-1]
        assert [(p.name, p.default) for p in ours if p.name != "op"] == [
            (p.name, p.default) for p in expected if p.name != "op"
        ], name
        assert [p.name for p in ours] == [p.name for p in expected], name
        same += 1
    assert same >= 39
