"""Intensity-based registration engines behind one small protocol: ANTs, elastix, and one in torch.

Each takes images in memory and an optional start, and returns a fixed-to-moving transform that includes the
start. See :mod:`samreg.engines.base` for how a start reaches an engine.
"""

from samreg.engines.base import Engine, EngineResult, available_engines, get_engine

__all__ = ["Engine", "EngineResult", "available_engines", "get_engine"]
