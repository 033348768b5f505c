"""The folder of an atlas: where everything lies, and what the whole run writes there.

=========================================  =============================================================================
``inputs/NAME``                            embedding of each subject, for the methods that embed
``start/NAME/affine.tfm``                  reference to subject
``iteration-K/subjects/NAME``              what the registration of iteration K gave
``iteration-K/average``                    template, its embedding, mean, variance, coverage, change of shape, ...
``subjects/NAME``                          transform, inverse, warped image, labels and landmarks in the template
``template.nii.gz, mean, ...``             those of the last iteration
``labels/, landmarks.csv, ...``            what the subjects bring to the template
``convergence.csv, summary.csv``           how it went
=========================================  =============================================================================
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from samreg.atlas.average import landmark_spread, probability
from samreg.errors import InputError
from samreg.quality import dice
from samreg.spatial.files import require_replaceable
from samreg.spatial.grid import Grid
from samreg.spatial.image import Image
from samreg.spatial.io_images import read_image, write_image
from samreg.spatial.io_points import read_points, write_points
from samreg.spatial.labels import as_whole
from samreg.spatial.points import Points, require_inside
from samreg.steps import RECORD, recorded, require_summary, write_table

#: The images of a template.
IMAGES = ("template", "mean", "variance", "coverage")
#: What a subject's folder holds, where the subject has some.
SUBJECT_LABELS, SUBJECT_LANDMARKS = "labels.nii.gz", "landmarks.csv"


@dataclass(frozen=True)
class AtlasFolder:
    """Where an atlas keeps what.

    Parameters
    ----------
    root
        The folder.
    """

    root: Path

    def input(self, name: str) -> Path:
        """Folder of a subject's embedding."""
        return self.root / "inputs" / name

    def affine(self, name: str) -> Path:
        """From the reference to a subject."""
        return self.root / "start" / name / "affine.tfm"

    def average(self, iteration: int) -> Path:
        """Folder of an iteration's averages."""
        return self.root / f"iteration-{iteration}" / "average"

    def update(self, iteration: int) -> Path:
        """From the template of an iteration to that of the iteration before; there is none for iteration 0."""
        return self.average(iteration) / "update.h5"

    def registered(self, iteration: int, name: str) -> Path:
        """What a subject's registration to the template of the iteration before gave."""
        return self.root / f"iteration-{iteration}" / "subjects" / name / "transform.h5"

    def subject(self, name: str) -> Path:
        """Folder of a subject's results."""
        return self.root / "subjects" / name

    def image(self, name: str) -> Path:
        """Of the last iteration; see :data:`IMAGES`."""
        return self.root / f"{name}.nii.gz"

    @property
    def labels(self) -> Path:
        """Folder of the template's labels."""
        return self.root / "labels"

    @property
    def landmarks(self) -> Path:
        """All subjects' landmarks in the template."""
        return self.root / "landmarks.csv"

    @property
    def mean_landmarks(self) -> Path:
        """Their means."""
        return self.root / "template_landmarks.csv"

    def require_replaceable(self, inputs: Iterable[str | os.PathLike[str]]) -> None:
        """Raise :class:`InputError` where a run would replace what it reads, or a user's own file, in the folder."""
        inputs = [*inputs]
        tables = (self.landmarks, self.mean_landmarks, self.mean_landmarks.with_suffix(".mrk.json"))
        names = [*(path.name for path in (*map(self.image, IMAGES), *tables)), "convergence.csv"]
        first = (self.average(0) / RECORD).relative_to(self.root)  # of an earlier run, finished or not
        require_replaceable(self.root, names, mark=os.fspath(first), inputs=inputs)
        require_summary(self.root / "summary.csv", inputs)


def read_labels(path: Path) -> Image:
    """Read a label map as int16, which leaves -1 for what no subject shows.

    Raises
    ------
    InputError
        When it cannot be read, or holds anything but whole numbers from 0 to 32767.
    """
    image = read_image(path)
    whole, largest = as_whole(image.array), np.iinfo(np.int16).max
    if whole is None or whole.min() < 0 or whole.max() > largest:
        raise InputError(f"{path} is no label map: it must hold whole numbers from 0 to {largest}")
    return image.with_array(whole.astype(np.int16))


def read_landmarks(path: Path, subject: str | None, grid: Grid, name: str) -> Points:
    """Read the landmarks of a subject.

    Parameters
    ----------
    path
        Of a points file.
    subject
        Whose rows are meant; None for all.
    grid
        Of the subject's image.
    name
        Of the subject, for messages.

    Raises
    ------
    InputError
        When they cannot be read, or lie outside the image.
    """
    points = read_points(path, grid=grid, subject=subject)
    require_inside(points, grid, f"the image {name} ({path})")
    return points


def remove_earlier(folder: AtlasFolder, names: Sequence[str]) -> None:
    """Remove what an earlier run wrote and this one might not: other subjects, landmarks, labels; nothing of others."""
    for path in (folder.root / "subjects").iterdir():
        if path.name not in names and recorded(path) is not None:
            shutil.rmtree(path)
    earlier: list[Path] = []
    if folder.mean_landmarks.is_file():
        earlier += [folder.landmarks, folder.mean_landmarks.with_suffix(".mrk.json"), folder.mean_landmarks]
    if (folder.labels / "dice.csv").is_file():
        earlier += [
            *folder.labels.glob("label-*.nii.gz"),
            folder.labels / "majority.nii.gz",
            folder.labels / "dice.csv",
        ]
    for path in earlier:
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # there is none, or it holds a user's own files
        folder.labels.rmdir()


def write_landmarks(folder: AtlasFolder, names: Sequence[str]) -> None:
    """Write the subjects' landmarks in the template, their means, and how far they lie apart."""
    if not names:
        return
    subjects = {name: read_points(folder.subject(name) / SUBJECT_LANDMARKS) for name in names}
    axes = "xyz"[: next(iter(subjects.values())).ndim]
    rows = (
        (subject, name, *position)
        for subject, points in subjects.items()
        for name, position in zip(points.names, points.positions.tolist(), strict=True)
    )
    write_table(folder.landmarks, ("subject", "landmark", *axes), rows)
    means = landmark_spread(subjects)
    columns = (means.points.names, means.points.positions.tolist(), means.spread, means.count)
    write_table(
        folder.mean_landmarks,
        ("name", *axes, "spread_mm", "subjects"),
        ((name, *position, float(spread), count) for name, position, spread, count in zip(*columns, strict=True)),
    )
    if len(axes) == 3:
        write_points(means.points, folder.mean_landmarks.with_suffix(".mrk.json"))


def write_labels(folder: AtlasFolder, names: Sequence[str]) -> None:
    """Write a probability map a label, the label most subjects have, and each label's overlap with it."""
    if not names:
        return
    maps = [read_image(folder.subject(name) / SUBJECT_LABELS) for name in names]
    labels = sorted({int(label) for m in maps for label in np.unique(m.array)} - {-1, 0})
    background = probability(maps, 0)
    majority, highest = np.zeros(background.shape, np.int16), background.array.copy()
    for label in labels:
        share = probability(maps, label)
        write_image(share, folder.labels / f"label-{label:03d}.nii.gz")
        majority[share.array > highest] = label
        np.maximum(highest, share.array, out=highest)
    write_image(Image(majority, background.grid, "majority"), folder.labels / "majority.nii.gz")
    overlaps = [dice(np.where(m.array >= 0, m.array, 0), np.where(m.array >= 0, majority, 0)) for m in maps]
    rows = []
    for label in labels:
        values = [overlap[label] for overlap in overlaps if label in overlap]
        rows.append((label, len(values), float(np.mean(values))))
    write_table(folder.labels / "dice.csv", ("label", "subjects", "mean_dice_with_majority"), rows)
