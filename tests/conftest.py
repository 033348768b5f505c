"""What every test shares."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# a busy machine is no reason to fail, and a failure must come back
settings.register_profile(
    "samreg", deadline=None, max_examples=30, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("samreg")
