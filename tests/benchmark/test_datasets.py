from __future__ import annotations

import functools
import http.server
import json
import pickle
import threading

import numpy as np
import pytest

import samreg
from samreg.benchmark.datasets import base, dirlab, load_dataset
from samreg.errors import InputError
from samreg.phantoms import phantom_pair
from samreg.spatial import Image


def test_a_folder_in_samregs_form(folder):
    data = load_dataset(folder)
    assert data.name == "boxes"
    assert data.pairs == (("A", "B"), ("A", "C"), ("B", "A"), ("B", "C"), ("C", "A"), ("C", "B"))
    case = data.cases["B"]
    assert case.image().shape == case.labels().shape == (16, 18, 20)
    assert case.landmarks().names == ("point_0", "point_1", "point_2")
    np.testing.assert_allclose(case.landmarks().positions[0], (28, 16, 34))
    assert case.reader_mm["point_2"] == 3
    assert not case.pictures  # nobody has said that it may be shown


def test_labels_and_masks_of_no_image_are_named(folder, caplog):
    """They were left out without a word, and the report had no Dice."""
    load_dataset(folder)
    assert not caplog.records
    (folder / "labels" / "B.nii.gz").rename(folder / "labels" / "B_seg.nii.gz")
    (folder / "masks").mkdir(exist_ok=True)
    (folder / "labels" / "C.nii.gz").rename(folder / "masks" / "c.nii.gz")
    load_dataset(folder)
    assert f"{folder / 'labels'} has files without an image of their name: B_seg" in caplog.text
    assert f"{folder / 'masks'} has files without an image of their name: c" in caplog.text


def test_the_hash_follows_the_content_of_the_case_alone(folder):
    before = {name: case.fingerprint for name, case in load_dataset(folder).cases.items()}
    text = (folder / "landmarks.csv").read_text()
    (folder / "landmarks.csv").write_text(text.replace("B,point_0,28.0", "B,point_0,28.5"))
    after = {name: case.fingerprint for name, case in load_dataset(folder).cases.items()}
    assert before["B"] != after["B"]
    assert (before["A"], before["C"]) == (after["A"], after["C"])
    labels = samreg.read_image(folder / "labels" / "C.nii.gz")
    samreg.write_image(labels.with_array(labels.array * 0), folder / "labels" / "C.nii.gz")
    assert load_dataset(folder).cases["C"].fingerprint != after["C"]


def test_the_hash_follows_voxels_that_lie_beside_a_header(tmp_path):
    (tmp_path / "a.mhd").write_text("NDims = 3\nElementDataFile = a.raw\n")
    hashes = set()
    for voxels in (b"1", b"2"):
        (tmp_path / "a.raw").write_bytes(voxels)
        hashes.add(base.Case("a", {"image": tmp_path / "a.mhd"}, image=lambda: None).fingerprint)
    assert len(hashes) == 2


def test_a_manifest_names_pairs_and_what_may_be_shown_and_fetches_what_is_missing(folder, tmp_path, caplog):
    elsewhere = tmp_path / "web"
    elsewhere.mkdir()
    moved = elsewhere / "B.nii.gz"
    (folder / "images" / "B.nii.gz").rename(moved)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=elsewhere)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        about = {
            "name": "three boxes",
            "licence": "CC0",
            "pairs": [["A", "B"]],
            "files": {
                "images/A.nii.gz": {"sha256": base.sha256(folder / "images" / "A.nii.gz"), "pictures": True},
                "images/B.nii.gz": {
                    "sha256": base.sha256(moved), "url": f"http://127.0.0.1:{server.server_port}/B.nii.gz"
                },
                "images/C.nii.gz": {"sha256": "0" * 64},
            },
        }  # fmt: skip
        (folder / "manifest.json").write_text(json.dumps(about))
        data = load_dataset(folder)
        server.shutdown()
    assert (data.name, data.licence, data.pairs) == ("three boxes", "CC0", (("A", "B"),))
    assert [data.cases[name].pictures for name in "AB"] == [True, False]
    assert base.sha256(folder / "images" / "B.nii.gz") == base.sha256(moved)
    assert "C.nii.gz is not the file that the manifest describes" in caplog.text
    (folder / "images" / "A.nii.gz").unlink()
    with pytest.raises(InputError, match=r"A\.nii\.gz not found"):
        load_dataset(folder)


LANDMARK_TABLES = {
    "other words": "patient,label,x,y,z,reader_mm\nA,top,20,20,30,1.5\nB,top,28,16,34,\n",
    "semicolons and decimal commas": "subject;landmark;x;y;z;reader_mm\nA;top;20,0;20;30;1,5\nB;top;28,0;16;34;\n",
    "tabs": "subject\tname\tx\ty\tz\treader_mm\nA\ttop\t20\t20\t30\t1.5\nB\ttop\t28\t16\t34\t\n",
    "ras": "subject,landmark,r,a,s,reader_mm\nA,top,-20,-20,30,1.5\nB,top,-28,-16,34,\n",
}


@pytest.mark.parametrize("table", LANDMARK_TABLES)
def test_landmarks_are_read_as_every_points_table_is(folder, table):
    (folder / "landmarks.csv").write_text(LANDMARK_TABLES[table])
    cases = load_dataset(folder).cases
    assert [cases[name].landmarks().positions.tolist() for name in "AB"] == [[[20, 20, 30]], [[28, 16, 34]]]
    assert (cases["A"].landmarks().names, cases["A"].reader_mm) == (("top",), {"top": 1.5})
    assert (cases["C"].landmarks, cases["B"].reader_mm) == (None, {})


def test_landmarks_may_lie_in_a_file_for_each_image(folder):
    for name, position in (("A", (20.0, 20.0, 30.0)), ("B", (28.0, 16.0, 34.0))):
        samreg.write_points(samreg.Points([position], ("top",)), folder / "landmarks" / f"{name}.mrk.json")
    with pytest.raises(InputError, match=r"landmarks\.csv and .*landmarks both hold landmarks; keep one"):
        load_dataset(folder)
    (folder / "landmarks.csv").unlink()
    case = load_dataset(folder).cases["A"]
    np.testing.assert_allclose(case.landmarks().positions, [[20, 20, 30]])
    before = case.fingerprint
    samreg.write_points(samreg.Points([[21.0, 20.0, 30.0]], ("top",)), folder / "landmarks" / "A.mrk.json")
    assert load_dataset(folder).cases["A"].fingerprint != before


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("landmarks.csv", "landmark,x,y,z\ntop,1,2,3\n", r"landmarks\.csv: no column subject"),
        ("landmarks.csv", "subject,name,x,y,z\nA,a,1,5,2,3\n", "6 cells where the header has 5 columns"),
        ("landmarks.csv", "subject,landmark,x,y,z\nD,top,1,2,3\n", r"none of the images; .* A, B, C"),
        ("landmarks.csv", "subject,landmark,x,y,z,reader_mm\nA,top,1,2,3,?\n", "line 2: '.' is not a number"),
        ("manifest.json", '{"pairs": ["A", "B"]}', r"manifest\.json: pairs must be a list of \[fixed, moving\]"),
        ("manifest.json", '{"pairs": [["A", "D"]]}', r"pairs name unknown cases \['D'\]"),
        ("manifest.json", '{"files": ["images/A.nii.gz"]}', "files must map each path to what is known of it"),
        ("manifest.json", '{"files": {"images/D.nii.gz": {"url": "https://example.org"}}}', "must say its sha256"),
    ],
)
def test_what_is_wrong_in_a_folder_is_said(folder, file, text, message):
    (folder / file).write_text(text)
    with pytest.raises(InputError, match=message):
        load_dataset(folder)


@pytest.mark.parametrize(
    ("turn", "remedy"),
    [
        (lambda x, y, z: (-x, -y, z), "They would lie inside if they were in RAS"),
        (lambda x, y, z: (x + 500, y, z), "Were the points given in RAS, or as voxel indices?"),
    ],
)
def test_landmarks_outside_their_image_are_refused_with_file_names_and_remedy(folder, turn, remedy):
    case = load_dataset(folder).cases["B"]
    rows = [(name, *turn(*position)) for name, position in zip("pqr", case.landmarks().positions, strict=True)]
    lines = [f"B,{name},{x},{y},{z}" for name, x, y, z in rows]
    (folder / "landmarks.csv").write_text("\n".join(["subject,landmark,x,y,z", *lines]))
    case = load_dataset(folder).cases["B"]
    with pytest.raises(InputError) as refused:
        case.landmarks_in(case.image())
    for part in ("landmarks.csv: 3 of 3 points lie outside the image of B: p [", "q [", "r [", remedy):
        assert part in str(refused.value)


def test_phantoms_have_exact_landmarks_and_share_no_subject():
    data = load_dataset("phantom:3:8")
    assert data.pairs == tuple((f"phantom-{i:03d}", f"phantom-{i + 1:03d}") for i in (0, 2, 4))
    pair = phantom_pair(2, 3, spacing=8.0)
    fixed, moving = (data.cases[name] for name in data.pairs[1])
    np.testing.assert_array_equal(fixed.image().array, pair.fixed.image.array)
    shared = [name for name in fixed.landmarks().names if name in moving.landmarks().names]
    here, there = (case.landmarks().named(shared).positions for case in (fixed, moving))
    np.testing.assert_allclose(pair.transform.transform_points(here), there, atol=1e-6)
    assert len({case.fingerprint for case in data.cases.values()}) == 6
    assert len(load_dataset("phantom").pairs) == 20
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fixed)).labels().array, pair.fixed.labels.array)


@pytest.fixture
def small_dirlab(monkeypatch):
    """Cases of 6 x 5 x 4 voxels."""
    sizes = {name: {"size": [6, 5, 4], "spacing": [1.0, 2.0, 2.5]} for name in ("1", "6", "8")}
    about = {"cases": sizes, "licence": "", "obtain": "ask DIR-Lab"}
    monkeypatch.setattr(dirlab, "manifest", lambda name: about)
    stored = np.arange(120, dtype="<i2").reshape(4, 5, 6)  # z, y, x; slices from the head down
    return stored


def _write_raw(path, stored):
    path.parent.mkdir(parents=True, exist_ok=True)
    stored.tofile(path)


def _check_dirlab(data, case, stored):
    """The value at a landmark is that of its 1-based voxel, and z points to the head."""
    image, points = data.cases[case].image(), data.cases[case].landmarks()
    np.testing.assert_allclose(image.direction, np.eye(3))
    for index, position in zip(((1, 1, 1), (2, 3, 4)), points.positions, strict=True):
        x, y, z = index
        voxel = np.rint(image.grid.world_to_index(position)[0]).astype(int)
        np.testing.assert_allclose(image.grid.index_to_world(voxel)[0], position)
        assert image.array[tuple(voxel[::-1])] == max(stored[z - 1, y - 1, x - 1] - 1024, -1024)
    assert points.positions[0, 2] == 7.5  # (1, 1, 1) is the slice nearest to the head
    assert points.positions[1, 2] == 0


@pytest.mark.parametrize(
    ("name", "root", "image", "points"),
    [
        ("1", "Case1Pack", "case1_{}_s.img", "ExtremePhases/Case1_300_{}_xyz.txt"),
        ("6", "Case6Pack", "case6_{}.img", "extremePhases/case6_dirLab300_{}_xyz.txt"),
        ("8", "Case8Deploy", "case8_{}-ssm.img", "extremePhases/case8_dirLab300_{}_xyz.txt"),
    ],
)
def test_dirlab_4dct(tmp_path, small_dirlab, name, root, image, points):
    for phase in ("T00", "T50"):
        _write_raw(tmp_path / root / "Images" / image.format(phase), small_dirlab)
        path = tmp_path / root / points.format(phase)
        path.parent.mkdir(exist_ok=True)
        path.write_text("1\t1\t1\n2\t3\t4\n")
    data = load_dataset(tmp_path)
    assert (data.name, data.pairs) == ("dirlab-4dct", ((f"{name}-T00", f"{name}-T50"),))
    _check_dirlab(data, f"{name}-T50", small_dirlab)


def test_dirlab_copd_reads_both_phases_and_clamps_the_padding(tmp_path, small_dirlab):
    for phase, add in (("i", 0), ("e", 7)):
        stored = small_dirlab + np.int16(add)
        stored[0, 0, 0] = -2000
        _write_raw(tmp_path / "copd1" / f"copd1_{phase}BHCT.img", stored)
        (tmp_path / "copd1" / f"copd1_300_{phase}BH_xyz_r1.txt").write_text("1\t1\t1\n2\t3\t4\n")
    data = load_dataset(f"dirlab-copd:{tmp_path}")
    _check_dirlab(data, "1-i", np.where(small_dirlab == small_dirlab[0, 0, 0], -2000, small_dirlab))
    inhaled, exhaled = (data.cases[f"1-{phase}"].image().array for phase in "ie")
    assert (exhaled - inhaled)[0, 0, 0] == 7
    assert inhaled.min() == -1024


def test_dirlab_says_what_is_wrong(tmp_path, small_dirlab):
    (tmp_path / "copd1").mkdir()
    with pytest.raises(InputError, match=r"copd1_iBHCT\.img not found; ask DIR-Lab"):
        load_dataset(tmp_path)
    for phase in "ie":
        _write_raw(tmp_path / "copd1" / f"copd1_{phase}BHCT.img", small_dirlab[:3])
        (tmp_path / "copd1" / f"copd1_300_{phase}BH_xyz_r1.txt").write_text("1\t1\t1\n")
    with pytest.raises(InputError, match=r"holds 90 voxels, .* need 120"):
        load_dataset(tmp_path).cases["1-i"].image()


def test_the_shipped_manifests_are_complete():
    four, copd = base.manifest("dirlab-4dct")["cases"], base.manifest("dirlab-copd")["cases"]
    assert [len(four), len(copd)] == [10, 10]
    assert four["7"]["size"] == [512, 512, 136]
    assert copd["9"]["spacing"] == [0.664, 0.664, 2.5]  # often misprinted as 0.644


@pytest.fixture
def task(tmp_path):
    """A Learn2Reg task of two cases, oblique enough that voxels are no millimetres."""
    root = tmp_path / "LungCT"
    for i in range(2):
        array = np.random.default_rng(i).integers(-1000, 500, (6, 7, 8)).astype(np.int16)
        for kind, values in (("images", array), ("labels", array > 0), ("masks", array > -500)):
            image = Image.from_array(
                values.astype(np.int16), origin=(5, 6, 7), spacing=(1.5, 2, 3), direction=np.diag([-1, -1, 1])
            )
            samreg.write_image(image, root / f"{kind}Tr" / f"LungCT_0001_000{i}.nii.gz")
        (root / "keypointsTr").mkdir(exist_ok=True)
        (root / "keypointsTr" / f"LungCT_0001_000{i}.csv").write_text("1.0,2.0,3.0\n4.5,5.0,2.0\n")
    names = [f"./imagesTr/LungCT_0001_000{i}.nii.gz" for i in range(2)]
    about = {"name": "LungCT", "licence": "CC BY", "registration_val": [{"fixed": names[0], "moving": names[1]}]}
    (root / "LungCT_dataset.json").write_text(json.dumps(about))
    return root


def test_learn2reg_keypoints_are_voxels_of_the_file(task):
    data = load_dataset(task)
    assert (data.name, data.learn2reg) == ("LungCT", True)
    assert data.pairs == (("LungCT_0001_0000", "LungCT_0001_0001"),)
    case = data.cases["LungCT_0001_0000"]
    import nibabel as nib

    affine = nib.load(task / "imagesTr" / "LungCT_0001_0000.nii.gz").affine  # RAS
    expected = nib.affines.apply_affine(affine, [[1, 2, 3], [4.5, 5, 2]]) * (-1, -1, 1)
    np.testing.assert_allclose(case.landmarks().positions, expected, atol=1e-4)
    assert len(case.landmarks_in(case.image())) == 2
    assert case.labels().shape == case.mask().shape == (6, 7, 8)


def test_learn2reg_says_what_is_wrong(task):
    (task / "LungCT_dataset.json").write_text('{"name": "LungCT"}')
    with pytest.raises(InputError, match="lists no pairs"):
        load_dataset(task)
    (task / "LungCT_dataset.json").write_text('{"registration_val": [["a", "b"]]}')
    with pytest.raises(InputError, match="each pair must be an object with the images fixed and moving"):
        load_dataset(task)
    (task / "LungCT_dataset.json").write_text('{"registration_val": [{"fixed": "a"}]}')
    with pytest.raises(InputError, match=r"pairs must be a list of \[fixed, moving\]"):
        load_dataset(task)
    (task / "LungCT_dataset.json").write_text("{")
    with pytest.raises(InputError, match="must be JSON"):
        load_dataset(task)


def test_the_elastix_lung_pair(tmp_path):
    image = Image.from_array(np.zeros((4, 4, 4), np.int16))
    for name in ("baseline", "baseline_mask", "followup", "followup_mask"):
        samreg.write_image(image, tmp_path / f"3DCT_lung_{name}.mha")
    data = load_dataset(tmp_path)
    assert data.pairs == (("baseline", "followup"), ("followup", "baseline"))
    case = data.cases["followup"]
    assert case.landmarks is None  # there are some of the baseline alone
    assert case.labels().shape == (4, 4, 4)
    (tmp_path / "3DCT_lung_followup_mask.mha").unlink()
    with pytest.raises(InputError, match=r"followup_mask.* not found; .*github.com/SuperElastix/elastix"):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("dirlab-copd", "dirlab-copd needs its folder.*Ask for access at https://www.dir-lab.com"),
        ("learn2reg:nowhere", "no such folder: .*nowhere.*learn2reg.grand-challenge.org"),
        ("nowhere", "no such folder.*phantom .nothing to download"),
        ("phantom:none", "phantom:PAIRS"),
        ("phantom:0", "pairs of phantoms must be a whole number of at least 1, got 0"),
        ("phantom:2:0.1", "spacing of phantoms must be a number between 0.5 and 20 mm, got 0.1"),
        ("phantom:2:nan", "spacing of phantoms must be a number"),
    ],
)
def test_what_is_missing_is_named_with_its_remedy(spec, message):
    with pytest.raises(InputError, match=message):
        load_dataset(spec)


def test_a_folder_of_nothing_or_of_two_kinds(tmp_path):
    with pytest.raises(InputError, match="holds no data set"):
        load_dataset(tmp_path)
    (tmp_path / "copd1").mkdir()
    (tmp_path / "Case1Pack").mkdir()
    with pytest.raises(InputError, match="could be dirlab-4dct or dirlab-copd; say KIND:FOLDER"):
        load_dataset(tmp_path)
