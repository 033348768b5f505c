"""Several templates vote where the landmarks of another image are."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from samreg.brief import brief_repr
from samreg.device import torch_defaults
from samreg.errors import InputError, require_choice, require_each, require_progress, require_seed
from samreg.landmarks.match import SEARCHES, LandmarkMatches, error_column, match_embedded, mirrored_note
from samreg.landmarks.match_reliability import expected_error_of_sets
from samreg.landmarks.sources import embedded, read
from samreg.spatial.grid import FloatArray
from samreg.spatial.image import Image
from samreg.spatial.io_images import find_images, read_image
from samreg.spatial.io_points import find_points, read_points
from samreg.spatial.points import Points, require_inside

if TYPE_CHECKING:
    from samreg.embedding import Embedding, EmbeddingModel
    from samreg.matching import ExpectedError
    from samreg.seeding import AffineFit

log = logging.getLogger(__name__)

# at a scale of 1 (:attr:`samreg.matching.Features.scale`):
_SCORE_LATTICE_MM = 48.0  # distance of the points that templates are scored by
_AGREEMENT_MM = 15.0  # within which an answer counts; what the reliability of a match was fitted for
_MEDIAN_SOFTNESS_MM = 2.0  # below which the median of the answers turns into a mean
_MAX_RELIABILITY = 1 - 1e-4  # beyond which a template gains no more weight
MANIFEST = "landmarks.csv"


@dataclass(frozen=True, eq=False)
class Template:
    """An image on which landmarks are marked, embedded once to be matched many times.

    Parameters
    ----------
    name
        Its name.
    embedding
        Of the image.
    points
        The landmarks, LPS mm; every name once.

    Raises
    ------
    InputError
        When there is no landmark, a name occurs twice, one lies outside the image, or something else than an embedding
        and Points is given.

    Examples
    --------
    >>> import numpy as np
    >>> from samreg.embedding.api import embed
    >>> noise = np.random.default_rng(0).normal(0, 100, (16, 16, 16)).astype(np.float32)
    >>> embedding = embed({"array": noise, "spacing": (8, 8, 8)}, model="mind")
    >>> Template("ALICE", embedding, Points([[60.0, 60.0, 60.0]], ("carina",))).name
    'ALICE'
    """

    name: str
    embedding: Embedding
    points: Points

    def __post_init__(self) -> None:
        from samreg.embedding import Embedding

        if not isinstance(self.embedding, Embedding) or not isinstance(self.points, Points):
            raise InputError(
                f"template {self.name}: give samreg.embed(image) and samreg.Points with names, got "
                f"{type(self.embedding).__name__} and {type(self.points).__name__}"
            )
        names = self.points.names
        if not names:
            raise InputError(f"template {self.name} has no landmarks; mark at least one, or leave the image out")
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise InputError(f"template {self.name}: names occur more than once: {doubled}; give each landmark its own")
        require_inside(self.points, self.embedding.image_grid, f"the template {self.name}")


@dataclass(frozen=True, eq=False)
class TemplateMatches:
    """Where K templates together place N landmarks in a target.

    Parameters
    ----------
    points
        (N, d) positions in the target, LPS mm.
    names
        Of the landmarks: those of any template, in the order of their first appearance.
    reliability
        (N,) in [0, 1]: the mean reliability of the templates' answers, those beyond 15 mm from the position counted 0.
    spread
        (N,) median distance of the answers from the position, mm; 0 where there is one.
    templates
        (N,) how many templates have the landmark.
    inside
        (N,) False where most templates, by reliability, put the landmark outside the target's field of view.
    answers
        What each template says alone, by its name.
    notes
        What the user should know, in plain words.
    expected_error
        (N,) in four of five places the error is at most so much, mm, as fitted to landmarks that several people placed
        in another; of one answer its own, outside the target, and with models that have no such fit, the median of the
        answers'. NaN where these have none (:class:`samreg.LandmarkMatches`); left out, NaN.
    """

    points: FloatArray
    names: tuple[str, ...]
    reliability: FloatArray
    spread: FloatArray
    templates: NDArray[np.int64]
    inside: NDArray[np.bool_]
    answers: Mapping[str, LandmarkMatches]
    notes: tuple[str, ...] = ()
    expected_error: FloatArray = field(default_factory=lambda: np.empty(0), kw_only=True)

    def __post_init__(self) -> None:
        if not len(self.expected_error):
            object.__setattr__(self, "expected_error", np.full(len(self), np.nan))

    __repr__ = brief_repr

    def __len__(self) -> int:
        return len(self.points)

    def to_points(self) -> Points:
        """Return the positions as :class:`Points`, scored by reliability."""
        return Points(self.points, self.names, self.reliability)

    def error_column(self) -> dict[str, FloatArray]:
        """Return the expected errors by the name of their column in tables, mm; nothing where none is known."""
        return error_column(self.expected_error)


@torch_defaults()
def read_templates(
    folder: str | os.PathLike[str],
    *,
    model: Any = None,
    device: str = "auto",
    cache: str | os.PathLike[str] | None = None,
    pixel_size: float | None = None,
    progress: Callable[[str], None] | None = None,
) -> tuple[Template, ...]:
    r"""Read and embed the templates of a folder.

    Parameters
    ----------
    folder
        Images, in ``images/`` or directly, and ``landmarks.csv`` with columns subject, landmark, x, y, z (LPS mm),
        where a subject is an image's name without suffix. Or, without such a table, a points file beside each image:
        ``NAME.mrk.json``, ``.csv``, ``.tsv`` or ``.fcsv``. Images without landmarks are no templates.
    model
        Name, path or model; samreg's default for the images' dimensions unless given.
    device
        "auto", "cpu", "cuda" or "mps", for the embedding.
    cache
        Folder that keeps the embeddings; they are read instead of computed while image and model stay the same.
    pixel_size
        Of all images, mm, where their files (PNG, JPEG) say none.
    progress
        Called with what is being done.

    Returns
    -------
    tuple of Template
        In order of their names.

    Raises
    ------
    InputError
        When there is none, an image is missing or damaged, or landmarks lie outside their image.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from samreg.spatial import Image, write_image
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> noise = np.random.default_rng(0).normal(0, 100, (16, 16, 16)).astype(np.float32)
    >>> write_image(Image.from_array(noise, spacing=(8, 8, 8)), folder / "images" / "ALICE.nii.gz")
    >>> _ = (folder / "landmarks.csv").write_text("subject,landmark,x,y,z\nALICE,carina,60,60,60\n")
    >>> [(template.name, template.points.names) for template in read_templates(folder, model="mind")]
    [('ALICE', ('carina',))]
    """
    from samreg.device import resolve_device
    from samreg.embedding.api import embed
    from samreg.embedding.registry import model_for

    require_progress(progress)
    resolve_device(device)
    folder, images = Path(folder), _images(folder)
    network: EmbeddingModel | None = None
    templates = []
    for name, (file, subject) in _landmark_files(folder, images).items():
        if progress is not None:
            progress(f"template {name}")
        image = read_image(images[name], spacing=pixel_size)
        network = model_for(model, image) if network is None else network
        cached = None if cache is None else Path(cache) / f"{name}.h5"
        embedding = embed(image, model=network, device=device, cache=cached)
        points = read_points(file, grid=image.grid, subject=subject)
        templates.append(Template(name, embedding, points))
    return tuple(templates)


def as_templates(templates: object) -> tuple[Template, ...]:
    """Return templates in memory; raise :class:`InputError` where they are something else."""
    return require_each("templates", templates, Template, "as samreg.read_templates returns it, or their folder")


def template_files(folder: str | os.PathLike[str]) -> tuple[Path, ...]:
    """Return the images and the files of landmarks that :func:`read_templates` reads in a folder."""
    images = _images(folder)
    landmarks = _landmark_files(Path(folder), images)
    return (*(images[name] for name in landmarks), *dict.fromkeys(file for file, _ in landmarks.values()))


def _images(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Return the images of a template folder by their names."""
    folder = Path(folder)
    return find_images(folder / "images" if (folder / "images").is_dir() else folder)


def _landmark_files(folder: Path, images: Mapping[str, Path]) -> dict[str, tuple[Path, str | None]]:
    """Return for each template the file of its landmarks, and its subject's name in that file."""
    table = folder / MANIFEST
    if table.is_file():
        files = find_points(table, images)
        missing = sorted(set(files) - set(images))
        if missing:
            raise InputError(f"{table}: no image for the subjects {missing}; there are {sorted(images)}")
    else:
        files = find_points(next(iter(images.values())).parent, images)
    if not files:
        raise InputError(f"no landmarks in {folder}: give {MANIFEST}, or NAME.mrk.json beside each image NAME")
    return dict(sorted(files.items()))


@torch_defaults()
def template_scores(embeddings: Sequence[Embedding]) -> NDArray[np.float64]:
    """Return how well each image stands for the others.

    A lattice over the body of one image is searched in another; the mean similarity of the best matches says how
    alike the two are. No landmark is needed: the image of highest score, the medoid of the set, is a good one to
    label.

    Parameters
    ----------
    embeddings
        Of N images, by one model.

    Returns
    -------
    ndarray
        (N,) mean similarity to the other images, both ways.

    Raises
    ------
    InputError
        For fewer than two embeddings, or embeddings of different models.
    """
    from samreg.matching import features, interpolate, lattice
    from samreg.seeding.seed import require_one_model

    if len(embeddings) < 2:
        raise InputError(f"a template is chosen among at least 2 images, got {len(embeddings)}")
    for embedding in embeddings[1:]:
        require_one_model(embeddings[0], embedding)
    searched = [features(embedding) for embedding in embeddings]
    queries = [interpolate(f, lattice(f, _SCORE_LATTICE_MM * f.scale)) for f in searched]
    similarity = np.full((len(searched), len(searched)), np.nan)
    for j, target in enumerate(searched):
        keys = target.sparse_vectors.T
        for i, query in enumerate(queries):
            if i != j:
                similarity[i, j] = float((query.to(keys.dtype) @ keys).amax(dim=1).float().mean())
    return np.asarray(np.nanmean((similarity + similarity.T) / 2, axis=1))


@torch_defaults()
def match_set(
    templates: Sequence[Template] | str | os.PathLike[str],
    target: Any,
    *,
    model: Any = None,
    search: str = "guided",
    device: str = "auto",
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> TemplateMatches:
    """Find the landmarks of several templates in a target; the templates vote.

    Each template is matched on its own (:func:`samreg.match`). Of each landmark's answers the geometric median is
    taken, weighted by -log(1 - reliability): in a vote of independent judges the log odds of being right are the
    weights that err least (Nitzan and Paroush, Int. Econ. Rev. 1982).

    Parameters
    ----------
    templates
        From :func:`read_templates`, or the folder it takes.
    target
        Image as :func:`samreg.register` takes, or its embedding.
    model
        Of the target; samreg's default unless given. Must be the templates' own.
    search, device, seed
        As in :func:`samreg.match`.
    progress
        Called with the name of each stage as it starts; the log gets it, at level INFO, unless given.

    Returns
    -------
    TemplateMatches

    Raises
    ------
    InputError
        For no templates, two of one name, or what :func:`samreg.match` refuses.

    Examples
    --------
    >>> import numpy as np
    >>> from samreg.embedding.api import embed
    >>> noise = np.random.default_rng(0).normal(0, 100, (16, 16, 16)).astype(np.float32)
    >>> embedding = embed({"array": noise, "spacing": (8, 8, 8)}, model="mind")
    >>> template = Template("ALICE", embedding, Points([[60.0, 60.0, 60.0]], ("carina",)))
    >>> match_set([template], embedding, search="global").names
    ('carina',)
    """
    from samreg.embedding.registry import default_notes, model_for
    from samreg.matching import features
    from samreg.seeding.seed import require_one_model

    require_choice("search", search, SEARCHES)
    seed = require_seed(seed)
    require_progress(progress)
    report = progress or log.info
    if isinstance(templates, (str, os.PathLike)):
        known = read_templates(templates, model=model, device=device, progress=report)
    else:
        known = as_templates(templates)
    names = [template.name for template in known]
    if not names or len(set(names)) < len(names):
        raise InputError(f"templates must be at least one, each with a name of its own; got {names}")
    image = read(target, "target")
    network = model
    if isinstance(image, Image):
        network = model_for(model, image)  # once: a checkpoint may be large
        _require_templates_of(network.identity, known, image.label)
    destination = embedded(image, network, device, "target", report)
    answers, fits = {}, {}
    for one in known:
        report(f"matching the template {one.name}")
        require_one_model(one.embedding, destination)
        answers[one.name], fits[one.name] = match_embedded(
            one.embedding, one.points, destination, search=search, device=device, seed=seed
        )
    notes: tuple[str, ...] = ()
    if isinstance(image, Image):
        notes = (*image.remarks, *(default_notes(image) if model is None else ()))
        notes += _mirrored(known, answers, fits, image, destination, network, device)
    expected = expected_error_of_sets(destination.model)
    found = combined(answers, scale=features(destination).scale, expected=expected)
    return replace(found, notes=(*notes, *found.notes))


def _require_templates_of(model: str, templates: Sequence[Template], target: str) -> None:
    """Raise :class:`InputError`, before any work, where a template is of another model than embeds the target."""
    from samreg.embedding.ct import ANY_CONTRAST_MODEL

    for one in templates:
        own = one.embedding.model
        if own != model:
            names = [identity.split("@")[0] for identity in (own, model)]
            # a model for CT would refuse the image that the other took
            name = ANY_CONTRAST_MODEL if ANY_CONTRAST_MODEL in names else names[0]
            raise InputError(
                f"the template {one.name} is embedded by the model {own}, and {target} would be by {model}; have both "
                f'embedded by one: model="{name}" (--model {name}), in samreg.read_templates too'
            )


def _mirrored(
    templates: Sequence[Template],
    answers: Mapping[str, LandmarkMatches],
    fits: Mapping[str, AffineFit | None],
    target: Image,
    embedding: Embedding,
    network: EmbeddingModel,
    device: str,
) -> tuple[str, ...]:
    """Return a note where the target and the template that is found most reliably in it are mirror images."""
    from samreg.landmarks.laterality import why_mirrored

    sure = sorted(templates, key=lambda template: -float(answers[template.name].reliability.mean()))
    for one in sure:
        fit, volume = fits[one.name], one.embedding.volume
        if fit is not None and volume is not None:  # of an embedding from a file there is no volume
            images = replace(volume, name=f"template {one.name}"), target
            return mirrored_note(why_mirrored(images, (one.embedding, embedding), fit, network, device))
    return ()


def combined(
    answers: Mapping[str, LandmarkMatches], *, scale: float = 1.0, expected: ExpectedError | None = None
) -> TemplateMatches:
    """Return where templates together place their landmarks, by what each says alone.

    Parameters
    ----------
    answers
        Of each template.
    scale
        Of the body (:attr:`samreg.matching.Features.scale`).
    expected
        Tells the error of a place that several agree on by the median of the errors expected of their answers, which is
        told without it, and their median distance from the place.
    """
    names = tuple(dict.fromkeys(name for answer in answers.values() for name in answer.names))
    rows = [_agreed(answers.values(), name, scale, expected) for name in names]
    points, reliability, spread, count, inside, error = (np.array(column) for column in zip(*rows, strict=True))
    notes = tuple(f"template {key}: {note}" for key, answer in answers.items() for note in answer.notes)
    return TemplateMatches(points, names, reliability, spread, count, inside, answers, notes, expected_error=error)


def _agreed(
    answers: Collection[LandmarkMatches], name: str, scale: float, expected: ExpectedError | None
) -> tuple[Any, ...]:
    """Return what templates together say of one landmark: place, reliability, spread, count, inside, expected error."""
    from samreg.matching import geometric_median

    votes = [(answer, answer.names.index(name)) for answer in answers if name in answer.names]
    points, reliability, inside, errors = (
        np.array([getattr(answer, key)[i] for answer, i in votes])
        for key in ("points", "reliability", "inside", "expected_error")
    )
    weight = -np.log1p(-np.minimum(reliability, _MAX_RELIABILITY)) + 1e-9
    median = geometric_median(points[None], weight[None], soft=_MEDIAN_SOFTNESS_MM * scale)[0]
    distance_mm = np.linalg.norm(points - median, axis=1)
    agreeing = (reliability * (distance_mm <= _AGREEMENT_MM * scale)).mean()
    spread, is_inside = np.median(distance_mm), weight @ (2 * inside - 1) >= 0
    known = errors[np.isfinite(errors)]
    error = np.median(known) if len(known) else np.nan
    if expected is not None and len(known) > 1 and is_inside:  # outside, the answers know by how far
        error = float(expected(error, spread))
    return median, agreeing, spread, len(votes), is_inside, error
