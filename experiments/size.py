"""How time and memory grow with the scan: seconds and peak memory of each step of a registration, body by body.

    python experiments/size.py TORSO.nii.gz --out size.csv --plot docs/pictures/size.webp

The tall torso is cut to, or stretched to, each length at 1.5 mm and registered with itself, stretched by 3 % and
moved; so is one scan of 512 x 512 x 900 voxels. Every size runs in a process of its own.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import subprocess
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

import samreg
from samreg.spatial import Grid, Image, resample

SPACING_MM = 1.5
CASES = ("80", "160", "320", "640", "900", "512x512x900")
COLUMNS = ("case", "voxels", "stage", "seconds", "peak_gb")
_STRETCH, _SHIFT_MM = 1.03, 12.0
_WIDE_MM = 430.0  # of the scan of 512 x 512 voxels


def scan(torso: Image, case: str) -> Image:
    """Return the torso, cut or stretched along z: to this many mm, or to a scan of these voxels."""
    if "x" in case:
        nx, ny, nz = map(int, case.split("x"))
        return _at_size(torso, (nz, ny, nx), (_WIDE_MM / nx, _WIDE_MM / ny, 1.0))
    length, extent = float(case), torso.grid.extent
    height = round(length / SPACING_MM)
    shape = (height, round(extent[1] / SPACING_MM), round(extent[0] / SPACING_MM))
    if length > extent[2]:
        return _at_size(torso, shape, (SPACING_MM,) * 3)
    first = torso.origin + [0, 0, (extent[2] - length) / 2]
    return _int16(resample(torso, Grid.make(shape, spacing=SPACING_MM, origin=first)))


def _at_size(torso: Image, shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Image:
    """Return the torso filling a grid of this height, wherever its own ends."""
    height = shape[0] * spacing[2]
    stretched = Image.from_array(
        torso.array, spacing=(*torso.spacing[:2], torso.spacing[2] * height / torso.grid.extent[2]), origin=torso.origin
    )
    centre = stretched.grid.origin + (stretched.grid.extent - stretched.spacing) / 2
    size = np.array(shape[::-1]) * spacing
    return _int16(resample(stretched, Grid.make(shape, spacing=spacing, origin=centre - size / 2)))


def _int16(image: Image) -> Image:
    return image.with_array(np.rint(image.array).astype(np.int16))


def moved(image: Image) -> Image:
    """Return the same scan, stretched along z, moved and noisy: another visit with a known answer."""
    noise = np.random.default_rng(0).integers(-20, 21, image.shape, dtype=np.int16)
    spacing = (*image.spacing[:2], image.spacing[2] * _STRETCH)
    return Image.from_array(image.array + noise, spacing=spacing, origin=image.origin + _SHIFT_MM, name="moving")


class StageMemory:
    """Seconds and peak memory of the stages that ``register`` names; Linux."""

    def __init__(self) -> None:
        self.stage = "start"
        self.peaks_gb: dict[str, float] = defaultdict(float)
        self._page = os.sysconf("SC_PAGE_SIZE")
        self._ended = threading.Event()
        threading.Thread(target=self._sample, daemon=True).start()

    def __call__(self, stage: str) -> None:
        """Begin a stage."""
        self.stage = stage

    def end(self) -> None:
        """Stop sampling."""
        self._ended.set()

    def _sample(self) -> None:
        while not self._ended.wait(0.02):
            resident = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * self._page / 2**30
            self.peaks_gb[self.stage] = max(self.peaks_gb[self.stage], resident)


def measure(path: Path, case: str, threads: int) -> list[dict[str, object]]:
    """Register one size; return a row a stage."""
    fixed = scan(samreg.read_image(path), case)
    fixed = Image(fixed.array, fixed.grid, "fixed")
    moving = moved(fixed)
    samreg.load_model("ct-small")
    memory = StageMemory()
    began = time.perf_counter()
    # no level of the engine ends early, as scans that are so alike would let it
    result = samreg.register(fixed, moving, threads=threads, engine_options={"tolerance": 0.0}, progress=memory)
    seconds = time.perf_counter() - began
    if not result:
        raise SystemExit(f"{case}: {result.reason}")
    memory.end()
    stages = {**result.timings, "total": seconds}
    peaks = {**memory.peaks_gb, "total": max(memory.peaks_gb.values())}
    points = fixed.grid.index_to_world(
        np.random.default_rng(1).uniform(0.2, 0.8, (500, 3)) * (np.array(fixed.grid.size) - 1)
    )
    truth = moving.grid.index_to_world(fixed.grid.world_to_index(points))
    error = np.linalg.norm(result.transform.transform_points(points) - truth, axis=1)
    print(f"{case}: {fixed.array.size / 1e6:.0f} million voxels, {seconds:.1f} s, {peaks['total']:.2f} GB, "
          f"{np.median(error):.2f} mm off in the median", file=sys.stderr)  # fmt: skip
    return [
        {"case": case, "voxels": fixed.array.size, "stage": stage, "seconds": f"{value:.2f}",
         "peak_gb": f"{peaks[stage]:.2f}" if stage in peaks else ""}
        for stage, value in stages.items()
    ]  # fmt: skip


def plot(rows: list[dict[str, str]], path: Path) -> None:
    """Draw seconds of the stages and peak memory against the number of voxels."""
    import PIL.Image
    from matplotlib.figure import Figure

    from samreg.report.kit import png

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    time_axes, memory_axes = figure.subplots(1, 2)
    for stage in dict.fromkeys(row["stage"] for row in rows):
        some = [row for row in rows if row["stage"] == stage]
        if max(float(row["seconds"]) for row in some) < 1:
            continue
        x = [int(row["voxels"]) / 1e6 for row in some]
        width = 2.5 if stage == "total" else 1.2
        time_axes.plot(x, [float(row["seconds"]) for row in some], "o-", lw=width, ms=4, label=stage)
        memory_axes.plot(x, [float(row["peak_gb"] or "nan") for row in some], "o-", lw=width, ms=4)
    for axes, label in ((time_axes, "seconds, two threads"), (memory_axes, "peak memory of the process, GB")):
        axes.set(xscale="log", yscale="log", xlabel="million voxels of each scan", ylabel=label)
        axes.grid(alpha=0.3, which="both")
    time_axes.legend(fontsize=8)
    PIL.Image.open(io.BytesIO(png(figure))).convert("RGB").save(path, quality=80)


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path, help="a tall torso")
    parser.add_argument("--cases", nargs="*", default=CASES, help="mm of body, or voxels x by y by z")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("size.csv"))
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        csv.DictWriter(sys.stdout, COLUMNS).writerows(measure(arguments.image, arguments.one, arguments.threads))
        return
    lines = [",".join(COLUMNS)]
    for case in arguments.cases:
        call = [sys.executable, __file__, str(arguments.image), "--one", case, "--threads", str(arguments.threads)]
        lines += subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
        arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if arguments.plot:
        plot(list(csv.DictReader(lines)), arguments.plot)


if __name__ == "__main__":
    main()
