"""RegistrationResult: what register() returns, and how it is used."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike

from samreg.errors import InputError, SamregError, require_choice
from samreg.registration import store
from samreg.registration.confidence import at_points
from samreg.registration.quality import landmark_errors, quality_flags, registration_quality
from samreg.registration.verdict import Verdict, expectation_of, judge
from samreg.spatial.files import require_path
from samreg.spatial.grid import FloatArray
from samreg.spatial.image import Image
from samreg.spatial.inputs import as_image, as_points, points_in
from samreg.spatial.labels import is_label_image
from samreg.spatial.points import Points, require_inside
from samreg.spatial.resample import resample
from samreg.spatial.transforms import Transform

if TYPE_CHECKING:
    from samreg.matching import Correspondences
    from samreg.quality import LandmarkErrors
    from samreg.registration.misses import LandmarkMisses
    from samreg.seeding import Seed


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
        The :class:`~samreg.seeding.Seed` that the embeddings gave; None for method "registration", and where a start
        was given.
    body
        Non-zero inside the fixed body, where quality is measured, on the grid of the embedding; None for the whole
        image.
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
    start
        Fixed to moving, LPS mm, where it was given to start from.
    guides
        Landmarks of the fixed and the moving image that were given to guide the registration.
    error_map
        The expected error on a coarse grid over the fixed image, mm; see :meth:`expected_error`. None where it is not
        known: without embeddings, in 2D, and for models that were not calibrated.
    landmark_misses
        Named landmarks found in both images, and how far the registration misses them
        (:class:`~samreg.registration.misses.LandmarkMisses`); None where there is no landmark atlas for the images.
    shown_by_one
        What one image shows and the other does not, by these landmarks, in plain words; nothing is wrong with that.

    Examples
    --------
    >>> import numpy as np
    >>> import samreg
    >>> from samreg.spatial import AffineTransform
    >>> image = samreg.Image.from_array(np.zeros((20, 20, 20), np.float32), spacing=2.0, name="scan")
    >>> result = samreg.RegistrationResult(image, image, AffineTransform(np.eye(3), [4.0, 0.0, 0.0]))
    >>> bool(result)
    True
    >>> samreg.RegistrationResult(image, image, None, reason="too few matches").flags
    ('too few matches',)
    """

    fixed: Image
    moving: Image
    transform: Transform | None
    seed: Seed | None = None
    body: Image | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    log: str = field(default="", repr=False)
    reason: str = ""
    start: Transform | None = field(default=None, repr=False)
    guides: tuple[Points, Points] | None = field(default=None, repr=False)
    error_map: Image | None = field(default=None, repr=False)
    landmark_misses: LandmarkMisses | None = field(default=None, repr=False)
    shown_by_one: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.transform is not None

    def __repr__(self) -> str:
        what = f"{self.moving.label} -> {self.fixed.label}"
        return f"RegistrationResult({what}, {'failed: ' + self.reason if not self else dict(self.options)})"

    @property
    def correspondences(self) -> Correspondences | None:
        """The matches behind the seed; None without embeddings."""
        return None if self.seed is None else self.seed.correspondences

    @cached_property
    def inverse(self) -> Transform:
        """Moving to fixed, LPS mm, solved at each point that it maps.

        ``quality["inverse_residual_p95_mm"]`` says how well.

        Raises
        ------
        SamregError
            When the registration failed.

        Examples
        --------
        >>> import numpy as np
        >>> import samreg
        >>> from samreg.spatial import AffineTransform
        >>> image = samreg.Image.from_array(np.zeros((20, 20, 20), np.float32), spacing=2.0, name="scan")
        >>> result = samreg.RegistrationResult(image, image, AffineTransform(np.eye(3), [4.0, 0.0, 0.0]))
        >>> result.inverse.transform_points([[10.0, 10.0, 10.0]])
        array([[ 6., 10., 10.]])
        """
        return self._transform().inverse()

    @cached_property
    def warped(self) -> Image:
        """The moving image on the fixed grid, float32."""
        return resample(self.moving, self.fixed.grid, transform=self._transform())

    @cached_property
    def quality(self) -> Mapping[str, float]:
        """Measures of the result that need no ground truth; see :func:`samreg.registration.registration_quality`."""
        return registration_quality(self)

    @cached_property
    def flags(self) -> tuple[str, ...]:
        """What a careful reader should check, in plain words; empty when nothing stands out."""
        return (*self.notes, *(quality_flags(self.quality) if self else (self.reason,)))

    @cached_property
    def expectation(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What the expected error says of the body, in plain words, and what of that is to be checked."""
        return expectation_of(self)

    @property
    def verdict(self) -> Verdict:
        """What to think of the result, in plain words; see :meth:`judge`."""
        return self.judge()

    def judge(self, landmarks: LandmarkErrors | None = None) -> Verdict:
        """Return one verdict: "good", "check" or "failed", and why.

        Parameters
        ----------
        landmarks
            What :meth:`landmark_errors` returned; measured errors come first.

        Examples
        --------
        >>> import numpy as np
        >>> import samreg
        >>> image = samreg.Image.from_array(np.zeros((20, 20, 20), np.float32), spacing=2.0, name="scan")
        >>> str(samreg.RegistrationResult(image, image, None, reason="too few matches").judge())
        'failed: too few matches'
        """
        return judge(self, landmarks)

    def expected_error(self, points: Points | ArrayLike | str | os.PathLike[str]) -> FloatArray:
        """Return how far off the registration is likely to be at points: in four of five such places at most so much.

        Estimated from evidence that the engine did not optimise, and from where in the body a point lies; calibrated
        on landmarks of chest and abdominal CT of training people, and on simulated second visits of theirs; see
        :mod:`samreg.registration.confidence`.

        Parameters
        ----------
        points
            Points of the fixed image, an array (N, d), LPS mm, or a file.

        Returns
        -------
        ndarray
            (N,) mm, measured in the moving image.

        Raises
        ------
        InputError
            When a point lies outside the fixed image.
        SamregError
            When the registration failed, or the error is not known, as in 2D or without embeddings.

        Examples
        --------
        >>> import numpy as np
        >>> import samreg
        >>> from samreg.spatial import AffineTransform
        >>> image = samreg.Image.from_array(np.zeros((20, 20, 20), np.float32), spacing=2.0, name="scan")
        >>> expected = image.with_array(np.full((20, 20, 20), 7.5, np.float32))
        >>> result = samreg.RegistrationResult(image, image, AffineTransform.identity(3), error_map=expected)
        >>> result.expected_error([[10.0, 10.0, 10.0]])
        array([7.5])
        """
        self._transform()
        if self.error_map is None:
            raise SamregError(
                "the expected error is not known: it is estimated for volumes, by register() with the embeddings of a "
                "model that samreg ships for CT"
            )
        given = as_points(points, self.fixed.ndim, grid=self.fixed.grid)
        require_inside(given, self.fixed.grid, f"the fixed image {self.fixed.name}".rstrip())
        return at_points(self.error_map, given.positions)

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
            With its transforms, quality, guides and correspondences as saved, and without ``seed``.

        Raises
        ------
        InputError
            When the folder holds no result, a file of it or an image is missing or damaged, or an image does not
            lie where the registered one did.

        Examples
        --------
        >>> import tempfile
        >>> import numpy as np
        >>> import samreg
        >>> image = samreg.Image.from_array(np.zeros((20, 20, 20), np.float32), spacing=2.0, name="scan")
        >>> result = samreg.RegistrationResult(image, image, None, reason="too few matches")
        >>> folder = result.save(tempfile.mkdtemp())
        >>> again = samreg.RegistrationResult.load(folder, fixed=image, moving=image)
        >>> again.reason
        'too few matches'
        """
        stored = store.Stored.open(folder)
        return SavedResult(
            stored.image("fixed", fixed),
            stored.image("moving", moving),
            stored.transform("transform") if stored else None,
            body=stored.body(),
            options=stored.options,
            timings=stored.summary["timings_s"],
            versions=stored.summary["versions"],
            notes=tuple(stored.summary["notes"]),
            log=stored.log(),
            reason=stored.summary["reason"],
            start=stored.start(),
            guides=stored.guides(),
            error_map=stored.error_map(),
            landmark_misses=stored.landmark_misses(),
            shown_by_one=tuple(stored.summary.get("shown_by_one", ())),
            stored=stored,
            matches=stored.correspondences(),  # at once: later the folder may be gone, or hold another result
        )

    def warp(self, image: Any, *, interpolation: str | None = None, fill: float | None = None) -> Image:
        """Warp an image in the moving frame (labels, a second channel) onto the fixed grid.

        Parameters
        ----------
        image
            Anything :func:`samreg.as_image` takes, in the moving image's world.
        interpolation
            "linear", "nearest" or "bspline". Unless given, "nearest" for labels (whole numbers of any type, in areas of
            one value), else "linear".
        fill
            Value outside ``image``; its smallest value, or 0 for "nearest", unless given.

        Raises
        ------
        InputError
            When the image has no place in common with the moving one.

        Examples
        --------
        >>> import numpy as np
        >>> import samreg
        >>> from samreg.spatial import AffineTransform
        >>> image = samreg.Image.from_array(np.zeros((20, 20, 20), np.float32), spacing=2.0, name="scan")
        >>> result = samreg.RegistrationResult(image, image, AffineTransform(np.eye(3), [4.0, 0.0, 0.0]))
        >>> labels = image.with_array((np.indices(image.shape)[2] >= 10).astype(np.uint8))
        >>> int(result.warp(labels, interpolation="nearest").array[0, 0].argmax())
        8
        """
        image, transform = as_image(image), self._transform()
        if image.ndim == self.moving.ndim and not self.moving.grid.overlaps(image.grid):
            raise InputError(
                f"{image.label} has no place in common with the moving image {self.moving.name}".rstrip()
                + "; give one of its world"
            )
        if interpolation is None:
            interpolation = "nearest" if is_label_image(image) else "linear"
        return resample(image, self.fixed.grid, transform=transform, interpolation=interpolation, fill=fill)

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
            "error" refuses points outside the image they belong to; "extrapolate" maps them too: by the whole
            transform, whose displacement fields fall to zero around the fixed image, beyond them by the affine part.

        Returns
        -------
        ndarray
            (N, d) LPS mm in the other image.

        Raises
        ------
        InputError
            For an unknown ``to``, or points outside the image.

        Examples
        --------
        >>> import numpy as np
        >>> import samreg
        >>> from samreg.spatial import AffineTransform
        >>> image = samreg.Image.from_array(np.zeros((20, 20, 20), np.float32), spacing=2.0, name="scan")
        >>> result = samreg.RegistrationResult(image, image, AffineTransform(np.eye(3), [4.0, 0.0, 0.0]))
        >>> result.transform_points([[10.0, 10.0, 10.0]], to="moving")
        array([[14., 10., 10.]])
        """
        require_choice("to", to, ("moving", "fixed"))
        require_choice("outside", outside, ("error", "extrapolate"))
        source = self.fixed if to == "moving" else self.moving
        given = as_points(points, source.ndim, grid=source.grid)
        if outside == "error":
            role = "fixed" if to == "moving" else "moving"
            require_inside(given, source.grid, f"the {role} image {source.name}".rstrip())
        through = self._transform() if to == "moving" else self.inverse
        return through.transform_points(given.positions)

    def landmark_errors(
        self, fixed: Points | str | os.PathLike[str], moving: Points | str | os.PathLike[str]
    ) -> LandmarkErrors:
        """Measure the error at landmarks that both images have, paired by name.

        Landmarks within 0.5 mm of one that guided the registration are left out, as their errors say little of other
        places; where all guided it, they are measured and marked so.

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
            When a landmark lies outside its image, no name is in both, or a name occurs twice.
        SamregError
            When the registration failed.

        Examples
        --------
        >>> import numpy as np
        >>> import samreg
        >>> from samreg.spatial import AffineTransform
        >>> image = samreg.Image.from_array(np.zeros((20, 20, 20), np.float32), spacing=2.0, name="scan")
        >>> result = samreg.RegistrationResult(image, image, AffineTransform(np.eye(3), [4.0, 0.0, 0.0]))
        >>> carina = samreg.Points([[10.0, 10.0, 10.0]], ("carina",)), samreg.Points([[14.0, 10.0, 13.0]], ("carina",))
        >>> result.landmark_errors(*carina).transform
        array([3.])
        """
        self._transform()
        return landmark_errors(
            self,
            points_in(fixed, self.fixed.grid, f"the fixed image {self.fixed.name}".strip()),
            points_in(moving, self.moving.grid, f"the moving image {self.moving.name}".strip()),
        )

    def save(
        self,
        folder: str | os.PathLike[str],
        *,
        formats: Sequence[str] = ("h5",),
        field_grid: str = "compact",
        landmarks: LandmarkErrors | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> Path:
        """Write everything to a folder: all files, or none.

        ``warped.nii.gz`` on the fixed image's grid, ``transform.*`` (fixed to moving), ``inverse.*`` (moving to fixed,
        for other programs; samreg inverts ``transform.*`` again), ``affine.tfm``, ``correspondences.csv``,
        ``expected_error.nii.gz`` (see :meth:`expected_error`), ``body.nii.gz``, ``start.h5`` where a start was given,
        ``engine.log``, ``preview.png`` and ``result.json``. A failed result writes ``result.json``, and its body,
        matches, start and log where there are any. :meth:`load` reads it again.

        Parameters
        ----------
        folder
            Made when missing. Of an earlier result in it nothing is left: neither these files, nor ``report.html`` and
            the landmark errors that ``samreg register`` writes beside them.
        formats
            Of the transforms: "h5" (ITK, 3D Slicer), "nii" (displacement field, LPS mm, as ANTs, and
            ``transformix.txt`` with which transformix, run in the folder, applies it), "npz" (Learn2Reg). With "mrk",
            for volumes, also the matches, where there are any: ``fixed_matches.mrk.json`` and
            ``moving_matches.mrk.json``, for 3D Slicer.
        field_grid
            "compact" writes displacement fields on grids as coarse as they allow: ``transform.*`` differs by at most
            0.05 mm within the fixed image and where the moving one reaches beyond it, and ``inverse.*`` in 95 % of the
            moving image by at most 0.5 mm and half a voxel of the fixed image. "full" samples them at the voxels of
            the images, which is less exact where a field bends within a voxel. "npz" always does, and ends with the
            fixed image.
        landmarks
            Errors that were measured, for the verdict.
        progress
            Called with the name of each stage as it starts; the log gets it, at level INFO, unless given.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        InputError
            For an unknown format or grid, "mrk" of 2D images, when the folder cannot be written, or when a file would
            be replaced there that no earlier result left.

        Examples
        --------
        >>> import tempfile
        >>> import numpy as np
        >>> import samreg
        >>> from samreg.spatial import AffineTransform
        >>> image = samreg.Image.from_array(np.zeros((20, 20), np.float32), spacing=2.0, name="scan")
        >>> result = samreg.RegistrationResult(image, image, AffineTransform(np.eye(2), [4.0, 0.0]))
        >>> folder = result.save(tempfile.mkdtemp(), formats=("h5", "nii"))
        >>> (folder / "inverse.nii.gz").exists()
        True
        """
        from samreg.report import write_preview

        return store.save(
            self,
            folder,
            formats=formats,
            picture=write_preview,
            field_grid=field_grid,
            landmarks=landmarks,
            progress=progress,
        )

    def summary(self) -> dict[str, Any]:
        """Return what ``result.json`` holds: verdict, options, versions, timings, quality, flags.

        Examples
        --------
        >>> import numpy as np
        >>> import samreg
        >>> image = samreg.Image.from_array(np.zeros((20, 20, 20), np.float32), spacing=2.0, name="scan")
        >>> samreg.RegistrationResult(image, image, None, reason="too few matches").summary()["ok"]
        False
        """
        return store.summary(self)

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
            When the file is not named .html, or cannot be written.

        Examples
        --------
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> import samreg
        >>> image = samreg.Image.from_array(np.zeros((20, 20, 20), np.float32), spacing=2.0, name="scan")
        >>> failed = samreg.RegistrationResult(image, image, None, reason="too few matches")
        >>> failed.report(Path(tempfile.mkdtemp()) / "report.html").name
        'report.html'
        """
        from samreg.report import write_report

        path = require_path("path", path)
        if not os.fspath(path).lower().endswith((".html", ".htm")):
            raise InputError(f"cannot write {os.fspath(path)}: the page is HTML; name it .html")
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


@dataclass(frozen=True, eq=False, repr=False)
class SavedResult(RegistrationResult):
    """A result read from a folder: what was saved there is not computed again.

    Parameters
    ----------
    stored
        Its folder.
    matches
        Those behind the seed; None without embeddings.
    """

    stored: store.Stored | None = None
    matches: Correspondences | None = field(default=None, repr=False)

    @property
    def quality(self) -> Mapping[str, float]:
        """The measures as saved."""
        self._transform()
        quality: Mapping[str, float] = self._stored().summary["quality"]
        return quality

    @cached_property
    def expectation(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """As saved: the transform, which says what the moving image shows, is saved to 0.05 mm only."""
        saved = self._stored().summary.get("expectation")
        return expectation_of(self) if saved is None else (tuple(saved["says"]), tuple(saved["to_check"]))

    @property
    def correspondences(self) -> Correspondences | None:
        """The matches as saved."""
        return self.matches

    def _stored(self) -> store.Stored:
        assert self.stored is not None
        return self.stored
