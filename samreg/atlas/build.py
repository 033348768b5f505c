"""build_atlas(): images of many subjects in, one template between them out."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samreg.atlas.average import Average, average, landmark_spread, probability, sharpened
from samreg.atlas.frame import common_frame, common_grid, shape_update
from samreg.atlas.picture import write_template_picture
from samreg.engines.registry import engine_packages
from samreg.errors import InputError, SamregError, require_options
from samreg.quality import dice, ncc
from samreg.spatial.grid import Grid
from samreg.spatial.image import Image
from samreg.spatial.io_images import find_images, read_image, write_image
from samreg.spatial.io_points import find_points, read_points, write_points
from samreg.spatial.io_transforms import read_transform, write_transform
from samreg.spatial.points import Points, require_inside
from samreg.spatial.resample import resample
from samreg.spatial.transforms import AffineTransform, DisplacementField, Transform, compose, invert
from samreg.steps import Outcome, find_inputs, recorded, run_step, write_summary, write_table

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
_AIR = -500.0  # HU; an image with less is a CT
_DATA = ("template", "mean", "variance", "coverage")
_UPDATE = Path("average/update.h5")


@dataclass(frozen=True)
class Convergence:
    """What one iteration changed.

    Parameters
    ----------
    iteration
        Its number; 0 is the average of affine transforms.
    residual_mm, residual_p95_mm
        Mean and 95th percentile, over the body, of the mean residual displacement: how far the template was from the
        middle of its subjects before its shape was updated.
    change
        One minus the correlation of the mean with that of the iteration before, over the body; 1 for iteration 0.
    deviation
        Mean standard deviation of the subjects over the body, intensity.
    subjects
        Averaged.
    """

    iteration: int
    residual_mm: float
    residual_p95_mm: float
    change: float
    deviation: float
    subjects: int


@dataclass(frozen=True, eq=False)
class Atlas:
    """A template of many subjects; its files are read when they are asked for.

    Parameters
    ----------
    folder
        That holds everything.
    names
        Of the subjects it was made of.
    convergence
        Of the iterations.
    outcomes
        Of all subjects: what failed and why.
    """

    folder: Path
    names: tuple[str, ...]
    convergence: tuple[Convergence, ...]
    outcomes: tuple[Outcome, ...] = field(repr=False)

    @property
    def template(self) -> Image:
        """The sharpened mean."""
        return read_image(self.folder / "template.nii.gz")

    @property
    def mean(self) -> Image:
        """The mean of the warped subjects."""
        return read_image(self.folder / "mean.nii.gz")

    @property
    def variance(self) -> Image:
        """Their variance."""
        return read_image(self.folder / "variance.nii.gz")

    def transform(self, name: str) -> Transform:
        """Return the map from template to subject points, LPS mm."""
        return read_transform(self.folder / "subjects" / name / "transform.h5")

    def inverse(self, name: str) -> Transform:
        """Return the map from subject to template points, LPS mm."""
        return read_transform(self.folder / "subjects" / name / "inverse.h5")


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
        Image files, DICOM folders, or folders of these; CT in HU for the methods that embed.
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
        Name of the image the affine start goes by; unless given, the one most alike the others, or, for "registration",
        the first.
    jobs
        Subjects at a time.
    progress
        Called with what is being done.

    Returns
    -------
    Atlas

    Raises
    ------
    InputError
        When fewer than two subjects can be used, an option is at fault, landmarks lie outside their image, labels are
        no whole numbers, or the disk is full.
    """
    if iterations < 0 or jobs < 1:
        raise InputError(f"iterations must be at least 0 and jobs at least 1, got {iterations} and {jobs}")
    if engine is not None and not isinstance(engine, str):
        raise InputError(f"an atlas takes an engine by its name, got {engine!r}; its results are kept by that name")
    options = {
        "method": method, "engine": engine, "engine_options": require_options("engine_options", engine_options),
        "model": model, "seed": seed, "spacing": spacing, "device": device,
        "threads": max(1, (os.cpu_count() or 1) // jobs),
    }  # fmt: skip
    out = Path(out)
    if landmarks is not None and Path(landmarks).resolve() == (out / "landmarks.csv").resolve():
        raise InputError(f"{landmarks} would be overwritten by the template's landmarks; choose another folder for out")
    paths = find_inputs(out, *_listed(images))
    if model is None and method != "registration":
        options["model"] = _default_model(paths)
    run = _Run(paths, out, options, jobs, progress or (lambda text: None))
    maps, points = _by_name(labels, landmarks, run.images)
    frame = run.start(reference)
    views = {name: read_image(run.images[name]).grid for name in frame}
    for name in frame:  # before the hours, not after
        if name in maps:
            _read_labels(maps[name])
        if name in points:
            _read_landmarks(points[name], views[name], name)
    setting = _Setting(run.images, frame, views, common_grid(views, frame, spacing))
    names = list(frame)
    convergence = [run.average(0, names, setting)]
    for number in range(1, iterations + 1):
        names = run.register(number, names)
        convergence.append(run.average(number, names, setting))
    run.finish(iterations, names, setting, maps, points)
    write_table(
        run.out / "convergence.csv",
        [f.name for f in fields(Convergence)],
        (list(asdict(c).values()) for c in convergence),
    )
    write_summary(run.out / "summary.csv", run.outcomes.values())
    return Atlas(run.out, tuple(names), tuple(convergence), tuple(run.outcomes.values()))


@dataclass(frozen=True, eq=False)
class _Setting:
    """What iterations share: images, affines from the common frame to them, their grids, and the template's grid."""

    images: Mapping[str, Path]
    frame: Mapping[str, AffineTransform]
    views: Mapping[str, Grid]
    grid: Grid


@dataclass
class _Run:
    """The steps of one atlas, and how each subject fares."""

    images: dict[str, Path]
    out: Path
    options: dict[str, Any]
    jobs: int
    report: Callable[[str], None]
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def folder(self, number: int) -> Path:
        return self.out / f"iteration-{number}"

    def each(self, what: str, names: Sequence[str], step: Callable[[str], Outcome]) -> list[str]:
        """Take a step for every subject, several at a time; return those it was taken for."""
        import joblib

        done = []
        tasks = (joblib.delayed(step)(name) for name in names)
        for outcome in joblib.Parallel(n_jobs=self.jobs, return_as="generator")(tasks):
            earlier = self.outcomes.get(outcome.name)
            if earlier is None or earlier:
                seconds = outcome.seconds + (earlier.seconds if earlier else 0)
                self.outcomes[outcome.name] = outcome._replace(seconds=seconds)
            if outcome:
                done.append(outcome.name)
            self.report(f"{what}: {outcome.name} {outcome.status} {outcome.reason}")
        if len(done) < 2:
            failed = "; ".join(f"{o.name}: {o.reason}" for o in self.outcomes.values() if not o)
            raise InputError(f"{what}: {len(done)} of {len(names)} subjects are left, at least 2 are needed ({failed})")
        return done

    def start(self, reference: str | None) -> dict[str, AffineTransform]:
        """Return affines from a common frame to each subject, by name."""
        embeds = self.options["method"] != "registration"
        if reference is not None and reference not in self.images:
            raise InputError(f"no image {reference!r} for reference=; there are {list(self.images)}")
        names = self.each("reading", list(self.images), partial(_read, self.images, self.out / "inputs", self.options))
        if reference is not None and reference not in names:
            raise InputError(f"the reference {reference} cannot be used: {self.outcomes[reference].reason}")
        first = reference or (_medoid(names, self.out / "inputs") if embeds else names[0])
        folder = self.out / "start"
        names = self.each("affine start", names, partial(_start, self.images, self.out, first, self.options))
        affines = {name: read_transform(folder / name / "affine.tfm") for name in names}
        return common_frame({name: a for name, a in affines.items() if isinstance(a, AffineTransform)})

    def register(self, number: int, names: Sequence[str]) -> list[str]:
        """Register every subject to the template of the iteration before."""
        step = partial(_register, self.images, self.folder(number), self.folder(number - 1), self.options)
        return self.each(f"iteration {number}", names, step)

    def average(self, number: int, names: Sequence[str], setting: _Setting) -> Convergence:
        """Update the shape and average the subjects; return what changed."""
        self.report(f"iteration {number}: averaging {len(names)} subjects")
        before = self.folder(number - 1) / "average" if number else None
        found = [_transform_file(self.folder(number), name) for name in names] if before else []
        frame = [[setting.frame[name].matrix.tolist(), setting.frame[name].translation.tolist()] for name in names]
        folder = self.folder(number) / "average"
        outcome = run_step(
            folder,
            partial(_average, number, names, setting, self.folder(number), before),
            files=[*(self.images[name] for name in names), *found, *([before / "mean.nii.gz"] if before else [])],
            inputs={"names": list(names), "frame": frame, "grid": repr(setting.grid)},
            packages=engine_packages(),
        )
        if not outcome:
            raise InputError(f"iteration {number}: {outcome.reason}")
        return Convergence(**json.loads((folder / "convergence.json").read_text(encoding="utf-8")))

    def finish(
        self,
        number: int,
        names: Sequence[str],
        setting: _Setting,
        maps: Mapping[str, Path],
        points: Mapping[str, tuple[Path, str | None]],
    ) -> None:
        """Write what the whole run gave."""
        last = self.folder(number)
        names = self.each("results", names, partial(_finish, setting, last, self.out / "subjects", maps, points))
        for name in _DATA:
            write_image(read_image(last / "average" / f"{name}.nii.gz"), self.out / f"{name}.nii.gz")
        _clear(self.out, names)
        _write_landmarks(self.out, [name for name in names if name in points])
        _write_labels(self.out, [name for name in names if name in maps])


# the steps, run in whatever process


def _read(images: Mapping[str, Path], out: Path, options: Mapping[str, Any], name: str) -> Outcome:
    """Read an image, and embed it where the method embeds."""
    network = _network(options)

    def work(folder: Path) -> None:
        image = read_image(images[name])
        if network is not None:
            network.embed(image, device=options["device"]).save(folder / "embedding.h5")

    inputs = {"model": None if network is None else network.identity}
    return run_step(out / name, work, files=[images[name]], inputs=inputs, packages=("torch", "scipy"))


def _medoid(names: Sequence[str], folder: Path) -> str:
    from samreg.embedding import Embedding
    from samreg.landmarks.templates import template_scores

    scores = template_scores([Embedding.load(folder / name / "embedding.h5") for name in names])
    return names[int(np.argmax(scores))]


def _start(images: Mapping[str, Path], out: Path, first: str, options: Mapping[str, Any], name: str) -> Outcome:
    """Fit an affine from the reference to a subject."""
    from samreg.registration import register

    embeds = options["method"] != "registration"
    files = [out / "inputs" / n / "embedding.h5" if embeds else images[n] for n in (first, name)]

    def work(folder: Path) -> None:
        if name == first:
            found: Any = AffineTransform.identity(read_image(images[name]).ndim)
        elif embeds:
            found = _seeded(files[0], files[1], options["seed"])
        else:
            found = _succeeded(register(images[first], images[name], transform="affine", **options))
        write_transform(found, folder / "affine.tfm")

    packages = engine_packages(options["engine"])
    return run_step(out / "start" / name, work, files=files, inputs=_inputs(options), packages=packages)


def _seeded(reference: Path, subject: Path, seed: int) -> Transform:
    from samreg.embedding import Embedding
    from samreg.seeding import make_seed

    found = make_seed(Embedding.load(reference), Embedding.load(subject), transform="affine", seed=seed)
    if found.transform is None:
        raise SamregError(found.reason)
    return found.transform


def _register(images: Mapping[str, Path], out: Path, before: Path, options: Mapping[str, Any], name: str) -> Outcome:
    """Register a subject to the template of the iteration before, from where that iteration left it."""
    from samreg.registration import register

    template, update, earlier = before / "average/template.nii.gz", before / _UPDATE, _transform_file(before, name)
    # without an engine there is nothing that could go on
    parts = [update, earlier] if earlier.is_file() and options["method"] != "embedding" else []

    def work(folder: Path) -> None:
        start = compose(*map(read_transform, parts)) if parts else None
        found = register(template, images[name], start=start, **options)
        write_transform(_succeeded(found), folder / "transform.h5")

    step = _transform_file(out, name).parent
    files, packages = [template, images[name], *parts], engine_packages(options["engine"])
    return run_step(step, work, files=files, inputs=_inputs(options), packages=packages)


def _transform_file(iteration: Path, name: str) -> Path:
    """Where an iteration keeps what a subject's registration gave, before the template's update."""
    return iteration / "subjects" / name / "transform.h5"


def _succeeded(result: Any) -> Transform:
    if not result:
        raise SamregError(f"not registered: {result.reason}")
    transform: Transform = result.transform
    return transform


def _average(
    number: int, names: Sequence[str], setting: _Setting, iteration: Path, before: Path | None, folder: Path
) -> None:
    """Update the shape, average, sharpen, and measure what changed; transforms and images are held one at a time."""
    transforms: Iterator[Transform] = (setting.frame[name] for name in names)
    drift = None
    if before is not None:
        drift, update = shape_update(
            (read_transform(_transform_file(iteration, name)) for name in names),
            [setting.frame[name] for name in names],
            [setting.views[name] for name in names],
            setting.grid,
        )
        write_transform(update, folder / "update.h5")
        transforms = (compose(update, read_transform(_transform_file(iteration, name))) for name in names)
    images = (read_image(setting.images[name]) for name in names)
    parts = average(zip(images, transforms, strict=True), setting.grid)
    template = sharpened(parts.mean)
    for name, image in zip(_DATA, (template, parts.mean, parts.variance, parts.coverage), strict=True):
        write_image(image, folder / f"{name}.nii.gz")
    earlier = None if before is None else read_image(before / "mean.nii.gz")
    found = _convergence(number, parts, len(names), drift, earlier)
    title = f"iteration {number}, {found.subjects} subjects; drift removed {found.residual_mm:.2f} mm"
    write_template_picture(template, parts, title, folder / "picture.png")
    (folder / "convergence.json").write_text(json.dumps(asdict(found)), encoding="utf-8")


def _convergence(
    number: int, parts: Average, subjects: int, drift: DisplacementField | None, before: Image | None
) -> Convergence:
    inside = body_of(parts)
    away = np.zeros(1)
    if drift is not None:
        away = np.linalg.norm(drift.displacement_at(parts.mean.grid.world_points()[inside][::5]), axis=1)
    change = 1.0 if before is None else 1 - ncc(parts.mean.array[inside], before.array[inside])
    deviation = float(np.sqrt(parts.variance.array[inside]).mean())
    return Convergence(number, float(away.mean()), float(np.percentile(away, 95)), float(change), deviation, subjects)


def body_of(parts: Average) -> NDArray[np.bool_]:
    """Return where at least half of the subjects have data and, in CT, the body is; (*grid.shape)."""
    from samreg.embedding import body_mask

    seen: NDArray[np.bool_] = parts.coverage.array * 2 >= parts.coverage.array.max()
    body = body_mask(parts.mean) if parts.mean.ndim == 3 and parts.mean.array.min() < _AIR else seen
    return seen & body if (seen & body).any() else seen


def _finish(
    setting: _Setting,
    last: Path,
    out: Path,
    maps: Mapping[str, Path],
    points: Mapping[str, tuple[Path, str | None]],
    name: str,
) -> Outcome:
    """Write a subject's transforms, and what it brings to the template."""
    template, path = last / "average/template.nii.gz", setting.images[name]
    own = [last / _UPDATE, _transform_file(last, name)]
    own = own if own[0].is_file() else []  # none after iteration 0
    given = [file for file in (maps.get(name), points.get(name, (None,))[0]) if file is not None]

    def work(folder: Path) -> None:
        image, grid = read_image(path), setting.grid
        transform = compose(*map(read_transform, own)) if own else setting.frame[name]
        inverse = invert(transform)
        write_transform(transform, folder / "transform.h5")
        write_transform(inverse, folder / "inverse.h5")
        warped = resample(image, grid, transform=transform)
        if image.array.dtype.kind in "iu":
            warped = warped.with_array(np.rint(warped.array).astype(image.array.dtype))
        write_image(warped, folder / "warped.nii.gz")
        if name in maps:
            labels = _read_labels(maps[name])
            there = resample(labels, grid, transform=transform, interpolation="nearest", fill=-1)
            write_image(there, folder / "labels.nii.gz")
        if name in points:
            marked = _read_landmarks(points[name], image.grid, name)
            found = Points(inverse.transform_points(marked.positions), marked.names)
            write_points(found, folder / "landmarks.csv")

    affine = str(setting.frame[name].matrix.tolist())
    files = [path, template, *own, *given]
    return run_step(out / name, work, files=files, inputs={"frame": affine}, packages=("torch", "SimpleITK", "scipy"))


def _read_labels(path: Path) -> Image:
    """Read a label map as int16, which leaves -1 for what no subject shows."""
    image = read_image(path)
    whole, largest = np.rint(image.array), np.iinfo(np.int16).max
    if whole.min() < 0 or whole.max() > largest or not np.array_equal(whole, image.array):
        raise InputError(f"{path} is no label map: it must hold whole numbers from 0 to {largest}")
    return image.with_array(whole.astype(np.int16))


def _read_landmarks(where: tuple[Path, str | None], grid: Grid, name: str) -> Points:
    file, subject = where
    points = read_points(file, grid=grid, subject=subject)
    require_inside(points, grid, f"the image {name} ({file})")
    return points


def _clear(out: Path, names: Sequence[str]) -> None:
    """Remove what an earlier run wrote and this one might not: other subjects, landmarks, labels; nothing of others."""
    for folder in (out / "subjects").iterdir():
        if folder.name not in names and recorded(folder) is not None:
            shutil.rmtree(folder)
    labels, landmarks = out / "labels", out / "template_landmarks.csv"
    stale: list[Path] = []
    if landmarks.is_file():
        stale += [out / "landmarks.csv", out / "template_landmarks.mrk.json", landmarks]
    if (labels / "dice.csv").is_file():
        stale += [*labels.glob("label-*.nii.gz"), labels / "majority.nii.gz", labels / "dice.csv"]
    for path in stale:
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # none, or one's own files in it
        labels.rmdir()


def _write_landmarks(out: Path, names: Sequence[str]) -> None:
    """Write all subjects' landmarks in the template, their means, and how far they lie apart."""
    if not names:
        return
    found = {name: read_points(out / "subjects" / name / "landmarks.csv") for name in names}
    axes = "xyz"[: next(iter(found.values())).ndim]
    rows = ((s, n, *p) for s, pts in found.items() for n, p in zip(pts.names, pts.positions.tolist(), strict=True))
    write_table(out / "landmarks.csv", ("subject", "landmark", *axes), rows)
    together = landmark_spread(found)
    parts = (together.points.names, together.points.positions.tolist(), together.spread, together.count)
    write_table(
        out / "template_landmarks.csv",
        ("name", *axes, "spread_mm", "subjects"),
        ((name, *place, float(spread), count) for name, place, spread, count in zip(*parts, strict=True)),
    )
    if len(axes) == 3:
        write_points(together.points, out / "template_landmarks.mrk.json")


def _write_labels(out: Path, names: Sequence[str]) -> None:
    """Write a probability map a label, the label most subjects have, and each label's overlap with it."""
    if not names:
        return
    maps = [read_image(out / "subjects" / name / "labels.nii.gz") for name in names]
    labels = sorted({int(label) for m in maps for label in np.unique(m.array)} - {-1, 0})
    best = probability(maps, 0)
    majority, highest = np.zeros(best.shape, np.int16), best.array.copy()
    for label in labels:
        found = probability(maps, label)
        write_image(found, out / "labels" / f"label-{label:03d}.nii.gz")
        majority[found.array > highest] = label
        np.maximum(highest, found.array, out=highest)
    write_image(Image(majority, best.grid, "majority"), out / "labels" / "majority.nii.gz")
    overlaps = [dice(np.where(m.array >= 0, m.array, 0), np.where(m.array >= 0, majority, 0)) for m in maps]
    rows = []
    for label in labels:
        own = [overlap[label] for overlap in overlaps if label in overlap]
        rows.append((label, len(own), float(np.mean(own))))
    write_table(out / "labels" / "dice.csv", ("label", "subjects", "mean_dice_with_majority"), rows)


def _by_name(
    labels: Paths | None, landmarks: str | os.PathLike[str] | None, images: Mapping[str, Path]
) -> tuple[dict[str, Path], dict[str, tuple[Path, str | None]]]:
    """Return the label maps and the landmark files of the images that have them."""
    maps = {} if labels is None else find_images(*_listed(labels))
    points = {} if landmarks is None else find_points(landmarks, images)
    for what, given, found in (("labels", labels, maps), ("landmarks", landmarks, points)):
        if given is not None and not set(found) & set(images):
            raise InputError(f"no {what} in {given} have an image's name; there are {sorted(images)[:5]}")
    return {n: maps[n] for n in images if n in maps}, {n: points[n] for n in images if n in points}


def _listed(paths: Paths) -> Sequence[str | os.PathLike[str]]:
    return [paths] if isinstance(paths, (str, os.PathLike)) else paths


def _default_model(images: Mapping[str, Path]) -> str:
    """Return the model for the dimensions of the first image that can be read; the others are named in their turn."""
    from samreg.embedding import DEFAULT_MODEL, default_model

    for path in images.values():
        try:
            ndim = read_image(path).ndim
        except InputError:
            continue
        return default_model(ndim)
    return DEFAULT_MODEL


def _network(options: Mapping[str, Any]) -> Any:
    """Return the embedding model, or None for a method without."""
    from samreg.embedding import load_model

    return None if options["method"] == "registration" else load_model(options["model"])


def _inputs(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that change a result, as plain values."""
    network = _network(options)
    plain = {key: options[key] for key in ("method", "engine", "engine_options", "seed", "spacing")}
    return {**plain, "model": None if network is None else network.identity}
