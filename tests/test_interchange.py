"""A saved result in the hands of other programs: the same points, the same image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import samreg
from samreg.phantoms.phantom import phantom_pair

_EDGE = 20.0  # HU, by which a voxel may differ where the view of the moving image ends


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scans stored along different axes, one of them oblique, and their deformable registration."""
    folder = tmp_path_factory.mktemp("interchange")
    pair = phantom_pair(1, 2, spacing=6.0)
    for name, phantom in (("fixed", pair.fixed), ("moving", pair.moving)):
        samreg.write_image(phantom.image, folder / f"{name}.nii.gz")
    fixed, moving = (folder / f"{name}.nii.gz" for name in ("fixed", "moving"))
    result = samreg.register(fixed, moving, method="embedding", model="mind")
    assert not np.allclose(np.abs(result.fixed.direction), np.eye(3), atol=0.01)
    assert not np.allclose(np.sign(np.diag(result.fixed.direction)), np.sign(np.diag(result.moving.direction)))
    result.save(folder, formats=("h5", "nii", "mrk"))
    return folder


@pytest.fixture(scope="module")
def result(folder: Path) -> samreg.RegistrationResult:
    return samreg.RegistrationResult.load(folder)


@pytest.fixture(scope="module")
def points(result: samreg.RegistrationResult) -> dict[str, np.ndarray]:
    """Points well inside the fixed image, and where they lie in the moving one."""
    grid = result.fixed.grid
    inside = grid.index_to_world(np.random.default_rng(0).uniform(4, np.array(grid.size) - 5, (200, 3)))
    there = result.transform.transform_points(inside)
    seen = result.moving.grid.contains(there, margin=-12)
    assert seen.sum() > 60
    return {"fixed": inside[seen], "moving": there[seen]}


def same_image(array: np.ndarray, folder: Path) -> None:
    """Compare with what samreg wrote; interpolation and rounding of the border may differ."""
    ours = samreg.read_image(folder / "warped.nii.gz").array
    difference = np.abs(array - ours.astype(float))
    assert np.median(difference) < 0.5
    assert (difference < _EDGE).mean() > 0.995


@pytest.mark.parametrize("ending", [".h5", ".nii.gz"])
def test_ants_maps_the_same_points_both_ways(folder, result, points, ending) -> None:
    ants, pandas = pytest.importorskip("ants"), pytest.importorskip("pandas")
    ways = {"transform": ("fixed", result.transform), "inverse": ("moving", result.inverse)}
    for name, (start, ours) in ways.items():
        frame = pandas.DataFrame(points[start], columns=["x", "y", "z"])
        moved = ants.apply_transforms_to_points(3, frame, [str(folder / f"{name}{ending}")], whichtoinvert=[False])
        np.testing.assert_allclose(moved[["x", "y", "z"]].to_numpy(), ours.transform_points(points[start]), atol=0.3)


@pytest.mark.parametrize("ending", [".h5", ".nii.gz"])
def test_ants_warps_the_same_image(folder, ending) -> None:
    ants = pytest.importorskip("ants")
    fixed, moving = (ants.image_read(str(folder / f"{name}.nii.gz")) for name in ("fixed", "moving"))
    warped = ants.apply_transforms(
        fixed, moving, [str(folder / f"transform{ending}")], whichtoinvert=[False], defaultvalue=float(moving.min())
    )
    same_image(warped.numpy().T, folder)


def test_simpleitk_maps_the_same_points_and_warps_the_same_image(folder, points) -> None:
    import SimpleITK as sitk

    for name, start in (("transform", "fixed"), ("inverse", "moving")):
        ours = samreg.read_transform(folder / f"{name}.h5")
        transform = sitk.ReadTransform(str(folder / f"{name}.h5"))
        moved = [transform.TransformPoint(point) for point in points[start].tolist()]
        np.testing.assert_allclose(moved, ours.transform_points(points[start]), atol=1e-3)
    fixed, moving = (sitk.ReadImage(str(folder / f"{name}.nii.gz")) for name in ("fixed", "moving"))
    transform, lowest = (
        sitk.ReadTransform(str(folder / "transform.h5")),
        float(sitk.GetArrayViewFromImage(moving).min()),
    )
    same_image(sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform, sitk.sitkLinear, lowest)), folder)


def test_transformix_maps_the_same_points_and_warps_the_same_image(
    folder, result, points, tmp_path, monkeypatch
) -> None:
    itk = pytest.importorskip("itk")
    monkeypatch.chdir(folder)  # where the parameter file finds its field
    samreg.write_points(samreg.Points(points["fixed"]), tmp_path / "in.pts")
    parameters = itk.ParameterObject.New()
    parameters.ReadParameterFile("transformix.txt")
    run = itk.TransformixFilter.New(itk.imread("moving.nii.gz", itk.F))
    run.SetTransformParameterObject(parameters)
    run.SetFixedPointSetFileName(str(tmp_path / "in.pts"))
    run.SetOutputDirectory(str(tmp_path))
    run.SetLogToConsole(False)
    run.UpdateLargestPossibleRegion()
    moved = samreg.read_points(tmp_path / "outputpoints.txt").positions
    np.testing.assert_allclose(moved, result.transform.transform_points(points["fixed"]), atol=0.3)
    same_image(itk.array_from_image(run.GetOutput()), folder)


def test_slicer_markups_hold_the_matches(folder, result) -> None:
    for role in ("fixed", "moving"):
        (markup,) = json.loads((folder / f"{role}_matches.mrk.json").read_text())["markups"]
        assert (markup["type"], markup["coordinateSystem"]) == ("Fiducial", "LPS")
        positions = [point["position"] for point in markup["controlPoints"]]
        np.testing.assert_allclose(positions, getattr(result.correspondences, role), atol=1e-3)


def test_nibabel_sees_the_warped_image_on_the_fixed_grid(folder) -> None:
    import nibabel as nib

    warped, fixed = (nib.load(folder / f"{name}.nii.gz") for name in ("warped", "fixed"))
    assert warped.shape == fixed.shape
    np.testing.assert_allclose(warped.affine, fixed.affine, atol=1e-4)
