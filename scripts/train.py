#!/usr/bin/env python3
"""Train a classifier of handwritten digits, data-parallel over MPI.

    python scripts/train.py                       one process, no MPI needed
    mpigrad run -n 2 scripts/train.py             two ranks share every batch
    mpirun -n 2 python scripts/train.py           by any MPI's own launcher
    mpigrad run -n 3 scripts/train.py --shards 8  the same bits on 1 to 8 ranks

Read it from top to bottom: it is the tutorial.
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
    model: Literal["mlp", "mlp-large", "cnn"] = "mlp"
    """The network: hidden layers of 512 and 256 units, or two of 2048; or two convolutions with batch norm."""
    dropout: float = 0.0
    """The share of hidden units that are dropped at random in training."""
    augment: bool = False
    """Shift each training image by up to a pixel in both directions, at random."""
    global_batch: int = 64
    """Samples in each step, over all ranks together. The ranks share them out; more ranks change only the speed."""
    epochs: int = 30
    """Passes over the training data."""
    lr: float = 0.1
    """Learning rate of SGD (with momentum 0.9) at the start; it falls to 0 along half a cosine."""
    seed: int = 0
    """Where the initial weights, the order of the samples and all other random numbers come from."""
    shards: int | None = None
    """Compute every step in so many parts, so that any number of ranks up to it yields the same bits."""
    out: Path = Path("runs/train")
    """Folder for config.json, metrics.jsonl, loss.png (with matplotlib) and model.safetensors."""

    def __post_init__(self) -> None:
        for name in ("global_batch", "epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')}: expected at least 1, found {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"--dropout: expected a number from 0 to below 1, found {self.dropout}")
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


class RandomShift(nn.Module):
    """Square images (n, pixels), in training each moved by up to a pixel in both directions; what comes in is black."""

    def forward(self, images: mpigrad.Tensor) -> mpigrad.Tensor:
        if not self.training:
            return images
        count, side = len(images), math.isqrt(images.shape[1])
        framed = nn.functional.pad(images.view(count, side, side), (1, 1, 1, 1))
        down, right = mpigrad.randint(0, 3, (2, count, 1)) + mpigrad.arange(side)
        return framed[mpigrad.arange(count).view(-1, 1, 1), down.unsqueeze(2), right.unsqueeze(1)].flatten(1)


def build(config: Config, features: int) -> nn.Module:
    """The network; the seed makes it the same on every rank and in every run."""
    mpigrad.manual_seed(config.seed)
    drop = lambda: [nn.Dropout(config.dropout)] if config.dropout else []
    layers: list[nn.Module] = [RandomShift()] if config.augment else []
    if config.model == "cnn":
        side = math.isqrt(features)
        layers.append(nn.Unflatten(1, (1, side, side)))
        for fan_in, fan_out in itertools.pairwise((1, 16, 32)):
            layers += [nn.Conv2d(fan_in, fan_out, 3, padding=1), nn.BatchNorm2d(fan_out), nn.ReLU(), nn.MaxPool2d(2)]
        layers += [nn.Flatten(), *drop()]
        width = 32 * (side // 4) ** 2
    else:
        for width, fan_out in itertools.pairwise((features, *HIDDEN[config.model])):
            layers += [nn.Linear(width, fan_out), nn.ReLU(), *drop()]
        width = fan_out
    return nn.Sequential(*layers, nn.Linear(width, CLASSES))


def sampler(config: Config, data: Any, global_batch: int, *, shuffle: bool = True) -> dist.ShardedSampler:
    """Which samples of each global batch are this rank's."""
    return dist.ShardedSampler(data, global_batch, shuffle=shuffle, seed=config.seed, shards=config.shards)


def train_epoch(config: Config, epoch: int, model: nn.Module, optimizer: Any, batches: Any) -> Iterator[Any]:
    """One pass over the training data; yields the loss of each of this rank's samples after every step."""
    model.train()
    for step, (images, labels) in enumerate(batches):
        done = (epoch - 1 + step / len(batches)) / config.epochs
        optimizer.param_groups[0]["lr"] = config.lr * (1 + math.cos(math.pi * done)) / 2
        losses = nn.functional.cross_entropy(model(images), labels, reduction="none")
        optimizer.zero_grad()
        losses.mean().backward()  # when it returns, the gradients are the mean over the samples of all ranks
        optimizer.step()
        yield losses


@mpigrad.no_grad()
def accuracy(model: nn.Module, batches: Any) -> float:
    """The share of test samples classified rightly, over all ranks: each sample counts once."""
    model.eval()
    right = dist.SampleMean(model)
    for images, labels in batches:
        right.add(model(images).argmax(1) == labels)
    return right.result()


def run(config: Config, train_data: TensorDataset, test_data: TensorDataset) -> None:
    """Train, report, and leave the results in the output folder."""
    first = dist.get_rank() == 0  # every rank computes, the first one speaks and writes
    ranks = dist.get_world_size()
    network = build(config, features=train_data.tensors[0].shape[1])
    optimizer = mpigrad.optim.SGD(network.parameters(), lr=config.lr, momentum=0.9)
    train_sampler = sampler(config, train_data, config.global_batch)
    test_sampler = sampler(config, test_data, config.global_batch, shuffle=False)
    settings = {key: value for key, value in dataclasses.asdict(config).items() if not isinstance(value, Path)}
    dist.agree(  # ranks that were started differently end here, each difference named
        config=settings,
        model=network,
        optimizer=optimizer,
        train_data=train_data,
        test_data=test_data,
        train_sampler=train_sampler,
        test_sampler=test_sampler,
    )
    model = dist.DistributedDataParallel(network, shards=config.shards)
    if config.shards is None:  # with shards, dropout and shifts draw from a stream for each step and shard
        mpigrad.manual_seed(config.seed + dist.get_rank())
    train_batches = DataLoader(train_data, batch_sampler=train_sampler)
    test_batches = DataLoader(test_data, batch_sampler=test_sampler)
    if first:
        config.out.mkdir(parents=True, exist_ok=True)
        written = {**dataclasses.asdict(config), "ranks": ranks}
        (config.out / "config.json").write_text(json.dumps(written, indent=2, default=str) + "\n")
        (config.out / "metrics.jsonl").write_text("")
        print(f"{len(train_data)} training and {len(test_data)} test samples, {ranks} rank(s), {config.model}")

    history = []
    for epoch in range(1, config.epochs + 1):
        started = time.perf_counter()
        train_loss = dist.SampleMean(model)
        steps = train_epoch(config, epoch, model, optimizer, train_batches)
        if first:
            steps = tqdm(steps, f"epoch {epoch}/{config.epochs}", len(train_batches), leave=False, unit="step")
        for losses in steps:
            train_loss.add(losses)
        loss = train_loss.result()
        seconds = time.perf_counter() - started
        metrics = {
            "epoch": epoch,
            "train_loss": loss,
            "test_accuracy": accuracy(model, test_batches),
            "samples_per_second": len(train_data) / seconds,
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

    dist.check_replicas(model, optimizer)  # before anything is saved: a rank that differs ends the job here
    if first:
        mpigrad.save_file(model.state_dict(), config.out / "model.safetensors")
        draw(history, config.out / "loss.png")
        print(f"test accuracy {history[-1]['test_accuracy']:.4f}")
        print(f"digest {dist.digest(model.state_dict())}")


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
            sampler(config, data, config.global_batch)
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
