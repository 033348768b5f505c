"""Prepare a training run: ``python -m samreg.training.prepare IMAGES -o prepared.npz``.

The file that it writes holds all that a run needs, for a machine with torch and numpy alone.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from samreg.errors import InputError, require_choice
from samreg.spatial.io_images import read_image
from samreg.training.cross_subject import stored_maps
from samreg.training.data import named_images, stored_image
from samreg.training.landmark_pairs import read_landmarks
from samreg.training.modality import MODALITIES
from samreg.training.prepared import StoredImage, write_prepared
from samreg.training.program import faults_said


def prepare(
    images: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    landmarks: str | os.PathLike[str] | None = None,
    maps: str | os.PathLike[str] | None = None,
    modality: str = "ct",
    spacing: float = 2.0,
    image_spacing: float | None = None,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Write images, landmarks and maps into one file to train from.

    Parameters
    ----------
    images
        As ``TrainingConfig.images``: a folder, or a text file that lists images.
    out
        The file, .npz.
    landmarks
        As ``TrainingConfig.landmarks``; those of other people are left out.
    maps
        As ``TrainingConfig.cross_subject``: a folder of maps between the images.
    modality, spacing, image_spacing
        As in ``TrainingConfig``.
    progress
        Called with the name of each image as it is read.

    Returns
    -------
    Path
        The file, for ``TrainingConfig.images``, and for ``landmarks`` and ``cross_subject`` where it holds them.

    Raises
    ------
    InputError
        When an image, the table or a map cannot be used, or the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from samreg.spatial import Image, write_image
    >>> folder = Path(tempfile.mkdtemp())
    >>> hu = np.random.default_rng(0).normal(0, 100, (12, 12, 12)).astype(np.float32)
    >>> write_image(Image.from_array(hu, spacing=2.0), folder / "scans" / "ANNA.nii.gz")
    >>> prepare(folder / "scans", folder / "prepared.npz").name
    'prepared.npz'
    """
    require_choice("modality", modality, MODALITIES)
    kind = MODALITIES[modality](spacing)
    files = named_images(images)
    points = None
    if landmarks is not None:
        points = {name: p for name, p in read_landmarks(landmarks).items() if name in files}
        if not points:
            raise InputError(f"{landmarks}: none of its subjects is an image of {images}, such as {next(iter(files))}")

    def read() -> Iterator[StoredImage]:
        for name, path in files.items():
            if progress is not None:
                progress(name)
            yield stored_image(read_image(path, spacing=image_spacing), kind, name=name)

    write_prepared(
        out,
        read(),
        modality=kind.source.modality,
        spacing=spacing,
        landmarks=points,
        maps=() if maps is None else stored_maps(maps, files),
    )
    return Path(out)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m samreg.training.prepare", description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, help="folder of images, or a .txt that lists them")
    parser.add_argument("-o", "--out", type=Path, required=True, help="file to write, .npz")
    parser.add_argument("--landmarks", type=Path, help="csv with subject, landmark, x, y, z in LPS mm")
    parser.add_argument("--maps", type=Path, help="folder of maps between the images, FIXED--MOVING.npz")
    parser.add_argument("--modality", default="ct", help="ct (default), which serves any too, or xray")
    parser.add_argument("--spacing", type=float, default=2.0, help="voxel size of the network's input, mm (default 2)")
    parser.add_argument("--image-spacing", type=float, help="voxel size of the files, where they say none, mm")
    given = vars(parser.parse_args(arguments))
    with faults_said(parser):
        path = prepare(given.pop("images"), given.pop("out"), **given, progress=lambda name: print(name, flush=True))
    print(f"written to {path}, {path.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
