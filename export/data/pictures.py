"""Labelled pictures: NumPy archives, one folder per class, or torchvision's copy of MNIST.

Letters: N pictures, H height, W width, C channels.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from export.data.base import DataSet, Indices, Source, Split, check_labels
from export.errors import DataInvalid
from service.errors import InvalidInput
from service.preprocessing import image
from service.spec import ImageSpec

_SPLITS = ("train", "test")


class Pictures(Split):
    """Pictures in memory, as the model takes them: uint8 (N, H, W, C), where C is 1 or 3."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, files: Sequence[Path] = ()) -> None:
        """Keep the arrays, of the same N. ``files`` are the files that the pictures were read from, or empty."""
        self.images = images
        self.labels = labels
        self._files = files

    def select(self, indices: Indices) -> Pictures:
        """See :class:`Split`."""
        files = [self._files[i] for i in indices] if self._files else ()
        return Pictures(self.images[indices], self.labels[indices], files)

    def raw(self, index: int) -> bytes:
        """Return the file that a picture was read from; if there is none, encode it losslessly as a PNG.

        A picture read from a file was scaled and cropped already. The server would do so again if it were re-encoded.

        Raises:
            DataInvalid: The file cannot be read any more.
        """
        if not self._files:
            return encode_png(self.images[index])
        try:
            return self._files[index].read_bytes()
        except OSError as error:
            raise DataInvalid(f"{self._files[index]}: {error.strerror}") from None

    def content(self, index: int) -> bytes:
        """Return the pixels."""
        pixels: bytes = self.images[index].tobytes()
        return pixels


def encode_png(picture: np.ndarray) -> bytes:
    """Encode uint8 (H, W, 1) or (H, W, 3) as a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(picture.squeeze(2) if picture.shape[2] == 1 else picture).save(buffer, format="PNG")
    return buffer.getvalue()


def read_pictures(source: Source, name: str, labels: Sequence[str], spec: ImageSpec) -> DataSet:
    """Read a training and a test set of pictures.

    Uses the first of these that the folder contains: ``train.npz`` and ``test.npz`` with ``images``
    (N, H, W) or (N, H, W, C) uint8 and ``labels`` (N,); ``train/<label>/*`` and ``test/<label>/*``
    with encoded pictures, which pass through the server's own preprocessing; for MNIST, torchvision's
    ``MNIST/raw``, which may be downloaded. To evaluate, the test set alone will do; the training set is then empty.

    Raises:
        DataInvalid: The data are missing or invalid; the message names the file and, if any, the row.
    """
    if not source.path.exists() and not source.download:
        raise DataInvalid(f"{source.path}: no such folder{'; --download fetches MNIST into it' * (name == 'mnist')}")
    archives, folders = ([source.path / f"{split}{end}" for split in _SPLITS] for end in (".npz", ""))
    if archives[1].is_file():
        parts = [_read_archive(path, len(labels), spec) for path in archives if path.exists()]
    elif folders[1].is_dir():
        parts = [_read_folders(path, labels, spec) for path in folders if path.exists()]
    elif name == "mnist":
        parts = [_read_torchvision(source, split, len(labels), spec) for split in _SPLITS]
    else:
        raise DataInvalid(
            f"{source.path}: holds no {name}; expected train.npz and test.npz, or the folders train/ and test/"
        )
    test = parts[-1]
    return DataSet(name, len(labels), parts[0] if len(parts) > 1 else test.select([]), test, "test")


def _read_archive(path: Path, classes: int, spec: ImageSpec) -> Pictures:
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [key for key in ("images", "labels") if key not in archive.files]
            if missing:
                raise DataInvalid(f"{path}: has no array '{missing[0]}', only {', '.join(archive.files)}")
            images, labels = archive["images"], archive["labels"]
    except DataInvalid:
        raise
    except Exception as error:  # zlib, zipfile and NumPy raise unrelated classes for damaged archives
        raise DataInvalid(f"{path}: cannot be read as a NumPy archive ({error})") from None
    if images.ndim == 3:
        images = images[..., np.newaxis]
    _check_images(images, spec, str(path))
    if labels.ndim != 1:
        raise DataInvalid(f"{path}: labels have the shape {labels.shape}, expected (N,)")
    if len(images) != len(labels):
        raise DataInvalid(f"{path}: has {len(images)} images but {len(labels)} labels")
    if labels.dtype.kind not in "iu":
        raise DataInvalid(f"{path}: labels are {labels.dtype}, expected integers")
    return Pictures(images, check_labels(labels, classes, str(path)))


def _check_images(images: np.ndarray, spec: ImageSpec, where: str) -> None:
    """Refuse archived pictures, which are trained on unchanged, if the server would change them."""
    if images.dtype != np.uint8 or images.shape[1:] != spec.shape:
        expected = f"uint8 (N, {spec.height}, {spec.width}, {spec.channels})"
        raise DataInvalid(f"{where}: images are {images.dtype} {images.shape}, expected {expected}")
    if spec.resize == "shorter-edge" and spec.resize_px != min(spec.height, spec.width):
        raise DataInvalid(
            f"{where}: the server would scale these pictures to {spec.resize_px} pixels and crop them; use "
            'resize = "exact", or folders with the original pictures'
        )


def _read_folders(folder: Path, labels: Sequence[str], spec: ImageSpec) -> Pictures:
    """Read ``folder/<label>/*`` in the order of labels and file names."""
    unknown = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name not in labels)
    if unknown:
        raise DataInvalid(
            f"{folder / unknown[0]}: '{unknown[0]}' is not a label of the recipe, which has {', '.join(labels)}"
        )
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:  # ImageNet's crane is a bird and a machine
        raise DataInvalid(f"{folder}: cannot hold both classes labelled '{twice}'; give train.npz and test.npz")
    images, numbers, files = [], [], []
    for number, label in enumerate(labels):
        if not (folder / label).is_dir():
            continue
        for path in sorted(entry for entry in (folder / label).iterdir() if entry.is_file()):
            try:
                images.append(image.load(path.read_bytes(), spec))
            except (InvalidInput, OSError) as error:
                raise DataInvalid(f"{path}: {error}") from None
            numbers.append(number)
            files.append(path)
    if not images:
        raise DataInvalid(f"{folder}: is empty, expected at least one example")
    return Pictures(np.stack(images), np.array(numbers, dtype=np.int64), files)


def _read_torchvision(source: Source, split: str, classes: int, spec: ImageSpec) -> Pictures:
    # The import takes a second, and archives and folders do not need it.
    from torchvision.datasets import MNIST  # noqa: PLC0415

    raw = source.path / "MNIST" / "raw"
    made = [folder for folder in (raw, raw.parent, source.path) if not folder.exists()]
    try:
        mnist = MNIST(str(source.path), train=split == "train", download=source.download)
    except Exception as error:  # torchvision raises anything for damaged files
        if source.download:
            with suppress(OSError):  # folders that the download created and left empty
                for folder in made:
                    folder.rmdir()
            reason = str(error).strip().rpartition("\n")[2]  # it has one line per mirror
            raise DataInvalid(
                f"{source.path}: MNIST cannot be downloaded ({reason}); put its four files into {raw}"
            ) from None
        if (source.path / "MNIST" / "raw").is_dir():
            reason = f"{type(error).__name__}: {error}"
            raise DataInvalid(
                f"{source.path}/MNIST/raw, {split}: damaged or incomplete ({reason}); download it again"
            ) from None
        raise DataInvalid(
            f"{source.path}: holds no MNIST; expected train.npz and test.npz, the folders train/ and test/, "
            "or torchvision's MNIST/raw; --download fetches it"
        ) from None
    images, where = mnist.data.numpy()[..., np.newaxis], f"{source.path}/MNIST/raw, {split}"
    _check_images(images, spec, where)
    return Pictures(images, check_labels(mnist.targets.numpy(), classes, where))
