"""The bundled digit model's accuracy, as served; needs the data set: ``TEST_CONVSERVE_MNIST_DIR``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integration.full_test_set import measured_accuracies, stated_accuracy

DATA = os.environ.get("TEST_CONVSERVE_MNIST_DIR")


@pytest.mark.skipif(not DATA, reason="TEST_CONVSERVE_MNIST_DIR does not name a folder with mnist/test.npz")
def test_the_accuracy_served_is_the_accuracy_stated(transport: str):
    assert set(measured_accuracies(Path(str(DATA)), transport).values()) == {stated_accuracy()}
