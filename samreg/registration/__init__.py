"""register(): two scans in, a transform, its quality and a folder of results out."""

from samreg.registration.quality import landmark_errors, quality_flags, registration_quality
from samreg.registration.register import register
from samreg.registration.result import RegistrationResult

__all__ = ["RegistrationResult", "landmark_errors", "quality_flags", "register", "registration_quality"]
