"""Self-supervised training of embedding networks."""

from samreg.training.config import TrainingConfig
from samreg.training.loop import train

__all__ = ["TrainingConfig", "train"]
