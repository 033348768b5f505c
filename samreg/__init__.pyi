from .atlas import Atlas, build_atlas
from .embedding import Embedding, available_models, embed, load_model
from .errors import EngineError, InputError, MissingExtraError, SamregError
from .landmarks import (
    FoundLandmarks,
    LandmarkAtlas,
    LandmarkMatches,
    Template,
    TemplateMatches,
    build_landmark_atlas,
    find_landmarks,
    match,
    match_folder,
    match_set,
    read_templates,
)
from .registration import RegistrationResult, register, register_many
from .spatial import (
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
from .tracking import LesionTracks, track

__version__: str

__all__ = [
    "Atlas",
    "Embedding",
    "EngineError",
    "FoundLandmarks",
    "Image",
    "InputError",
    "LandmarkAtlas",
    "LandmarkMatches",
    "LesionTracks",
    "MissingExtraError",
    "Points",
    "RegistrationResult",
    "SamregError",
    "Template",
    "TemplateMatches",
    "__version__",
    "as_image",
    "available_models",
    "build_atlas",
    "build_landmark_atlas",
    "embed",
    "find_landmarks",
    "load_model",
    "match",
    "match_folder",
    "match_set",
    "read_image",
    "read_points",
    "read_templates",
    "read_transform",
    "register",
    "register_many",
    "track",
    "write_image",
    "write_points",
    "write_transform",
]
