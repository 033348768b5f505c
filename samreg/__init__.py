"""samreg: registration of body scans by self-supervised anatomical embeddings (SAM).

>>> import samreg
>>> samreg.register  # doctest: +ELLIPSIS
<function register at ...>
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_EXPORTS = {
    "register": "samreg.registration",
    "RegistrationResult": "samreg.result",
    "match": "samreg.landmarks",
    "LandmarkMatches": "samreg.landmarks",
    "match_set": "samreg.templates",
    "match_folder": "samreg.templates",
    "read_templates": "samreg.templates",
    "build_atlas": "samreg.atlas",
    "Atlas": "samreg.atlas",
    "track": "samreg.tracking",
    "LesionTracks": "samreg.tracking",
    "Template": "samreg.templates",
    "TemplateMatches": "samreg.templates",
    "embed": "samreg.embedding",
    "load_model": "samreg.embedding",
    "available_models": "samreg.embedding",
    "Embedding": "samreg.embedding",
    "Image": "samreg.spatial",
    "Points": "samreg.spatial",
    "as_image": "samreg.spatial",
    "read_image": "samreg.spatial",
    "write_image": "samreg.spatial",
    "read_points": "samreg.spatial",
    "write_points": "samreg.spatial",
    "read_transform": "samreg.spatial",
    "write_transform": "samreg.spatial",
    "SamregError": "samreg.errors",
    "InputError": "samreg.errors",
    "EngineError": "samreg.errors",
    "MissingExtraError": "samreg.errors",
}

__all__ = [*_EXPORTS, "__version__"]

if TYPE_CHECKING:
    from samreg.atlas import Atlas, build_atlas
    from samreg.embedding import Embedding, available_models, embed, load_model
    from samreg.errors import EngineError, InputError, MissingExtraError, SamregError
    from samreg.landmarks import LandmarkMatches, match
    from samreg.registration import register
    from samreg.result import RegistrationResult
    from samreg.spatial import (
        Image,
        Points,
        as_image,
        read_image,
        read_points,
        read_transform,
        write_image,
        write_points,
        write_transform,
    )
    from samreg.templates import Template, TemplateMatches, match_folder, match_set, read_templates
    from samreg.tracking import LesionTracks, track


def __getattr__(name: str) -> Any:
    """Load a public name on first use, so that ``import samreg`` stays fast."""
    if name == "__version__":
        from importlib.metadata import version

        return version("samreg")
    if name not in _EXPORTS:
        raise AttributeError(f"module 'samreg' has no attribute {name!r}")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
