"""The embedded digits."""

import numpy as np
from mpigrad.data import digits


def test_sizes_and_ranges() -> None:
    (images, labels), (test_images, test_labels) = digits().tensors, digits(train=False).tensors
    assert (images.shape, labels.shape) == ((1437, 64), (1437,))
    assert (test_images.shape, test_labels.shape) == ((360, 64), (360,))
    assert {str(t.dtype) for t in (images, test_images)} == {"mpigrad.float32"}
    for t in (images, test_images):
        assert (t.min().item(), t.max().item()) == (0.0, 1.0)
    for t in (labels, test_labels):
        counts = np.bincount(t.numpy(), minlength=10)
        assert len(counts) == 10 and counts.min() >= 0.06 * len(t)


def test_every_image_is_in_one_part() -> None:
    train, test = ({(*i.tolist(), c.item()) for i, c in digits(part)} for part in (True, False))
    assert len(train) + len(test) == 1797 and not train & test


def test_calls_do_not_share_memory() -> None:
    digits().tensors[0].zero_()
    assert digits().tensors[0].max().item() == 1.0
