"""Two small chests made of ellipsoids, related by a known affine, as files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import samreg
from samreg.cli import app
from samreg.spatial import AffineTransform, Image, resample

Run = Callable[..., Result]


@dataclass(frozen=True)
class Files:
    """Paths of the pair, and its truth."""

    folder: Path
    fixed: Path
    moving: Path
    fixed_points: Path
    moving_points: Path
    truth: AffineTransform  # fixed to moving


def chest() -> Image:
    """Return a textured trunk with lungs, heart, spine and ribs, HU, 4 mm."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    shape = (56, 52, 72)  # z, y, x
    z, y, x = np.meshgrid(*(np.arange(n) - n / 2 for n in shape), indexing="ij")

    def ellipsoid(cz: float, cy: float, cx: float, rz: float, ry: float, rx: float) -> np.ndarray:
        return ((z - cz) / rz) ** 2 + ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1

    trunk = (y / 20) ** 2 + (x / (29 - 0.08 * z)) ** 2 < 1
    hu = np.where(trunk, 40.0, -1000.0)
    ribs = trunk & ((y / 18) ** 2 + (x / 26.5) ** 2 > 0.93) & (np.sin((z + 0.3 * y) * 0.9) > 0.3)
    hu[ribs] = 500
    for cx, rz in ((-13, 22), (13, 20)):
        hu[ellipsoid(2, 0, cx, rz, 14, 10)] = -820
    hu[ellipsoid(-8, -5, 4, 9, 8, 8)] = 60
    spine = x**2 + (y - 14) ** 2 < 14
    hu[spine] = np.where(np.sin(z) > 0, 450.0, 90.0)[spine]
    hu[(x**2 + (y - 3) ** 2 < 5) & (z > 6)] = -950
    hu += np.where(hu > -900, gaussian_filter(rng.normal(size=shape), 1.2) * 250, 0)
    return Image.from_array(gaussian_filter(hu, 0.6).astype(np.int16), origin=(-140, -100, 50), spacing=(4, 4, 4))


@pytest.fixture(scope="session")
def run() -> Run:
    """Run ``samreg`` in this process."""
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("pair")
    fixed = chest()
    truth = AffineTransform.about(fixed.grid.center, np.diag([1.04, 0.97, 1.02]), (10.0, -6.0, 8.0))
    moved = resample(fixed, fixed.grid.padded(8.0), transform=truth.inverse(), fill=-1000)
    moving = moved.with_array(np.rint(moved.array).astype(np.int16))
    index = np.array([[36, 26, 40], [20, 24, 30], [52, 30, 24], [36, 40, 36], [30, 16, 20]], dtype=float)
    points = samreg.Points(fixed.grid.index_to_world(index), ("carina", "left", "right", "spine", "[red]heart[/red]"))
    there = samreg.Points(truth.transform_points(points.positions), points.names)
    paths = [folder / name for name in ("fixed.nii.gz", "moving.nii.gz", "fixed.csv", "moving.csv")]
    samreg.write_image(fixed, paths[0])
    samreg.write_image(moving, paths[1])
    samreg.write_points(points, paths[2])
    samreg.write_points(there, paths[3])
    return Files(folder, *paths, truth)


@pytest.fixture(scope="session")
def by_shift(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Options of ``samreg register`` for what lies beside the work of engines: one that answers with a shift."""
    path = tmp_path_factory.mktemp("engine") / "engine.py"
    path.write_text(
        "import numpy as np\n"
        "from samreg.engines import Engine, EngineResult\n"
        "from samreg.spatial import AffineTransform\n"
        "class Shift(Engine):\n"
        "    name = 'shift'\n"
        "    def register(self, request):\n"
        "        ndim = request.fixed.ndim\n"
        "        return EngineResult(AffineTransform(np.eye(ndim), [6.0, -4.0, 8.0][:ndim]), version='1', log='')\n"
    )
    return ("--method", "registration", "--engine", f"{path}:Shift", "--transform", "rigid")


@pytest.fixture(scope="session")
def registered(files: Files, run: Run) -> tuple[Path, Result]:
    """The folder that ``samreg register`` wrote, and what it printed."""
    out = files.folder / "out"
    result = run(
        "register", files.fixed, files.moving, "-o", out, "--method", "embedding", "--transform", "affine", "--report",
        "--model", "mind", "--landmarks", files.fixed_points, files.moving_points, "--formats", "h5,nii,npz",
    )  # fmt: skip
    return out, result
