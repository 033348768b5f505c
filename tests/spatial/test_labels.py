"""Labels that lie beside whole numbers, as arithmetic and the slopes of files leave them, are labels everywhere."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest

import samreg
from samreg.atlas.store import read_labels
from samreg.benchmark.metrics import _label_overlap
from samreg.errors import InputError
from samreg.quality import dice
from samreg.registration.outcome import label_overlap
from samreg.spatial import AffineTransform, Grid, Image
from samreg.spatial.labels import is_label_image, whole_numbers
from samreg.tracking.lesions import as_lesions

GRID = Grid.make((12, 12, 12), spacing=2.0)
WHOLE = np.zeros(GRID.shape, np.int64)
WHOLE[3:9, 3:9, 3:9], WHOLE[4:6, 4:6, 4:6] = 2, 14175  # as FreeSurfer numbers

ROUNDED = {
    "by arithmetic": WHOLE + np.random.default_rng(0).uniform(-1e-7, 1e-7, WHOLE.shape),
    "in single precision": WHOLE.astype(np.float32) / np.float32(7) * np.float32(7.000001),
    "by a slope": np.rint(WHOLE / 0.1) * np.float32(0.1),
}


@pytest.fixture(params=ROUNDED)
def image(request) -> Image:
    assert not np.array_equal(ROUNDED[request.param], WHOLE)
    return Image(ROUNDED[request.param], GRID, f"labels rounded {request.param}")


def test_rounded_labels_are_labels(image) -> None:
    assert is_label_image(image)
    np.testing.assert_array_equal(whole_numbers(image), WHOLE)
    assert dice(image.array, WHOLE) == {2: 1.0, 14175: 1.0}
    assert as_lesions(image, GRID).points.names == ("2", "14175")


def test_their_overlap_is_measured(image) -> None:
    """Labels 1.9999999 and 2 were no label that both maps have."""
    scan, exact, stay = Image(WHOLE.astype(np.float32), GRID), Image(WHOLE, GRID), AffineTransform.identity(3)
    assert label_overlap(samreg.RegistrationResult(scan, scan, stay), image, exact) == {2: 1.0, 14175: 1.0}
    assert _label_overlap(exact, image, stay, learn2reg=False)["labels"]["dice"] == {"2": 1.0, "14175": 1.0}


def test_warped_labels_are_not_blended(image) -> None:
    moved = AffineTransform(np.eye(3), [0.9, 0.0, 0.0])
    warped = samreg.RegistrationResult(Image(WHOLE, GRID), Image(WHOLE, GRID), moved).warp(image)
    assert set(np.unique(whole_numbers(warped))) == {0, 2, 14175}


def test_labels_of_an_atlas_may_be_rounded(tmp_path) -> None:
    nibabel.save(nibabel.Nifti1Image(ROUNDED["by a slope"].T, np.diag([2.0, 2.0, 2.0, 1.0])), tmp_path / "labels.nii")
    np.testing.assert_array_equal(np.unique(read_labels(tmp_path / "labels.nii").array), [0, 2, 14175])


def test_small_values_and_fractions_are_no_labels() -> None:
    """A map of diffusion in m^2/s lies beside 0 everywhere."""
    for array in (
        WHOLE * 1e-9,
        WHOLE * 1e30,
        WHOLE / 2 + 0.25,
        np.where(WHOLE > 0, np.nan, 0.0),
        np.where(WHOLE > 0, np.inf, 0.0),
    ):
        image = Image(array, GRID)
        assert not is_label_image(image)
        with pytest.raises(InputError, match="whole numbers"):
            whole_numbers(image)
