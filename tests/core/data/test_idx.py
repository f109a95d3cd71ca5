"""IDX files: whole ones are read, broken ones are explained."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpigrad.data import mnist, read_idx

REAL = Path(__file__).parents[4] / "shared" / "data" / "mnist"


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


IMAGES, LABELS = np.arange(2 * 3 * 4).reshape(2, 3, 4) * 10, np.array([7, 1])
GOOD = idx(IMAGES)


@pytest.mark.parametrize("name", ["a.gz", "a"])
@pytest.mark.parametrize("array", [IMAGES, LABELS, np.zeros((0, 2))])
def test_good_file(name: str, array: np.ndarray, tmp_path: Path) -> None:
    content = idx(array)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    np.testing.assert_array_equal(read_idx(tmp_path / name), array.astype(np.uint8), strict=True)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.gz", gzip.compress(GOOD)[:-9], "expected a whole gzip file, found a damaged one"),
        ("a.gz", gzip.compress(GOOD)[:30] + b"\0\0\0" + gzip.compress(GOOD)[33:], "found a damaged one"),
        ("a.gz", GOOD, "found a damaged one"),
        ("a", GOOD[:-1], r"expected 24 bytes of data for shape \[2, 3, 4\], found 23; the file is truncated"),
        ("a", GOOD + b"\0", "expected 24 bytes of data for shape .* found 25"),
        ("a", GOOD[:9], "expected 3 dimensions in the header, found the file ends after 9 bytes"),
        ("a", b"\x89PNG....", r"expected an IDX file of unsigned bytes \(00 00 08 ..\), found 89 50 4e 47"),
        ("a", b"\0\0\x0d\1\0\0\0\0", "found 00 00 0d 01"),
        ("a", b"", "found nothing"),
    ],
)  # fmt: skip
def test_broken_file(name: str, content: bytes, text: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path}: .*{text}"):
        read_idx(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_idx(tmp_path / "nothing.gz")


class TestMnist:
    @staticmethod
    def write(folder: Path, part: str, images: Any = IMAGES, labels: Any = LABELS) -> None:
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))

    def test_both_parts(self, tmp_path: Path) -> None:
        self.write(tmp_path, "train")
        self.write(tmp_path, "t10k", IMAGES[:1], LABELS[:1])
        train, test = mnist(tmp_path), mnist(str(tmp_path), train=False)
        assert (len(train), len(test)) == (2, 1)
        image, label = train[1]
        np.testing.assert_allclose(image.numpy(), IMAGES[1].ravel() / np.float32(255))
        assert label.item() == 1 and str(label.dtype) == "mpigrad.int64"

    def test_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="expected a folder with MNIST's IDX files, found no such folder"):
            mnist(tmp_path / "nothing")

    def test_empty_folder(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"expected t10k-images-idx3-ubyte.gz, found nothing"):
            mnist(tmp_path)

    def test_missing_labels(self, tmp_path: Path) -> None:
        self.write(tmp_path, "train")
        (tmp_path / "train-labels-idx1-ubyte").unlink()
        with pytest.raises(
            FileNotFoundError, match=r"expected train-labels-idx1-ubyte.gz, found train-images-idx3-ubyte.gz"
        ):
            mnist(tmp_path)

    def test_counts_differ(self, tmp_path: Path) -> None:
        self.write(tmp_path, "train", IMAGES[:1])
        with pytest.raises(ValueError, match="expected as many train labels as images, found 2 and 1"):
            mnist(tmp_path)

    @pytest.mark.skipif(not REAL.is_dir(), reason="MNIST's files are not beside this checkout, in shared/data/mnist")
    def test_the_real_ones(self) -> None:
        """Only the test images are there: 8,000 of them to train on, 2,000 to test on."""
        train, test = mnist(REAL), mnist(REAL, train=False)
        assert (train.tensors[0].shape, test.tensors[0].shape) == ((8000, 784), (2000, 784))
        assert [label.item() for _, label in (train[i] for i in range(5))] == [7, 2, 1, 0, 4]
        images, labels = train.tensors
        assert (images.min().item(), images.max().item()) == (0.0, 1.0)
        assert np.bincount(labels.numpy()).min() > 600
