"""Time of ``import samreg`` in a fresh process, less that of an empty one.

python experiments/import_time.py
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time


def seconds(code: str) -> float:
    """Return how long a Python process takes that runs some code."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    repeats = parser.parse_args().repeats
    pairs = [(seconds("import samreg"), seconds("pass")) for _ in range(repeats + 1)][1:]  # the first one warms up
    print(f"import samreg: {statistics.median(a - b for a, b in pairs):.3f} s, median of {repeats}")


if __name__ == "__main__":
    main()
