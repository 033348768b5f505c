"""RegistrationResult: what register() returns, and how it is used and saved."""

from __future__ import annotations

import csv
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from samreg.errors import InputError, SamregError
from samreg.spatial.grid import FloatArray
from samreg.spatial.image import Image
from samreg.spatial.inputs import as_image, as_points
from samreg.spatial.points import Points, require_inside
from samreg.spatial.resample import resample
from samreg.spatial.transforms import AffineTransform, Transform, components, invert

if TYPE_CHECKING:
    from samreg.quality import LandmarkErrors

SUMMARY = "result.json"

#: What ``save`` can write the transforms as, and the endings of the files.
TRANSFORM_FORMATS = {"h5": ".h5", "nii": ".nii.gz", "npz": ".npz"}
#: All that ``save`` can be asked for.
SAVE_FORMATS = (*TRANSFORM_FORMATS, "mrk")
#: All that ``save`` may write, the summary apart.
_FILES = (
    "warped.nii.gz", "affine.tfm", "transformix.txt", "preview.png", "correspondences.csv", "fixed_matches.mrk.json",
    "moving_matches.mrk.json", "body.nii.gz", "engine.log",
    *(f"{name}{ending}" for name in ("transform", "inverse") for ending in TRANSFORM_FORMATS.values()),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class RegistrationResult:
    """The outcome of a registration; false, with a ``reason``, when the images could not be registered.

    Parameters
    ----------
    fixed, moving
        The images as given.
    transform
        Fixed to moving, LPS mm; None when the registration failed.
    seed
        The :class:`~samreg.seeding.Seed` from the embeddings; None for method "registration".
    body
        (*fixed.shape) True inside the fixed body, where quality is measured; None for the whole image.
    options
        How register() was called: method, engine, transform, model, seed, ...
    timings
        Seconds of each stage.
    versions
        Versions of samreg and of the packages that did the work.
    notes
        What the user should know, in plain words, such as a corrected orientation.
    log
        What the engine printed.
    reason
        Why the registration failed; empty when it did not.
    """

    fixed: Image
    moving: Image
    transform: Transform | None
    seed: Any = None
    body: Image | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    log: str = field(default="", repr=False)
    reason: str = ""

    def __bool__(self) -> bool:
        return self.transform is not None

    def __repr__(self) -> str:
        what = f"{self.moving.label} -> {self.fixed.label}"
        return f"RegistrationResult({what}, {'failed: ' + self.reason if not self else dict(self.options)})"

    @property
    def correspondences(self) -> Any:
        """The matches behind the seed (:class:`~samreg.matching.Correspondences`); None without embeddings."""
        return None if self.seed is None else self.seed.correspondences

    @cached_property
    def inverse(self) -> Transform:
        """Moving to fixed, LPS mm, inverted numerically; ``quality["inverse_residual_p95_mm"]`` says how well.

        Raises
        ------
        SamregError
            When the registration failed.
        """
        return invert(self._transform())

    @cached_property
    def warped(self) -> Image:
        """The moving image on the fixed grid, float32."""
        return resample(self.moving, self.fixed.grid, transform=self._transform())

    @cached_property
    def quality(self) -> Mapping[str, float]:
        """Measures of the result that need no ground truth; see :func:`samreg.registration.registration_quality`."""
        from samreg.registration.quality import registration_quality

        return registration_quality(self)

    @cached_property
    def flags(self) -> tuple[str, ...]:
        """What a careful reader should look at, in plain words; empty when nothing stands out."""
        from samreg.registration.quality import quality_flags

        return (*self.notes, *(quality_flags(self.quality) if self else (self.reason,)))

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, fixed: Any = None, moving: Any = None) -> RegistrationResult:
        """Read what :meth:`save` wrote; the images are read from where they were, or given.

        Parameters
        ----------
        folder
            Of a saved result.
        fixed, moving
            The images that were registered, as :func:`samreg.as_image` takes them, where they were not files or
            have moved.

        Returns
        -------
        RegistrationResult
            With its transforms, quality and correspondences as saved, and without ``seed``.

        Raises
        ------
        InputError
            When the folder holds no result, a file of it or an image is missing or damaged, or an image does not
            lie where the registered one did.
        """
        from samreg.registration.store import load_result

        return load_result(Path(folder), fixed=fixed, moving=moving)

    def warp(self, image: Any, *, interpolation: str = "linear", fill: float | None = None) -> Image:
        """Warp an image in the moving frame (labels, a second channel) onto the fixed grid.

        Parameters
        ----------
        image
            Anything :func:`samreg.as_image` takes, in the moving image's world.
        interpolation
            "linear", "nearest" (labels) or "bspline".
        fill
            Value outside ``image``; its smallest value, or 0 for "nearest", unless given.
        """
        return resample(
            as_image(image), self.fixed.grid, transform=self._transform(), interpolation=interpolation, fill=fill
        )

    def transform_points(
        self, points: Points | ArrayLike | str | os.PathLike[str], *, to: str, outside: str = "error"
    ) -> FloatArray:
        """Map points between the images.

        Parameters
        ----------
        points
            Points, an array (N, d), LPS mm, or a file. In the fixed image for ``to="moving"``, in the moving image
            for ``to="fixed"``.
        to
            "moving" goes through ``transform``, "fixed" back through ``inverse``.
        outside
            "error" refuses points outside the image they belong to; "extrapolate" maps them by the affine part.

        Returns
        -------
        ndarray
            (N, d) LPS mm in the other image.

        Raises
        ------
        InputError
            For an unknown ``to``, or points outside the image.
        """
        if to not in ("moving", "fixed"):
            raise InputError(f'to must be "moving" or "fixed", got {to!r}')
        if outside not in ("error", "extrapolate"):
            raise InputError(f'outside must be "error" or "extrapolate", got {outside!r}')
        source = self.fixed if to == "moving" else self.moving
        given = as_points(points, source.ndim)
        if outside == "error":
            require_inside(given, source.grid, f"the {'fixed' if to == 'moving' else 'moving'} image {source.name}")
        through = self._transform() if to == "moving" else self.inverse
        return through.transform_points(given.positions)

    def landmark_errors(
        self, fixed: Points | str | os.PathLike[str], moving: Points | str | os.PathLike[str]
    ) -> LandmarkErrors:
        """Measure the error at landmarks that both images have, paired by name.

        Parameters
        ----------
        fixed, moving
            Points of each image, LPS mm, or their files.

        Returns
        -------
        LandmarkErrors
            Before, through ``transform`` and back through ``inverse``, mm; see
            :class:`samreg.quality.LandmarkErrors`.

        Raises
        ------
        InputError
            When no name is in both, or a name occurs twice.
        SamregError
            When the registration failed.
        """
        from samreg.registration.quality import landmark_errors

        self._transform()
        return landmark_errors(self, as_points(fixed, self.fixed.ndim), as_points(moving, self.moving.ndim))

    def save(self, folder: str | os.PathLike[str], *, formats: Sequence[str] = ("h5",)) -> Path:
        """Write everything to a folder: all files, or none.

        ``warped.nii.gz``, ``transform.*`` (fixed to moving) and ``inverse.*`` (moving to fixed) on the original
        grids, ``affine.tfm``, ``correspondences.csv``, ``body.nii.gz``, ``engine.log``, ``preview.png`` and
        ``result.json``. A failed result writes ``result.json``, its body and its log. :meth:`load` reads it again.

        Parameters
        ----------
        folder
            Made when missing. Of an earlier result in it nothing is left: neither these files, nor ``report.html`` and
            the landmark errors that ``samreg register`` writes beside them.
        formats
            Of the transforms: "h5" (ITK, 3D Slicer), "nii" (displacement field, LPS mm, as ANTs, and
            ``transformix.txt`` with which transformix, run in the folder, applies it), "npz" (Learn2Reg). With "mrk"
            also the matches, where there are any: ``fixed_matches.mrk.json`` and ``moving_matches.mrk.json``, for 3D
            Slicer.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        InputError
            For an unknown format, or when the folder cannot be written.
        """
        unknown = sorted(set(formats) - set(SAVE_FORMATS))
        if unknown:
            raise InputError(f"unknown formats {unknown}; choose from {', '.join(SAVE_FORMATS)}")
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(prefix=".samreg-", dir=folder))
        except OSError as error:
            raise InputError(f"cannot write to {folder}: {error.strerror or error}; choose another folder") from error
        try:
            self._write_into(staging, formats)
            files = sorted(staging.iterdir(), key=lambda file: file.name == SUMMARY)
            _clear(folder, keep={file.name for file in files})
            for file in files:
                os.replace(file, folder / file.name)  # the summary last: where it is, everything is
        except OSError as error:
            raise InputError(f"cannot write to {folder}: {error.strerror or error}; is the disk full?") from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return folder

    def summary(self) -> dict[str, Any]:
        """Return what ``result.json`` holds: options, versions, timings, quality, flags."""
        return {
            "ok": bool(self),
            "reason": self.reason,
            "fixed": describe(self.fixed),
            "moving": describe(self.moving),
            "direction": "transform maps fixed points to moving points, LPS mm; inverse maps back",
            "options": dict(self.options),
            "versions": dict(self.versions),
            "timings_s": {key: round(value, 3) for key, value in self.timings.items()},
            "quality": {key: round(float(value), 5) for key, value in self.quality.items()} if self else {},
            "notes": list(self.notes),
            "flags": list(self.flags),
        }

    def report(self, path: str | os.PathLike[str], *, landmarks: LandmarkErrors | None = None) -> Path:
        """Write a self-contained HTML page with pictures, quality and flags.

        Parameters
        ----------
        path
            The file.
        landmarks
            What :meth:`landmark_errors` returned, to be shown as well.

        Raises
        ------
        InputError
            When the file cannot be written.
        """
        from samreg.report import write_report

        return write_report(self, path, landmarks=landmarks)

    def view(self) -> Any:
        """Open napari: fixed red, warped cyan, the moving image before, and the matches coloured by reliability.

        Returns
        -------
        napari.Viewer
            In a script, ``napari.run()`` keeps it open.

        Raises
        ------
        MissingExtraError
            When napari is not installed.
        """
        from samreg.report.napari import show

        return show(self)

    def _transform(self) -> Transform:
        if self.transform is None:
            raise SamregError(f"there is no transform, the registration failed: {self.reason}")
        return self.transform

    def _write_into(self, folder: Path, formats: Sequence[str]) -> None:
        from samreg.spatial.io_images import write_image
        from samreg.spatial.io_points import write_points
        from samreg.spatial.io_transforms import write_transform, write_transformix

        if self:
            transform, fixed, moving = self._transform(), self.fixed.grid, self.moving.grid
            write_image(_as_stored(self.warped, self.moving), folder / "warped.nii.gz")
            for ending in (TRANSFORM_FORMATS[name] for name in formats if name in TRANSFORM_FORMATS):
                write_transform(transform, folder / f"transform{ending}", grid=fixed, moving_grid=moving)
                write_transform(self.inverse, folder / f"inverse{ending}", grid=moving, moving_grid=fixed)
            if "nii" in formats:
                fill = float(self.moving.array.min())
                write_transformix(folder / "transformix.txt", "transform.nii.gz", grid=fixed, fill=fill)
            affine = [part for part in components(transform) if isinstance(part, AffineTransform)]
            if affine:
                write_transform(affine[-1], folder / "affine.tfm")
            if fixed.ndim == 3:
                from samreg.report import write_preview

                write_preview(self, folder / "preview.png")
        if self.correspondences is not None:
            pairs = self.correspondences
            _write_correspondences(pairs, folder / "correspondences.csv")
            for role in ("fixed", "moving") if "mrk" in formats else ():
                matches = Points(getattr(pairs, role), scores=pairs.reliability)
                write_points(matches, folder / f"{role}_matches.mrk.json")
        if self.body is not None:
            write_image(self.body, folder / "body.nii.gz")
        if self.log:
            (folder / "engine.log").write_text(self.log, encoding="utf-8")
        (folder / SUMMARY).write_text(json.dumps(self.summary(), indent=2, default=_plain) + "\n", encoding="utf-8")


def describe(image: Image) -> dict[str, Any]:
    """Return where an image is and lies, for ``result.json``."""
    return {
        "name": image.name,
        "path": os.path.abspath(image.name) if image.name and os.path.exists(image.name) else None,
        "size": list(image.grid.size),
        "spacing_mm": np.round(image.spacing, 6).tolist(),
        "origin_lps_mm": np.round(image.origin, 6).tolist(),
        "direction": np.round(image.direction, 6).tolist(),
    }


def _clear(folder: Path, *, keep: Set[str]) -> None:
    """Remove an earlier result but for the files that are about to be replaced; where none was, files are a user's."""
    if not (folder / SUMMARY).is_file():
        return
    for name in {*_FILES, "report.html"} - keep:
        (folder / name).unlink(missing_ok=True)
    if _has_errors(folder / "landmarks.csv"):
        (folder / "landmarks.csv").unlink()
    (folder / SUMMARY).unlink()  # what is replaced from here on is no longer what it sums up


def _has_errors(path: Path) -> bool:
    """Tell landmark errors from a user's own landmarks of this name."""
    from samreg.quality import LandmarkErrors

    try:
        LandmarkErrors.read(path)
    except InputError:
        return False
    return True


def _plain(value: Any) -> Any:
    """Return an option's value as JSON can hold it."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _as_stored(warped: Image, moving: Image) -> Image:
    """Return the warped image in the moving image's own integer type, rounded."""
    if moving.array.dtype.kind not in "iu":
        return warped
    limits = np.iinfo(moving.array.dtype)
    return warped.with_array(np.clip(np.rint(warped.array), limits.min, limits.max).astype(moving.array.dtype))


def _write_correspondences(pairs: Any, path: Path) -> None:
    axes = "xyz"[: pairs.fixed.shape[1]]
    header = (
        [f"fixed_{a}" for a in axes] + [f"moving_{a}" for a in axes] + ["similarity", "reliability", "cycle_error_mm"]
    )
    table = np.column_stack([pairs.fixed, pairs.moving, pairs.similarity, pairs.reliability, pairs.cycle_error])
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows([[f"{value:.4f}" for value in row] for row in table])
