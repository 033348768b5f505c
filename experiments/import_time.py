"""Time of ``import samreg`` in a fresh process, less that of an empty one; median of ten."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time


def seconds(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    pairs = [(seconds("import samreg"), seconds("pass")) for _ in range(11)][1:]
    print(f"import samreg: {statistics.median(a - b for a, b in pairs):.3f} s")
