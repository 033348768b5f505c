"""The torch engine: its parts against what is known exactly, starts, masks, embeddings, 2D, repeatability."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from samreg.embedding import Embedding
from samreg.engines import Request, get_engine
from samreg.engines.base import make_options
from samreg.engines.torch_engine import TorchEngine, TorchOptions, deformable
from samreg.engines.torch_engine.discrete import convex_search
from samreg.engines.torch_engine.similarity import local_correlation, mean
from samreg.engines.torch_engine.velocity import continued, exponential, jacobian, roughness, unfolded
from samreg.engines.torch_engine.volumes import moved, positions, sampled
from samreg.errors import ImagesAtFault, InputError
from samreg.spatial import AffineTransform, DisplacementField, Grid, Image, compose, jacobian_determinant
from samreg.spatial.transforms import components

QUICK = {"levels": (8.0, 4.0), "iterations": (20, 10), "search_radius": 0.0}


@pytest.fixture(scope="module")
def engine():
    return get_engine("torch")


def smooth_noise(*shape: int, seed: int = 0, width: float = 3.0) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), width)
    return ((noise - noise.min()) / np.ptp(noise)).astype(np.float32)


@pytest.mark.parametrize(("kind", "limit"), [("rigid", 2.0), ("affine", 1.5)])
def test_unseeded_stages_honour_masks(engine, phantom, kind, limit):
    hidden = np.zeros(phantom.moving.shape, bool)
    hidden[:, :, 45:] = True
    noise = np.random.default_rng(1).uniform(-1000, 600, phantom.moving.shape)
    spoilt = phantom.moving.with_array(np.where(hidden, noise, phantom.moving.array))
    mask = Image((~hidden).astype(np.uint8), phantom.moving.grid)
    result = engine.register(Request(fixed=phantom.fixed, moving=spoilt, transform=kind, moving_mask=mask))
    assert phantom.error(result.transform) < limit
    assert result.version.startswith("torch ")
    if kind == "rigid":
        matrix = result.transform.matrix
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-4)


@pytest.mark.parametrize("transform", ["affine", "deformable"])
def test_zero_iterations_return_the_start(engine, phantom, transform, request):
    start = request.getfixturevalue(f"{transform}_start")
    none = {"levels": (8.0,), "iterations": (0,), "search_radius": 0.0, "affine_iterations": 0}
    result = engine.register(phantom.request(start=start, transform=transform, options=none))
    wanted = start.transform_points(phantom.points)
    assert np.abs(result.transform.transform_points(phantom.points) - wanted).max() < 1e-3


def test_an_engine_made_of_it_may_have_a_name_of_its_own(phantom, affine_start):
    """It was looked up as a package: KeyError."""

    class Own(TorchEngine):
        name = "own"

    result = Own().register(phantom.request(start=affine_start, transform="affine", options={"affine_iterations": 0}))
    assert result.version.startswith("torch ")


def test_a_start_that_shows_too_little_is_refused(engine, phantom):
    away = AffineTransform(phantom.truth.matrix, phantom.truth.translation + [0.0, 0.0, 120.0])
    with pytest.raises(ImagesAtFault, match="less than 15%"):
        engine.register(phantom.request(start=away, transform="affine"))


@pytest.mark.parametrize("similarity", ["lncc", "mind"])
def test_seeded_improves_without_folds_and_repeats(engine, phantom, deformable_start, similarity):
    runs = [
        engine.register(
            phantom.request(
                start=deformable_start,
                options={**QUICK, "similarity": similarity},
            )
        )
        for _ in range(2)
    ]
    assert phantom.error(runs[0].transform) < 0.6 * phantom.error(deformable_start)
    assert jacobian_determinant(runs[0].transform, phantom.fixed.grid).min() > 0
    first, second = (run.transform.transform_points(phantom.points) for run in runs)
    assert np.array_equal(first, second)


def test_embeddings_alone_pull(engine, phantom, affine_start):
    """Made-up embeddings that know the truth register images that are not looked at."""
    rng = np.random.default_rng(0)
    waves = rng.normal(size=(3, 16)) / 14

    def embedding(image: Image, to_fixed) -> Embedding:
        grid = image.grid.padded(8.0).with_spacing(4.0)
        phase = to_fixed(grid.world_points().reshape(-1, 3)) @ waves
        vectors = np.concatenate([np.cos(phase), np.sin(phase)], axis=1) / 4
        local = torch.tensor(vectors.reshape(*grid.shape, -1)).movedim(-1, 0).half()
        return Embedding(
            local=local, local_grid=grid, global_=None, global_grid=None, body=np.ones(grid.shape, bool),
            image_grid=image.grid, model="test@0",
        )  # fmt: skip

    pair = (
        embedding(phantom.fixed, lambda points: points),
        embedding(phantom.moving, phantom.truth.inverse().transform_points),
    )
    options = {**QUICK, "image_weight": 0.0, "search_radius": 16.0}
    result = engine.register(phantom.request(start=affine_start, options=options, embeddings=pair))
    assert phantom.error(result.transform) < 0.5 * phantom.error(affine_start)
    request = phantom.request(start=affine_start, options={"levels": (8.0,), "iterations": (0,)}, embeddings=pair)
    logs = [engine.register(replace(request, one_person=one_person)).log for one_person in (False, True)]
    assert ["search:" in log for log in logs] == [True, False]  # between two scans of one person


def test_two_dimensions(engine):
    texture = smooth_noise(90, 110) * 1500 - 1000
    fixed = Image.from_array(texture, origin=(10, 20), spacing=(2, 2), name="fixed")
    moving = Image.from_array(texture, origin=(17, 14), spacing=(2, 2), name="moving")
    points = fixed.grid.index_to_world(np.random.default_rng(0).uniform(20, 70, (50, 2)))
    for transform in ("rigid", "deformable"):
        result = engine.register(Request(fixed=fixed, moving=moving, transform=transform, options=QUICK))
        error = np.linalg.norm(result.transform.transform_points(points) - points - [7, -6], axis=1)
        assert error.mean() < 1


def test_flow_of_the_negative_velocity_is_the_inverse():
    torch.manual_seed(0)
    velocity = torch.nn.functional.interpolate(torch.randn(1, 3, 4, 4, 4) * 12, size=(24, 24, 24), mode="trilinear")
    extent = torch.tensor([192.0, 192.0, 192.0])
    there, back = exponential(velocity, extent), exponential(-velocity, extent)
    at = moved(there, extent, positions(there.shape[2:], there.device))
    residual = (there + sampled(back, at))[0, :, 5:-5, 5:-5, 5:-5].norm(dim=0)
    assert there.norm(dim=1).mean() > 5
    assert residual.mean() < 0.4
    constant = torch.full((1, 3, 8, 8, 8), 5.0)
    assert torch.allclose(exponential(constant, extent), constant, atol=1e-4)


def test_points_that_flow_out_of_the_box_come_back(engine):
    """Landmarks pull all of the image as far as the box reaches around it; beyond it nothing moved at once."""
    grid = Grid.make((20, 20, 20), spacing=6.0)
    fixed = Image((1500 * smooth_noise(20, 20, 20) - 1000).astype(np.float32), grid, "fixed")
    corners = grid.corners()
    request = Request(
        fixed=fixed,
        moving=fixed,
        start=AffineTransform.identity(3),
        landmarks=(corners, corners + [60.0, -40.0, 0.0]),
        options={"levels": (12.0,), "iterations": (80,), "image_weight": 0.0, "landmark_weight": 1.0},
    )
    transform = engine.register(request).transform
    assert np.linalg.norm(transform.transform_points(corners) - corners, axis=1).mean() > 40
    points = grid.index_to_world(np.random.default_rng(0).uniform(-20, 39, (2000, 3)))
    there = transform.transform_points(points)
    field = components(transform)[0].displacement
    assert not any(field.take(end, axis=axis).any() for axis in range(3) for end in (0, -1))
    assert np.linalg.norm(transform.inverse().transform_points(there) - points, axis=1).max() < 0.1


def test_velocity_is_continued_to_zero_and_flows_without_folds():
    torch.manual_seed(0)
    velocity = torch.nn.functional.interpolate(torch.randn(1, 2, 3, 4) * 15, size=(18, 24), mode="bilinear")
    extent = torch.tensor([24 * 8.0, 18 * 8.0])
    larger, added = continued(velocity, extent)
    inner = tuple(slice(before, before + n) for n, (before, _) in zip(velocity.shape[2:], added, strict=True))
    assert torch.equal(larger[(..., *inner)], velocity)
    size = torch.tensor(larger.shape[:1:-1]) * 8.0
    flow = exponential(larger, size)
    assert jacobian(flow, size).min() > 0
    assert flow[..., [0, -1]].abs().max() < 1e-6
    assert flow[..., [0, -1], :].abs().max() < 1e-6
    grid = Grid.make(flow.shape[2:], spacing=8.0)
    field = DisplacementField(flow[0].movedim(0, -1).numpy(), grid)
    points = grid.index_to_world(np.random.default_rng(0).uniform(0, np.array(grid.size) - 1, (2000, 2)))
    back = field.inverse().transform_points(field.transform_points(points))
    assert np.linalg.norm(back - points, axis=1).max() < 0.1
    assert continued(torch.zeros_like(velocity), extent)[1] == [(0, 0), (0, 0)]
    velocity[..., 1:] = 0
    assert [before > 0 for before, _ in continued(velocity, extent)[1]] == [True, True]
    assert continued(velocity, extent)[1][1][1] == 0  # of a face where nothing moves


def test_roughness_has_its_units():
    """A displacement that grows by 0.1 mm a mm bends nowhere; a parabola bends alike everywhere."""
    x = torch.arange(10.0) * 4
    linear = torch.zeros(1, 3, 10, 10, 10)
    linear[0, 0] = 0.1 * x
    first, second = roughness(linear, torch.tensor([4.0, 4.0, 4.0]))
    assert torch.isclose(first, torch.tensor(0.01 / 3))  # one of three components
    assert second < 1e-10
    bent = torch.zeros(1, 3, 10, 10, 10)
    bent[0, 1] = 0.5 * 0.02 * x**2
    assert torch.isclose(roughness(bent, torch.tensor([4.0, 4.0, 4.0]))[1], torch.tensor(0.02**2 / 3), rtol=1e-4)


def test_local_correlation_ignores_linear_changes_of_intensity():
    fixed = torch.from_numpy(smooth_noise(24, 24, 24))[None, None]
    other = torch.from_numpy(smooth_noise(24, 24, 24, seed=1))[None, None]
    ones = torch.ones_like(fixed)
    loss = local_correlation(fixed, ones, half=3)
    others = (fixed, 0.5 + 0.8 * fixed, other, 1 - fixed)
    same, brighter, unlike, inverted = (float(mean(loss(v, ones))) for v in others)
    assert same < brighter < 0.3 < 0.7 < unlike < inverted
    assert float(mean(loss(torch.where(ones > 0, 0.5, 0.0), ones))) == pytest.approx(1.0)


def test_search_finds_a_shift():
    torch.manual_seed(0)
    vectors = torch.nn.functional.interpolate(torch.randn(1, 8, 8, 9, 10), size=(24, 26, 30), mode="trilinear")
    vectors = torch.nn.functional.normalize(vectors, dim=1)
    moving = vectors.roll((2, -1, 3), (2, 3, 4))
    ones = torch.ones(1, 1, 24, 26, 30)
    extent = torch.tensor([240.0, 208.0, 192.0])
    found = convex_search([vectors, moving], ones, extent=extent, radius=32.0, step=8.0)
    inner = found[0, :, 6:-6, 6:-6, 6:-6].mean(dim=(1, 2, 3))
    assert torch.allclose(inner, torch.tensor([24.0, -8.0, 16.0]), atol=1.0)


@pytest.mark.parametrize("similarity", ["lncc", "mind", "ssd"])
def test_tiles_add_up_to_the_whole(similarity):
    """Loss and gradient; of windows whole ones, so that none lies across the last border."""
    fixed, moving = (torch.from_numpy(smooth_noise(36, 18, 24, seed=i))[None, None] for i in range(2))
    ones = torch.ones_like(fixed)
    volumes = [fixed, ones, torch.cat([moving, ones], dim=1)]
    inner = (slice(6, 30 if similarity == "lncc" else 32), slice(0, 18), slice(0, 24))
    extent = torch.tensor([96.0, 72.0, 144.0])
    options = TorchOptions(similarity=similarity, mass_preserving=similarity == "ssd").resolved()
    results = []
    for tile in (10**9, 18 * 24 * (6 if similarity == "lncc" else 12)):
        displacement = torch.nn.functional.interpolate(
            torch.randn(1, 3, 4, 3, 3, generator=torch.Generator().manual_seed(0)), size=(9, 6, 6), mode="trilinear"
        ).requires_grad_(True)
        loss = deformable._image_term(("fixed", "moving"), volumes, inner, extent, options, tile)(displacement)
        loss.backward()
        results.append((loss.item(), displacement.grad))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-4)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-3, atol=1e-6)


def test_short_memory_means_smaller_tiles(engine, phantom, affine_start, monkeypatch):
    term, seen = deformable._image_term, []

    def short(*args):
        seen.append(args[-1])
        if len(seen) < 3:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return term(*args)

    monkeypatch.setattr(deformable, "_image_term", short)
    said: list[str] = []
    options = {"levels": (8.0,), "iterations": (2,)}
    result = engine.register(phantom.request(start=affine_start, options=options, progress=said.append))
    assert seen == [2**21, 2**19, 2**17]
    assert sum("out of memory" in line for line in said) == 2
    assert "tiles of 131072 voxels" in result.log

    def never(*args):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(deformable, "_image_term", never)
    with pytest.raises(RuntimeError, match="out of memory"):
        engine.register(phantom.request(start=affine_start, options=options))


def test_jacobian_of_a_linear_stretch():
    x = torch.arange(12.0) * 4
    displacement = torch.zeros(1, 3, 10, 11, 12)
    displacement[0, 0] = 0.2 * x
    displacement[0, 2] = -0.1 * (torch.arange(10.0) * 4)[:, None, None]
    found = jacobian(displacement, torch.tensor([48.0, 44.0, 40.0]))
    assert torch.allclose(found, torch.tensor(1.2 * 0.9), atol=1e-5)


def test_near_folds_are_smoothed_away_and_the_rest_is_kept():
    grid = Grid.make((24, 24, 24), spacing=8.0)
    extent = torch.tensor([192.0, 192.0, 192.0])
    torch.manual_seed(0)
    velocity = torch.nn.functional.interpolate(torch.randn(1, 3, 6, 6, 6) * 4, size=(24, 24, 24), mode="trilinear")
    velocity[:, :, 12:20] += 25 * torch.randn(1, 3, 8, 24, 24)
    mended = unfolded(velocity, extent)
    fields = [DisplacementField(exponential(v, extent)[0].movedim(0, -1).numpy(), grid) for v in (velocity, mended)]
    lowest = [jacobian_determinant(field, grid.with_spacing(3.0)).min() for field in fields]
    assert lowest[0] < 0 < 0.05 < lowest[1]
    assert torch.equal(mended[:, :, :6], velocity[:, :, :6])
    assert unfolded(mended, extent) is mended


def test_mass_is_preserved_where_tissue_is_stretched(engine):
    """A sponge twice as long and half as dense: with mass its density fits, without it something else is bent."""
    grid = Grid.make((30, 30, 30), spacing=4.0)
    z = grid.world_points()[..., 2]
    texture = smooth_noise(30, 30, 30, width=2.5)
    fixed = Image((500 * texture + 300).astype(np.float32) - 1000, grid, "fixed")
    stretched = Grid.make((30, 30, 30), spacing=(4.0, 4.0, 6.0))
    moving = Image(((500 * texture + 300) / 1.5).astype(np.float32) - 1000, stretched, "moving")
    truth = AffineTransform(np.diag([1.0, 1.0, 1.5]), [0.0, 0.0, 0.0])
    points = grid.index_to_world(np.random.default_rng(0).uniform(6, 24, (80, 3)))
    errors = {}
    for mass in (False, True):
        options = {
            "levels": (8.0, 4.0), "iterations": (30, 20), "similarity": "ssd", "mass_preserving": mass,
            "window": (-1000.0, 55.0),
        }  # fmt: skip
        start = AffineTransform(np.diag([1.0, 1.0, 1.4]), [0.0, 0.0, 0.1 * float(z.mean())])
        result = engine.register(Request(fixed=fixed, moving=moving, start=start, options=options))
        miss = result.transform.transform_points(points) - truth.transform_points(points)
        errors[mass] = np.linalg.norm(miss, axis=1).mean()
    assert errors[True] < 0.6 * errors[False]


@pytest.mark.parametrize("kind", ["landmark", "anchor"])
def test_landmarks_and_anchors_draw_points_together(engine, phantom, affine_start, kind):
    wanted = phantom.truth.transform_points(phantom.points) + [0.0, 0.0, 6.0]
    options = {**QUICK, "image_weight": 0.0, f"{kind}_weight": 0.5, "bending_weight": 1.0}
    pairs = {f"{kind}s": (phantom.points, wanted)}
    result = engine.register(phantom.request(start=affine_start, options=options, **pairs))
    before, after = (
        np.linalg.norm(t.transform_points(phantom.points) - wanted, axis=1).mean()
        for t in (affine_start, result.transform)
    )
    assert after < 0.25 * before
    with pytest.raises(InputError, match="in pairs"):
        engine.register(phantom.request(**{f"{kind}s": (phantom.points, wanted[1:])}))


@pytest.mark.parametrize(
    ("inverted", "options", "similarity"),
    [
        (False, {}, "lncc"),
        (True, {}, "mind"),
        (True, {"similarity": "lncc"}, "lncc"),
        (True, {"mass_preserving": True}, "lncc"),
    ],
)
def test_contrasts_that_may_differ_are_compared_without_intensities(engine, phantom, inverted, options, similarity):
    moving = phantom.moving.with_array(1000 - phantom.moving.array) if inverted else phantom.moving
    settings, _ = engine._settings(Request(fixed=phantom.fixed, moving=moving, options=options))
    assert settings.similarity == similarity


def test_a_negative_image_is_registered(engine, phantom, affine_start):
    values = phantom.moving.array
    negative = phantom.moving.with_array(np.where(values > -1000, 600 - values, 0))
    options = {"levels": (5.0,), "iterations": (30,)}
    request = Request(fixed=phantom.fixed, moving=negative, start=affine_start, options=options)
    assert phantom.error(engine.register(request).transform) < 0.6 * phantom.error(affine_start)


def test_fast_preset_wants_an_affine_seed(engine, phantom):
    assert engine.seed_transform(phantom.request(options={"preset": "fast"})) == "affine"
    assert engine.seed_transform(phantom.request()) == "deformable"
    assert engine.seed_transform(phantom.request(transform="rigid", options={"preset": "fast"})) == "rigid"


def test_what_cannot_be_done_is_refused_before_the_work(engine, phantom):
    flat = Image.from_array(np.eye(20), name="flat")
    for request, message in (
        (phantom.request(transform="affine", landmarks=(phantom.points, phantom.points)), 'engine="elastix"'),
        (Request(fixed=flat, moving=flat, options={"similarity": "mind"}), "for volumes"),
        (phantom.request(options={"window": (5.0, 5.0)}), "two rising numbers"),
    ):
        with pytest.raises(InputError, match=message):
            engine.check(request)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "best"}, "fast, default, accurate"),
        ({"similarity": "cc"}, "lncc, mind, ssd"),
        ({"levels": (4.0,)}, "levels and iterations together"),
        ({"levels": (4.0, 8.0), "iterations": (1, 1)}, "coarsest first"),
        ({"levels": (8.0,), "iterations": (-1,)}, "at least 0"),
        ({"bending_weight": -1.0}, "bending_weight"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"window_voxels": 1}, "window_voxels"),
        ({"mass_preserving": True, "similarity": "mind"}, 'use similarity="ssd"'),
    ],
)
def test_bad_options_name_the_remedy(options, message):
    with pytest.raises(InputError, match=message):
        make_options(TorchOptions, options)


def test_presets_fill_what_is_left_open():
    assert TorchOptions(preset="fast").resolved().levels == (8.0,)
    assert TorchOptions(preset="fast", search_radius=16.0).resolved().search_radius == 16.0


@pytest.mark.parametrize(
    ("options", "one_person", "weight", "radius"),
    [
        (TorchOptions(), False, 1.0, 24.0),
        (TorchOptions(), True, 0.0, 0.0),
        (TorchOptions(preset="accurate"), True, 0.0, 0.0),
        (TorchOptions(preset="fast"), True, 1.0, 48.0),
        (TorchOptions(embedding_weight=0.5, search_radius=16.0), True, 0.5, 16.0),
    ],
)
def test_two_scans_of_one_person_are_compared_by_intensities_alone(options, one_person, weight, radius):
    """A start from an affine still needs the search; what is given holds."""
    resolved = options.resolved(one_person=one_person)
    assert (resolved.embedding_weight, resolved.search_radius) == (weight, radius)


@pytest.mark.parametrize("offset", [4.0, -4.0])
def test_the_border_of_the_moving_image_does_not_pull(offset):
    """Tissue fills both images; the moving one is shorter. Air that bled into its border moved it by 3 to 6 mm."""
    fixed = Image.from_array(smooth_noise(48, 40, 40, width=2.0) * 800 - 360, spacing=2.0)
    grid = Grid.make((30, 40, 40), origin=(0, 0, 18), spacing=2.0)  # from 18 to 76 mm
    moving = Image(fixed.array[9:39], grid)
    start = AffineTransform(np.eye(3), np.array([0.0, 0.0, offset]))
    result = TorchEngine().register(Request(fixed=fixed, moving=moving, start=start, threads=1))
    points = fixed.grid.world_points().reshape(-1, 3)
    points = points[((points[:, :2] > 16) & (points[:, :2] < 62)).all(axis=1)]
    near = points[(points[:, 2] >= 70) & (points[:, 2] <= 76)]
    error = np.linalg.norm(result.transform.transform_points(near) - near, axis=1)
    assert error.mean() < 1.3


def test_grids_of_the_levels_fit_into_each_other():
    grid = Grid.make((41, 50, 63), origin=(5, 6, 7), spacing=2.0)
    box = deformable._Box.around(grid, 8.0, (8.0, 2.0))
    assert all(n % 8 == 0 for n in box.grid.shape)
    assert box.grid.contains(grid.padded(16.0).corners(), margin=0.01).all()
    coarse = deformable._coarser(box.grid, 4)
    np.testing.assert_allclose(coarse.extent, box.grid.extent)
    np.testing.assert_allclose(coarse.center, box.grid.center)
    for factor in (1, 2, 4):
        part = deformable._coarser(box.grid, factor)
        inner = box.inner(factor)
        first = part.index_to_world([s.start for s in inner[::-1]])[0] - part.spacing / 2
        np.testing.assert_allclose(first, grid.origin - grid.spacing / 2, atol=1e-9)
        assert all((s.stop - s.start) * factor >= n for s, n in zip(inner, grid.shape, strict=True))
    wide = deformable._Box.around(grid, 2.0, (16.0, 2.0))  # levels coarser than the embeddings
    assert all(n % 8 == 0 for n in wide.grid.shape)
    assert wide.before % 8 == 0


@pytest.mark.parametrize("transform", ["affine", "deformable"])
def test_a_thin_slab_is_registered(engine, transform):
    """20 mm, less than the windows of the coarse levels."""
    grid = Grid.make((10, 60, 60), spacing=2.0)
    texture = smooth_noise(10, 60, 60, width=4.0)
    fixed = Image((1500 * texture - 1000).astype(np.float32), grid, "slab")
    moving = Image(fixed.array, Grid.make((10, 60, 60), origin=(6.0, -4.0, 0.0), spacing=2.0), "moved slab")
    result = engine.register(
        Request(fixed=fixed, moving=moving, start=AffineTransform.identity(3), transform=transform)
    )
    points = grid.index_to_world(np.random.default_rng(0).uniform([12, 12, 2], [48, 48, 8], (40, 3)))
    assert np.abs(result.transform.transform_points(points) - points - [6.0, -4.0, 0.0]).mean() < 1.0


def test_one_voxel_is_too_thin(engine):
    images = [Image.from_array(smooth_noise(1, 40, 40), spacing=(2, 2, 2), name=name) for name in ("a", "b")]
    with pytest.raises(InputError, match="a is one voxel thick"):
        engine.register(
            Request(fixed=images[0], moving=images[1], start=AffineTransform.identity(3), transform="affine")
        )


def test_masks_that_share_nothing_are_refused(engine, phantom, affine_start):
    lower = np.zeros(phantom.fixed.shape, np.uint8)
    lower[:16] = 1
    origins = phantom.truth.inverse().transform_points(phantom.moving.grid.world_points().reshape(-1, 3))
    upper = (phantom.fixed.grid.world_to_index(origins)[:, 2] > 40).reshape(phantom.moving.shape).astype(np.uint8)
    masks = {"fixed_mask": Image(lower, phantom.fixed.grid), "moving_mask": Image(upper, phantom.moving.grid)}
    with pytest.raises(ImagesAtFault, match="nothing of"):
        engine.register(phantom.request(start=affine_start, options=QUICK, **masks))


def test_a_small_moving_image_is_enough(engine, phantom):
    """A slab that shows a tenth of the fixed image, in its place."""
    depth = phantom.moving.shape[0]
    some = slice(depth // 2 - depth // 20, depth // 2 + depth // 20 + 1)
    origin = phantom.moving.grid.index_to_world([[0, 0, some.start]])[0]
    array = phantom.moving.array[some]
    slab = Image(array, Grid(array.shape, origin, phantom.moving.grid.spacing, phantom.moving.grid.direction), "slab")
    result = engine.register(Request(fixed=phantom.fixed, moving=slab, start=phantom.truth, transform="affine"))
    assert phantom.error(result.transform) < 5


def test_the_landmark_term_is_the_distance_in_the_world():
    """Of points on an oblique grid, after a displacement and a start that is itself a field."""
    random = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(random.normal(size=(3, 3)))
    rotation[:, 0] *= np.linalg.det(rotation)
    grid = Grid((12, 14, 16), (30.0, -20.0, 50.0), (8.0, 8.0, 8.0), rotation)
    fields = [np.stack([6 * smooth_noise(*grid.shape, seed=3 * i + k) for k in range(3)], -1) for i in range(2)]
    start = compose(DisplacementField(fields[1], grid), AffineTransform(1.1 * np.eye(3), [9.0, 8.0, -7.0]))
    fixed = grid.index_to_world(random.uniform(4, 8, (20, 3)))
    moving = fixed + random.normal(size=(20, 3)) * 10
    extent = deformable.extent_of(grid, torch.device("cpu"))
    term = deformable._Guides((fixed, moving), start, grid, extent).distance
    along_axes = torch.from_numpy((fields[0] @ rotation).astype(np.float32)).movedim(-1, 0)[None]
    wanted = compose(DisplacementField(fields[0], grid), start).transform_points(fixed)
    assert float(term(along_axes)) == pytest.approx(np.linalg.norm(wanted - moving, axis=1).mean(), abs=0.05)


def test_guides_draw_a_displacement_at_once_and_leave_what_is_far():
    """As a shoulder blade that lies 40 mm from where the search has it."""
    grid = Grid((40, 40, 40), (-20.0, 30.0, 10.0), np.full(3, 8.0), np.eye(3))
    random = np.random.default_rng(0)
    fixed = grid.center + random.uniform(-30, 30, (40, 3))
    still = grid.center + np.array([[0.0, 0.0, 140.0]])
    extent = deformable.extent_of(grid, torch.device("cpu"))
    start = AffineTransform.identity(3)
    guides = deformable._Guides((fixed, fixed + [40.0, 0.0, -10.0]), start, grid, extent)
    outside = deformable._Guides((still + 1000.0, still), start, grid, extent)
    nothing = torch.zeros(1, 3, *grid.shape)
    assert float(guides.distance(nothing)) == pytest.approx(41.2, abs=0.1)
    drawn = guides.drawn(nothing)
    assert float(guides.distance(drawn)) < 2
    assert float(deformable._Guides((still, still), start, grid, extent).distance(drawn)) < 1
    np.testing.assert_array_equal(outside.drawn(nothing), nothing)
