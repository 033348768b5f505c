"""What a benchmark found: tables, statistics, charts, pictures and the page."""

from samreg.benchmark.report.page import write_report

__all__ = ["write_report"]
