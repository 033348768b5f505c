"""What the plugin computes of a pair of images, without Qt: matches, registration, landmarks, with progress."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from samreg.errors import require_choice
from samreg.landmarks import FoundLandmarks
from samreg.matching import Calibration, Features, features, interpolate, match_points
from samreg.matching.features import rows_at
from samreg.registration.result import RegistrationResult
from samreg.seeding.seed import require_one_model
from samreg.spatial.grid import FloatArray, Grid
from samreg.spatial.image import Image

ROLES = ("fixed", "moving")


class Cancelled(Exception):
    """The user cancelled the work."""


class Job:
    """Work that reports how far it is, and ends at its next report once it is cancelled.

    Parameters
    ----------
    report
        Called with the stage and the fraction done of it, NaN where that is not known, in the thread that works.

    Examples
    --------
    >>> job = Job(lambda stage, fraction: print(stage, fraction))
    >>> job.stage("embedding")
    embedding nan
    >>> job.cancel()
    >>> job.stage("seeding")
    Traceback (most recent call last):
    samreg.plugin.session.Cancelled: cancelled
    """

    def __init__(self, report: Callable[[str, float], None]) -> None:
        self._report = report
        self._cancelled = threading.Event()
        self._stage = ""

    def cancel(self) -> None:
        """Let the work end at its next report."""
        self._cancelled.set()

    def stage(self, name: str) -> None:
        """Report that a stage begins."""
        self._stage = name
        self.fraction(float("nan"))

    def fraction(self, done: float) -> None:
        """Report the fraction done of the stage."""
        if self._cancelled.is_set():
            raise Cancelled("cancelled")
        self._report(self._stage, done)


@dataclass(frozen=True, eq=False)
class Match:
    """A point of an image and its match in the other.

    Parameters
    ----------
    point, match
        (d,) LPS mm.
    similarity
        Of their embeddings, at most 1.
    reliability
        Calibrated probability that the match is right.
    cycle_error
        Distance at which the match leads back, mm.
    similarity_map
        How similar the other image is to the point, everywhere in its body; 0 outside.
    """

    point: FloatArray
    match: FloatArray
    similarity: float
    reliability: float
    cycle_error: float
    similarity_map: Image


class Explorer:
    """Two embedded images, ready to be asked for the match of any point.

    Parameters
    ----------
    fixed, moving
        Embeddings of one model (:func:`samreg.embed`).
    notes
        What the user should know of them, in plain words.

    Raises
    ------
    InputError
        When the embeddings are of different models.

    Examples
    --------
    >>> from samreg.embedding.api import embed
    >>> noise = np.random.default_rng(0).normal(0, 100, (16, 16, 16)).astype(np.float32)
    >>> embedding = embed({"array": noise, "spacing": (8, 8, 8)}, model="mind")
    >>> match = Explorer(embedding, embedding).match([60.0, 60.0, 60.0], "fixed")
    >>> bool(abs(match.match - 60).max() < 8)  # mm
    True
    """

    def __init__(self, fixed: Any, moving: Any, *, notes: tuple[str, ...] = ()) -> None:
        require_one_model(fixed, moving)
        self.notes = notes
        self._features: dict[str, Features] = {"fixed": features(fixed), "moving": features(moving)}
        self._calibration = Calibration.from_mapping(fixed.calibration)
        for searched in self._features.values():
            _ = searched.sparse_vectors  # now, so that the first match is as quick as the next

    def match(self, point: ArrayLike, role: str) -> Match | None:
        """Return the match of a point, or None where it lies outside the body.

        Parameters
        ----------
        point
            (d,) LPS mm.
        role
            "fixed" or "moving": the image in which it lies.
        """
        require_choice("role", role, ROLES)
        source, target = self._features[role], self._features["moving" if role == "fixed" else "fixed"]
        points = np.asarray(point, dtype=np.float64).reshape(1, -1)
        voxel = torch.from_numpy(np.rint(source.grid.world_to_index(points)).astype(np.int64))
        if int(rows_at(source, voxel)[0]) < 0:
            return None
        pair = match_points(source, points, target, coarse=True, calibration=self._calibration)
        return Match(
            points[0],
            pair.moving[0],
            float(pair.similarity[0]),
            float(pair.reliability[0]),
            float(pair.cycle_error[0]),
            _similarity_map(interpolate(source, points), target),
        )


def _similarity_map(query: torch.Tensor, target: Features) -> Image:
    """Return the similarity of every second voxel along each axis to a vector (1, C); 0 outside the body."""
    keys = target.sparse_vectors
    similarity = (keys @ query[0].to(keys.dtype)).float().cpu().numpy()
    index = target.index[target.sparse_rows].cpu().numpy() // 2
    grid = target.grid
    shape = tuple((n + 1) // 2 for n in grid.shape)
    values = np.zeros(shape, np.float32)
    values[tuple(index.T[::-1])] = similarity
    return Image(values, Grid(shape, grid.origin, 2 * grid.spacing, grid.direction), "similarity")


def explore(fixed: Image, moving: Image, job: Job, *, model: str | None = None, device: str = "auto") -> Explorer:
    """Embed two images by one model: the default for both together unless given, as :func:`samreg.register` has it.

    Raises
    ------
    InputError
        When the model does not take them.
    Cancelled
        When the job was cancelled.
    """
    from samreg.embedding.registry import default_notes, model_for

    network = model_for(model, fixed, moving)
    embeddings = []
    for role, image in zip(ROLES, (fixed, moving), strict=True):
        job.stage(f"embedding the {role} image")
        embeddings.append(network.embed(image, device=device, progress=job.fraction))
    job.stage("preparing the search")
    return Explorer(*embeddings, notes=() if model is not None else default_notes(fixed, moving))


def register_pair(
    fixed: Image, moving: Image, job: Job, *, transform: str = "deformable", engine: str | None = None, **options: Any
) -> RegistrationResult:
    """Register two images as :func:`samreg.register` does, whose other options may be given.

    Raises
    ------
    Cancelled
        When the job was cancelled, at the next stage or step of the engine.
    """
    from samreg.registration import register

    return register(fixed, moving, transform=transform, engine=engine, progress=job.stage, **options)


def landmarks_of(image: Image, job: Job, *, device: str = "auto") -> FoundLandmarks:
    """Find the named landmarks of an image as :func:`samreg.find_landmarks` does.

    Raises
    ------
    Cancelled
        When the job was cancelled while the image was embedded.
    """
    from samreg.embedding import embed
    from samreg.landmarks import find_landmarks

    job.stage(f"embedding {image.label}")
    embedding = embed(image, device=device, progress=job.fraction)
    job.stage("finding landmarks")
    return find_landmarks(embedding)
