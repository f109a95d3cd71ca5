"""The training script as a user runs it: from a shell, alone and on several ranks, with good input and with bad."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mpigrad import load_file

ROOT = Path(__file__).parents[2]
TRAIN = str(ROOT / "scripts" / "train.py")
MNIST = ROOT.parent / "shared" / "data" / "mnist"
SHAPES = {f"{i}.weight": [b, a] for i, a, b in ((0, 64, 512), (2, 512, 256), (4, 256, 10))}
SHAPES |= {name.replace("weight", "bias"): shape[:1] for name, shape in SHAPES.items()}
LAUNCHER_VARIABLES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")

pytestmark = pytest.mark.skipif(
    any(name in os.environ for name in LAUNCHER_VARIABLES), reason="starts MPI jobs of its own: run it in one process"
)


def train(
    ranks: int, *options: object, timeout: float = 120, script: str | Path = TRAIN, mpi: Path | None = None
) -> subprocess.CompletedProcess[str]:
    launcher = [] if ranks == 0 else ["-m", "mpigrad.launch.cli", "run", "-n", str(ranks), "--timeout", str(timeout)]
    launcher += ["--mpi", str(mpi)] if mpi else []
    return subprocess.run(
        [sys.executable, *launcher, str(script), *map(str, options)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout + 20,
    )


def history(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_every_number_of_ranks_learns_the_same(tmp_path: Path) -> None:
    curves, ends = [], []
    for ranks in (0, 1, 2, 3, 4):  # 0: plain python, no launcher
        out = tmp_path / str(ranks)
        done = train(ranks, "--epochs", 4, "--out", out)
        assert done.returncode == 0, done.stderr
        *_, accuracy, digest = done.stdout.splitlines()
        assert accuracy.startswith("test accuracy 0.") and len(accuracy) == len("test accuracy 0.1234")
        assert digest.startswith("digest ") and len(digest) == len("digest ") + 32
        curves.append([m["train_loss"] for m in history(out)])
        ends.append(accuracy)
        assert {path.name for path in out.iterdir()} >= {"config.json", "metrics.jsonl", "model.safetensors"}
        assert {name: list(t.shape) for name, t in load_file(out / "model.safetensors").items()} == SHAPES
    np.testing.assert_allclose(curves, [curves[0]] * len(curves), rtol=0, atol=1e-5)
    assert len(set(ends)) == 1


# runs the training script by a transport of the MPI library's ranks, or in simulated worlds one after the other
DRIVER = f"""
import sys
from functools import partial
sys.path.insert(0, {str(ROOT / "scripts")!r})
import mpigrad.distributed as dist, train
from mpigrad.ddp.comm import simulated

how = sys.argv.pop(1)
if how.startswith("simulated"):
    for ranks in how.split()[1:]:
        simulated.run(int(ranks), train.main)
else:
    dist.init_process_group = partial(dist.init_process_group, transport=how)
    train.main()
"""
OPENMPI = Path(sys.prefix) / "openmpi"


@pytest.mark.parametrize(
    ("options", "worlds"),
    [
        (["--dropout", 0.3], [(3, "mpi", None), (4, "shm", OPENMPI)]),
        (["--model", "cnn", "--augment", "--dropout", 0.1], [(2, "mpi", OPENMPI), (8, "shm", None)]),
    ],
    ids=["mlp", "cnn"],
)
def test_shards_make_the_same_bits_in_every_world(
    options: list[object], worlds: list[tuple[int, str, Path | None]], tmp_path: Path
) -> None:
    """For 50 steps alone, in simulated worlds, and on ranks of each MPI library by messages and by shared memory."""
    driver, steps = tmp_path / "driver.py", ["--shards", 8, "--epochs", 2, "--global-batch", 56, *options]
    driver.write_text(DRIVER)
    runs = [train(0, *steps, "--out", tmp_path / "alone")]
    runs.append(train(0, "simulated 1 2 3 4 8", *steps, "--out", tmp_path / "simulated", script=driver))
    for ranks, transport, mpi in worlds:
        if mpi is None or mpi.is_dir():
            out = tmp_path / f"{ranks} by {transport}"
            runs.append(train(ranks, transport, *steps, "--out", out, script=driver, mpi=mpi))
    for done in runs:
        assert done.returncode == 0, done.stderr
    ends = [line for done in runs for line in done.stdout.splitlines() if line.startswith(("test accuracy", "digest"))]
    assert len(ends) == 2 * (len(runs) + 4) and set(ends) == set(ends[:2])
    curves = [
        [{k: v for k, v in m.items() if k != "samples_per_second"} for m in history(out)]
        for out in tmp_path.iterdir()
        if out.is_dir()
    ]
    assert len(curves) == len(runs) and curves == [curves[0]] * len(runs)


DAMAGED = """
import os, sys
import mpigrad.distributed as dist
del sys.argv[0]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
import train
whole = train.accuracy
def accuracy(model, batches):  # called after each epoch
    if dist.get_rank() == 1:
        model.module[2].weight.array[3, 5] += 1
    return whole(model, batches)
train.accuracy = accuracy
train.main()
"""


def test_a_model_that_differs_on_a_rank_is_not_saved(tmp_path: Path) -> None:
    script = tmp_path / "damaged.py"
    script.write_text(DAMAGED)
    done = train(3, TRAIN, "--epochs", 1, "--out", tmp_path / "out", script=script)
    assert done.returncode == 1
    assert "the ranks' replicas differ, first in parameter 2.weight, element [3, 5]:" in done.stderr
    assert "the odd one: rank 1;" in done.stderr
    assert not (tmp_path / "out" / "model.safetensors").exists()


OTHERWISE = """
import os, runpy, sys
del sys.argv[0]
if os.environ.get("PMI_RANK", os.environ.get("OMPI_COMM_WORLD_RANK")) == "1":
    sys.argv += ["--lr", "0.2", "--seed", "7"]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_ranks_with_other_settings_end_before_they_train(tmp_path: Path) -> None:
    script = tmp_path / "other.py"
    script.write_text(OTHERWISE)
    done = train(2, TRAIN, "--epochs", 1, "--out", tmp_path / "out", script=script)
    assert done.returncode == 1
    for line in ("config.lr   rank 0: 0.1 / rank 1: 0.2", "train_sampler.seed   rank 0: 0 / rank 1: 7"):
        assert done.stderr.count(f"\n  {line}\n") == 1, done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not MNIST.is_dir(), reason="the MNIST files are not at ../shared/data/mnist")
def test_mnist(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = train(2, "--data", "mnist", "--data-dir", MNIST, "--epochs", 2, "--global-batch", 128, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "8000 training and 2000 test samples" in done.stdout
    assert history(out)[-1]["test_accuracy"] > 0.9


def idx_folder(folder: Path, *, labels: np.ndarray, images: np.ndarray, cut: int | None = None) -> Path:
    folder.mkdir()
    for name, array in (("images-idx3", images), ("labels-idx1", labels)):
        head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        content = gzip.compress((head + array.astype(np.uint8).tobytes())[: cut if array.ndim == 3 else None])
        (folder / f"t10k-{name}-ubyte.gz").write_bytes(content)
    return folder


@pytest.fixture
def bad_folders(tmp_path: Path) -> dict[str, Path]:
    images = np.zeros((9000, 2, 2))
    half = idx_folder(tmp_path / "half", labels=np.zeros(9000), images=images)
    whole = (half / "t10k-images-idx3-ubyte.gz").read_bytes()
    (half / "t10k-images-idx3-ubyte.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "nothing").mkdir()
    return {
        "half": half,
        "short": idx_folder(tmp_path / "short", labels=np.zeros(9000), images=images, cut=1000),
        "eleven": idx_folder(tmp_path / "eleven", labels=np.full(9000, 11), images=images),
        "few": idx_folder(tmp_path / "few", labels=np.zeros(5), images=images[:5]),
        "nothing": tmp_path / "nothing",
        "absent": tmp_path / "absent",
    }


BAD = [
    (["--global-batch", "1"], "expected a global batch of at least one sample per rank (2), found 1"),
    (["--global-batch", "0"], "--global-batch: expected at least 1, found 0"),
    (["--global-batch", "many"], "many"),
    (["--epochs", "0"], "--epochs: expected at least 1, found 0"),
    (["--lr", "-1"], "--lr: expected a positive number, found -1.0"),
    (["--frobnicate"], "frobnicate"),
    (["--model", "transformer"], "transformer"),
    (["--dropout", "1"], "--dropout: expected a number from 0 to below 1, found 1.0"),
    (["--shards", "1"], "shards: expected at least one for each of 2 rank(s), found 1"),
    (["--shards", "65"], "expected a global batch of at least one sample per shard (65), found 64"),
    (["--data", "mnist"], "expected --data-dir with the folder of its IDX files, found none"),
    (
        ["--data", "mnist", "--data-dir", "absent"],
        "absent: expected a folder with MNIST's IDX files, found no such folder",
    ),
    (["--data", "mnist", "--data-dir", "nothing"], "expected t10k-images-idx3-ubyte.gz, found nothing"),
    (["--data", "mnist", "--data-dir", "half"], "expected a whole gzip file, found a damaged one"),
    (["--data", "mnist", "--data-dir", "short"], "expected 36000 bytes of data for shape [9000, 2, 2], found 984"),
    (["--data", "mnist", "--data-dir", "few"], "expected a dataset with at least one sample, found an empty one"),
    (["--data", "mnist", "--data-dir", "eleven"], "Target 11 is out of bounds: expected class indices from 0 to 9"),
]


@pytest.mark.parametrize(("options", "sentence"), BAD, ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_bad_input_is_told_in_a_sentence(
    options: list[str], sentence: str, bad_folders: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = train(2, *[bad_folders.get(o, o) for o in options], "--out", out, timeout=20)
    assert done.returncode != 0
    assert sentence in " ".join(done.stderr.replace("│", " ").split()), done.stderr
    if "eleven" not in options:  # a label is looked at when its batch is trained on
        assert not out.exists()
        assert "Traceback" not in done.stderr
    assert not (out / "model.safetensors").exists()


def test_help_explains_every_flag() -> None:
    text = train(0, "--help").stdout
    assert (
        "\n    python scripts/train.py                       one process, no MPI needed\n    mpigrad run -n 2 " in text
    )
    for flag in ("--data", "--data-dir", "--model", "--dropout", "--augment", "--global-batch", "--shards", "--out"):
        assert flag in text
    assert "Samples in each step, over all ranks together" in " ".join(text.replace("│", " ").split())
