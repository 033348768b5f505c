"""Intensity-based registration engines behind one small protocol: ANTs, elastix, and one in torch.

Each takes a :class:`Request`, images in memory with an optional start, and returns a fixed-to-moving transform that
includes the start. See :mod:`samreg.engines.request` for how a start reaches an engine.
"""

from samreg.engines.base import Pair, prepare
from samreg.engines.registry import available_engines, get_engine
from samreg.engines.request import Engine, EngineResult, Request

__all__ = ["Engine", "EngineResult", "Pair", "Request", "available_engines", "get_engine", "prepare"]
