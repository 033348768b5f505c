from .api import embed
from .backbone import Encoder, encoder
from .body import body_mask
from .checkpoint import Architecture, load_checkpoint, save_checkpoint
from .ct import Preprocessing
from .embedding import Embedding
from .mind import MindModel
from .models import EmbeddingModel, NetworkModel
from .network import EmbeddingNetwork, NetworkGeometry, SamNetwork
from .registry import DEFAULT_MODEL, available_models, default_model, load_model, random_official
from .xray import XrayPreprocessing

__all__ = [
    "DEFAULT_MODEL",
    "Architecture",
    "Embedding",
    "EmbeddingModel",
    "EmbeddingNetwork",
    "Encoder",
    "MindModel",
    "NetworkGeometry",
    "NetworkModel",
    "Preprocessing",
    "SamNetwork",
    "XrayPreprocessing",
    "available_models",
    "body_mask",
    "default_model",
    "embed",
    "encoder",
    "load_checkpoint",
    "load_model",
    "random_official",
    "save_checkpoint",
]
