"""What users print in a notebook is short: shapes, not numbers."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np
import pytest
import torch

import samreg
from samreg.embedding import Embedding, load_model
from samreg.landmarks.atlas import shipped_atlas
from samreg.landmarks.templates import Template
from samreg.matching import Correspondences
from samreg.quality import LandmarkErrors
from samreg.seeding import AffineFit
from samreg.spatial import AffineTransform, Grid, Image
from samreg.tracking import LesionTracks
from samreg.tracking.lesions import Lesions

N = 40
NAMES = tuple(f"landmark {i}" for i in range(N))
POINTS = samreg.Points(np.full((N, 3), 1.25), NAMES)
ONES = np.ones(N)
GRID = Grid.make((2, 3, 4), spacing=(4.0, 4.0, 5.0))
EMBEDDING = Embedding(torch.ones(8, 2, 3, 4), GRID, None, None, np.ones((2, 3, 4), bool), GRID, "mind@12345678")
MATCHES = samreg.LandmarkMatches(POINTS.positions, NAMES, ONES, ONES, ONES, ONES, ONES > 0)
SCAN = Image.from_array(np.zeros((4, 4, 4)), spacing=2.0, name="scan")

OBJECTS = {
    "points": lambda: POINTS,
    "embedding": lambda: EMBEDDING,
    "template": lambda: Template("ALICE", EMBEDDING, samreg.Points([[0.0, 0.0, 0.0]], ("carina",))),
    "matches": lambda: MATCHES,
    "votes": lambda: samreg.TemplateMatches(
        POINTS.positions, NAMES, ONES, ONES, np.ones(N, int), ONES > 0, MappingProxyType({"ALICE": MATCHES})
    ),
    "found": lambda: samreg.FoundLandmarks(
        POINTS.positions, NAMES, ONES, ONES, ONES > 0, ribs={f"rib{i}": np.ones((90, 3)) for i in range(24)}
    ),
    "atlas": lambda: shipped_atlas(load_model("ct-small").identity),
    "correspondences": lambda: Correspondences.from_points(POINTS.positions, POINTS.positions),
    "fit": lambda: AffineFit(AffineTransform.identity(3), ONES > 0, 1.0, 2.0),
    "errors": lambda: LandmarkErrors(NAMES, ONES, ONES, ONES),
    "lesions": lambda: Lesions(POINTS, ONES, (None,) * N),
    "tracks": lambda: LesionTracks((), SCAN, SCAN, AffineTransform.identity(3), notes=("a note",) * N),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_what_holds_arrays_is_printed_by_their_shapes(name) -> None:
    value = OBJECTS[name]()
    text = repr(value)
    assert text.startswith(f"{type(value).__name__}(")
    assert "1.25" not in text
    assert "1., 1., 1." not in text
    assert len(text) < 1000


def test_an_embedding_says_its_model_shapes_and_voxel_sizes() -> None:
    assert repr(EMBEDDING) == "Embedding(mind@12345678, local (8, 2, 3, 4) at [4.0, 4.0, 5.0] mm, on cpu)"
    whole = Embedding(torch.ones(8, 2, 3, 4), GRID, torch.ones(5, 2, 3, 4), GRID, EMBEDDING.body, GRID, "a@1")
    assert "global (5, 2, 3, 4) at [4.0, 4.0, 5.0] mm" in repr(whole)


def test_shapes_few_names_and_keys_are_shown() -> None:
    assert "positions=<float64 (40, 3)>, names=('landmark 0', 'landmark 1', 'landmark 2', ...)" in repr(POINTS)
    assert "{'rib0': ..., 'rib1': ..., 'rib2': ..., ...}" in repr(OBJECTS["found"]())
    assert "answers={'ALICE': ...}" in repr(OBJECTS["votes"]())
    assert repr(load_model("mind")) == "MindModel(mind, 3D)"
