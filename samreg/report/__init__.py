"""Pictures of a registration and its HTML page."""

from samreg.report.landmark_page import write_found_landmarks, write_landmark_report
from samreg.report.page import write_report
from samreg.report.pictures import write_preview

__all__ = ["write_found_landmarks", "write_landmark_report", "write_preview", "write_report"]
