"""Options of the torch engine, and what its presets stand for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from samreg.engines.base import check_types
from samreg.errors import InputError, require_number

_PRESETS: dict[str, dict[str, Any]] = {
    "fast": {"levels": (8.0,), "iterations": (25,), "search_radius": 48.0},
    "default": {"levels": (8.0, 4.0), "iterations": (40, 30), "search_radius": 24.0},
    "accurate": {"levels": (8.0, 4.0, 2.0), "iterations": (80, 60, 20), "search_radius": 32.0},
}
_COMMON: dict[str, Any] = {"search_step": 8.0, "learning_rate": 0.8, "bending_weight": 20.0, "embedding_weight": 1.0}
_ONE_PERSON: dict[str, Any] = {"search_radius": 0.0, "embedding_weight": 0.0}  # from a start as near as embeddings tell
_POWERS = {"levels": 1, "search_radius": 1, "search_step": 1, "learning_rate": 1, "bending_weight": 2}  # of mm


@dataclass(frozen=True, kw_only=True)
class TorchOptions:
    """Options of the torch engine; None leaves the choice to the preset, whose lengths are those of volumes.

    In 2D, where X-rays show detail that a CT does not, they are 0.3 times as long.

    Parameters
    ----------
    preset
        "fast", "default" or "accurate".
    levels
        Voxel sizes at which the images are compared, coarsest first, mm.
    iterations
        Most iterations of each level.
    search_radius
        How far the discrete search looks for matching embeddings around the start, mm; 0 leaves it out. It needs
        embeddings. Unless given, none of two scans of one person, but in "fast".
    search_step
        Distance of the places it tries, mm.
    similarity
        "lncc", local cross-correlation in windows of ``window_voxels``; "mind", MIND-SSC; or "ssd", half the mean
        squared difference over the fixed image's variance, for scans of one protocol. "auto" is "mind" for volumes of
        which one is not in Hounsfield units, so that contrasts may differ, else "lncc".
    mass_preserving
        Multiply the moving intensities by the Jacobian determinant, as a lung grows thinner where it expands. With
        "ssd" and a ``window`` from -1000 to 55 HU this is the tissue volume difference of Yin et al. (Med. Phys. 2009);
        "lncc" hardly sees it, and "mind" compares no intensities.
    window_voxels
        Width of the correlation windows, voxels of the level.
    image_weight
        Of the image similarity, which is 0 for a perfect match and about 1 for none.
    embedding_weight
        Of one minus the mean dot product of the embeddings; 1 unless given, and 0 of two scans of one person, whose
        intensities are nearer, but in "fast".
    landmark_weight
        Of the mean distance of the landmarks given, 1/mm.
    anchor_weight
        Of that of the landmarks found in both images, 1/mm.
    bending_weight
        Of the mean squared second derivative of the velocity, mm^2: what a velocity that bends by 1 / mm costs.
    diffusion_weight
        Of the mean squared first derivative of the velocity, which has no unit.
    learning_rate
        Of Adam, mm a step.
    tolerance
        A level stops when its loss improves by less than this share over ten iterations.
    affine_iterations
        Most iterations of each level of the rigid and affine stages.
    window
        Intensities are clipped to this range; None keeps them. "auto" is -1000 to 600 HU for CT, cuts the brightest
        thousandth off other volumes, and keeps 2D images.
    """

    preset: Literal["fast", "default", "accurate"] = "default"
    levels: tuple[float, ...] | None = None
    iterations: tuple[int, ...] | None = None
    search_radius: float | None = None
    search_step: float | None = None
    similarity: Literal["auto", "lncc", "mind", "ssd"] = "auto"
    mass_preserving: bool = False
    window_voxels: int = 6
    image_weight: float = 1.0
    embedding_weight: float | None = None
    landmark_weight: float = 0.05
    anchor_weight: float = 0.05
    bending_weight: float | None = None
    diffusion_weight: float = 0.2
    learning_rate: float | None = None
    tolerance: float = 0.002
    affine_iterations: int = 60
    window: tuple[float, float] | Literal["auto"] | None = "auto"

    def __post_init__(self) -> None:
        check_types(self)
        if self.mass_preserving and self.similarity == "mind":
            raise InputError('mass_preserving changes intensities, which "mind" does not compare; use similarity="ssd"')
        levels, iterations = self.levels, self.iterations
        if (levels is None) != (iterations is None) or (levels is not None and len(levels) != len(iterations or ())):
            raise InputError(f"give levels and iterations together, one of each a level; got {levels}, {iterations}")
        if levels is not None and (not levels or min(levels) <= 0 or list(levels) != sorted(levels, reverse=True)):
            raise InputError(f"levels must be voxel sizes in mm, coarsest first, got {levels}")
        for number in iterations or ():
            require_number("iterations", number, minimum=0)
        for name, minimum in (("window_voxels", 2), ("affine_iterations", 0), ("tolerance", 0)):
            require_number(name, getattr(self, name), minimum=minimum)
        weights = [f"{kind}_weight" for kind in ("image", "embedding", "landmark", "anchor", "bending", "diffusion")]
        for name in ("search_radius", *weights):
            if getattr(self, name) is not None:
                require_number(name, getattr(self, name), minimum=0)
        for name in ("search_step", "learning_rate"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InputError(f"{name} must be positive, got {value}")

    def resolved(self, scale: float = 1.0, *, one_person: bool = False) -> TorchOptions:
        """Return the options with the preset's choices filled in, their lengths times ``scale``."""
        chosen = {**_COMMON, **_PRESETS[self.preset]}
        if one_person and self.preset != "fast":  # which starts from an affine
            chosen |= _ONE_PERSON
        for name, power in _POWERS.items():
            value, factor = chosen[name], scale**power
            chosen[name] = tuple(v * factor for v in value) if isinstance(value, tuple) else value * factor
        return replace(self, **{name: value for name, value in chosen.items() if getattr(self, name) is None})
