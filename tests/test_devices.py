"""The same numbers on every device that the machine has: embedding, matching, seed, engine, and all together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch.overrides import TorchFunctionMode

import samreg
from samreg.device import inference_dtype
from samreg.embedding import load_model
from samreg.embedding.inference import embed_volume, optimised
from samreg.engines import Request, get_engine
from samreg.landmarks.detector import LandmarkDetector
from samreg.matching import Correspondences, Prediction, features, lattice, match_points, neighbourhoods, vote_of
from samreg.seeding import fit_displacement, make_seed
from samreg.spatial import AffineTransform, Grid, Image

GPUS = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
pytestmark = pytest.mark.parametrize("device", ["cpu", *(name for name, is_present in GPUS.items() if is_present)])

SHIFT_MM = (5.0, -3.0, 8.0)
MAX_APART_MM = 0.5  # between the results of two devices: half precision, and sums in another order


@pytest.fixture(scope="module")
def images() -> tuple[Image, Image]:
    """A small body of mottled tissue, and the same moved."""
    size = 24
    mottled = 400 * gaussian_filter(np.random.default_rng(0).normal(0, 3, (size, size, size)), 1.0)
    axis = np.arange(size) - size / 2
    radius = np.linalg.norm(np.stack(np.meshgrid(axis, axis, axis, indexing="ij")), axis=0)
    array = np.where(radius < 0.45 * size, mottled, -1000).astype(np.float32)
    fixed = Image.from_array(array, spacing=5.0, name="fixed")
    return fixed, Image.from_array(array, spacing=5.0, origin=SHIFT_MM, name="moving")


@pytest.fixture(scope="module")
def embeddings(images):
    """Of both, computed on the CPU."""
    model = load_model("ct-small")
    return tuple(model.embed(image, device="cpu") for image in images)


@pytest.fixture(scope="module")
def points(images):
    """All over the body."""
    return images[0].grid.world_points()[images[0].array > -900][::7]


def apart(transform, other, points) -> float:
    """Return how far two transforms carry points apart, mm at most."""
    return np.linalg.norm(transform.transform_points(points) - other.transform_points(points), axis=1).max()


def test_embeddings_are_the_same(device, images, embeddings):
    embedding = load_model("ct-small").embed(images[0], device=device)
    for part in ("local", "global_"):
        cosine = (getattr(embedding, part).float().cpu() * getattr(embeddings[0], part).float()).sum(dim=0)
        assert cosine.min() > 0.97
        assert cosine.mean() > 0.999
    assert (embedding.body == embeddings[0].body).all()


@pytest.mark.parametrize("coarse", [False, True])
def test_matches_are_the_same(device, embeddings, coarse):
    expected, result = (
        match_points(fixed, lattice(fixed, 16.0), moving, coarse=coarse)
        for fixed, moving in ([features(e, device=where) for e in embeddings] for where in ("cpu", device))
    )
    assert np.median(np.linalg.norm(result.moving - expected.fixed - SHIFT_MM, axis=1)) < 2
    # the best of two voxels that are about as good may be another one
    is_same = np.linalg.norm(result.moving - expected.moving, axis=1) < MAX_APART_MM
    assert is_same.mean() > 0.95
    assert abs(result.similarity - expected.similarity)[is_same].max() < 0.02


@pytest.mark.parametrize("transform", ["rigid", "affine", "deformable"])
def test_seeds_are_the_same(device, embeddings, points, transform):
    expected, result = (
        make_seed(*embeddings, transform=transform, device=where).transform for where in ("cpu", device)
    )
    assert apart(expected, result, points) < MAX_APART_MM
    assert apart(expected, AffineTransform(np.eye(3), SHIFT_MM), points) < 4


@pytest.mark.parametrize(("preset", "similarity"), [("fast", "lncc"), ("default", "lncc"), ("fast", "mind")])
def test_the_torch_engine_gives_the_same(device, images, embeddings, points, preset, similarity):
    start = AffineTransform(np.eye(3), (4.0, -3.0, 8.0))
    options = {"preset": preset, "similarity": similarity}
    expected, result = (
        get_engine("torch")
        .register(
            Request(
                fixed=images[0], moving=images[1], start=start, embeddings=embeddings, options=options, device=where
            )
        )
        .transform
        for where in ("cpu", device)
    )
    assert apart(expected, result, points) < MAX_APART_MM


def test_the_torch_engine_finds_the_same_affine(device, images, points):
    expected, result = (
        get_engine("torch")
        .register(Request(fixed=images[0], moving=images[1], transform="affine", spacing=5.0, device=where))
        .transform
        for where in ("cpu", device)
    )
    assert apart(expected, result, points) < MAX_APART_MM


@pytest.mark.usefixtures("embeddings_kept")
@pytest.mark.parametrize(
    "options", [{"method": "embedding"}, {"engine": "torch"}, {"engine": "torch", "model": "mind"}]
)
def test_registrations_are_the_same(device, images, points, options):
    expected, result = (samreg.register(*images, device=where, **options) for where in ("cpu", device))
    assert expected, expected.reason
    assert result, result.reason
    assert apart(expected.transform, result.transform, points) < MAX_APART_MM


@pytest.mark.usefixtures("embeddings_kept")
@pytest.mark.parametrize("search", ["guided", "global"])
def test_landmarks_are_the_same(device, images, search):
    wanted = images[0].grid.center + np.array([[0.0, 0.0, 0.0], [10.0, -5.0, 12.0], [-20.0, 8.0, -4.0]])
    expected, result = (
        samreg.match(images[0], wanted, images[1], search=search, device=where) for where in ("cpu", device)
    )
    assert np.linalg.norm(expected.points - result.points, axis=1).max() < MAX_APART_MM
    assert np.linalg.norm(result.points - wanted - SHIFT_MM, axis=1).max() < 4


@pytest.mark.usefixtures("embeddings_kept")
def test_named_landmarks_are_found(device, images):
    """Nothing of the atlas is in the image; that it is looked for shows that all its parts are where they must be."""
    expected, result = (samreg.find_landmarks(images[0], device=where) for where in ("cpu", device))
    assert result.names == expected.names
    assert np.isfinite(result.points).all()


@pytest.mark.usefixtures("embeddings_kept")
def test_lesions_are_tracked_alike(device, images):
    lesions = images[0].grid.center + np.array([[0.0, 0.0, 0.0], [12.0, -8.0, 10.0]])
    expected, result = (samreg.track(*images, lesions, device=where) for where in ("cpu", device))
    assert result, result.reason
    places, others = ([lesion.followup for lesion in tracks.lesions] for tracks in (result, expected))
    assert np.linalg.norm(np.array(places) - others, axis=1).max() < MAX_APART_MM
    assert np.linalg.norm(np.array(places) - lesions - SHIFT_MM, axis=1).max() < 4


@pytest.mark.usefixtures("embeddings_kept")
def test_a_detector_finds_the_same(device, images):
    wanted = samreg.Points(images[0].grid.center + np.array([[0.0, 0.0, 0.0], [12.0, -5.0, 9.0]]), ("a", "b"))
    model = load_model("ct-small")
    detectors = [LandmarkDetector.from_labels(model, [images[0]], [wanted], device=where) for where in ("cpu", device)]
    expected, result = (
        detector(images[1], device=where).positions for detector, where in zip(detectors, ("cpu", device), strict=True)
    )
    assert np.linalg.norm(expected - result, axis=1).max() < MAX_APART_MM


class Transfers(TorchFunctionMode):
    """Counts within its block what goes between numpy and torch, hence between the processor and a GPU.

    Attributes
    ----------
    to_device, to_host
        Number of elements of each array that was transferred.
    """

    def __init__(self):
        super().__init__()
        self.to_device, self.to_host = [], []
        self._from_numpy = torch.from_numpy

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        if name in ("numpy", "tolist", "__array__"):
            self.to_host.append(args[0].numel())
        elif name in ("tensor", "as_tensor") and isinstance(args[0], (np.ndarray, list, tuple)):
            self.to_device.append(np.size(args[0]))
        elif name in ("__getitem__", "__setitem__"):
            parts = args[1] if isinstance(args[1], tuple) else args[1:2]
            self.to_device += [part.size for part in parts if isinstance(part, np.ndarray)]
        return function(*args, **(kwargs or {}))

    def __enter__(self):
        torch.from_numpy = lambda array: self.to_device.append(array.size) or self._from_numpy(array)
        return super().__enter__()

    def __exit__(self, *error):
        torch.from_numpy = self._from_numpy
        return super().__exit__(*error)


@pytest.mark.parametrize("count", [50, 400])
def test_matching_takes_the_points_and_gives_the_matches_and_transfers_nothing_else(device, embeddings, count):
    fixed, moving = (features(e, device=device) for e in embeddings)
    points = lattice(fixed, 8.0)[:count]
    match_points(fixed, points, moving, coarse=True)  # what is kept for every search is made
    with Transfers() as transfers:
        match_points(fixed, points, moving, coarse=True)
    assert transfers.to_device == [3 * count]
    assert transfers.to_host == [5 * count]  # position, similarity, cycle error
    with Transfers() as transfers:
        match_points(fixed, points, moving, coarse=True, prediction=Prediction(points + SHIFT_MM, 20.0, 0.1))
    assert transfers.to_device == [3 * count, 3 * count, 3 * count]  # where to look, there and back
    assert transfers.to_host == [5 * count]


def test_votes_are_counted_on_the_device(device, embeddings):
    fixed, moving = (features(e, device=device) for e in embeddings)
    points = lattice(fixed, 16.0)[:10]
    around = neighbourhoods(fixed, points)
    prediction = Prediction(points + SHIFT_MM, 20.0, 0.1)
    vote_of(around, moving, prediction=prediction, matrix=np.eye(3))
    with Transfers() as transfers:
        votes = vote_of(around, moving, prediction=prediction, matrix=np.eye(3))
    assert len(transfers.to_device) == 2  # where to look, and the neighbours' offsets
    assert transfers.to_host == [5 * len(points)]
    assert np.linalg.norm(votes.positions - points - SHIFT_MM, axis=1).max() < 4


def test_vectors_stay_on_the_device_from_the_network_to_the_seed(device, images, embeddings):
    model, where = load_model("ct-small"), torch.device(device)
    network = optimised(model.network, where, inference_dtype(where))
    with Transfers() as transfers:
        vectors = embed_volume(network, images[0].array / 1000, pad_value=-1.0, where=where)
    assert not transfers.to_host
    assert transfers.to_device == [images[0].array.size]
    assert {part.device.type for part in vectors} == {device}
    on_device = [model.embed_on_device(image, device=device) for image in images]
    assert {e.local.device.type for e in on_device} == {device}
    with Transfers() as transfers:
        seed = make_seed(*on_device, device=device)
    assert seed
    field = seed.transform.transforms[0].displacement
    largest = sorted(transfers.to_host)[-2:]  # the field of each pass
    assert largest[1] == field.size
    assert sum(transfers.to_device) + sum(transfers.to_host) - sum(largest) < embeddings[0].local.numel() / 4


def test_the_field_is_fitted_by_one_transfer_in_and_one_out(device):
    rng = np.random.default_rng(0)
    grid = Grid.make((12, 12, 12), spacing=10.0)
    points = rng.uniform(10, 100, (300, 3))
    pairs = Correspondences.from_points(points, points + 4 * np.sin(points / 20))
    affine = AffineTransform.identity(3)
    expected = fit_displacement(pairs, affine, grid, device="cpu")
    with Transfers() as transfers:
        field = fit_displacement(pairs, affine, grid, device=device)
    assert transfers.to_device == [300 * (1 + 3 + 3)]  # weight, displacement, place
    assert transfers.to_host == [field.displacement.size]
    assert abs(field.displacement - expected.displacement).max() < 0.05
