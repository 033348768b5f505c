"""match(): one-shot landmark detection, points of a template found in another image."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from samreg.errors import InputError
from samreg.spatial.adapters import as_image
from samreg.spatial.points import Points, as_points, require_inside

FloatArray = NDArray[np.float64]
_LATTICE = 32.0  # mm, of the matches that guide the search
_WINDOW = (45.0, 0.3)  # mm around the prediction that is searched, and the similarity lost at that distance


@dataclass(frozen=True, eq=False)
class LandmarkMatches:
    """Where the template's points were found.

    Parameters
    ----------
    points
        (N, d) positions in the target, LPS mm.
    names
        As in the template.
    similarity
        (N,) similarity of the embeddings, at most 1.
    reliability
        (N,) calibrated probability in [0, 1] that the match is right.
    cycle_error
        (N,) where the match leads back to, distance from the template's point, mm.
    inside
        (N,) False where the robust alignment puts the point outside the target's field of view.
    notes
        What the user should know, in plain words.
    """

    points: FloatArray
    names: tuple[str, ...]
    similarity: FloatArray
    reliability: FloatArray
    cycle_error: FloatArray
    inside: NDArray[np.bool_]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.points)

    def to_points(self) -> Points:
        """Return the positions as :class:`Points`, scored by reliability."""
        return Points(self.points, self.names, self.reliability)


def match(
    template: Any,
    points: Any,
    target: Any,
    *,
    model: Any = None,
    search: str = "guided",
    device: str = "auto",
    seed: int = 0,
) -> LandmarkMatches:
    """Find points of a template image in a target image.

    Parameters
    ----------
    template, target
        Images as :func:`samreg.register` takes, or embeddings (:func:`samreg.embed`) to match many times.
    points
        :class:`Points`, an array (N, d) in LPS mm, or a points file, in the template.
    model
        Name, path or model; samreg's default unless given. Must be the embeddings' own where they are given.
    search
        "guided" matches a coarse lattice first, predicts each point from a robust affine and the matches around
        it, and looks within 45 mm of that, which keeps neighbours together. "global" takes the most similar
        voxel of the whole body (Yan et al., SAM, TMI 2022).
    device
        "auto", "cpu", "cuda" or "mps".
    seed
        Of the robust fit.

    Returns
    -------
    LandmarkMatches
        One for each point, in order.

    Raises
    ------
    InputError
        For points outside the template, an unknown search, images that are no CT, or embeddings of different
        models.
    """
    from samreg.matching import Calibration, Prediction, features, match_points
    from samreg.seeding import global_affine, predict_locally
    from samreg.seeding.seed import require_one_model

    if search not in ("guided", "global"):
        raise InputError(f'unknown search {search!r}; choose "guided" or "global"')
    sources = [_embedded(source, model, device, name) for source, name in ((template, "template"), (target, "target"))]
    require_one_model(*sources)
    wanted = as_points(points, sources[0].image_grid.ndim)
    require_inside(wanted, sources[0].image_grid, "the template")
    calibration = Calibration.from_mapping(sources[0].calibration)
    f, m = (features(source) for source in sources)
    prediction, notes, inside = None, (), np.ones(len(wanted), dtype=bool)
    if search == "guided":
        fit, pairs = global_affine(f, m, spacing=_LATTICE, calibration=calibration, seed=seed)
        if fit.transform is None:
            notes = (f"no common alignment was found ({fit.reason}); every point was searched in the whole body",)
        else:
            left = np.linalg.norm(fit.transform.transform_points(pairs.fixed) - pairs.moving, axis=1)
            expected = predict_locally(pairs.take(left < _WINDOW[0]), fit.transform, wanted.positions)
            inside = sources[1].image_grid.contains(expected)
            prediction = Prediction(expected, *_WINDOW)
    found = match_points(f, wanted.positions, m, prediction=prediction, calibration=calibration)
    reliability = np.where(inside, found.reliability, 0.5 * found.reliability)
    return LandmarkMatches(found.moving, wanted.names, found.similarity, reliability, found.cycle_error, inside, notes)


def _embedded(source: Any, model: Any, device: str, name: str) -> Any:
    """Return the embedding of an image, or the embedding given, in memory or as an .h5 file."""
    from samreg.embedding import DEFAULT_MODEL, Embedding, load_model

    if isinstance(source, Embedding):
        return source
    if isinstance(source, (str, os.PathLike)) and str(source).endswith(".h5"):
        return Embedding.load(source)
    return load_model(DEFAULT_MODEL if model is None else model).embed(as_image(source, name=name), device=device)
