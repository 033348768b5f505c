"""The engine that needs nothing but torch."""

from samreg.engines.torch_engine.engine import TorchEngine
from samreg.engines.torch_engine.options import TorchOptions

__all__ = ["TorchEngine", "TorchOptions"]
