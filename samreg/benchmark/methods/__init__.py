"""The methods the benchmark compares: what a method is, those built in, and where users' own are found."""

from samreg.benchmark.methods.base import Method, Outcome
from samreg.benchmark.methods.registry import available_methods, get_method

__all__ = ["Method", "Outcome", "available_methods", "get_method"]
