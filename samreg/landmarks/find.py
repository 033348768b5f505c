"""find_landmarks(): the named landmarks of a scan, without a template of one's own."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from samreg.brief import brief_repr
from samreg.device import run_in_threads, torch_defaults
from samreg.embedding.ct import ANY_CONTRAST_MODEL, background_notes
from samreg.errors import InputError, require_progress
from samreg.landmarks.arms import arms, in_words
from samreg.landmarks.atlas import LandmarkAtlas, atlas_for
from samreg.landmarks.laterality import CLEAR_T, laterality, laterality_notes, mirror_image
from samreg.landmarks.locate import SEEN_RELIABILITY, looks_known
from samreg.landmarks.placement import placed_in
from samreg.landmarks.skeleton import survey
from samreg.landmarks.sources import embedded, read
from samreg.landmarks.spine import LEVELS
from samreg.spatial.grid import FloatArray
from samreg.spatial.image import Image
from samreg.spatial.points import Points

if TYPE_CHECKING:
    from samreg.embedding import Embedding

log = logging.getLogger(__name__)

MIN_RELIABILITY = 0.5  # below which a landmark is called unsure
_VERTEBRA = "vertebra_"
_LEVEL_MM = 12.0  # an error beyond which a vertebra lies on another level: about half the distance between two


@dataclass(frozen=True, eq=False)
class FoundLandmarks:
    """Where the landmarks of an atlas lie in an image.

    Parameters
    ----------
    points
        (N, d) positions, LPS mm; for a landmark outside the image where it is expected.
    names
        Of the landmarks: all that the atlas has, and then those it has not that a CT itself shows: "left_lung_apex",
        "right_lung_apex", "aortic_arch_top", "carina", "right_upper_lobe_carina", "right_middle_lobe_carina",
        "left_secondary_carina" and "sternal_angle".
    reliability
        (N,) calibrated probability that the landmark lies within 10 mm; 0 outside the image, where it was found at the
        place of a surer one, and on another part of the body than the sure landmarks say.
    spread
        (N,) median distance of what the atlas's people say from the position, mm; NaN outside the image, and of what
        the atlas does not have.
    inside
        (N,) whether the landmark is expected in the image.
    notes
        What the user should know, in plain words.
    counted
        (N,) vertebrae whose level was counted from the upper thoracic spine down; None of an embedding from a file, in
        which nothing can be counted.
    ribs
        By name, "left_rib1" to "right_rib12", those that were followed: (M, 3) their centrelines from beside the spine
        to their ends, 4 mm apart, LPS mm.

    Examples
    --------
    >>> one = np.ones(2)
    >>> found = FoundLandmarks(np.zeros((2, 3)), ("carina", "apex"), 0.4 * one + [0.5, 0], one, one > 0)
    >>> found.sure.tolist(), found.to_points().names
    ([True, False], ('carina',))
    """

    points: FloatArray
    names: tuple[str, ...]
    reliability: FloatArray
    spread: FloatArray
    inside: NDArray[np.bool_]
    notes: tuple[str, ...] = ()
    counted: NDArray[np.bool_] | None = None
    ribs: Mapping[str, FloatArray] = field(default_factory=dict)

    __repr__ = brief_repr

    def __len__(self) -> int:
        return len(self.points)

    @property
    def sure(self) -> NDArray[np.bool_]:
        """(N,) landmarks in the image with a reliability of at least 0.5."""
        return self.inside & (self.reliability >= MIN_RELIABILITY)

    @property
    def arms(self) -> Mapping[str, str]:
        """Whether the "left" and the "right" arm are "raised" or "down"; nothing of one that is not known."""
        if self.points.shape[1] != len("xyz"):
            return {}
        sure = np.flatnonzero(self.sure)
        return arms([self.names[i] for i in sure], self.points[sure])

    def to_points(self, *, unsure: bool = False) -> Points:
        """Return the landmarks that are sure as :class:`samreg.Points`, scored by reliability.

        Parameters
        ----------
        unsure
            Also those in the image that are not.
        """
        kept = self.inside if unsure else self.sure
        return Points(self.points, self.names, self.reliability).take(np.flatnonzero(kept))


@torch_defaults()
def find_landmarks(
    image: Any,
    *,
    atlas: LandmarkAtlas | str | os.PathLike[str] | None = None,
    model: Any = None,
    device: str = "auto",
    progress: Callable[[str], None] | None = None,
) -> FoundLandmarks:
    """Find named landmarks in an image.

    The candidates for a landmark are the places most like it in the people of the atlas, by linear discriminant
    analysis of the embeddings; the most plausible constellation of candidates is chosen; and around each, the people's
    landmarks are matched one by one with their neighbourhoods, and their geometric median is taken. Vertebrae are then
    counted along the spine, where the image shows their end plates or discs, shoulder blades found by their shape, ribs
    followed from beside the spine, the domes of the diaphragm seen at the lungs' base, kidneys in the fat around
    them, and where two arteries leave an aorta with contrast in it. Apices of the lungs, the top of the aortic arch,
    the carinas of the airways and the sternal angle are seen without an atlas.

    Parameters
    ----------
    image
        As :func:`samreg.register` takes it, or its embedding (:func:`samreg.embed`).
    atlas
        From :func:`samreg.build_landmark_atlas`, or its file. The atlas of the trunk that samreg ships unless given:
        bones, vessels, airways and organs from neck to pelvis.
    model
        Name, path or model; must be the atlas's own. samreg's default unless given.
    device
        "auto", "cpu", "cuda" or "mps", where to embed and to search.
    progress
        Called with the name of each stage as it starts; the log gets it, at level INFO, unless given.

    Returns
    -------
    FoundLandmarks

    Raises
    ------
    InputError
        When there is no atlas for the model, as for an image that is no CT in Hounsfield units, the atlas is of another
        model, or the image cannot be embedded.

    Examples
    --------
    >>> from samreg.embedding.api import embed
    >>> from samreg.landmarks import Template, build_landmark_atlas
    >>> noise = np.random.default_rng(0).normal(0, 100, (16, 16, 16)).astype(np.float32)
    >>> embedding = embed({"array": noise, "spacing": (8, 8, 8)}, model="mind")
    >>> points = Points([[60.0, 60.0, 60.0], [60.0, 60.0, 100.0]], ("carina", "apex"))
    >>> atlas = build_landmark_atlas([Template(name, embedding, points) for name in ("ALICE", "BOB")])
    >>> found = find_landmarks(embedding, atlas=atlas)
    >>> bool(abs(found.points - points.positions).max() < 8)  # mm
    True
    """
    from samreg.embedding.registry import model_for
    from samreg.matching import features

    require_progress(progress)
    report = progress or log.info
    known = atlas if atlas is None or isinstance(atlas, LandmarkAtlas) else LandmarkAtlas.load(atlas)
    image = read(image, "image")
    if isinstance(image, Image):
        if model is None and known is None:
            _require_shipped_atlas(image)
        model = model_for(model, image)  # once: a checkpoint may be large
        label, identity = image.label, model.identity
    else:
        embedded(image, model, device, "image", report)  # refuses another model than the embedding's own
        label, identity = "the image", image.model
    known = atlas_for(identity, label) if known is None else known
    known.require_model(identity)
    embedding = embedded(image, model, device, "image", report)

    report("finding landmarks")
    target = features(embedding, device=device)
    placed_in(known, embedding, target)  # both start from it
    surveyed, by_global_vectors = run_in_threads(
        [
            partial(survey, known, embedding, target),
            partial(_laterality_by_global_vectors, image, embedding, known, model, device),
        ]
    )
    located, reliability = surveyed.located, surveyed.reliability.copy()
    spread, inside = located.evidence.spread, located.inside
    for pair in known.constellation.clashing(located.positions):  # one of them was found where the other is
        reliability[pair[reliability[pair].argmin()]] = 0.0
    found = FoundLandmarks(  # copies, as the survey is kept
        located.positions.copy(), known.names, reliability, np.where(inside, spread, np.nan), inside,
        counted=None if embedding.volume is None else located.counted.copy(),
        ribs={name: rib.centreline.copy() for name, rib in located.structures.ribs.items()},
    )  # fmt: skip
    notes = _notes(found, known)
    if isinstance(image, Image):
        notes = (*image.remarks, *background_notes(image), *notes)
    if located.structures.points:
        notes += (f"the image itself shows {', '.join(located.structures.points)}",)
    if isinstance(image, Image) and image.ndim == 3 and _looks_known(found):  # sides are told of an upright body
        t = (
            by_global_vectors
            if by_global_vectors > CLEAR_T
            else _laterality(image, embedding, known, model, device, report)
        )
        notes += laterality_notes(t) if atlas is None or t < 0 else ()  # others' atlases may be of what has no sides
    return replace(_with_seen(found, located.structures.points), notes=notes)


def _require_shipped_atlas(image: Image) -> None:
    """Refuse a volume that is no CT in Hounsfield units: the landmarks that samreg ships are those of CT."""
    from samreg.embedding.registry import default_for

    if default_for(image) == ANY_CONTRAST_MODEL:
        raise InputError(
            f"{image.label}: the intensities are not Hounsfield units (air -1000, water 0), and the atlas that samreg "
            "ships finds landmarks in CT alone; for CT apply its rescale slope and intercept, for other images give "
            f"atlas=, built by `samreg landmarks build --model {ANY_CONTRAST_MODEL}`"
        )


def _with_seen(found: FoundLandmarks, places: Mapping[str, FloatArray]) -> FoundLandmarks:
    """Return the landmarks with the places, (3,) LPS mm by name, that the image itself shows and the atlas has not."""
    new = {name: place for name, place in places.items() if name not in found.names}
    if not new:
        return found
    count = len(new)
    return replace(
        found,
        points=np.concatenate([found.points, np.array([*new.values()])]),
        names=(*found.names, *new),
        reliability=np.append(found.reliability, np.full(count, SEEN_RELIABILITY)),
        spread=np.append(found.spread, np.full(count, np.nan)),
        inside=np.append(found.inside, np.ones(count, dtype=bool)),
        counted=None if found.counted is None else np.append(found.counted, np.zeros(count, dtype=bool)),
    )


def _laterality_by_global_vectors(
    image: Any, embedding: Embedding, atlas: LandmarkAtlas, model: Any, device: str
) -> float:
    """Return the :func:`laterality` of an image by global vectors alone; 0 where they cannot tell."""
    from samreg.embedding.registry import model_for

    if not isinstance(image, Image) or image.ndim != 3 or embedding.volume is None:
        return 0.0
    mirrored = model_for(model, image).embed_globally(mirror_image(embedding.volume), device=device)
    return 0.0 if mirrored is None else laterality(embedding, mirrored, atlas=atlas, device=device)


def _laterality(
    image: Image, embedding: Embedding, atlas: LandmarkAtlas, model: Any, device: str, report: Callable[[str], None]
) -> float:
    """Return the :func:`laterality` of an image by all its vectors."""
    from samreg.embedding.registry import model_for

    report("embedding the mirrored image")
    mirrored = model_for(model, image).embed_on_device(mirror_image(image), device=device)
    return laterality(embedding, mirrored, atlas=atlas, device=device)


def _looks_known(found: FoundLandmarks) -> bool:
    """Whether the image looks as in the atlas's people, upright."""
    return looks_known(found.reliability, found.inside)


def _notes(found: FoundLandmarks, atlas: LandmarkAtlas) -> tuple[str, ...]:
    sure, inside = int(found.sure.sum()), int(found.inside.sum())
    notes = [f"{sure} landmarks found, {inside - sure} unsure, {len(found) - inside} expected outside the image"]
    if inside and not _looks_known(found):
        notes.append(
            "little of the image looks as in the atlas's people: check that it shows what the atlas covers, in the "
            "atlas's units, and that its header has head and feet, front and back where they are"
        )
    is_vertebra = np.array([name.startswith(_VERTEBRA) for name in found.names])
    sure_vertebrae = sorted(np.flatnonzero(found.sure & is_vertebra), key=lambda i: _level_of(found.names[i]))
    if sure_vertebrae:
        levels = ", ".join(found.names[i].removeprefix(_VERTEBRA) for i in sure_vertebrae)
        if found.counted is not None and found.counted[sure_vertebrae].all():
            notes.append(f"vertebrae {levels}, counted along the spine" + _tested(atlas, is_vertebra))
        else:
            notes.append(f"vertebrae {levels}; they could not be counted from above: count them before use")
    if found.ribs:
        notes.append(_followed(found.ribs))
    if found.arms and _looks_known(found):
        notes.append(f"{in_words(found.arms)}, as the shoulder blades are turned")
    return tuple(notes)


def _followed(ribs: Collection[str]) -> str:
    """Say which ribs were followed.

    Examples
    --------
    >>> _followed(["left_rib4", "left_rib1", "left_rib2", "right_rib12"])
    'ribs 1, 2, 4 on the left and 12 on the right, numbered by the vertebrae they hang on'
    """
    sides = []
    for side in ("left", "right"):
        numbers = sorted(int(name.split("_rib")[1]) for name in ribs if name.startswith(side))
        if numbers:
            sides.append(f"{', '.join(map(str, numbers))} on the {side}")
    return f"ribs {' and '.join(sides)}, numbered by the vertebrae they hang on"


def _level_of(name: str) -> int:
    return LEVELS.index(name) if name in LEVELS else len(LEVELS)


def _tested(atlas: LandmarkAtlas, is_vertebra: NDArray[np.bool_]) -> str:
    """Return how often people that the atlas was tested on had a vertebra on another level."""
    errors = np.zeros((0, 0)) if atlas.errors is None else atlas.errors[:, is_vertebra]
    known = ~np.isnan(errors)
    if not known.any():
        return ""
    wrong, people = np.mean(errors[known] > _LEVEL_MM), known.any(axis=1).sum()
    return f"; of {known.sum()} vertebrae of {people} people it was tested on {wrong:.0%} lay on another level"
