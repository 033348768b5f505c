"""Models, embeddings, files and the cache, on a small phantom."""

from __future__ import annotations

import functools
import hashlib
import http.server
import logging
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

import samreg.embedding as embedding_package
from samreg.embedding import (
    Embedding,
    MindModel,
    NetworkModel,
    embed,
    load_model,
    random_official,
    save_checkpoint,
)
from samreg.embedding.models import masked_body
from samreg.embedding.registry import available_models
from samreg.errors import InputError
from samreg.seeding.turns import turned_embedding
from samreg.spatial import Grid
from samreg.spatial.image import Image


def phantom(shape=(32, 40, 48), spacing=4.0, direction=None) -> Image:
    z, y, x = np.indices(shape)
    hu = np.full(shape, -1000, np.float32)
    hu[((y - 20) / 16) ** 2 + ((x - 23.5) / 21) ** 2 < 1] = 40
    for side in (-1, 1):
        lung = ((y - 20) / 9) ** 2 + ((x - 23.5 - 10 * side) / 7) ** 2 + ((z - 16) / 12) ** 2 < 1
        hu[lung] = -850
    hu[((y - 31) ** 2 + (x - 23.5) ** 2) < 9] = 500  # spine
    hu += np.random.default_rng(0).normal(0, 15, shape).astype(np.float32)
    return Image.from_array(hu.round().astype(np.int16), spacing=(spacing,) * 3, origin=(-90, -70, 300), name="phantom")


@pytest.fixture(scope="module")
def image() -> Image:
    return phantom()


@pytest.fixture(scope="module")
def sam() -> NetworkModel:
    return random_official()


@pytest.fixture(scope="module", params=["mind", "sam"])
def embedding(request, image, sam) -> Embedding:
    return (MindModel() if request.param == "mind" else sam).embed(image, device="cpu")


def test_embedding_is_made_of_unit_vectors_that_cover_the_image(embedding, image):
    for vectors, grid in (
        (embedding.local, embedding.local_grid),
        (embedding.global_, embedding.global_grid),
    ):
        assert tuple(vectors.shape[1:]) == grid.shape
        assert (vectors.float().norm(dim=0) - 1).abs().max() < 5e-3
        assert (vectors.dtype, vectors.device.type) == (torch.float16, "cpu")
        extent = grid.extent
        assert (extent >= image.grid.extent - 1e-6).all()
    assert embedding.image_grid is image.grid
    points = image.grid.world_points()[image.array > -200]
    index = np.clip(
        np.rint(embedding.local_grid.world_to_index(points)).astype(int),
        0,
        np.array(embedding.body.shape[::-1]) - 1,
    )
    assert embedding.body[index[:, 2], index[:, 1], index[:, 0]].mean() > 0.95


def test_sampling(embedding):
    index = np.array([[3, 4, 5], [6, 7, 8]])
    points = embedding.local_grid.index_to_world(index)
    at_voxels = embedding.sample_local(points)
    expected = torch.stack([embedding.local[:, z, y, x].float() for x, y, z in index])
    torch.testing.assert_close(at_voxels, expected, atol=2e-3, rtol=0)
    a, b = embedding.local[:, 5, 4, 3].float(), embedding.local[:, 5, 4, 4].float()
    between = embedding.sample_local(embedding.local_grid.index_to_world([[3.25, 4, 5]]))[0]
    torch.testing.assert_close(between, torch.nn.functional.normalize(0.75 * a + 0.25 * b, dim=0))
    far = embedding.sample_global([[1e4, 1e4, 1e4]])
    torch.testing.assert_close(far[0], embedding.global_[:, -1, -1, -1].float(), atol=2e-3, rtol=0)


def test_file_round_trip(embedding, tmp_path):
    path = tmp_path / "e.h5"
    embedding.save(path)
    again = Embedding.load(path)
    assert torch.equal(again.local, embedding.local)
    assert torch.equal(again.global_, embedding.global_)
    np.testing.assert_array_equal(again.body, embedding.body)
    for name in ("local_grid", "global_grid", "image_grid"):
        assert getattr(again, name).same_as(getattr(embedding, name))
    assert (again.model, again.calibration) == (embedding.model, embedding.calibration)
    assert again.local.flatten(1).T.is_contiguous()
    cut = tmp_path / "cut.h5"
    cut.write_bytes(path.read_bytes()[:5000])
    (tmp_path / "text.h5").write_text("hello")
    for name in ("cut.h5", "text.h5", "missing.h5"):
        with pytest.raises(InputError, match=name):
            Embedding.load(tmp_path / name)


def test_a_ct_stays_beside_its_embedding_and_in_no_file(image, sam, tmp_path):
    oblique = Image(image.array.transpose(1, 0, 2), Grid(
        (40, 32, 48), (10.0, 20.0, 30.0), image.spacing, [[1, 0, 0], [0, 0, 1], [0, 1, 0]]
    ), "sagittal")  # fmt: skip
    for scan in (image, oblique):
        file = tmp_path / f"{scan.name}.h5"
        embedding = embed(scan, model=sam, cache=file)
        volume = embedding.volume
        assert volume.array.dtype == np.int16
        np.testing.assert_allclose(volume.spacing, 2.0)
        points = scan.grid.index_to_world(np.array([[24, 20, 10], [20, 12, 30]]))
        index = np.round(volume.grid.world_to_index(points)).astype(int)
        own = np.round(scan.grid.world_to_index(points)).astype(int)
        found, true = (one.array[tuple(rows[:, ::-1].T)] for one, rows in ((volume, index), (scan, own)))
        assert abs(found.astype(float) - true).max() < 60  # noise
        assert Embedding.load(file).volume is None
        again = embed(scan, model=sam, cache=file)
        np.testing.assert_array_equal(again.volume.array, volume.array)
        assert again.volume.grid.same_as(volume.grid)
    assert MindModel().embed(image).volume is None
    turn = np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    turned = turned_embedding(again, turn, again.image_grid.center)
    place = again.volume.grid.index_to_world([[3, 4, 5]])
    moved = (place - again.image_grid.center) @ turn.T + again.image_grid.center
    np.testing.assert_allclose(turned.volume.grid.world_to_index(moved), [[3, 4, 5]], atol=1e-9)


def test_files_of_other_kinds_are_named_as_such_and_never_to_be_deleted(tmp_path):
    import h5py

    (tmp_path / "pairs.csv").write_text("fixed,moving\na,b\n")
    with h5py.File(tmp_path / "theirs.h5", "w") as file:
        file["x"] = np.arange(5000)
    (tmp_path / "theirs_cut.h5").write_bytes((tmp_path / "theirs.h5").read_bytes()[:3000])
    for name, says in (
        ("pairs.csv", r"pairs.csv is no embedding file; give a file"),
        ("", r"is a folder, no embedding file; give a file"),
        ("theirs_cut.h5", r"theirs_cut.h5 is not a whole embedding file .*; copy it again, or give a file"),
    ):
        with pytest.raises(InputError, match=says) as caught:
            Embedding.load(tmp_path / name)
        assert "delete" not in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1


def test_short_memory_is_no_fault_of_a_file(embedding, tmp_path, monkeypatch):
    """The advice was to delete the embedding, or to download the checkpoint again."""
    embedding.save(tmp_path / "e.h5")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "weights.pth")

    def short(*_: object, **__: object) -> None:
        raise MemoryError("Unable to allocate 3 GiB")

    monkeypatch.setattr("samreg.embedding.embedding.read_array", short)
    monkeypatch.setattr("torch.load", short)
    for read, name in ((Embedding.load, "e.h5"), (load_model, "weights.pth")):
        with pytest.raises(InputError, match=rf"{name}: memory is too short \(Unable .* 3 GiB\); free memory"):
            read(tmp_path / name)


def test_foreign_and_newer_files_are_refused(embedding, tmp_path):
    import h5py

    path = tmp_path / "e.h5"
    with h5py.File(path, "w") as file:
        file["x"] = 1
    with pytest.raises(InputError, match="no samreg embedding"):
        Embedding.load(path)
    embedding.save(path)
    with h5py.File(path, "r+") as file:
        file.attrs["version"] = 99
    with pytest.raises(InputError, match="newer"):
        Embedding.load(path)


def test_network_offsets_reach_the_grid(image, sam):
    grid = sam.embed(image, device="cpu").local_grid
    np.testing.assert_allclose(grid.spacing, [4, 4, 4])
    # 2 mm voxels start 1 mm before the first 4 mm centre; the pool adds half of one in z
    np.testing.assert_allclose(grid.origin - image.origin, [-1, -1, 0], atol=1e-6)


def test_mind_finds_the_same_place_in_a_shifted_scan(image):
    model = MindModel()
    shift = np.array([31, -17, 45])
    moved = Image.from_array(image.array, spacing=image.spacing, origin=image.origin + shift)
    a, b = model.embed(image), model.embed(moved)
    rng = np.random.default_rng(0)
    inside = np.argwhere(a.body)
    query = a.local_grid.index_to_world(inside[rng.choice(len(inside), 50)][:, ::-1])
    candidates = b.local_grid.index_to_world(np.argwhere(b.body)[:, ::-1])
    similarity = a.sample_local(query) @ b.sample_local(candidates).T
    similarity += a.sample_global(query) @ b.sample_global(candidates).T
    found = candidates[similarity.argmax(1).numpy()]
    np.testing.assert_allclose(found - query, np.broadcast_to(shift, found.shape), atol=1e-6)


def test_mask_limits_the_body(image):
    whole = MindModel().embed(image)
    keep = np.zeros(image.shape, np.uint8)
    keep[:10] = 1
    part = MindModel().embed(image, mask=image.with_array(keep))
    assert 0 < part.body.sum() < whole.body.sum()
    with pytest.raises(InputError, match="inside the body"):
        MindModel().embed(image, mask=image.with_array(np.zeros_like(keep)))


@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 2, 2)])
def test_a_few_voxels_embed(shape, sam):
    array = np.random.default_rng(0).integers(-100, 200, shape).astype(np.int16)
    tiny = Image.from_array(array, spacing=(4, 4, 4))
    for model in (MindModel(), sam):
        result = model.embed(tiny, device="cpu")
        assert torch.isfinite(result.local).all()
        assert torch.isfinite(result.global_).all()


def test_air_is_refused(sam):
    air = np.random.default_rng(0).normal(-1000, 30, (10, 20, 20)).astype(np.int16)
    with pytest.raises(InputError, match="no body"):
        sam.embed(Image.from_array(air, spacing=(4, 4, 4)))


def test_fingerprints_tell_models_apart(sam):
    assert sam.fingerprint == random_official().fingerprint
    assert sam.fingerprint != random_official(seed=1).fingerprint
    assert sam.identity == f"sam-random@{sam.fingerprint}"


def test_cache(image, tmp_path, caplog):
    path = tmp_path / "cache.h5"
    first = embed(image, model="mind", cache=path)
    with caplog.at_level(logging.INFO, "samreg"):
        again = embed(Image(image.array, image.grid, "another name"), model="mind", cache=path)
    assert "read from the cache" in caplog.text
    assert torch.equal(first.local, again.local)
    calibrated = load_model("mind")
    calibrated.calibration = {"tolerance": 3.0}  # since then
    assert embed(image, model=calibrated, cache=path).calibration == {"tolerance": 3.0}
    caplog.clear()
    brighter = image.with_array(image.array + 1)
    fresh = embed(brighter, model="mind", cache=path)
    assert "computed anew" in caplog.text
    assert Embedding.load(path).source == fresh.source != first.source
    other = tmp_path / "notes.txt"
    other.write_text("mine")
    with pytest.raises(InputError, match="notes"):
        embed(image, model="mind", cache=other)
    assert other.read_text() == "mine"


def test_names(sam):
    assert load_model("mind").name == "mind"
    assert load_model(sam) is sam
    assert {"mind", "sam-random", embedding_package.DEFAULT_MODEL} <= set(available_models())
    with pytest.raises(InputError, match=r"choose .*mind"):
        load_model("resnet")
    with pytest.raises(InputError, match="not found"):
        load_model("folder/SAM.pth")


def test_model_by_address(tmp_path, sam, monkeypatch):
    pooch = pytest.importorskip("pooch")
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache")
    folder = tmp_path / "served"
    path = folder / "weights.safetensors"
    save_checkpoint(path, sam.network, architecture="sam", name="served")
    good = hashlib.sha256(path.read_bytes()).hexdigest()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/weights.safetensors"
    try:
        assert load_model(url, sha256=good).name == "served"
        with pytest.raises(InputError, match="sha256="):
            load_model(url)
        with pytest.raises(InputError, match="hash"):
            load_model(url, sha256="0" * 64)
        with pytest.raises(InputError, match="cannot load"):
            load_model(url + ".gone", sha256=good)
    finally:
        server.shutdown()
    with pytest.raises(InputError, match="SHA-256"):
        load_model(path, sha256="0" * 64)
    assert load_model(path, sha256=good.upper()).name == "served"


def test_importing_the_package_does_not_import_torch():
    code = "import sys, samreg.embedding; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert not hasattr(embedding_package, "nothing")


def test_the_fingerprint_follows_what_no_weight_shows():
    import torch

    from samreg.embedding.compact import CompactNetwork
    from samreg.embedding.ct import Preprocessing

    fingerprints = []
    for windows in (((-1000.0, 1000.0), (-160.0, 240.0)), ((-1000.0, 1000.0), (-100.0, 300.0))):
        torch.manual_seed(0)
        network = CompactNetwork(fine=8, coarse=(8, 8, 8), windows=windows)
        fingerprints.append(NetworkModel(network, Preprocessing(), name="n").fingerprint)
    assert fingerprints[0] != fingerprints[1]


def test_a_mask_smaller_than_the_voxels_that_are_matched_is_told_as_that():
    grid = Grid.make((4, 4, 4), spacing=8)
    body = np.ones(grid.shape, dtype=bool)
    voxel = np.zeros((32, 32, 32), np.uint8)
    voxel[10, 10, 10] = 1
    image = Image.from_array(np.zeros((32, 32, 32)), spacing=1, name="scan")
    with pytest.raises(InputError, match=r"smaller than the voxels that are matched in scan, 8 mm"):
        masked_body(body, grid, Image.from_array(voxel, spacing=1), image)
    with pytest.raises(InputError, match="one frame"):
        masked_body(body, grid, Image.from_array(voxel, spacing=1, origin=(500, 0, 0)), image)
