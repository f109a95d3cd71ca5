"""The whole of it: training on the handwritten digits gives the same curve on any number of ranks."""

from typing import Any

import numpy as np
import pytest

import mpigrad
from mpigrad import data, ddp, nn, optim
from mpigrad.ddp.comm import Communicator, SingleCommunicator

EPOCHS, GLOBAL_BATCH = 4, 64


def train(comm: Communicator) -> dict[str, Any]:
    """The global loss of every step, the accuracy at the end and a digest of the parameters."""
    images, labels = data.digits().tensors
    train_set = data.TensorDataset(images[:1410], labels[:1410])  # 22 batches and two samples: some ranks get none
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    draw = np.random.default_rng(comm.rank)  # every rank starts elsewhere; what counts is rank 0's start
    for parameter in model.parameters():
        parameter.data.copy_(mpigrad.from_numpy(draw.uniform(-0.2, 0.2, parameter.shape).astype(np.float32)))
    model = ddp.DistributedDataParallel(model, communicator=comm, bucket_cap_mb=0.001, first_bucket_mb=0.0001)
    optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    sampler = ddp.ShardedSampler(train_set, GLOBAL_BATCH, seed=5, rank=comm.rank, world_size=comm.size)
    losses, sizes = [], []
    for _ in range(EPOCHS):
        for inputs, targets in data.DataLoader(train_set, batch_sampler=sampler):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()
            both = np.array([loss.item() * len(targets) if len(targets) else 0.0, len(targets)])
            comm.all_reduce(both)
            losses.append(both[0] / both[1])
            sizes.append(int(both[1]))
    assert sizes == ([GLOBAL_BATCH] * 22 + [2]) * EPOCHS
    with mpigrad.no_grad():
        images, labels = data.digits(train=False).tensors
        accuracy = (model(images).argmax(1) == labels).float().mean().item()
    return {"losses": losses, "accuracy": accuracy, "digest": ddp.digest(model.state_dict())}


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return train(SingleCommunicator())


def test_same_curve_on_any_number_of_ranks(world: Any, alone: dict[str, Any]) -> None:
    ranks = world(lambda: train(ddp.world()))
    for found in ranks:
        np.testing.assert_allclose(found["losses"], alone["losses"], rtol=1e-5, atol=1e-5)
        assert found["accuracy"] == alone["accuracy"]
    assert len({found["digest"] for found in ranks}) == 1


def test_it_learns(alone: dict[str, Any]) -> None:
    assert alone["losses"][0] > 2 and np.mean(alone["losses"][-23:-1]) < 0.5 and alone["accuracy"] > 0.85
