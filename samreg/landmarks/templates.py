"""Several templates vote where the landmarks of another image are."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from samreg.errors import InputError
from samreg.landmarks.match import LandmarkMatches, embedded, match
from samreg.spatial.grid import FloatArray
from samreg.spatial.io_images import find_images, read_image
from samreg.spatial.io_points import find_points, read_points
from samreg.spatial.points import Points, require_inside

if TYPE_CHECKING:
    from samreg.embedding import Embedding, EmbeddingModel

_LATTICE = 48.0  # mm at a scale of 1 (:attr:`samreg.matching.Features.scale`), of the points templates are scored by
_AGREE = 15.0  # mm at this scale, within which an answer counts; what the reliability of a match was fitted for
_SOFT = 2.0  # mm at this scale, below which the median of the answers turns into a mean
_CERTAIN = 1 - 1e-4  # the reliability beyond which a template gains no more weight
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
    """

    name: str
    embedding: Embedding
    points: Points

    def __post_init__(self) -> None:
        twice = sorted({name for name in self.points.names if self.points.names.count(name) > 1})
        if twice or not len(self.points):
            problem = f"names occur more than once: {twice}" if twice else "it has no landmarks"
            raise InputError(f"template {self.name}: {problem}; landmarks are combined by name")
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
    """

    points: FloatArray
    names: tuple[str, ...]
    reliability: FloatArray
    spread: FloatArray
    templates: NDArray[np.int64]
    inside: NDArray[np.bool_]
    answers: Mapping[str, LandmarkMatches]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.points)

    def to_points(self) -> Points:
        """Return the positions as :class:`Points`, scored by reliability."""
        return Points(self.points, self.names, self.reliability)


def read_templates(
    folder: str | os.PathLike[str],
    *,
    model: Any = None,
    device: str = "auto",
    cache: str | os.PathLike[str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> tuple[Template, ...]:
    """Read and embed the templates of a folder.

    Parameters
    ----------
    folder
        Images, in ``images/`` or directly, and ``landmarks.csv`` with columns subject, landmark, x, y, z (LPS mm),
        where a subject is an image's name without suffix. Or, without such a table, a points file beside each image:
        ``NAME.mrk.json``, ``.csv`` or ``.fcsv``. Images without landmarks are no templates.
    model
        Name, path or model; samreg's default for the images' dimensions unless given.
    device
        "auto", "cpu", "cuda" or "mps".
    cache
        Folder that keeps the embeddings; they are read instead of computed while image and model stay the same.
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
    """
    from samreg.embedding import embed
    from samreg.embedding.registry import model_for

    folder = Path(folder)
    images = find_images(folder / "images" if (folder / "images").is_dir() else folder)
    network: EmbeddingModel | None = None
    templates = []
    for name, (file, subject) in _landmark_files(folder, images).items():
        if progress is not None:
            progress(f"template {name}")
        image = read_image(images[name])
        network = model_for(model, image.ndim) if network is None else network
        kept = None if cache is None else Path(cache) / f"{name}.h5"
        embedding = embed(image, model=network, device=device, cache=kept)
        templates.append(Template(name, embedding, read_points(file, grid=image.grid, subject=subject)))
    return tuple(templates)


def _landmark_files(folder: Path, images: Mapping[str, Path]) -> dict[str, tuple[Path, str | None]]:
    """Return for each template the file of its landmarks, and its subject's name in that file."""
    table = folder / MANIFEST
    if table.is_file():
        found = find_points(table, images)
        missing = sorted(set(found) - set(images))
        if missing:
            raise InputError(f"{table}: no image for the subjects {missing}; there are {sorted(images)}")
    else:
        found = find_points(next(iter(images.values())).parent, images)
    if not found:
        raise InputError(f"no landmarks in {folder}: give {MANIFEST}, or NAME.mrk.json beside each image NAME")
    return dict(sorted(found.items()))


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
    prepared = [features(embedding) for embedding in embeddings]
    queries = [interpolate(f, lattice(f, _LATTICE * f.scale)) for f in prepared]
    similarity = np.full((len(prepared), len(prepared)), np.nan)
    for j, target in enumerate(prepared):
        keys = target.sparse_vectors.T
        for i, query in enumerate(queries):
            if i != j:
                similarity[i, j] = float((query.to(keys.dtype) @ keys).amax(dim=1).float().mean())
    return np.nanmean((similarity + similarity.T) / 2, axis=1)


def match_set(
    templates: Sequence[Template] | str | os.PathLike[str],
    target: Any,
    *,
    model: Any = None,
    search: str = "guided",
    device: str = "auto",
    seed: int = 0,
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

    Returns
    -------
    TemplateMatches

    Raises
    ------
    InputError
        For no templates, two of one name, or what :func:`samreg.match` refuses.
    """
    if isinstance(templates, (str, os.PathLike)):
        templates = read_templates(templates, model=model, device=device)
    names = [template.name for template in templates]
    if not names or len(set(names)) < len(names):
        raise InputError(f"templates must be at least one, each with a name of its own; got {names}")
    from samreg.matching import features

    destination = embedded(target, model, device, "target")
    answers = {
        template.name: match(template.embedding, template.points, destination, search=search, device=device, seed=seed)
        for template in templates
    }
    return _combined(answers, features(destination).scale)


def _combined(answers: Mapping[str, LandmarkMatches], scale: float) -> TemplateMatches:
    from samreg.matching import geometric_median

    names = tuple(dict.fromkeys(name for answer in answers.values() for name in answer.names))
    rows = []
    for name in names:
        own = [(answer, answer.names.index(name)) for answer in answers.values() if name in answer.names]
        points, reliability, inside = (
            np.array([getattr(answer, key)[i] for answer, i in own]) for key in ("points", "reliability", "inside")
        )
        weight = -np.log1p(-np.minimum(reliability, _CERTAIN)) + 1e-9
        middle = geometric_median(points[None], weight[None], soft=_SOFT * scale)[0]
        away = np.linalg.norm(points - middle, axis=1)
        sure = (reliability * (away <= _AGREE * scale)).mean()
        rows.append((
            middle, sure, np.median(away), len(own), weight @ (2 * inside - 1) >= 0
        ))  # fmt: skip
    columns = (np.array(column) for column in zip(*rows, strict=True))
    notes = tuple(f"template {key}: {note}" for key, answer in answers.items() for note in answer.notes)
    points, reliability, spread, count, inside = columns
    return TemplateMatches(points, names, reliability, spread, count, inside, answers, notes)
