"""A landmark atlas: how the surroundings of landmarks look in several people, and how landmarks lie to each other.

It holds embedding vectors and positions, no image. ``find_landmarks`` names the landmarks of another scan with it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from samreg.brief import brief_repr
from samreg.errors import InputError
from samreg.landmarks.constellation import Constellation
from samreg.matching.reliability import DEFAULT_LANDMARK_CALIBRATION, Calibration
from samreg.matching.votes import Neighbourhoods
from samreg.spatial.files import atomic_path
from samreg.spatial.grid import FloatArray
from samreg.spatial.hdf5 import create_hdf5, open_hdf5, read_array, write_array

ATLASES = Path(__file__).parent / "atlases"
FORMAT = "samreg-landmark-atlas"
_VERSION = 1
_METRIC_RIDGE = 0.1  # of the mean variance, added to the covariance of the vectors
_MIN_FOR_METRIC = 3  # people with a landmark, for its vectors to tell how vectors vary


@dataclass(frozen=True, eq=False)
class LandmarkAtlas:
    """Named landmarks of several people.

    Parameters
    ----------
    names
        Of the L landmarks.
    people
        Names of the K people.
    positions
        (K, L, d) LPS mm, NaN where a person lacks one.
    around
        Vectors at the R landmarks that are there, person by person, and around them.
    model
        That made the vectors, ``name@fingerprint``; only its embeddings can be searched.
    calibration
        Turns what speaks for a landmark into the probability that it lies within 10 mm of the truth (in proportion to
        the voxels where they are not those of chest CT).
    errors
        (K, L) distance from the truth when the person's landmarks were found by the other people's, mm; NaN where that
        is unknown.
    """

    names: tuple[str, ...]
    people: tuple[str, ...]
    positions: FloatArray
    around: Neighbourhoods
    model: str
    calibration: Calibration = DEFAULT_LANDMARK_CALIBRATION
    errors: FloatArray | None = None

    __repr__ = brief_repr

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """(R, 2) person and landmark of each vector."""
        return np.argwhere(~np.isnan(self.positions[..., 0]))

    @cached_property
    def constellation(self) -> Constellation:
        """How the landmarks lie to each other."""
        return Constellation.from_positions(self.positions, scale=self.around.scale)

    @cached_property
    def metric(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The whitening (C, C) of what varies between people at one landmark, and the L whitened mean vectors (L, C).

        The distance of whitened vectors is that of linear discriminant analysis (Fisher 1936; Hariharan et al., ECCV
        2012).
        """
        vectors = self.around.vectors[:, 0].double()
        landmark = torch.from_numpy(self.rows[:, 1])
        means = torch.stack([vectors[landmark == i].mean(dim=0) for i in range(len(self.names))])
        common = torch.bincount(landmark, minlength=len(self.names))[landmark] >= _MIN_FOR_METRIC
        deviations = (vectors - means[landmark])[common]
        channels = vectors.shape[1]
        covariance = deviations.T @ deviations / max(len(deviations), 1) if len(deviations) else torch.zeros(channels)
        variance = covariance.trace() / channels if len(deviations) else torch.tensor(1.0)
        covariance = covariance + _METRIC_RIDGE * variance * torch.eye(channels, dtype=torch.float64)
        whitening = torch.linalg.inv(torch.linalg.cholesky(covariance))
        return whitening.float(), (means @ whitening.T).float()

    def require_model(self, model: str) -> None:
        """Raise :class:`InputError` unless the atlas is of a model, ``name@fingerprint``."""
        if self.model != model:
            raise InputError(
                f"the landmark atlas is of the model {self.model}, the image was embedded by {model}; embed it "
                "by the atlas's model, or build an atlas by `samreg landmarks build`"
            )

    def without(self, person: int) -> LandmarkAtlas:
        """Return the atlas of the other people; landmarks that nobody else has go."""
        people = [k for k in range(len(self.people)) if k != person]
        positions = self.positions[people]
        held = np.asarray(~np.isnan(positions[..., 0]).all(axis=0))
        used = (self.rows[:, 0] != person) & held[self.rows[:, 1]]
        around = replace(
            self.around, vectors=self.around.vectors[torch.from_numpy(used)], offsets=self.around.offsets[used],
            in_body=self.around.in_body[used],
        )  # fmt: skip
        names = tuple(name for name, kept in zip(self.names, held, strict=True) if kept)
        others = tuple(self.people[k] for k in people)
        return replace(self, names=names, people=others, positions=positions[:, held], around=around, errors=None)

    def without_people(self, people: Collection[str]) -> LandmarkAtlas:
        """Return the atlas without the people of these names; names that it does not have are passed over."""
        atlas = self
        for person in set(people) & set(self.people):
            atlas = atlas.without(atlas.people.index(person))
        return atlas

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the atlas to an HDF5 file (.h5), whole or not at all.

        Raises
        ------
        InputError
            When the file cannot be written.
        """
        with atomic_path(path) as temporary, create_hdf5(temporary) as file:
            file.attrs.update(format=FORMAT, version=_VERSION, model=self.model, scale=self.around.scale)
            file.attrs["names"] = json.dumps(self.names)
            file.attrs["people"] = json.dumps(self.people)
            file.attrs["calibration"] = json.dumps(asdict(self.calibration))
            arrays = {
                "positions": self.positions.astype(np.float32),
                "vectors": self.around.vectors.half().numpy(),
                "offsets": self.around.offsets.astype(np.float32),
                "in_body": self.around.in_body,
            }
            if self.errors is not None:
                arrays["errors"] = self.errors.astype(np.float32)
            for name, array in arrays.items():
                write_array(file, name, array, compression="gzip")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LandmarkAtlas:
        """Read an atlas written by :meth:`save`.

        Raises
        ------
        InputError
            When the file is missing, damaged, of another kind or of a newer version.
        """
        with open_hdf5(
            path,
            "landmark atlas",
            file_format=FORMAT,
            version=_VERSION,
            remedy="make one with `samreg landmarks build`",
        ) as file:
            around = Neighbourhoods(
                torch.from_numpy(read_array(file["vectors"])).float(),
                read_array(file["offsets"]).astype(float),
                read_array(file["in_body"]),
                float(file.attrs["scale"]),
            )
            return cls(
                tuple(json.loads(file.attrs["names"])),
                tuple(json.loads(file.attrs["people"])),
                read_array(file["positions"]).astype(float),
                around,
                str(file.attrs["model"]),
                Calibration(**json.loads(file.attrs["calibration"])),
                read_array(file["errors"]).astype(float) if "errors" in file else None,
            )


@lru_cache(maxsize=4)
def _read(path: Path) -> LandmarkAtlas:
    return LandmarkAtlas.load(path)


def shipped_atlas(model: str) -> LandmarkAtlas | None:
    """Return the atlas that samreg ships for a model, ``name@fingerprint``; None where it has none of these weights."""
    path = ATLASES / f"{model.split('@')[0]}.h5"
    if not path.is_file():
        return None
    atlas = _read(path)
    return atlas if atlas.model == model else None


def atlas_for(model: str, image: str) -> LandmarkAtlas:
    """Return the atlas shipped for a model, ``name@fingerprint``, by its name.

    Raises
    ------
    InputError
        Where there is none; it names the image.
    """
    name = model.split("@")[0]
    path = ATLASES / f"{name}.h5"
    if not path.is_file():
        shipped = sorted(file.stem for file in ATLASES.glob("*.h5"))
        raise InputError(
            f"{image} was embedded by {name}, for which samreg has no landmark atlas, but for "
            f"{', '.join(shipped) or 'none'}; give atlas=, built by `samreg landmarks build`"
        )
    return _read(path)
