"""Comparing registration methods: data sets, methods, the runner, measures and the report; and phantoms."""

from samreg.benchmark.datasets import Case, DataSet, load_dataset
from samreg.benchmark.methods.base import Method, Outcome
from samreg.benchmark.methods.registry import available_methods, get_method
from samreg.benchmark.report.page import write_report
from samreg.benchmark.runner import plan, run_jobs

__all__ = [
    "Case",
    "DataSet",
    "Method",
    "Outcome",
    "available_methods",
    "get_method",
    "load_dataset",
    "plan",
    "run_jobs",
    "write_report",
]
