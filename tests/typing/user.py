"""What a user's strict type checker sees: ``mypy --strict`` on this file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import samreg


def align(fixed: Path, moving: Path, out: Path) -> float:
    """Register two scans, map a point there and back, and return how far it ends from where it began, mm."""
    result = samreg.register(fixed, moving, method="embedding", transform="affine", seed=0)
    if not result:
        raise SystemExit(result.reason)
    result.save(out, formats=("h5", "nii"))
    centre = result.fixed.grid.center[None]
    mapped = result.transform_points(centre, to="moving")
    back = result.transform_points(mapped, to="fixed")
    labels: samreg.Image = result.warp("labels.nii.gz", interpolation="nearest")
    samreg.write_image(labels, out / "labels.nii.gz")
    quality: dict[str, float] = dict(result.quality)
    print(quality["overlap_percent"], ", ".join(result.flags))
    return float(np.linalg.norm(back - centre))


def landmarks(template: Path, points: Path, target: Path) -> samreg.Points:
    """Find a template's landmarks in another scan."""
    model = samreg.load_model("ct-small")
    embedding: samreg.Embedding = samreg.embed(target, model=model)
    matches: samreg.LandmarkMatches = samreg.match(template, points, embedding)
    sure = matches.reliability > 0.5
    return matches.to_points().take(sure)


def follow(baseline: Path, followup: Path, lesions: Path) -> tuple[samreg.LesionTracks, samreg.Atlas]:
    """Track lesions, and build an atlas of the two scans."""
    tracks = samreg.track(baseline, followup, lesions)
    atlas = samreg.build_atlas([baseline, followup], "atlas")
    try:
        samreg.read_image("missing.nii.gz")
    except samreg.InputError as error:
        print(error)
    return tracks, atlas
