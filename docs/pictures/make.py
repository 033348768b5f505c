#!/usr/bin/env python3
"""Make the pictures of the documentation from two phantoms: ``python docs/pictures/make.py`` (needs chromium)."""

from __future__ import annotations

import io
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import PIL.Image
from matplotlib.figure import Figure

import samreg
from samreg.phantoms.phantom import PhantomPair, phantom_pair
from samreg.quality import target_registration_error
from samreg.registration.quality import initial_alignment
from samreg.report.kit import png
from samreg.report.pictures import draw_projections
from samreg.report.views import grey, overlay, views_of, window
from samreg.spatial import resample
from samreg.spatial.standard import oriented

HERE = Path(__file__).parent
CORONAL = views_of(3)[1]


def main() -> None:
    """Make all of them."""
    pair = phantom_pair(1, 2)
    images = pair.fixed.image, pair.moving.image
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{name}.nii.gz" for name in ("fixed", "moving")]
        for image, path in zip(images, paths, strict=True):
            samreg.write_image(image, path)
        result = samreg.register(*paths)
        errors = result.landmark_errors(pair.fixed_landmarks, pair.moving_landmarks)
        photograph(result.report(Path(folder) / "report.html", landmarks=errors), "report")
    embeddings = [samreg.embed(image) for image in images]
    save(draw_embeddings(images, embeddings, pair), "embedding")
    save(draw_similarity(images, embeddings, pair.fixed_landmarks.named(["carina"]).positions), "matching")
    save(draw_projections(result), "matches")
    save(draw_stages(result, pair), "stages")


def save(figure: Figure, name: str) -> None:
    """Save a figure as WebP."""
    PIL.Image.open(io.BytesIO(png(figure))).convert("RGB").save(HERE / f"{name}.webp", quality=80)


def photograph(page: Path, name: str) -> None:
    """Save what Chromium shows of a page."""
    picture = page.with_suffix(".png")
    command = [shutil.which("chromium") or "chrome", "--headless", "--no-sandbox", "--hide-scrollbars"]
    command += ["--window-size=1200,800", f"--screenshot={picture}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True)
    PIL.Image.open(picture).convert("RGB").save(HERE / f"{name}.webp", quality=80)


def coronal_points(image: samreg.Image, y: float) -> np.ndarray:
    """Return the world points (rows, columns, 3) of a coronal slice, 2 mm apart, head upwards."""
    low, high = image.grid.corners().min(axis=0), image.grid.corners().max(axis=0)
    z, x = np.meshgrid(np.arange(high[2], low[2], -2.0), np.arange(low[0], high[0], 2.0), indexing="ij")
    return np.stack([x, np.full_like(x, y), z], axis=-1)


def at(image: samreg.Image, points: np.ndarray) -> np.ndarray:
    """Return the grey values of an image at points (rows, columns, 3)."""
    from scipy.ndimage import map_coordinates

    index = image.grid.world_to_index(points.reshape(-1, 3)).T[::-1]
    values = map_coordinates(image.array.astype(np.float32), index, order=1, mode="constant", cval=-1000)
    return grey(values.reshape(points.shape[:2]), window(image))


def panels(pictures: list[tuple[str, np.ndarray]], *, rows: int = 1, **show: object) -> tuple[Figure, np.ndarray]:
    """Return a figure of pictures with titles, and its axes."""
    columns = len(pictures) // rows
    height = max(picture.shape[0] / picture.shape[1] for _, picture in pictures)
    figure = Figure(figsize=(2.6 * columns, (2.6 * height + 0.3) * rows), dpi=110, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, (title, picture) in zip(axes, pictures, strict=True):
        ax.imshow(picture, **{"cmap": "gray", "vmin": 0, "vmax": 1, **show})
        ax.set_title(title, fontsize=9)
        ax.set_axis_off()
    return figure, axes


def draw_embeddings(images, embeddings, pair: PhantomPair) -> Figure:
    """Draw both scans and the first three principal components of their vectors as colours."""
    levels = [
        landmarks.named(["carina"]).positions[0, 1] for landmarks in (pair.fixed_landmarks, pair.moving_landmarks)
    ]
    points = [coronal_points(image, y) for image, y in zip(images, levels, strict=True)]
    inside = [at(image, p) > 0.25 for image, p in zip(images, points, strict=True)]
    rows = [[(name, at(image, p))] for name, image, p in zip(("fixed", "moving"), images, points, strict=True)]
    for part, title in (("sample_local", "local: how it looks"), ("sample_global", "global: where it lies")):
        vectors = [getattr(e, part)(p.reshape(-1, 3)).numpy() for e, p in zip(embeddings, points, strict=True)]
        body = np.concatenate([v[i.ravel()] for v, i in zip(vectors, inside, strict=True)])
        mean = body.mean(axis=0)
        axes = np.linalg.svd(body - mean, full_matrices=False)[2][:3]
        spread = 2 * ((body - mean) @ axes.T).std(axis=0)
        for row, v, i in zip(rows, vectors, inside, strict=True):
            colours = np.clip(0.5 + (v - mean) @ axes.T / spread / 2, 0, 1).reshape(*i.shape, 3)
            row.append((title, colours * i[..., None]))
    return panels([*rows[0], *rows[1]], rows=2)[0]


def draw_similarity(images, embeddings, point: np.ndarray) -> Figure:
    """Draw a point of the fixed scan and how similar every voxel of the moving one is to it."""
    found = samreg.match(embeddings[0], point, embeddings[1]).points[0]
    slices = [coronal_points(image, p[1]) for image, p in zip(images, (point[0], found), strict=True)]
    maps = []
    for part in ("sample_local", "sample_global"):
        query = getattr(embeddings[0], part)(point).numpy()[0]
        maps.append(getattr(embeddings[1], part)(slices[1].reshape(-1, 3)).numpy() @ query)
    maps = [m.reshape(slices[1].shape[:2]) for m in (*maps, (maps[0] + maps[1]) / 2)]
    pictures = [("fixed, a point", at(images[0], slices[0]))]
    pictures += list(zip(("local similarity", "global similarity", "their mean, and its best"), maps, strict=True))
    figure, axes = panels(pictures)
    for ax, picture in zip(axes[1:], maps, strict=True):
        ax.images[0].set(cmap="magma", clim=(max(0, np.percentile(picture, 5)), 1))
    for ax, p, s in ((axes[0], point[0], slices[0]), (axes[3], found, slices[1])):
        ax.plot((p[0] - s[0, 0, 0]) / 2, (s[0, 0, 2] - p[2]) / 2, "o", mfc="none", mec="#00e5ff", ms=9, mew=1.6)
    return figure


def draw_stages(result: samreg.RegistrationResult, pair: PhantomPair) -> Figure:
    """Draw both scans before and after each stage, with the mean error at the landmarks."""
    fixed = oriented(result.fixed)
    middle = fixed.grid.world_to_index(pair.fixed_landmarks.named(["carina"]).positions)[0]
    index = round(middle[CORONAL.through])
    f = grey(CORONAL.picture(fixed.array, index), window(fixed))
    seed = result.seed
    stages = {
        "before": initial_alignment(result)[0],
        "robust affine": seed.affine.transform,
        "smooth field": seed.transform,
        "engine": result.transform,
    }
    pictures = []
    for name, transform in stages.items():
        warped = oriented(resample(result.moving, result.fixed.grid, transform=transform))
        error = target_registration_error(transform, pair.fixed_landmarks, pair.moving_landmarks).mean()
        m = grey(CORONAL.picture(warped.array, index), window(result.moving))
        pictures.append((f"{name}: {error:.1f} mm", overlay(f, m)))
    return panels(pictures)[0]


if __name__ == "__main__":
    main()
