"""How long the threads of torch spin before they sleep.

A thread that waits for the others of its team spins at first, for milliseconds by default. Where other programs use the
processors too, the one it waits for does not run, and most of the time is spent spinning: a registration takes four
times as long beside one busy program per processor. After a short spin it takes twice as long, its fair share, and no
longer than before on an idle machine. GNU's OpenMP, which torch uses on Linux, reads the limit when it is loaded.
"""

from __future__ import annotations

import os
import sys

_SPIN_COUNT = "1000"  # iterations; some microseconds
_SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def install() -> None:
    """Let threads spin briefly, unless the environment says how long or torch is loaded already."""
    if "torch" not in sys.modules and not any(name in os.environ for name in _SETTINGS):
        os.environ["GOMP_SPINCOUNT"] = _SPIN_COUNT
