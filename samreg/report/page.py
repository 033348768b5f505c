"""The report of a registration: one HTML page, readable without a network."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from samreg.quality.landmarks import summarise_errors
from samreg.registration.quality import initial_alignment
from samreg.registration.verdict import MAX_LARGEST_MM, scale_of
from samreg.report.kit import Picture, Table, number, png, write_page
from samreg.report.pictures import draw_matches, draw_projections
from samreg.report.recipe import recipe
from samreg.report.viewer import viewer_data

if TYPE_CHECKING:
    from samreg.quality import LandmarkErrors
    from samreg.registration.misses import LandmarkMisses
    from samreg.registration.result import RegistrationResult
    from samreg.spatial.image import Image

# Measure: (label, unit, what it means).
_MEASURES: dict[str, tuple[str, str, str]] = {
    "overlap_percent": ("Overlap", "%", "of the fixed body has a counterpart inside the moving image"),
    "correlation_before": ("Correlation before", "", "of intensities within the body; 1 is a perfect likeness"),
    "correlation_after": ("Correlation after", "", "the same, with the warped image"),
    "folding_percent": ("Folding", "%", "of the body's voxels have det J of 0 or less; 0 is right"),
    "log_jacobian_std": ("Spread of ln det J", "", "how uneven volume changes; 0 for an affine transform"),
    "jacobian_min": ("Smallest det J", "", "strongest compression; 0 or less is a fold"),
    "inverse_residual_mean_mm": ("Inverse consistency, mean", "mm", "there and back again, over the body"),
    "inverse_residual_p95_mm": ("Inverse consistency, 95th percentile", "mm", ""),
    "inverse_residual_max_mm": ("Inverse consistency, largest", "mm", ""),
    "mean_displacement_mm": ("Mean displacement", "mm", "in world coordinates, the frames' offset included"),
    "scale": ("Change of volume", "", "by the affine part; above 1 the moving body is larger"),
    "guide_miss_mean_mm": ("Guiding landmarks, mean error", "mm", "that is left between them after registration"),
    "guide_miss_max_mm": ("Guiding landmarks, largest error", "mm", ""),
    "matches": ("Matches", "", "carry the seed"),
    "inlier_percent": ("Agreement", "%", "of the matches, by reliability, agree with one affine transform"),
    "mean_reliability": ("Mean reliability", "", "of the matches; 1 is certain"),
}

# What the viewer can show: (value, label); the maps only where there are some.
_MODES = (
    ("colours", "fixed red, moving cyan"),
    ("checkerboard", "checkerboard"),
    ("edges", "edges of fixed on moving"),
    ("moving", "moving"),
    ("fixed", "fixed"),
    ("displacement", "displacement"),
    ("error", "expected error"),
    ("jacobian", "change of volume"),
)
_MAPS = ("displacement", "error", "jacobian")

_MAX_ROWS = 40  # landmarks; more are folded away below their summary


def write_report(
    result: RegistrationResult, path: str | os.PathLike[str], *, landmarks: LandmarkErrors | None = None
) -> Path:
    """Write a self-contained HTML page on a registration, failed or not.

    Flags, slices before and after with sliders, maps of the deformation, measures of quality, errors at landmarks,
    the matches, and how to repeat it. Names and notes are escaped; nothing is loaded from elsewhere.

    Parameters
    ----------
    result
        A registration.
    path
        The file.
    landmarks
        Errors to show.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        When the file cannot be written.

    Examples
    --------
    >>> import samreg, tempfile
    >>> from samreg.spatial import AffineTransform
    >>> image = samreg.Image.from_array(np.zeros((4, 5, 6)), spacing=(2, 2, 2), name="scan")
    >>> result = samreg.RegistrationResult(image, image, AffineTransform.identity(3))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_report(result, f"{folder}/report.html").name
    'report.html'
    """
    data = viewer_data(result)
    modes = [(value, label) for value, label in _MODES if value not in _MAPS or value in data["maps"]]
    return write_page(
        path,
        "registration.html",
        title=f"{_short(result.moving)} registered to {_short(result.fixed)}",
        result=result,
        verdict=result.judge(landmarks),
        viewer={"data": data, "modes": modes},
        quality=_quality_table(result.quality) if result else None,
        landmarks=_landmarks(result, landmarks) if result and landmarks is not None else None,
        misses=_misses(result.landmark_misses) if result.landmark_misses else None,
        matches=_matches(result),
        images=_images_table(result),
        timings=_timings_table(result.timings),
        versions=Table(list(result.versions.items()), style="pairs"),
        recipe=recipe(result),
    )


def _quality_table(quality: Mapping[str, float]) -> Table:
    rows = []
    for key, value in quality.items():
        label, unit, meaning = _MEASURES.get(key, (key, "", ""))
        whole = (unit == "%" and value >= 10) or key == "matches"
        text = f"{value:.0f}" if whole else number(float(value))
        rows.append((label, f"{text} {unit}".rstrip(), meaning))
    return Table(rows, numeric=(1,), style="measures")


def _landmarks(result: RegistrationResult, errors: LandmarkErrors) -> dict[str, Any]:
    """Return the table of errors, and where there are many a second one for the single landmarks."""
    ways = (errors.before, errors.transform, errors.inverse)
    before = f"before, {initial_alignment(result)[1]}"
    columns = ("mm", before, "transform, in the moving image", "inverse, in the fixed image")
    summaries = [summarise_errors(way) for way in ways]
    measures = {"mean": "mean", "median": "median", "95th percentile": "p95", "largest": "maximum"}
    summary = [(label, *(f"{getattr(s, key):.1f}" for s in summaries)) for label, key in measures.items()]
    worst_first = sorted(zip(errors.names, *ways, strict=True), key=lambda row: -row[2])
    single = [(name, *(f"{error:.1f}" for error in row)) for name, *row in worst_first]
    largest = scale_of(result) * MAX_LARGEST_MM
    doubtful = sum(row[2] > largest for row in worst_first)
    numeric = range(1, len(columns))
    many = len(single) > _MAX_ROWS
    return {
        "count": len(single),
        "table": Table(
            [*summary, *([] if many else single)],
            columns,
            numeric,
            summary=len(summary),
            marked=[] if many else range(len(summary), len(summary) + doubtful),
        ),
        "single": Table(single, columns, numeric, marked=range(doubtful)) if many else None,
    }


def _misses(misses: LandmarkMisses) -> Table:
    regions = misses.by_region()
    rows = [(r.region, str(r.count), str(r.guided), f"{r.median:.1f}", f"{r.largest:.1f} ({r.worst})") for r in regions]
    columns = ("region", "landmarks", "guided the engine", "median, mm", "largest, mm")
    marked = [i for i, region in enumerate(regions) if region.is_doubtful]
    return Table(rows, columns, numeric=(1, 2, 3, 4), marked=marked)


def _matches(result: RegistrationResult) -> list[Picture]:
    if not result or result.correspondences is None or not len(result.correspondences):
        return []
    where = "Where the matches lie in each image, over the mean along the view."
    smooth = "Matches near three slices. The transform is smooth: lines show where single matches disagree with it."
    pictures = [Picture(png(draw_matches(result)), smooth, smooth)]
    if result.fixed.ndim == 3:
        pictures.insert(0, Picture(png(draw_projections(result)), where, where))
    return pictures


def _images_table(result: RegistrationResult) -> Table:
    rows = []
    for role, image in (("fixed", result.fixed), ("moving", result.moving)):
        size = " × ".join(str(n) for n in image.grid.size)
        spacing = " × ".join(f"{s:.4g}" for s in np.round(image.spacing, 4))
        rows.append((role, f"{image.label}: {size} voxels of {spacing} mm"))
    rows.append(("direction", "the transform maps fixed points to moving points, LPS mm; the inverse maps back"))
    return Table(rows, style="pairs")


def _timings_table(timings: Mapping[str, float]) -> Table:
    seconds = {**timings, "in all": sum(timings.values())} if timings else {}
    return Table([(name, f"{value:.1f} s") for name, value in seconds.items()], style="pairs")


def _short(image: Image) -> str:
    return Path(image.name).name or "image"
