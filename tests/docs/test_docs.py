"""The documentation does what it says: its Python runs, its commands parse, its site builds without a warning."""

from __future__ import annotations

import functools
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import nibabel
import numpy as np
import PIL.Image
import pytest
import scipy.ndimage
import typer

import samreg
from samreg.cli import app
from samreg.phantoms.phantom import make_phantom
from samreg.spatial import Grid, Image, Points

pytestmark = pytest.mark.usefixtures("embeddings_kept")

ROOT = Path(__file__).parents[2]
PAGES = sorted(path.relative_to(ROOT) for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
_BLOCK = re.compile(
    r"^(?P<skip><!-- not run: .+ -->\n)?(?P<indent> *)```(?P<kind>\w+)\n(?P<code>.*?)^ *```$", re.M | re.S
)

SIZE = 0.6  # of the phantoms, of an adult's: what a registration costs goes by the body's volume


def blocks(page: Path, kind: str) -> list[str]:
    """Return a page's blocks of a language, without those it marks as not run."""
    found = _BLOCK.finditer((ROOT / page).read_text(encoding="utf-8"))
    return [textwrap.dedent(m["code"]) for m in found if m["kind"] == kind and not m["skip"]]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the documentation names, of two small phantoms; the fixed one holds the README's point."""
    folder = tmp_path_factory.mktemp("files")
    for subject, name in ((1, "fixed"), (2, "moving")):
        phantom = make_phantom(subject, spacing=8.0, field_of_view=(-90, 60))
        grid = phantom.image.grid
        shift = np.array([12.0, -40.5, 310.0]) - SIZE * grid.center if name == "fixed" else np.zeros(3)
        grid = Grid(grid.shape, SIZE * grid.origin + shift, SIZE * grid.spacing, grid.direction)
        points = Points(SIZE * phantom.landmarks.positions + shift, phantom.landmarks.names)
        labels = (phantom.labels.array > 0).astype(np.uint8)
        samreg.write_image(Image(phantom.image.array, grid), folder / f"{name}.nii.gz")
        for kind in ("labels", "mask"):
            samreg.write_image(Image(labels, grid), folder / f"{name}_{kind}.nii.gz")
        samreg.write_points(points, folder / f"{name}.csv")
        xray = np.clip((phantom.image.array.mean(axis=1) + 1000) / 6, 0, 255).astype(np.uint8)
        large = scipy.ndimage.zoom(xray, 8, order=1)
        PIL.Image.fromarray(large).save(folder / f"{name}_xray.png")
    middle = 0.15 * np.array(large.shape[::-1])
    samreg.write_points(Points([middle, 0.8 * middle], ("middle", "above")), folder / "xray_points.csv")
    size = samreg.read_image(folder / "fixed.nii.gz").grid.size
    nibabel.save(nibabel.Nifti1Image(np.ones((3, *size), np.float32), np.eye(4)), folder / "disp_0001_0002.nii.gz")
    for name in ("scans", "FOLDER/images", "FOLDER/landmarks"):
        (folder / name).mkdir(parents=True)
    for copy, original in (
        ("template.nii.gz", "fixed.nii.gz"), ("template_points.csv", "fixed.csv"), ("target.nii.gz", "moving.nii.gz"),
        ("scans/a.nii.gz", "moving.nii.gz"), ("scans/b.nii.gz", "fixed.nii.gz"),
        ("FOLDER/images/a.nii.gz", "moving.nii.gz"), ("FOLDER/images/b.nii.gz", "fixed.nii.gz"),
        ("FOLDER/landmarks/a.csv", "moving.csv"), ("FOLDER/landmarks/b.csv", "fixed.csv"),
    ):  # fmt: skip
        shutil.copy(folder / original, folder / copy)
    return folder


@pytest.fixture(scope="module")
def register():
    """Registration that remembers calls by path: pages repeat each other's, and the same call gives the same result."""
    original = samreg.register
    remembered = functools.cache(lambda images, options: original(*images, **dict(options)))

    def call(*images: object, **options: object) -> samreg.RegistrationResult:
        try:
            return remembered(images, tuple(sorted(options.items())))
        except TypeError:  # images and options that are no plain values
            return original(*images, **options)

    return call


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=str)
def test_python_runs(page, files, register, tmp_path, monkeypatch) -> None:
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(samreg, "register", register)
    names = {"__name__": "__main__"}
    for code in blocks(page, "python"):
        exec(compile(code, str(page), "exec"), names)


def commands(page: Path) -> list[list[str]]:
    """Return the words of every call of samreg, or of a program of the repository, in a page's shell blocks."""
    lines = "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    calls = [re.split(r"\s&&\s", line) for line in lines]
    words = [shlex.split(call, comments=True) for line in calls for call in line]
    return [w for w in words if w and (Path(w[0]).name == "samreg" or w[:2] == ["python", *w[1:2]])]


def test_commands_parse() -> None:
    group = typer.main.get_command(app)
    seen = set()
    for page in PAGES:
        for words in commands(page):
            if Path(words[0]).name != "samreg":
                assert (ROOT / words[1]).is_file() or words[1] == "-m", f"{page}: {' '.join(words)}"
                continue
            context = group.make_context("samreg", words[1:], resilient_parsing=not words[1:])
            name, command, rest = group.resolve_command(context, words[1:])
            seen.add(name)
            while isinstance(command, typer.core.TyperGroup):
                name, command, rest = command.resolve_command(command.make_context(name, list(rest)), rest)
            command.make_context(name, rest)  # raises for an unknown option or a missing argument
    assert seen >= set(group.commands) - {"train"}, "every command is shown somewhere"


def test_few_blocks_are_not_run() -> None:
    for page in PAGES:
        found = list(_BLOCK.finditer((ROOT / page).read_text(encoding="utf-8")))
        skipped = [m for m in found if m["skip"] and m["kind"] == "python"]
        assert len(skipped) <= 1, f"{page}: {len(skipped)} of its Python blocks are not run"


def test_pictures_are_small() -> None:
    assert sum(path.stat().st_size for path in (ROOT / "docs/pictures").glob("*.webp")) < 500_000


def test_the_site_builds_without_a_warning(tmp_path) -> None:
    for package in ("mkdocs", "material", "mkdocstrings_handlers.python"):
        pytest.importorskip(package, reason="the site's packages are not installed (the extra docs)")
    call = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    # not in the locale's encoding: that of this process may be another than its children's
    done = subprocess.run(call, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    text = (tmp_path / "api/registration/index.html").read_text(encoding="utf-8")
    assert "RegistrationResult" in text
    assert ":class:" not in text
