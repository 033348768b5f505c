"""register(): two scans in, a transform and its quality out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from samreg.device import cpu_threads, torch_defaults
from samreg.engines.request import Engine, Request
from samreg.errors import ImagesAtFault, require_choice, require_progress
from samreg.registration.call import (
    METHODS,
    atlas_given,
    chosen_engine,
    guides_of,
    notes_of_reading,
    require_possible,
    require_used,
    start_of,
)
from samreg.registration.result import RegistrationResult
from samreg.registration.run import Clock, Run, options
from samreg.spatial.inputs import as_image
from samreg.spatial.remarks import remarks_kept
from samreg.spatial.standard import as_mask

if TYPE_CHECKING:
    from samreg.landmarks.atlas import LandmarkAtlas

_SPACING_MM = {2: 0.6, 3: 2.0}  # at which engines work, by number of dimensions


@torch_defaults()
def register(
    fixed: Any,
    moving: Any,
    *,
    method: str = "hybrid",
    engine: str | Engine | None = None,
    transform: str = "deformable",
    model: Any = None,
    fixed_mask: Any = None,
    moving_mask: Any = None,
    landmarks: tuple[Any, Any] | None = None,
    anchors: bool | LandmarkAtlas | str | os.PathLike[str] | None = True,
    start: Any = None,
    device: str = "auto",
    seed: int | None = 0,
    threads: int | None = None,
    spacing: float | None = None,
    engine_options: Mapping[str, Any] | object | None = None,
    verbose: bool = False,
    progress: Callable[[str], None] | None = None,
) -> RegistrationResult:
    """Register two scans of the body.

    Parameters
    ----------
    fixed, moving
        Paths, DICOM folders, SimpleITK, ITK, ANTs, nibabel, MONAI or TorchIO images, or :class:`samreg.Image`; CT in
        HU, or 2D X-rays, for the methods that embed. Grids, spacings and extents may differ.
    method
        "embedding": correspondences of anatomical embeddings alone. "registration": the engine alone.
        "hybrid": the engine, seeded by the embeddings.
    engine
        "ants", "elastix", "torch", the name of an engine that an installed package adds, FILE.py:CLASS, or one's own
        :class:`~samreg.engines.Engine`. Unless given, "torch" for a hybrid, as it compares the embeddings too, and the
        first that is installed for a registration.
    transform
        "rigid", "affine" or "deformable".
    model
        Name, path or model for the embeddings; samreg's default unless given.
    fixed_mask, moving_mask
        Where to look, non-zero voxels; embeddings are matched and engines compare only there.
    landmarks
        Points of the fixed and of the moving image that correspond: files, :class:`samreg.Points`, paired by name, or
        arrays (N, d) in LPS mm. The torch engine's deformable registration, and all of elastix', draw them together;
        ``quality`` says how near they come.
    anchors
        Whether landmarks and bones that samreg's atlas finds in both volumes (:func:`samreg.find_landmarks`) guide a
        deformable hybrid or embedding: the field that the embeddings make, and the torch engine; or an atlas of one's
        own, or its file, to find them by. Ribs guide as a whole, their landmarks do not; nor do vertebrae that could
        not be counted, nor domes of the diaphragm that cannot be seen. Where both images are of one person matches are
        nearer, and samreg's atlas guides nothing. None, as a result's options have it where nothing was guided, stands
        for True.
    start
        Fixed to moving, LPS mm: what the engine's deformable registration begins from, such as an earlier result's
        transform or its folder, a transform of SimpleITK, ITK or ANTs, or a file, instead of the embeddings' seed or
        the images' centres of mass.
    device
        "auto", "cpu", "cuda" or "mps", for the embeddings, their matching and the torch engine.
    seed
        0 to 2**32 - 1. The same seed gives the same result on one machine with the same number of threads; None lets
        ANTs and elastix draw their samples anew.
    threads
        CPU threads. Unless given all, but with a seed one for ANTs' affine stages, those within "SyN" included, which
        repeat on one alone.
    spacing
        Voxel size at which engines work, mm; 2 in 3D and 0.6 in 2D unless given, never finer than the fixed image.
    engine_options
        Options of the engine, as :class:`~samreg.engines.ants.AntsOptions`.
    verbose
        Log what the engine prints at level INFO.
    progress
        Called with the name of each stage as it starts; the log gets it, at level INFO, unless given.

    Returns
    -------
    RegistrationResult
        False, with a ``reason``, where the images are at fault: too few matches, no overlap of the images or their
        masks, mirrored.

    Raises
    ------
    InputError
        When the call is at fault: a missing or damaged file, no CT, an unknown option.
    MissingExtraError
        When the engine is not installed; the message says what to install.
    EngineError
        When the engine fails.

    Examples
    --------
    >>> import numpy as np
    >>> import samreg
    >>> from samreg.spatial import Image
    >>> distance = np.linalg.norm(np.mgrid[-10:10, -10:10, -10:10] * [[[[1.0]]], [[[1.3]]], [[[0.8]]]], axis=0)
    >>> ball = np.where(distance < 7, 40 * np.cos(distance), -1000).astype(np.float32)
    >>> fixed = Image.from_array(ball, spacing=4.0, name="fixed")
    >>> moving = Image.from_array(ball, spacing=4.0, origin=(8.0, 0.0, 0.0), name="moving")
    >>> result = samreg.register(fixed, moving, method="registration", engine="torch", transform="rigid")
    >>> result.transform_points([[40.0, 40.0, 40.0]], to="moving").round()
    array([[48., 40., 40.]])
    """
    require_choice("method", method, METHODS)
    require_progress(progress)
    anchors = True if anchors is None else anchors
    backend = None if method == "embedding" else chosen_engine(engine, method)
    with remarks_kept() as remarks:
        images = as_image(fixed, name="fixed image"), as_image(moving, name="moving image")
        guides = None if landmarks is None else guides_of(landmarks, *images)
        request = Request(
            fixed=images[0],
            moving=images[1],
            transform=transform,  # type: ignore[arg-type]  # which it checks
            start=None if start is None else start_of(start, *images),
            fixed_mask=None if fixed_mask is None else as_mask(as_image(fixed_mask, name="mask")),
            moving_mask=None if moving_mask is None else as_mask(as_image(moving_mask, name="mask")),
            landmarks=None if guides is None else (guides[0].positions, guides[1].positions),
            spacing=_SPACING_MM[images[0].ndim] if spacing is None else spacing,
            options=engine_options,
            seed=seed,
            threads=threads,
            device=device,
            progress=progress,
            verbose=verbose,
        )
    require_used(method, engine=engine, engine_options=engine_options, model=model)
    require_possible(request, backend)
    atlas = atlas_given(anchors, method, request, backend)
    run = Run(request, method, backend, model, atlas, Clock(progress), notes=notes_of_reading(request, remarks))
    with cpu_threads(request.threads):
        try:
            found, reason = run.transform(), ""
        except ImagesAtFault as fault:
            found, reason = None, fault.reason
        error_map = None if found is None else run.expected_errors(found)
    return RegistrationResult(
        *images,
        found,
        seed=run.seed,
        body=run.body,
        options=options(run, engine, anchors, start),
        timings=run.clock.timings,
        versions=run.versions,
        notes=run.notes,
        log=run.log,
        reason=reason,
        start=request.start,
        guides=guides,
        error_map=error_map,
        landmark_misses=None if found is None else run.landmark_misses(found),
        shown_by_one=() if run.anchors is None else run.anchors.shown_by_one(),
    )
