"""The kinds of preprocessing, CT, 3D images of any contrast and X-ray, and how checkpoints store their settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from samreg.embedding.any_contrast import AnyContrastPreprocessing
from samreg.embedding.ct import Preprocessing
from samreg.embedding.xray import XrayPreprocessing
from samreg.spatial.standard import oriented, sample_mask, standardised  # noqa: F401  # where they were before 0.2

AnyPreprocessing = Preprocessing | AnyContrastPreprocessing | XrayPreprocessing


def preprocessing_to_dict(settings: AnyPreprocessing) -> dict[str, Any]:
    """Return the settings as checkpoints store them."""
    return {"modality": settings.modality, **asdict(settings)}


def preprocessing_from_dict(values: Mapping[str, Any]) -> AnyPreprocessing:
    """Return the settings a checkpoint stores; those of CT where it names no modality.

    Raises
    ------
    ValueError
        For an unknown modality.
    """
    values = dict(values)
    kinds = {kind.modality: kind for kind in (Preprocessing, AnyContrastPreprocessing, XrayPreprocessing)}
    name = values.pop("modality", "ct")
    if name not in kinds:
        raise ValueError(f"unknown modality {name!r}, samreg knows {', '.join(kinds)}")
    return kinds[name](**values)
