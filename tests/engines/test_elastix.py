"""elastix: direction, starts, masks, points and repeatability. Every process loads ITK anew, so few have their own."""

from __future__ import annotations

import numpy as np
import pytest

from samreg.engines import Request, _elastix_worker, available_engines, get_engine
from samreg.engines.child import _read_transform
from samreg.engines.elastix import ElastixOptions, _parameters
from samreg.spatial import AffineTransform, Image
from samreg.spatial.adapters import to_itk

pytestmark = pytest.mark.skipif("elastix" not in available_engines(), reason="itk-elastix is not installed")


@pytest.fixture(scope="module")
def engine():
    return get_engine("elastix")


def test_unseeded_affine_honours_masks(engine, phantom, worker_here):
    hidden = np.zeros(phantom.moving.shape, bool)
    hidden[:, :, 40:] = True
    noise = np.random.default_rng(1).uniform(-1000, 1000, phantom.moving.shape)
    spoilt = phantom.moving.with_array(np.where(hidden, noise, phantom.moving.array))
    mask = Image((~hidden).astype(np.uint8), phantom.moving.grid)
    result = engine.register(Request(fixed=phantom.fixed, moving=spoilt, transform="affine", moving_mask=mask, seed=1))
    assert phantom.error(result.transform) < 0.7


def test_zero_iterations_return_the_start(engine, phantom, deformable_start, worker_here):
    start = deformable_start
    none = {"iterations": 0}
    result = engine.register(phantom.request(start=start, options=none))
    wanted = start.transform_points(phantom.points)
    assert np.abs(result.transform.transform_points(phantom.points) - wanted).max() < 1e-3


@pytest.fixture
def two_threads():
    """What ITK, loaded here, takes for a process told to use two."""
    import itk

    before = itk.MultiThreaderBase.GetGlobalDefaultNumberOfThreads()
    itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(2)
    yield
    itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(before)


def test_seeded_improves_and_repeats_bit_for_bit(engine, phantom, deformable_start, two_threads, request):
    """In a process of its own, and then in this one, where others may have drawn before."""
    options = {"iterations": 60, "samples": 2000, "grid_spacing": 20.0}
    asked = phantom.request(start=deformable_start, seed=3, threads=2, options=options)
    runs = [engine.register(asked)]
    request.getfixturevalue("worker_here")
    runs.append(engine.register(asked))
    assert phantom.error(runs[0].transform) < 0.6 * phantom.error(deformable_start)
    first, second = (run.transform.transform_points(phantom.points) for run in runs)
    assert np.array_equal(first, second)
    assert runs[0].version.startswith("itk-elastix ")
    assert "ELASTIX version" in runs[0].log


def test_landmarks_pull(engine, phantom, affine_start, worker_here):
    """To where they are said to lie, 2 mm beside what the images show."""
    there = phantom.truth.transform_points(phantom.points) + [2.0, 0.0, 0.0]
    request = phantom.request(
        start=affine_start,
        transform="rigid",
        seed=1,
        options={"iterations": 60, "landmark_weight": 10.0},
        landmarks=(phantom.points, there),
    )
    found = engine.register(request).transform.transform_points(phantom.points)
    assert np.linalg.norm(found - there, axis=1).mean() < 0.3


def test_fields_map_points_as_transformix_does(phantom, tmp_path):
    import itk

    fixed, moving = to_itk(phantom.fixed), to_itk(phantom.moving)
    options = ElastixOptions(resolutions=1, iterations=30, samples=1000, bending_weight=0.0, grid_spacing=30.0)
    parameters = itk.ParameterObject.New()
    request = phantom.request(start=AffineTransform.identity(3), seed=1)
    parameters.AddParameterMap(_parameters(request, options))
    elastix = itk.ElastixRegistrationMethod.New(fixed, moving)
    elastix.SetParameterObject(parameters)
    elastix.UpdateLargestPossibleRegion()
    transform = elastix.ConvertToItkTransform(elastix.GetCombinationTransform())
    _elastix_worker._write_field(itk, transform, fixed, tmp_path / "field.nrrd")
    ours = _read_transform(tmp_path / "field.nrrd").transform_points(phantom.points)

    points = itk.Mesh[itk.F, 3].New()
    for i, point in enumerate(phantom.points):
        points.SetPoint(i, point.tolist())
    transformix = itk.TransformixFilter.New(moving)
    transformix.SetInputMesh(points)
    transformix.SetTransformParameterObject(elastix.GetTransformParameterObject())
    transformix.Update()
    theirs = np.array([list(transformix.GetOutputMesh().GetPoint(i)) for i in range(len(ours))])
    assert np.abs(theirs - phantom.points).max() > 0.5
    assert np.abs(ours - theirs).max() < 0.05
