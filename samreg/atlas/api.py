"""build_atlas(): images of many subjects in, one template between them out."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from samreg.atlas.result import Atlas
from samreg.atlas.run import Run
from samreg.atlas.steps import RegistrationOptions, Subjects
from samreg.atlas.store import AtlasFolder
from samreg.device import available_cpus, resolve_device
from samreg.errors import (
    InputError,
    require_choice,
    require_number,
    require_options,
    require_progress,
    require_seed,
)
from samreg.spatial.files import claimed_folder, require_path
from samreg.spatial.io_images import find_images, read_image
from samreg.spatial.io_points import find_points
from samreg.steps import find_inputs

log = logging.getLogger(__name__)

_MIN_SPACING_MM = 0.1

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def build_atlas(
    images: Paths,
    out: str | os.PathLike[str],
    *,
    labels: Paths | None = None,
    landmarks: str | os.PathLike[str] | None = None,
    iterations: int = 4,
    method: str = "hybrid",
    engine: str | None = None,
    engine_options: Mapping[str, Any] | None = None,
    model: Any = None,
    spacing: float = 2.0,
    reference: str | None = None,
    device: str = "auto",
    seed: int = 0,
    jobs: int = 1,
    progress: Callable[[str], None] | None = None,
) -> Atlas:
    """Build an unbiased template of many subjects.

    1. Affine transforms from a reference to every subject, by embeddings, and the frame in which their logarithms add
       up to zero. The reference is the image most alike the others; it leaves no trace.
    2. The mean of the subjects in that frame, sharpened, is the first template.
    3. Every subject is registered to the template; the template's shape is updated so that the mean displacement to
       the subjects vanishes, and the subjects, warped there, are averaged and sharpened again. This is repeated, each
       registration going on where the one before ended.

    (Guimond et al., Average brain models, CVIU 2000; Avants et al., NeuroImage 2010.)

    ``out`` receives

    - ``template.nii.gz``, ``mean``, ``variance``, ``coverage`` (how many subjects show a voxel);
    - ``subjects/NAME``: ``transform.h5`` (template to subject points), ``inverse.h5``, ``warped.nii.gz``;
    - ``labels/``: a probability map a label, ``majority.nii.gz``, and ``dice.csv``, each label's overlap with it;
    - ``landmarks.csv``, those of all subjects in the template, and ``template_landmarks.csv`` and ``.mrk.json``, their
      means and how far they lie apart;
    - ``iteration-K/``: template, mean, variance, ``picture.png``, and what each subject's registration gave;
    - ``convergence.csv``, and ``summary.csv`` with what failed and why.

    Every step is written whole and kept while its inputs stay the same: a run that was killed goes on where it was. A
    subject that fails is left out.

    Parameters
    ----------
    images
        Image files, DICOM folders, or folders of these. Where one is not in Hounsfield units, the default model is
        that for any contrast.
    out
        Folder for the results.
    labels
        Label maps, by the images' names; not every image needs one.
    landmarks
        A csv with columns subject, landmark, x, y, z (LPS mm), or a folder of points files by the images' names.
    iterations
        Deformable ones; 0 stops at the affine template.
    method, engine, engine_options, model, device, seed
        As in :func:`samreg.register`, the engine by its name; for the affine start, "registration" uses it too.
    spacing
        Voxel size of the template, and of the registrations, mm.
    reference
        Name of the image that the affine transforms start from; unless given, the one most alike the others, or, for
        "registration", the first.
    jobs
        Subjects at a time.
    progress
        Called with what is being done; the log gets it, at level INFO, unless given.

    Returns
    -------
    Atlas
        The template, which its folder holds.

    Raises
    ------
    InputError
        When fewer than two subjects can be used, an option is at fault, landmarks lie outside their image, labels are
        no whole numbers, a user's own file would be replaced in ``out``, another run writes there, or the disk is full.
    MissingExtraError
        When the engine is not installed.

    Examples
    --------
    >>> import numpy as np, samreg, tempfile
    >>> folder, random = Path(tempfile.mkdtemp()), np.random.default_rng(0)
    >>> for name in ("ANNA", "BERT"):
    ...     noise = random.normal(0, 100, (8, 8, 8)).astype(np.float32)
    ...     image = samreg.Image.from_array(noise, spacing=(16, 16, 16))
    ...     samreg.write_image(image, folder / "scans" / f"{name}.nii.gz")
    >>> atlas = samreg.build_atlas(
    ...     folder / "scans", folder / "atlas", iterations=0, spacing=16,
    ...     method="registration", engine="torch", engine_options={"affine_iterations": 2},
    ... )
    >>> atlas.names, [iteration.subjects for iteration in atlas.convergence]
    (('ANNA', 'BERT'), [2])
    """
    require_progress(progress)
    iterations = require_number("iterations", iterations, minimum=0, integer=True)
    jobs = require_number("jobs", jobs, minimum=1, integer=True)
    folder = AtlasFolder(require_path("out", out))
    if landmarks is not None and Path(landmarks).resolve() == folder.landmarks.resolve():
        raise InputError(f"{landmarks} would be overwritten by the template's landmarks; choose another folder for out")
    _require_engine(engine, method)
    resolve_device(device)
    options = RegistrationOptions(
        method=method,
        engine=engine,
        engine_options=require_options("engine_options", engine_options),
        model=model,
        seed=require_seed(seed),
        spacing=require_number("spacing", spacing, minimum=_MIN_SPACING_MM, unit="mm"),
        device=device,
        threads=max(1, available_cpus() // jobs),
    )
    beside = [*([] if labels is None else _listed(labels)), *([] if landmarks is None else [landmarks])]
    files = find_inputs(folder.root, *_listed(images), beside=beside)
    subjects = _subjects(files, folder, options, labels, landmarks)
    folder.require_replaceable(
        [*files.values(), *subjects.labels.values(), *(f for f, _ in subjects.landmarks.values())]
    )
    run = Run(subjects, jobs, progress or log.info)
    with claimed_folder(out):
        frame = run.start(reference)
        run.check_annotations(frame)
        names, convergence = run.iterate(frame, iterations)
        run.finish(frame, names, convergence)
    return Atlas(folder.root, tuple(names), tuple(convergence), tuple(run.outcomes.values()))


def _require_engine(engine: object, method: str) -> None:
    """Raise :class:`InputError` for an unknown method or engine, before any work."""
    from samreg.engines import get_engine
    from samreg.registration.call import METHODS

    require_choice("method", method, METHODS)
    if engine is not None and not isinstance(engine, str):
        raise InputError(f"an atlas takes an engine by its name, got {engine!r}; its results are kept by that name")
    if engine is not None and method != "embedding":
        get_engine(engine)


def _subjects(
    images: Mapping[str, Path],
    folder: AtlasFolder,
    options: RegistrationOptions,
    labels: Paths | None,
    landmarks: str | os.PathLike[str] | None,
) -> Subjects:
    """Return the images with their label maps and landmarks, which go by the images' names."""
    if len(images) < 2:
        raise InputError(f"an atlas needs at least 2 images, found {', '.join(images) or 'none'}; give more")
    if options.embeds and options.model is None:
        options = replace(options, model=_default_model(images))
    maps = {} if labels is None else find_images(*_listed(labels))
    points = {} if landmarks is None else find_points(landmarks, images)
    for what, given, by_name in (("labels", labels, maps), ("landmarks", landmarks, points)):
        if given is not None and not set(by_name) & set(images):
            raise InputError(f"no {what} in {given} have an image's name; there are {sorted(images)[:5]}")
        if alone := sorted(set(by_name) - set(images)):
            log.warning("%s in %s without an image of their name are left out: %s", what, given, ", ".join(alone[:5]))
    return Subjects(images, folder, options, maps, points)


def _listed(paths: Paths) -> Sequence[str | os.PathLike[str]]:
    return [paths] if isinstance(paths, (str, os.PathLike)) else paths


def _default_model(images: Mapping[str, Path]) -> str:
    """Return the model for the images together, as :func:`samreg.register` chooses it for a pair.

    One that cannot be read is named in its turn.
    """
    from samreg.embedding.registry import DEFAULT_MODEL, default_for, default_notes

    for path in images.values():
        try:
            image = read_image(path)
        except InputError:
            continue
        if (model := default_for(image)) != DEFAULT_MODEL:  # for flat images, or any contrast: so for all
            for note in default_notes(image):
                log.warning("%s", note)
            return model
    return DEFAULT_MODEL
