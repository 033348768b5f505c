"""How well the lungs of two people fit once they are registered, and how far off their topmost points are.

    python experiments/lung_fit.py IMAGES data/landmarks/train/landmarks.csv --left-out AMOS-0336 ... --preset default

No place is read: lungs are air in the body, and a lung's topmost point is that of its voxels beside the spine. So this
tells of places of which samreg knows no landmark. The people's landmarks tell where the spine is; both people are left
out of the atlas.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _landmarks import describe
from scipy import ndimage
from scipy.spatial import KDTree

import samreg
from samreg.embedding.body import body_mask
from samreg.landmarks.atlas import atlas_for
from samreg.spatial import Points
from samreg.spatial.grid import FloatArray
from samreg.spatial.standard import standardised
from samreg.training.data import named_images
from samreg.training.expected_error import pairs_of
from samreg.training.landmark_pairs import read_landmarks

_SPACING_MM, _AIR_HU, _MIN_ML = 3.0, -400.0, 150.0
_BESIDE_SPINE_MM, _BELOW_TOP_MM, _APEX_MM = 16.0, 8.0, 4.0


@dataclass(frozen=True, eq=False)
class Lungs:
    """Where the lungs of a person end, (N, 3) LPS mm, and the topmost point of each that the image shows whole."""

    surface: FloatArray
    tops: dict[str, FloatArray]


def lungs_of(image: samreg.Image, landmarks: Points) -> Lungs:
    coarse = standardised(image, _SPACING_MM)
    air = ndimage.binary_opening(body_mask(coarse) & (coarse.array < _AIR_HU))
    parts, count = ndimage.label(air)
    volume = ndimage.sum_labels(air, parts, np.arange(count + 1)) * _SPACING_MM**3 / 1000
    air = (volume >= _MIN_ML)[parts] & air

    def world(mask: np.ndarray) -> FloatArray:
        return coarse.grid.index_to_world(np.argwhere(mask)[:, ::-1].astype(float))

    spine = landmarks.positions[[name.startswith("vertebra_T") for name in landmarks.names]]
    spine = spine[np.argsort(spine[:, 2])]
    voxels = world(air)
    aside = voxels[:, 0] - np.interp(voxels[:, 2], spine[:, 2], spine[:, 0])
    highest = coarse.grid.corners()[:, 2].max() - _BELOW_TOP_MM
    tops = {}
    for side, own in (("right", voxels[aside < -_BESIDE_SPINE_MM]), ("left", voxels[aside > _BESIDE_SPINE_MM])):
        if len(own) and own[:, 2].max() < highest:
            tops[side] = own[own[:, 2] > own[:, 2].max() - _APEX_MM].mean(axis=0)
    return Lungs(world(air & ~ndimage.binary_erosion(air)), tops)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("landmarks", type=Path)
    parser.add_argument("--left-out", nargs="+", required=True, help="people the model's training left out")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--preset", default="default", help="of the torch engine")
    parser.add_argument("--model", default="ct-small")
    arguments = parser.parse_args()
    model = samreg.load_model(arguments.model)
    landmarks = {
        name: points
        for name, points in read_landmarks(arguments.landmarks).items()
        if sum(other.startswith("vertebra_T") for other in points.names) >= 8  # chests
    }
    files = named_images(arguments.images, landmarks)
    distances, missed = [], []
    for pair in pairs_of(landmarks, arguments.pairs, unseen=arguments.left_out):
        fixed, moving = (samreg.read_image(files[person]) for person in pair)
        atlas = atlas_for(model.identity, pair[0]).without_people(pair)
        options = {"preset": arguments.preset}
        result = samreg.register(fixed, moving, model=model, anchors=atlas, engine_options=options)
        if not result:
            print(f"{pair[0]} <- {pair[1]}: {result.reason}", flush=True)
            continue
        first, second = (
            lungs_of(image, landmarks[person]) for image, person in zip((fixed, moving), pair, strict=True)
        )
        there = result.transform_points(first.surface, to="moving")
        there = there[moving.grid.contains(there)]
        distances.append(KDTree(second.surface).query(there)[0])
        sides = sorted(first.tops.keys() & second.tops.keys())
        off = [
            float(np.linalg.norm(result.transform_points(first.tops[side][None], to="moving")[0] - second.tops[side]))
            for side in sides
        ]
        missed += off
        told = ", ".join(f"{side} {value:.0f}" for side, value in zip(sides, off, strict=True)) or "not shown"
        print(f"{pair[0]} <- {pair[1]}: surfaces {describe(distances[-1])} mm; tops, mm: {told}", flush=True)
    print(f"surfaces {describe(np.concatenate(distances))} mm; {len(missed)} tops {describe(missed)} mm")


if __name__ == "__main__":
    main()
