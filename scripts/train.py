#!/usr/bin/env python3
"""Train a classifier of handwritten digits, data-parallel over MPI. Read it from top to bottom: it is the tutorial.

python scripts/train.py                            one process, no MPI needed
mpigrad run -n 2 scripts/train.py                  two ranks, each on half of every global batch
mpirun -n 2 python scripts/train.py                the same with any MPI's own launcher
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import mpigrad.distributed as dist
import numpy as np
import tyro
from mpigrad.data import DataLoader, TensorDataset, digits, mnist
from tqdm import tqdm

import mpigrad
from mpigrad import nn

CLASSES = 10
HIDDEN = {"mlp": (512, 256), "mlp-large": (2048, 2048)}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Train a classifier of handwritten digits, data-parallel over MPI."""

    data: Literal["digits", "mnist"] = "digits"
    """What to learn: the 1,797 digits that come with mpigrad (8x8 pixels), or MNIST (28x28) from --data-dir."""
    data_dir: Path | None = None
    """Folder with MNIST's IDX files (t10k-images-idx3-ubyte.gz and so on)."""
    model: Literal["mlp", "mlp-large"] = "mlp"
    """The network: hidden layers of 512 and 256 units, or two of 2048."""
    global_batch: int = 64
    """Samples in each step, over all ranks together. The ranks share them out; more ranks change only the speed."""
    epochs: int = 30
    """Passes over the training data."""
    lr: float = 0.1
    """Learning rate of SGD (with momentum 0.9) at the start; it falls to 0 along half a cosine."""
    seed: int = 0
    """Where the initial weights and the order of the samples come from."""
    out: Path = Path("runs/train")
    """Folder for config.json, metrics.jsonl, loss.png (with matplotlib) and model.safetensors."""

    def __post_init__(self) -> None:
        for name in ("global_batch", "epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')}: expected at least 1, found {getattr(self, name)}")
        if not self.lr > 0:
            raise ValueError(f"--lr: expected a positive number, found {self.lr}")
        if self.data == "mnist" and self.data_dir is None:
            raise ValueError("--data mnist: expected --data-dir with the folder of its IDX files, found none")


def load(config: Config) -> tuple[TensorDataset, TensorDataset]:
    """Training and test data, the same on every rank: the sampler decides who computes what."""
    if config.data == "digits":
        return digits(train=True), digits(train=False)
    assert config.data_dir is not None
    return mnist(config.data_dir, train=True), mnist(config.data_dir, train=False)


def build(config: Config, features: int) -> nn.Module:
    """The network; the seed makes it the same on every rank and in every run."""
    mpigrad.manual_seed(config.seed)
    sizes = (features, *HIDDEN[config.model])
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], CLASSES))


def sum_over_ranks(*numbers: float) -> list[float]:
    """Each number summed over all ranks."""
    total = mpigrad.tensor(numbers, dtype=mpigrad.float64)
    dist.all_reduce(total)
    return total.tolist()


def train_epoch(config: Config, epoch: int, model: nn.Module, optimizer: Any, batches: Any) -> Iterator[Any]:
    """One pass over the training data; yields this rank's summed loss and number of samples after every step."""
    model.train()
    for step, (images, labels) in enumerate(batches):
        done = (epoch - 1 + step / len(batches)) / config.epochs
        optimizer.param_groups[0]["lr"] = config.lr * (1 + math.cos(math.pi * done)) / 2
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()  # when it returns, the gradients are the mean over the samples of all ranks
        optimizer.step()
        yield (loss.item() * len(labels) if len(labels) else 0.0), len(labels)


@mpigrad.no_grad()
def accuracy(model: nn.Module, batches: Any) -> float:
    """The share of test samples classified rightly, over all ranks: each sample counts once."""
    model.eval()
    right = count = 0
    for images, labels in batches:
        right += int((model(images).argmax(1) == labels).sum())
        count += len(labels)
    all_right, all_count = sum_over_ranks(right, count)
    return all_right / all_count


def run(config: Config, train_data: TensorDataset, test_data: TensorDataset) -> None:
    """Train, report, and leave the results in the output folder."""
    first = dist.get_rank() == 0  # every rank computes, the first one speaks and writes
    ranks = dist.get_world_size()
    model = dist.DistributedDataParallel(build(config, features=train_data.tensors[0].shape[1]))
    optimizer = mpigrad.optim.SGD(model.parameters(), lr=config.lr, momentum=0.9)
    train_batches = DataLoader(
        train_data, batch_sampler=dist.ShardedSampler(train_data, config.global_batch, seed=config.seed)
    )
    test_batches = DataLoader(test_data, batch_sampler=dist.ShardedSampler(test_data, max(256, ranks), shuffle=False))
    if first:
        config.out.mkdir(parents=True, exist_ok=True)
        settings = {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(config).items()}
        (config.out / "config.json").write_text(json.dumps({**settings, "ranks": ranks}, indent=2) + "\n")
        (config.out / "metrics.jsonl").write_text("")
        print(f"{len(train_data)} training and {len(test_data)} test samples, {ranks} rank(s), {config.model}")

    history = []
    for epoch in range(1, config.epochs + 1):
        started = time.perf_counter()
        losses = np.zeros(2)
        steps = train_epoch(config, epoch, model, optimizer, train_batches)
        if first:
            steps = tqdm(steps, f"epoch {epoch}/{config.epochs}", len(train_batches), leave=False, unit="step")
        for loss_and_count in steps:
            losses += loss_and_count
        loss_sum, count = sum_over_ranks(*losses)
        seconds = time.perf_counter() - started
        metrics = {
            "epoch": epoch,
            "train_loss": loss_sum / count,
            "test_accuracy": accuracy(model, test_batches),
            "samples_per_second": count / seconds,
        }
        history.append(metrics)
        if first:
            with (config.out / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(metrics) + "\n")
            print(
                f"epoch {epoch:3}  train loss {metrics['train_loss']:.4f}  "
                f"test accuracy {metrics['test_accuracy']:.4f}  {metrics['samples_per_second']:,.0f} samples/s",
                flush=True,
            )

    digests = dist.world().all_gather_object(dist.digest(model.state_dict()))
    if len(set(digests)) > 1:
        raise RuntimeError(f"the ranks' models differ at the end of training: their digests are {digests}")
    if first:
        mpigrad.save_file(model.state_dict(), config.out / "model.safetensors")
        draw(history, config.out / "loss.png")
        print(f"test accuracy {history[-1]['test_accuracy']:.4f}")
        print(f"digest {digests[0]}")


def draw(history: list[dict[str, float]], path: Path) -> None:
    """The loss curve as a picture, where matplotlib is installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no loss curve drawn: pip install 'mpigrad[plot]'")
        return
    figure = Figure(figsize=(7, 4), layout="constrained")
    left = figure.subplots()
    right = left.twinx()
    epochs = [m["epoch"] for m in history]
    left.semilogy(epochs, [m["train_loss"] for m in history], "o-", color="tab:blue", markersize=3)
    right.plot(epochs, [100 * m["test_accuracy"] for m in history], "s-", color="tab:orange", markersize=3)
    left.set_xlabel("epoch")
    left.set_ylabel("training loss (mean over samples)", color="tab:blue")
    right.set_ylabel("test accuracy, %", color="tab:orange")
    left.set_title(f"test accuracy {history[-1]['test_accuracy']:.4f} after {len(history)} epochs")
    left.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Join the world, read the command line, check what can be checked on every rank, then train."""
    dist.init_process_group()
    try:
        # every rank parses, the first one prints the help or the complaint
        config = tyro.cli(Config, description=__doc__, console_outputs=dist.get_rank() == 0)
        train_data, test_data = load(config)
        for data in (train_data, test_data):
            dist.ShardedSampler(data, config.global_batch)
        problem = None
    except (ValueError, OSError) as error:
        problem = str(error)
    problems = dist.world().all_gather_object(problem)  # what stops one rank stops all, before anything is written
    if any(problems):
        sys.exit("train.py: " + next(text for text in problems if text))
    run(config, train_data, test_data)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
