"""What build_atlas() returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from samreg.atlas.store import AtlasFolder
from samreg.spatial.image import Image
from samreg.spatial.io_images import read_image
from samreg.spatial.io_transforms import read_transform
from samreg.spatial.transforms import Transform
from samreg.steps import Outcome


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

    Examples
    --------
    >>> import numpy as np, samreg, tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> samreg.write_image(samreg.Image.from_array(np.zeros((4, 5, 6))), folder / "template.nii.gz")
    >>> samreg.Atlas(folder, ("ANNA", "BERT"), (), ()).template.shape
    (4, 5, 6)
    """

    folder: Path
    names: tuple[str, ...]
    convergence: tuple[Convergence, ...]
    outcomes: tuple[Outcome, ...] = field(repr=False)

    @property
    def template(self) -> Image:
        """The sharpened mean."""
        return self._image("template")

    @property
    def mean(self) -> Image:
        """The mean of the warped subjects."""
        return self._image("mean")

    @property
    def variance(self) -> Image:
        """Their variance."""
        return self._image("variance")

    def transform(self, name: str) -> Transform:
        """Return the map from template to subject points, LPS mm.

        Parameters
        ----------
        name
            Of the subject.

        Raises
        ------
        InputError
            When there is no such subject.
        """
        return read_transform(AtlasFolder(self.folder).subject(name) / "transform.h5")

    def inverse(self, name: str) -> Transform:
        """Return the map from subject to template points, LPS mm; see :meth:`transform`."""
        return read_transform(AtlasFolder(self.folder).subject(name) / "inverse.h5")

    def _image(self, name: str) -> Image:
        return read_image(AtlasFolder(self.folder).image(name))
