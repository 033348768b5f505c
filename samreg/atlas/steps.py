"""The steps of an atlas, in whatever process: each is written whole, and kept while its inputs stay the same."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from samreg.atlas.average import Average, average, sharpened
from samreg.atlas.frame import shape_update
from samreg.atlas.picture import write_template_picture
from samreg.atlas.result import Convergence
from samreg.atlas.store import IMAGES, SUBJECT_LABELS, SUBJECT_LANDMARKS, AtlasFolder, read_labels, read_landmarks
from samreg.engines.registry import engine_packages
from samreg.errors import ImagesAtFault
from samreg.quality import ncc
from samreg.spatial.compact import sampled_inverse
from samreg.spatial.displacement import DisplacementField
from samreg.spatial.grid import Grid
from samreg.spatial.image import Image
from samreg.spatial.io_images import read_image, write_image
from samreg.spatial.io_points import write_points
from samreg.spatial.io_transforms import read_transform, write_transform
from samreg.spatial.points import Points
from samreg.spatial.resample import in_type, resample
from samreg.spatial.transforms import AffineTransform, Transform, compose
from samreg.steps import Outcome, run_step

if TYPE_CHECKING:
    from samreg.embedding import Embedding, EmbeddingModel

_MAX_AIR_HU = -500.0  # an image with less is a CT
_STRIDE = 5  # every so many voxels of the body the drift is measured
_PACKAGES = ("torch", "SimpleITK", "scipy")  # that embed, match and warp


@dataclass(frozen=True)
class RegistrationOptions:
    """How subjects are registered; see :func:`samreg.register`.

    Parameters
    ----------
    method, engine, engine_options, model, seed, spacing, device, threads
        As there, the engine by its name.
    """

    method: str
    engine: str | None
    engine_options: Mapping[str, Any]
    model: Any
    seed: int
    spacing: float
    device: str
    threads: int

    @property
    def embeds(self) -> bool:
        """Whether the method needs embeddings."""
        return self.method != "registration"

    def network(self) -> EmbeddingModel | None:
        """Return the embedding model; None for a method without."""
        from samreg.embedding import load_model

        return load_model(self.model) if self.embeds else None

    def keywords(self) -> dict[str, Any]:
        """Return the arguments of :func:`samreg.register`."""
        return dict(vars(self))

    def inputs(self) -> dict[str, Any]:
        """Return what changes a result, as plain values."""
        network = self.network()
        return {
            **{key: getattr(self, key) for key in ("method", "engine", "engine_options", "seed", "spacing")},
            "model": None if network is None else network.identity,
        }

    def packages(self) -> tuple[str, ...]:
        """Return the packages whose versions change a result."""
        return engine_packages(self.engine)

    def files(self) -> list[Path]:
        """Return the file of an engine of one's own, which changes results as well."""
        file, _, name = (self.engine or "").rpartition(".py:")
        return [Path(f"{file}.py")] if name and file else []


@dataclass(frozen=True, eq=False)
class Subjects:
    """What the steps of an atlas share.

    Parameters
    ----------
    images
        Files of the subjects, by name.
    folder
        Of the atlas.
    options
        Of the registrations.
    labels
        Label maps of those that have one.
    landmarks
        Points files of those that have one, with the subject to take from it, or None.
    """

    images: Mapping[str, Path]
    folder: AtlasFolder
    options: RegistrationOptions
    labels: Mapping[str, Path] = field(default_factory=dict)
    landmarks: Mapping[str, tuple[Path, str | None]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Frame:
    """The frame in the middle of the subjects.

    Parameters
    ----------
    affines
        From the frame to each subject, LPS mm.
    views
        Grids of the subjects.
    grid
        Of the template.
    """

    affines: Mapping[str, AffineTransform]
    views: Mapping[str, Grid]
    grid: Grid


def read_subject(subjects: Subjects, name: str) -> Outcome:
    """Read an image, and embed it where the method embeds."""
    options, path = subjects.options, subjects.images[name]
    network = options.network()

    def work(folder: Path) -> None:
        image = read_image(path)
        if network is not None:
            _keeping(network, (folder, image)).embed(image, device=options.device)

    inputs = {"model": None if network is None else network.identity}
    return run_step(subjects.folder.input(name), work, files=[path], inputs=inputs, packages=_PACKAGES)


def start_subject(subjects: Subjects, reference: str, name: str) -> Outcome:
    """Fit an affine from the reference to a subject."""
    options, folder, images = subjects.options, subjects.folder, subjects.images

    def work(part: Path) -> None:
        if name == reference:
            affine: Transform = AffineTransform.identity(read_image(images[name]).ndim)
        elif options.embeds:
            affine = _seeded(_embedding(subjects, reference), _embedding(subjects, name), options.seed)
        else:
            affine = _registered(images[reference], images[name], transform="affine", **options.keywords())
        write_transform(affine, part / folder.affine(name).name)

    return run_step(
        folder.affine(name).parent,
        work,
        files=[images[reference], images[name], *options.files()],
        inputs=options.inputs(),
        packages=options.packages(),
    )


def register_subject(subjects: Subjects, iteration: int, name: str) -> Outcome:
    """Register a subject to the template of the iteration before, from where that iteration left it."""
    folder, options, image = subjects.folder, subjects.options, subjects.images[name]
    template = folder.average(iteration - 1) / "template.nii.gz"
    parts = [folder.update(iteration - 1), folder.registered(iteration - 1, name)]
    if iteration == 1 or options.method == "embedding":  # there is none, or no engine that could go on
        parts = []

    def work(part: Path) -> None:
        start = compose(*map(read_transform, parts)) if parts else None
        fixed, moving, keywords = read_image(template), read_image(image), options.keywords()
        if (network := options.network()) is not None:
            keywords["model"] = _keeping(network, (template.parent, fixed), (folder.input(name), moving))
        transform = _registered(fixed, moving, start=start, **keywords)
        write_transform(transform, part / folder.registered(iteration, name).name)

    step = folder.registered(iteration, name).parent
    return run_step(
        step,
        work,
        files=[template, image, *parts, *options.files()],
        inputs=options.inputs(),
        packages=options.packages(),
    )


def average_subjects(subjects: Subjects, frame: Frame, iteration: int, names: Sequence[str]) -> Outcome:
    """Update the shape of the template and average the subjects."""
    folder = subjects.folder
    transforms = [folder.registered(iteration, name) for name in names] if iteration else []
    earlier = [folder.average(iteration - 1) / "mean.nii.gz"] if iteration else []
    affines = [[frame.affines[name].matrix.tolist(), frame.affines[name].translation.tolist()] for name in names]

    def work(part: Path) -> None:
        drift = _write_update(folder, frame, iteration, names, part) if iteration else None
        images = (read_image(subjects.images[name]) for name in names)
        maps = _maps(folder, frame, iteration, names, part)
        parts = average(zip(images, maps, strict=True), frame.grid)
        template = sharpened(parts.mean)
        for key, image in zip(IMAGES, (template, parts.mean, parts.variance, parts.coverage), strict=True):
            write_image(image, part / f"{key}.nii.gz")
        converged = _convergence(iteration, parts, len(names), drift, read_image(earlier[0]) if earlier else None)
        title = f"iteration {iteration}, {len(names)} subjects; drift removed {converged.residual_mm:.2f} mm"
        write_template_picture(template, parts, title, part / "picture.png")
        (part / "convergence.json").write_text(json.dumps(asdict(converged)), encoding="utf-8")

    return run_step(
        folder.average(iteration),
        work,
        files=[*(subjects.images[name] for name in names), *transforms, *earlier],
        inputs={"names": list(names), "frame": affines, "grid": repr(frame.grid)},
        packages=_PACKAGES,
    )


def finish_subject(subjects: Subjects, frame: Frame, iteration: int, name: str) -> Outcome:
    """Write a subject's transforms, and what it brings to the template."""
    folder, image_file = subjects.folder, subjects.images[name]
    labels, landmarks = subjects.labels.get(name), subjects.landmarks.get(name)
    parts = [folder.update(iteration), folder.registered(iteration, name)] if iteration else []

    def work(part: Path) -> None:
        image = read_image(image_file)
        transform = compose(*map(read_transform, parts)) if parts else frame.affines[name]
        inverse = sampled_inverse(transform, frame.grid, image.grid)
        write_transform(transform, part / "transform.h5")
        write_transform(inverse, part / "inverse.h5")
        warped = resample(image, frame.grid, transform=transform)
        write_image(in_type(warped, image.array.dtype), part / "warped.nii.gz")
        if labels is not None:
            carried = resample(read_labels(labels), frame.grid, transform=transform, interpolation="nearest", fill=-1)
            write_image(carried, part / SUBJECT_LABELS)
        if landmarks is not None:
            points = read_landmarks(*landmarks, image.grid, name)
            carried_points = Points(transform.inverse().transform_points(points.positions), points.names)
            write_points(carried_points, part / SUBJECT_LANDMARKS)

    template = folder.average(iteration) / "template.nii.gz"
    given = [path for path in (labels, landmarks[0] if landmarks else None) if path is not None]
    affine = str(frame.affines[name].matrix.tolist())
    return run_step(
        folder.subject(name),
        work,
        files=[image_file, template, *parts, *given],
        inputs={"frame": affine},
        packages=_PACKAGES,
    )


def medoid(subjects: Subjects, names: Sequence[str]) -> str:
    """Return the subject whose embedding is most like the others'."""
    from samreg.landmarks.templates import template_scores

    scores = template_scores([_embedding(subjects, name) for name in names])
    return names[int(np.argmax(scores))]


def body_of(parts: Average) -> NDArray[np.bool_]:
    """Return where at least half of the subjects have data and, in CT, the body is; (*grid.shape)."""
    from samreg.embedding import body_mask

    covered: NDArray[np.bool_] = parts.coverage.array * 2 >= parts.coverage.array.max()
    body = body_mask(parts.mean) if parts.mean.ndim == 3 and parts.mean.array.min() < _MAX_AIR_HU else covered
    return covered & body if (covered & body).any() else covered


def _keeping(network: EmbeddingModel, *kept: tuple[Path, Image]) -> EmbeddingModel:
    """Return the model, which keeps the embedding of each image in its folder: every iteration needs them again."""
    from samreg.embedding.kept import KeepingModel

    for folder, image in kept:
        network = KeepingModel(network, folder, [image])
    return network


def _embedding(subjects: Subjects, name: str) -> Embedding:
    """Return the embedding of a subject, from its file."""
    network, image = subjects.options.network(), read_image(subjects.images[name])
    assert network is not None
    return _keeping(network, (subjects.folder.input(name), image)).embed(image, device=subjects.options.device)


def _seeded(reference: Embedding, subject: Embedding, seed: int) -> Transform:
    from samreg.seeding import make_seed

    fitted = make_seed(reference, subject, transform="affine", seed=seed)
    if fitted.transform is None:
        raise ImagesAtFault(fitted.reason)
    return fitted.transform


def _registered(fixed: Path | Image, moving: Path | Image, **keywords: Any) -> Transform:
    """Return the transform of a registration; raise :class:`ImagesAtFault` where there is none."""
    from samreg.registration import register

    result = register(fixed, moving, **keywords)
    if result.transform is None:
        raise ImagesAtFault(f"not registered: {result.reason}")
    return result.transform


def _write_update(
    folder: AtlasFolder, frame: Frame, iteration: int, names: Sequence[str], part: Path
) -> DisplacementField:
    """Write the change of shape, and return the mean displacement that it takes away."""
    drift, update = shape_update(
        (read_transform(folder.registered(iteration, name)) for name in names),
        [frame.affines[name] for name in names],
        [frame.views[name] for name in names],
        frame.grid,
    )
    write_transform(update, part / folder.update(iteration).name)
    return drift


def _maps(folder: AtlasFolder, frame: Frame, iteration: int, names: Sequence[str], part: Path) -> Iterator[Transform]:
    """Yield the map from the template to each subject, one at a time."""
    update = read_transform(part / folder.update(iteration).name) if iteration else None
    for name in names:
        if update is None:
            yield frame.affines[name]
        else:
            yield compose(update, read_transform(folder.registered(iteration, name)))


def _convergence(
    iteration: int, parts: Average, subjects: int, drift: DisplacementField | None, before: Image | None
) -> Convergence:
    inside = body_of(parts)
    residual = np.zeros(1)
    if drift is not None:
        residual = np.linalg.norm(drift.displacement_at(parts.mean.grid.world_points()[inside][::_STRIDE]), axis=1)
    return Convergence(
        iteration=iteration,
        residual_mm=float(residual.mean()),
        residual_p95_mm=float(np.percentile(residual, 95)),
        change=1.0 if before is None else float(1 - ncc(parts.mean.array[inside], before.array[inside])),
        deviation=float(np.sqrt(parts.variance.array[inside]).mean()),
        subjects=subjects,
    )
