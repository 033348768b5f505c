"""track(): the lesions of a baseline found in a follow-up, and how their size changed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from samreg.errors import InputError
from samreg.spatial.files import atomic_path
from samreg.spatial.grid import FloatArray, Grid
from samreg.spatial.image import Image
from samreg.spatial.inputs import as_image
from samreg.spatial.io_images import write_image
from samreg.spatial.io_points import write_points
from samreg.spatial.points import Points
from samreg.spatial.resample import resample
from samreg.spatial.transforms import Transform, invert
from samreg.tracking.lesions import Lesions, as_lesions
from samreg.tracking.size import Extent, grow

if TYPE_CHECKING:
    from samreg.embedding import Embedding

_WINDOW = (20.0, 0.2)  # mm around the prediction that are searched, and the similarity lost at that distance
_RADIUS = 8.0  # mm, of a lesion that only its centre is known of
_SHELL = 6.0  # mm beyond the radius, of the second shell of neighbours
_STEP = 4.0  # mm, over which the field's Jacobian is taken
_SAME = 0.7  # Dice overlap with what was drawn, from which a lesion counts as grown rightly
_UNKNOWN_REACH = 30.0  # mm, how far a lesion of unknown size can extend


@dataclass(frozen=True, eq=False)
class TrackedLesion:
    """One lesion at both visits.

    Parameters
    ----------
    name
        As given, or its label.
    baseline, followup
        (3,) its centre at either visit, LPS mm.
    similarity
        Of the embeddings, at most 1.
    reliability
        Calibrated probability in [0, 1] that the follow-up position is right to 15 mm.
    cycle_error
        How far from the baseline position the way back ends, mm.
    spread
        How far the votes of the lesion and its surroundings disagree, mm.
    in_view
        False where the surroundings put the lesion outside the follow-up's field of view.
    before, after
        What was measured at either visit, in one way; None where it could not be measured.
    propagated
        Diameter it would have if it had changed as the tissue around it, mm; None where its size is unknown. It says
        nothing about the lesion's own growth.
    why
        Why its size could not be measured at both visits; empty when it was.
    """

    name: str
    baseline: FloatArray
    followup: FloatArray
    similarity: float
    reliability: float
    cycle_error: float
    spread: float
    in_view: bool
    before: Extent | None
    after: Extent | None
    propagated: float | None
    why: str

    @property
    def change(self) -> float | None:
        """Change of the diameter from baseline to follow-up, %; None where it was not measured."""
        if self.before is None or self.after is None or self.why:
            return None
        return 100 * (self.after.diameter / self.before.diameter - 1)

    def row(self) -> dict[str, Any]:
        """Return what the tables hold; None where nothing was measured."""
        place = {
            f"{visit}_{axis}": round(float(value), 3)
            for visit in ("baseline", "followup")
            for axis, value in zip("xyz", getattr(self, visit), strict=True)
        }
        sizes = {
            f"{visit}_{key}": None if extent is None else round(getattr(extent, attribute), 2)
            for visit, extent in (("baseline", self.before), ("followup", self.after))
            for key, attribute in (
                ("diameter_mm", "diameter"), ("longest_axial_mm", "longest_axial"), ("volume_mm3", "volume")
            )
        }  # fmt: skip
        return {
            "name": self.name,
            **place,
            "reliability": round(self.reliability, 4),
            "spread_mm": round(self.spread, 2),
            "cycle_error_mm": round(self.cycle_error, 2),
            "in_view": self.in_view,
            **sizes,
            "diameter_change_percent": None if self.change is None else round(self.change, 1),
            "propagated_diameter_mm": None if self.propagated is None else round(self.propagated, 2),
            "size_not_measured_because": self.why,
        }


@dataclass(frozen=True, eq=False)
class LesionTracks:
    """The lesions of a baseline in its follow-up; false, with a ``reason``, when the scans could not be aligned.

    Parameters
    ----------
    lesions
        Of the baseline, in their order.
    baseline, followup
        The scans.
    transform
        Baseline to follow-up points, LPS mm, from embeddings alone; None when it failed.
    notes
        What the user should know, in plain words.
    reason
        Why it failed; empty when it did not.
    """

    lesions: tuple[TrackedLesion, ...]
    baseline: Image
    followup: Image
    transform: Transform | None
    notes: tuple[str, ...] = ()
    reason: str = ""

    def __bool__(self) -> bool:
        return self.transform is not None

    def __len__(self) -> int:
        return len(self.lesions)

    @property
    def points(self) -> FloatArray:
        """(N, 3) positions in the follow-up, LPS mm."""
        return np.array([lesion.followup for lesion in self.lesions]).reshape(-1, 3)

    def to_points(self) -> Points:
        """Return the positions in the follow-up as :class:`samreg.Points`, scored by reliability."""
        return Points(
            self.points,
            tuple(lesion.name for lesion in self.lesions),
            np.array([lesion.reliability for lesion in self.lesions]),
        )

    def labels(self) -> Image | None:
        """Return the lesions as a label map on the follow-up's grid; None when no extent is known.

        Label i is lesion i, counted from 1: what was measured in the follow-up, else what was drawn in the baseline,
        carried over by the transform.
        """
        if self.transform is None or not any(lesion.before or lesion.after for lesion in self.lesions):
            return None
        array = np.zeros(self.followup.shape, np.int16)
        carried = [i for i, lesion in enumerate(self.lesions) if lesion.after is None and lesion.before is not None]
        if carried:
            drawn = np.zeros(self.baseline.shape, np.int16)
            for i in carried:
                drawn[self.lesions[i].before.on(self.baseline.grid)] = i + 1  # type: ignore[union-attr]
            source = Image(drawn, self.baseline.grid)
            array[:] = resample(
                source, self.followup.grid, transform=invert(self.transform), interpolation="nearest", fill=0
            ).array
        for i, lesion in enumerate(self.lesions):
            if lesion.after is not None:
                array[lesion.after.on(self.followup.grid)] = i + 1
        return Image(array, self.followup.grid, "lesions")

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write tables, points, labels and pictures to a folder; each file whole, ``lesions.json`` last.

        ``lesions.csv``, ``followup.mrk.json`` and ``followup.csv`` (positions, scored by reliability),
        ``followup_lesions.nii.gz`` (:meth:`labels`), ``lesions.html``: both visits of each lesion side by side. A
        failed result writes ``lesions.json`` alone.

        Raises
        ------
        InputError
            When the folder cannot be written.
        """
        from samreg.steps import write_table
        from samreg.tracking.page import write_page

        folder = Path(folder)
        rows = [lesion.row() for lesion in self.lesions]
        if self.transform is not None:
            write_table(folder / "lesions.csv", list(rows[0]), (list(row.values()) for row in rows))
            write_points(self.to_points(), folder / "followup.mrk.json")
            write_points(self.to_points(), folder / "followup.csv")
            labels = self.labels()
            if labels is not None:
                write_image(labels, folder / "followup_lesions.nii.gz")
            write_page(self, folder / "lesions.html")
        summary = {
            "ok": bool(self),
            "reason": self.reason,
            "baseline": self.baseline.name,
            "followup": self.followup.name,
            "frame": "LPS mm",
            "notes": list(self.notes),
            "lesions": rows,
        }
        with atomic_path(folder / "lesions.json") as temporary:
            temporary.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        return folder


def track(
    baseline: Any,
    followup: Any,
    lesions: Any,
    *,
    radii: ArrayLike | None = None,
    model: Any = None,
    device: str = "auto",
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> LesionTracks:
    """Find the lesions of a baseline CT in a follow-up of the same person, and measure how they changed.

    A smooth field fitted to matches over the whole body (:func:`samreg.register`, method "embedding") predicts where a
    lesion is. Its centre, twelve points on its surface and twelve around it are then matched within 20 mm of where the
    field puts them, and each votes, by the field's local Jacobian, where the centre is; their geometric median decides.

    A lesion in lung is grown from its centre at both visits in the same way, and its diameters are compared. Where that
    fails at either visit, no change is reported, but the diameter that the surroundings' deformation alone would give.

    Parameters
    ----------
    baseline, followup
        CTs, as :func:`samreg.register` takes.
    lesions
        In the baseline: points (:class:`samreg.Points`, an array (N, 3) in LPS mm, a file), or a label map with one
        label a lesion. Lesions outside the baseline are left out with a note.
    radii
        (N,) mm, of lesions given by points, where known.
    model
        Name, path or model for the embeddings; samreg's default unless given.
    device
        "auto", "cpu", "cuda" or "mps".
    seed
        Of the robust fit.
    progress
        Called with the name of each stage as it starts.

    Returns
    -------
    LesionTracks
        False, with a ``reason``, when the scans could not be aligned.

    Raises
    ------
    InputError
        When a file is missing or damaged, an image is no CT, or no lesion lies in the baseline.
    """
    from samreg.embedding import DEFAULT_MODEL, load_model
    from samreg.seeding import make_seed

    report = progress or (lambda stage: None)
    baseline, followup = as_image(baseline, name="baseline"), as_image(followup, name="follow-up")
    if (baseline.ndim, followup.ndim) != (3, 3):
        raise InputError(f"{baseline.label} is {baseline.ndim}D, {followup.label} {followup.ndim}D; give two 3D CTs")
    found, notes = as_lesions(lesions, baseline.grid, radii=radii).inside(baseline.grid, baseline.label)
    network = load_model(DEFAULT_MODEL if model is None else model)
    report("embedding")
    embeddings = network.embed(baseline, device=device), network.embed(followup, device=device)
    report("aligning")
    start = make_seed(*embeddings, seed=seed)
    if start.transform is None:
        return LesionTracks((), baseline, followup, None, notes, start.reason)
    report("matching lesions")
    matched = _matched(embeddings, start.transform, found)
    report("measuring lesions")
    tracked = tuple(
        _measured(baseline, followup, found, i, **{key: values[i] for key, values in matched.items()})
        for i in range(len(found))
    )
    return LesionTracks(tracked, baseline, followup, start.transform, notes)


def _matched(embeddings: tuple[Embedding, Embedding], transform: Transform, lesions: Lesions) -> dict[str, Any]:
    """Return position, similarity, cycle_error, spread, reliability, in_view and stretch, (N, ...) each."""
    from samreg.matching import Calibration, Prediction, features, match_points, vote

    here, there = (features(embedding) for embedding in embeddings)
    centers = lesions.points.positions
    radius = np.where(np.isnan(lesions.radii), _RADIUS, lesions.radii)
    expected, jacobian = transform.transform_points(centers), transform.jacobian(centers, step=_STEP)
    votes = vote(
        here, centers, there, prediction=Prediction(expected, *_WINDOW), matrix=jacobian,
        reach=np.stack([radius, radius + _SHELL], axis=1),
    )  # fmt: skip
    pairs = match_points(here, centers, there, prediction=Prediction(votes.positions, *_WINDOW), home="anywhere")
    depth = embeddings[1].image_grid.depth(expected)
    calibration = Calibration.from_mapping(embeddings[0].calibration, landmarks=True)
    return {
        "position": votes.positions,
        "similarity": pairs.similarity,
        "cycle_error": pairs.cycle_error,
        "spread": votes.spread,
        "reliability": calibration(pairs.similarity, pairs.cycle_error, spread=votes.spread, depth=depth),
        "in_view": depth >= 0,
        "stretch": np.abs(np.linalg.det(jacobian)) ** (1 / 3),
    }


def _measured(
    baseline: Image,
    followup: Image,
    lesions: Lesions,
    i: int,
    *,
    position: FloatArray,
    stretch: float,
    in_view: bool,
    **measures: float,
) -> TrackedLesion:
    """Measure one lesion at both visits."""
    center, drawn = lesions.points.positions[i], lesions.extents[i]
    before, why = _grown_in(baseline, center, lesions.radii[i], search=0.5)
    if before is not None and drawn is not None and (overlap := _dice(before, drawn)) < _SAME:
        before, why = None, f"baseline: growing gives another extent than was drawn (Dice {overlap:.2f})"
    after = None
    if before is not None:
        after, why = _grown_in(followup, position, stretch * before.diameter / 2, search=0.6, visit="follow-up")
    known = before or drawn
    return TrackedLesion(
        name=lesions.points.names[i],
        baseline=center,
        followup=position if after is None else after.center,
        before=known,
        after=after,
        propagated=None if known is None else float(stretch * known.diameter),
        why=why,
        in_view=bool(in_view),
        **{key: float(value) for key, value in measures.items()},
    )


def _grown_in(
    image: Image, center: FloatArray, radius: float, *, search: float, visit: str = "baseline"
) -> tuple[Extent | None, str]:
    """Grow a lesion of about this radius (mm, or NaN), first as if it had kept its size, then wider."""
    if np.isnan(radius):
        tries = [(5.0, _UNKNOWN_REACH)]
    else:
        near = max(4.0, search * radius)
        tries = [(near, 1.5 * radius + 5), (near, 3 * radius + 10)]
    for look, reach in tries:
        found = grow(image, center, search=look, reach=reach)
        if isinstance(found, Extent):
            return found, ""
    return None, f"{visit}: {found}"


def _dice(a: Extent, b: Extent) -> float:
    """Return the Dice overlap, over a finer grid than either's that holds both."""
    corners = np.concatenate([a.grid.corners(), b.grid.corners()])
    low, spacing = corners.min(axis=0), min(a.grid.spacing.min(), b.grid.spacing.min())
    size = np.ceil((corners.max(axis=0) - low) / spacing).astype(int)
    grid = Grid.make(size[::-1], origin=low + spacing / 2, spacing=spacing)
    one, other = a.on(grid), b.on(grid)
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))
