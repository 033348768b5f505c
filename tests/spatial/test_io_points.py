"""Points files: exact round trips, frames honoured, damage named with its line."""

from __future__ import annotations

import csv
import json
import zipfile

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from samreg.errors import InputError
from samreg.spatial import Grid, Points, as_points, find_points, read_points, write_points
from samreg.spatial.io_points import POINT_SUFFIXES
from samreg.spatial.remarks import remarks_kept

NAMED = (".csv", ".tsv", ".mrk.json", ".fcsv")
ALL = (*NAMED, ".pts", ".txt")

names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
numbers = st.floats(-1e4, 1e4)
AWKWARD = [
    "a,b",
    'say "x"',
    "two\nlines",
    "two\r\nlines",
    "cr\r",
    "#no comment",
    " spaced ",
    "",
    "é骨",
    "=1+1",
    ";",
    "\t",
]


@pytest.mark.parametrize("suffix", NAMED)
@given(rows=st.lists(st.tuples(names, numbers, numbers, numbers, numbers), max_size=6), scored=st.booleans())
@example(rows=[(name, 0.1, -1e-17, 1 / 3, 0.5) for name in AWKWARD], scored=True)
def test_round_trip_is_exact(scratch, suffix, rows, scored):
    positions = np.array([row[1:4] for row in rows]).reshape(-1, 3)
    points = Points(positions, tuple(row[0] for row in rows), np.array([row[4] for row in rows]) if scored else None)
    path = scratch / f"points{suffix}"
    write_points(points, path)
    again = read_points(path)
    assert np.array_equal(again.positions, points.positions)
    assert again.names == points.names
    if rows:
        assert scored == (again.scores is not None)
        assert not scored or np.array_equal(again.scores, points.scores)


def test_every_suffix_is_read_and_written(tmp_path):
    assert {suffix.replace(".mrk", "") for suffix in ALL} == {*POINT_SUFFIXES}
    for suffix in POINT_SUFFIXES:
        write_points(Points([[1, 2, 3]]), tmp_path / f"P{suffix.upper()}")
        assert read_points(tmp_path / f"P{suffix.upper()}").positions.tolist() == [[1, 2, 3]]


def test_a_tsv_has_tabs_between_its_cells(tmp_path):
    points = Points([[1, 2, 3]], ("apex",), np.array([0.5]))
    write_points(points, tmp_path / "p.tsv", columns={"expected_error_mm": np.array([4.0])})
    assert (tmp_path / "p.tsv").read_text().splitlines() == [
        "name\tx\ty\tz\tscore\texpected_error_mm",
        "apex\t1.0\t2.0\t3.0\t0.5\t4.0",
    ]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".pts", ".txt"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_positions_in_2d_and_3d(tmp_path, suffix, ndim):
    positions = np.random.default_rng(0).normal(size=(5, ndim)) * 100
    write_points(Points(positions), tmp_path / f"p{suffix}")
    again = read_points(tmp_path / f"p{suffix}")
    assert np.array_equal(again.positions, positions)
    assert np.array_equal(as_points(tmp_path / f"p{suffix}", ndim).positions, positions)


def read(tmp_path, name, text, **options):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8", newline="")
    return read_points(path, **options)


def refused(tmp_path, name, text, *words, **options):
    with pytest.raises(InputError) as caught:
        read(tmp_path, name, text, **options)
    for word in (name, *words):
        assert word in str(caught.value)


# csv


@pytest.mark.parametrize(
    "text",
    [
        "name,x,y,z\na,1,2,3\nb,4,5,6\n",
        "landmark,x,y,z,reader_mm\na,1,2,3,0\nb,4,5,6,0\n",
        "Label;X;Y;Z\na;1;2;3\nb;4;5;6\n",
        "z\ty\tx\tname\n3\t2\t1\ta\n6\t5\t4\tb\n",
        "\ufeffname, x, y, z\r\na, 1, 2, 3\r\n\r\nb,4,5,6",
        "# LPS mm\nid,x_mm,y_mm,z_mm\na,1,2,3\nb,4,5,6\n",
        'point,"x (mm)","y (mm)","z (mm)"\n"a",1,2,3\n"b",4,5e0,6\n',
        "sep=;\r\nname;x;y;z\r\na;1,0;2,0;3\r\nb;4;5;6,00\r\n",
        "name;x;y;z;\na;1;2;3;\nb;4;5;6;\n;;;;\n",
        "name,x,y,z\na,1,2,3,\nb,4,5,6,\n",
        "\n\n,landmark,x,y,z\r0,a,1,2,3\r1,b,4,5,6\r",
        "label,l,p,s,defined,selected,visible,locked,description\na,1,2,3,1,1,1,0,\nb,4,5,6,1,1,1,0,\n",
        "label,r,a,s\na,-1,-2,3\nb,-4,-5,6\n",
        "name,x_ras,y_ras,z_ras\na,-1,-2,3\nb,-4,-5,6\n",
        "# CoordinateSystem = RAS\nname,x,y,z\na,-1,-2,3\nb,-4,-5,6\n",
        "# turned from RAS to LPS\nname,x,y,z\na,1,2,3\nb,4,5,6\n",
    ],
)
def test_csv_spellings(tmp_path, text):
    points = read(tmp_path, "a.csv", text)
    assert points.names == ("a", "b")
    assert points.positions.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert points.scores is None


def test_csv_without_names_or_header(tmp_path):
    assert read(tmp_path, "a.csv", "1,2,3\n4,5,6\n").positions.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert read(tmp_path, "a.csv", "1,5;2;3;\n4;5;6,25;\n").positions.tolist() == [[1.5, 2, 3], [4, 5, 6.25]]
    assert read(tmp_path, "a.tsv", "1\t2\t3\n").positions.tolist() == [[1, 2, 3]]
    assert len(read(tmp_path, "a.csv", "0,1,2\n3,4,5\n")) == 2
    points = read(tmp_path, "b.csv", "x,y,score\n1,2,0.5\n3,4,\n")
    assert points.names == ("1", "2")
    assert points.ndim == 2
    assert points.scores[0] == 0.5
    assert np.isnan(points.scores[1])


def test_csv_of_several_subjects(tmp_path):
    text = "subject,landmark,x,y,z\nA,carina,1,2,3\nB,carina,4,5,6\nB,apex,7,8,9\n"
    refused(tmp_path, "s.csv", text, "2 subjects", "option subject", "['A', 'B']")
    points = read(tmp_path, "s.csv", text, subject="B")
    assert points.names == ("carina", "apex")
    assert points.positions.tolist() == [[4, 5, 6], [7, 8, 9]]
    refused(tmp_path, "s.csv", text, "no points of subject 'C'", subject="C")
    assert len(read(tmp_path, "one.csv", "case,x,y,z\nA,1,2,3\n")) == 1
    refused(tmp_path, "no.csv", "x,y,z\n1,2,3\n", "no column for the subject", subject="A")
    refused(tmp_path, "no.csv", "1,2,3\n", "no column for the subject", subject="A")
    refused(tmp_path, "no.pts", "point\n1\n1 2 3\n", "leave it out", subject="A")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,x,y,z\na,1,2,3\nb,4,5\n", ["line 3", "3 cells", "4 columns", "cut"]),
        ("name,x,y,z\na,1,2,3\nb,,,\n", ["line 3", "is empty; fill it, or remove the row"]),
        ("name,x,y,z\na,1,2,three\n", ["line 2", "'three' is not a number"]),
        ("name,x,y,z\na,1,2,nan\n", ["line 2", "nan"]),
        ("name,x,y,z\na,inf,2,1\n", ["line 2", "inf"]),
        ("name,x,y,z\na,1,1_0,2\n", ["line 2", "'1_0' is not a number"]),
        ('name,x,y,z\na,"1,5",2,3\n', ["line 2", "'1,5'", "decimal point"]),
        ("name;x;y;z\na;1,5;2.5;1\n", ["line 2", "decimal point"]),
        ("name;x;y;z\na;1,234,567;2;1\n", ["line 2", "'1,234,567' is not a number"]),
        ("name,x,y,z\na,12,5,-30,25,101,5\n", ["line 2", "7 cells", "4 columns", "decimals with a point"]),
        ("name,x,y,z\na,1,2,3\nhilum, left,1,2,3\n", ["line 3", "5 cells", "in quotes"]),
        ("name,x,y,z,note\na,1,5,2,3,\n", ["line 2", "6 cells"]),  # what is empty has been pushed aside
        ("name,x,y,z,\na,1,5,2,3\n", ["line 2", "5 cells"]),
        ("name,x,y,z\na,1,2,3\nname,x,y,z\nb,4,5,6\n", ["line 3", "'x' is not a number"]),
        ("carina,1,2,3\n", ["no columns x, y", "'carina'"]),
        ("1,2,3\n1,5,2,3\n", ["line 2", "decimal commas"]),
        ("name,x,x_mm,y,z\na,1,1,2,3\n", ["both columns 'x' and 'x_mm'"]),
        ("name,x_ras,y_ras,z\na,1,2,3\n", ["some columns are in RAS"]),
        ("# RAS mm\nname,x,y,z\na,1,2,3\n", ["a comment says RAS", "r, a, s"]),
        ("# CoordinateSystem = LPS\nname,r,a,s\na,1,2,3\n", ["columns are in RAS", "LPS"]),
        ("label,l,p,s,defined\na,1,2,3,perhaps\n", ["line 2", "unknown position status 'perhaps'"]),
        ("name,i,j,k\na,1,2,3\n", ["no columns x, y", "'i'"]),
        ("name,x,x,y,z\na,1,1,2,3\n", ["both columns 'x' and 'x'"]),
        ("1,2,3,4\n", ["4 columns of numbers and no header"]),
        ("1,2,3\n1,2\n", ["line 2", "2 columns"]),
        ("0,1,2\n1.5,2.0,3.25\n", ["number the columns, as pandas does", "write x,y,z there"]),
        ("0;1\n1.5;2.0\n", ["number the columns", "write x;y there"]),
        ('name,x,y,z\n"a,1,2,3\n', ["quotes"]),
        ("\n\n", ["holds no points"]),
    ],
)
def test_csv_damage(tmp_path, text, words):
    refused(tmp_path, "bad.csv", text, *words)


def test_excel_in_utf_16_and_another_encoding(tmp_path):
    (tmp_path / "u.csv").write_bytes("name\tx\ty\tz\r\nartère\t1,5\t2\t3\r\n".encode("utf-16"))
    points = read_points(tmp_path / "u.csv")
    assert points.names == ("artère",)
    assert points.positions.tolist() == [[1.5, 2, 3]]
    (tmp_path / "l.csv").write_bytes("name,x,y,z\nartère,1,2,3\n".encode("cp1252"))
    with pytest.raises(InputError, match=r"l\.csv: it is not UTF-8 text"):
        read_points(tmp_path / "l.csv")
    with zipfile.ZipFile(tmp_path / "x.csv", "w") as spreadsheet:  # an .xlsx, renamed
        spreadsheet.writestr("xl/workbook.xml", "<workbook/>")
    with pytest.raises(InputError, match=r"x\.csv: it is a spreadsheet or an archive.*save it as CSV"):
        read_points(tmp_path / "x.csv")


def test_points_that_a_table_says_are_not_placed(tmp_path, caplog):
    text = "label,r,a,s,defined\na,-1,-2,3,1\nb,0,0,0,0\nc,nan,,,0\n"
    points = read(tmp_path, "t.csv", text)
    assert points.names == ("a",)
    assert points.positions.tolist() == [[1, 2, 3]]
    assert "line 3: a point is not placed" in caplog.text


def test_a_header_alone_holds_no_points(tmp_path):
    assert read(tmp_path, "h.csv", "name,x,y,z\n").positions.shape == (0, 3)
    assert read(tmp_path, "h.csv", "name,x,y\n").positions.shape == (0, 2)


@pytest.mark.parametrize(
    "text",
    [
        "subject,landmark,x,y,z\nA,carina,1,2,3\nB,carina,4,5,6\nA,apex,7,8,9\n",
        "Patient;Label;X;Y;Z\r\nA;carina;1,0;2,0;3,0\r\nB;carina;4;5;6\r\nA;apex;7;8;9\r\n",
        "\ufeffz\ty\tx\tname\tcase\n3\t2\t1\tcarina\tA \n6\t5\t4\tcarina\tB\n9\t8\t7\tapex\tA\n",
    ],
)
def test_subjects_are_found_as_points_are_read(tmp_path, text):
    path = tmp_path / "landmarks.csv"
    path.write_text(text, encoding="utf-8", newline="")
    files = find_points(path, ())
    assert files == {"A": (path, "A"), "B": (path, "B")}
    points = {name: read_points(file, subject=subject) for name, (file, subject) in files.items()}
    assert points["A"].positions.tolist() == [[1, 2, 3], [7, 8, 9]]
    assert points["B"].positions.tolist() == [[4, 5, 6]]


def test_a_table_without_subjects_names_nobody(tmp_path):
    path = tmp_path / "landmarks.csv"
    path.write_text("name,x,y,z\na,1,2,3\n")
    with pytest.raises(InputError, match="no column subject"):
        find_points(path, ())
    path.write_text("subject,name,x,y,z\nA,a,1,2,3\n,a,1,2,3\n")
    with pytest.raises(InputError, match="line 3: no subject"):
        find_points(path, ())


def test_points_files_beside_images(tmp_path):
    for name in ("a.csv", "b.mrk.json", "c.csv", "c.fcsv", "e.tsv"):
        (tmp_path / name).write_text("1,2,3\n")
    assert find_points(tmp_path, ("a", "b", "d", "e")) == {
        "a": (tmp_path / "a.csv", None),
        "b": (tmp_path / "b.mrk.json", None),
        "e": (tmp_path / "e.tsv", None),
    }
    with pytest.raises(InputError, match=r"c\.csv and .*c\.fcsv both hold"):
        find_points(tmp_path, ("c",))


def test_line_numbers_count_lines_within_quotes(tmp_path):
    refused(tmp_path, "bad.csv", 'name,x,y,z\n"two\nlines",1,2,3\nb,1,2,x\n', "line 4")


def test_repeated_names_are_mentioned(tmp_path, caplog):
    assert read(tmp_path, "r.csv", "name,x,y\na,1,2\na,3,4\nb,5,6\n").names == ("a", "a", "b")
    assert "more than once: 'a'" in caplog.text


def test_csv_is_read_by_others(tmp_path):
    points = Points([[0.1, 2, 3]], ('a "b", c',))
    write_points(points, tmp_path / "p.csv")
    with open(tmp_path / "p.csv", newline="") as file:
        assert list(csv.DictReader(file)) == [{"name": 'a "b", c', "x": "0.1", "y": "2.0", "z": "3.0"}]


# 3D Slicer


def markups(system, *points, **fields):
    node = {"type": "Fiducial", "coordinateSystem": system, "controlPoints": list(points), **fields}
    return json.dumps({"markups": [{k: v for k, v in node.items() if v is not None}]})


@pytest.mark.parametrize("units", ["mm", "[mm]", ["mm"]])
def test_markups_units(tmp_path, units):
    text = markups("LPS", {"label": "a", "position": [1, 2, 3]}, coordinateUnits=units)
    assert read(tmp_path, "units.mrk.json", text).positions.tolist() == [[1, 2, 3]]


def test_what_is_drawn_through_points_is_said_to_be_left_out(tmp_path, caplog):
    """A line became two points, and a region of interest lost its size, unsaid."""
    point = {"label": "a", "position": [1, 2, 3]}
    read(tmp_path, "points.mrk.json", markups("LPS", point))
    assert not caplog.text
    assert read(tmp_path, "roi.mrk.json", markups("LPS", point, type="ROI", size=[9, 9, 9])).names == ("a",)
    assert "roi.mrk.json: of each ROI its control points are read, as points" in caplog.text


@pytest.mark.parametrize(("system", "sign"), [("LPS", 1), ("RAS", -1), ("1", 1), ("0", -1), (0, -1)])
def test_markups_frame(tmp_path, system, sign):
    points = read(tmp_path, "m.mrk.json", markups(system, {"label": "a", "position": [1, 2, 3]}))
    assert points.positions.tolist() == [[sign, 2 * sign, 3]]
    text = f"# Markups fiducial file version = 4.11\n# CoordinateSystem = {system}\n"
    text += "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n1,1,2,3,0,0,0,1,1,1,0,a,,\n"
    points = read(tmp_path, "m.fcsv", text)
    assert points.positions.tolist() == [[sign, 2 * sign, 3]]
    assert points.names == ("a",)


def test_slicer_3_files(tmp_path):
    text = (
        "# Fiducial List file /tmp/L.fcsv\n# version = 2\n# name = L\n# columns = label,x,y,z,sel,vis\nF 1,1,2,3,1,1\n"
    )
    points = read(tmp_path, "old.fcsv", text)
    assert points.names == ("F 1",)
    assert points.positions.tolist() == [[-1, -2, 3]]


def test_several_markup_lists_are_joined(tmp_path):
    lists = [json.loads(markups(s, {"label": s, "position": [1, 2, 3]}))["markups"][0] for s in ("LPS", "RAS")]
    points = read(tmp_path, "m.json", json.dumps({"markups": lists}))
    assert points.names == ("LPS", "RAS")
    assert points.positions.tolist() == [[1, 2, 3], [-1, -2, 3]]


def test_unplaced_points_are_left_out(tmp_path, caplog):
    unplaced = [{"label": word, "positionStatus": word} for word in ("undefined", "preview", "missing")]
    points = read(tmp_path, "m.json", markups("LPS", *unplaced, {"label": "a", "position": [1, 2, 3]}))
    assert points.names == ("a",)
    assert "'undefined' is not placed" in caplog.text
    assert not len(read(tmp_path, "n.json", markups("LPS", *unplaced)))


HEAD = (
    "# Markups fiducial file version = 5.2\n# CoordinateSystem = LPS\n"
    "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
)


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        (
            "1,1,2,3,0,0,0,1,1,1,0,F-1,,,2,0\n2,0,0,0,0,0,0,1,1,1,0,F-2,,,0,0\n3,0,0,0,0,0,0,1,1,1,0,F-3,,,3,0\n",
            ["F-1"],
        ),
        ('1,1,2,3,0,0,0,1,1,1,0,"hilum, left",a note,vtkMRMLScalarVolumeNode1\n', ["hilum, left"]),
        ('1,1,2,3,0,0,0,1,1,1,0,"hilum, left","a, b",,2,1\n', ["hilum, left"]),
        ("1,1,2,3,0,0,0,1,1,1,0,short\n", ["short"]),
        ("1,1,2,3,90,0,0,1,1,1,0,turned,,\n", ["turned"]),
        (",1,2,3,,,,,,,,bare,,\r\n\r\n", ["bare"]),
        ("", []),
    ],
)
def test_fiducials_of_every_slicer(tmp_path, rows, names):
    for name in ("p.fcsv", "p.csv"):  # by its comments, where the ending lies
        points = read(tmp_path, name, HEAD + rows)
        assert list(points.names) == names
        assert points.positions.tolist() == [[1, 2, 3]] * len(names)


@pytest.mark.parametrize(
    "row",
    [
        "1,12,5,-30,25,101,5,0,0,0,1,1,1,0,carina,,",
        "1,12,5,-30,25,101,0,0,0,1,1,1,0,carina,,",  # of x and y alone: two cells more, as many as Slicer 5 adds
        "1,12,5,-30,101,0,0,0,1,1,1,0,carina,,",
        "1,12,5,-30,101,0,0,0,1,1,1,0,carina",  # fewer cells than columns, and yet one too many
        "1,12,5,-30,25,101,0,0,0,1,1,1,0,carina",
        "1,1,2,3,0,0,0,1,1,1,0,hilum, left,,",
        "1,1,2,3,0,0,0,1,1,1,0,hilum, left,,,2,0",
        "1,1,2,3,0,0,0,1,1,1,0,hilum, left, upper,,",
        "1,1,2,3,0,0,0,1,1,1,0,F,,,7,0",
    ],
)
def test_fiducials_pushed_aside_by_commas_are_refused(tmp_path, row):
    refused(tmp_path, "bad.fcsv", HEAD + row + "\n", "line 4", "decimal commas", "name or description")


def test_joined_fiducials_of_two_frames_are_refused(tmp_path):
    row = "1,1,2,3,0,0,0,1,1,1,0,a,,\n"
    assert len(read(tmp_path, "joined.fcsv", (HEAD + row) * 2)) == 2
    refused(tmp_path, "bad.fcsv", HEAD + row + HEAD.replace("LPS", "RAS") + row, "LPS and RAS")


def test_a_description_that_looks_like_a_score_is_none(tmp_path):
    assert read(tmp_path, "d.fcsv", HEAD + "1,1,2,3,0,0,0,1,1,1,0,a,score=good,\n").scores is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (markups(None, {"position": [1, 2, 3]}), ["no coordinate system"]),
        (markups("IJK", {"position": [1, 2, 3]}), ["unknown coordinate system 'IJK'"]),
        (markups("LPS", {"position": [1, 2, 3]}, coordinateUnits="um"), ["in mm"]),
        (markups("LPS", {"label": "a", "position": [1, float("nan"), 3]}), ["'a'", "nan"]),
        (markups("LPS", {"label": "a", "position": [1, 2]}), ["'a'"]),
        (markups("LPS", {"label": "a"}), ["KeyError"]),
        (markups("LPS", {"label": "a", "position": [10**400, 0, 0]}), ["OverflowError"]),
        (markups("LPS", {"label": "a", "position": ["1,5", 0, 0]}), ["1,5"]),
        (markups("LPS", {"label": "a", "positionStatus": "lost"}), ["'a'", "unknown position status 'lost'"]),
        (markups("LPS", {"position": [1, 2, 3]})[:-30], ["not a 3D Slicer markups file, or cut"]),
        ('{"markups": 3}', ["not a 3D Slicer markups file"]),
        ("[1, 2]", ["not a 3D Slicer markups file"]),
        ("[" * 100_000, ["not a 3D Slicer markups file"]),
    ],
)
def test_markups_damage(tmp_path, text, words):
    refused(tmp_path, "bad.mrk.json", text, *words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1,1,2,3,0,0,0,1,1,1,0,a,,\n", ["no coordinate system"]),
        ("# CoordinateSystem = IJK\n1,1,2,3,0,0,0,1,1,1,0,a,,\n", ["unknown coordinate system 'IJK'"]),
        ("# CoordinateSystem = LPS\n1,1,2,3,0,0,0\n", ["line 2", "12 are needed"]),
        ("# CoordinateSystem = LPS\n1,1,2,nan,0,0,0,1,1,1,0,a,,\n", ["line 2", "nan"]),
        ("# CoordinateSystem = LPS\n# columns = label,a,b\na,1,2\n", ["no columns x, y, z, label"]),
    ],
)
def test_fcsv_damage(tmp_path, text, words):
    refused(tmp_path, "bad.fcsv", text, *words)


def test_slicer_is_3d(tmp_path):
    with pytest.raises(InputError, match="write 2D points as"):
        write_points(Points([[1, 2]]), tmp_path / "p.fcsv")
    with pytest.raises(InputError, match=r"must be samreg\.Points, got ndarray"):
        write_points(np.zeros((1, 3)), tmp_path / "p.csv")


# elastix and DIR-Lab


def test_elastix_points_and_indices(tmp_path, random_grid):
    assert read(tmp_path, "p.pts", "point\n2\n1 2 3\n4.5 5 6\n").positions.tolist() == [[1, 2, 3], [4.5, 5, 6]]
    grid = random_grid(np.random.default_rng(0), 3)
    points = read(tmp_path, "i.txt", "index\n1\n1 2 0\n", grid=grid)
    assert np.allclose(points.positions, grid.index_to_world([[1, 2, 0]]))
    refused(tmp_path, "i.txt", "index\n1\n1 2 0\n", "grid=")
    refused(tmp_path, "i.txt", "index\n1\n1 2\n", "2D points", grid=grid)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("point\n3\n1 2 3\n4 5 6\n", ["2 points", "says 3", "cut"]),
        ("point\n1\n1 2 3\n4 5 6\n", ["2 points", "says 1"]),
        ("point\n2\n1 2 3\n4 5\n", ["line 4", "2 columns"]),
        ("point\n1\n1 2 x\n", ["line 3", "'x'"]),
        ("point\n1\n1 2 nan\n", ["line 3", "nan"]),
        ("point\n1\n1 2 3 4\n", ["4 columns"]),
        ("point\n", ["second line"]),
        ("point\nmany\n", ["second line"]),
        ("point\n²\n", ["second line"]),
        ("point\n" + "9" * 5000 + "\n", ["second line"]),
        ("point\n1\n1,5 2 3\n", ["line 3", "'1,5'"]),
        ("1 2 3\n4 5 6\n", ["first line", "format='dirlab'"]),
        ("\n", ["first line"]),
    ],
)
def test_elastix_damage(tmp_path, text, words):
    refused(tmp_path, "bad.txt", text, *words)


OUTPUT = (
    "Point\t{}\t; InputIndex = [ 12 20 30 ]\t; InputPoint = [ 12.1 20 30 ]\t; OutputIndexFixed = [ 12 20 29 ]\t; "
    "OutputPoint = [ {} ]\t; Deformation = [ 1.5 0 -1 ]{}\n"
)


def test_of_transformixs_output_the_mapped_points_are_read_and_it_is_said(tmp_path):
    text = OUTPUT.format(0, "13.6 20.0 -29", "") + OUTPUT.format(1, "-1e-3 2 3", "\t; OutputIndexMoving = [ 1 2 3 ]")
    with remarks_kept() as remarks:
        points = read(tmp_path, "outputpoints.txt", text)
    assert points.positions.tolist() == [[13.6, 20, -29], [-1e-3, 2, 3]]
    assert ["OutputPoint is read" in said for said in remarks] == [True]
    assert read(tmp_path, "flat.txt", OUTPUT.format(0, "1 2", "")).ndim == 2
    for text, words in (
        (
            OUTPUT.format(0, "1 2 3", "") + "Point\t1\t; InputIndex = [ 12 20 30 ]\n",
            ["line 2", "no OutputPoint", "cut"],
        ),
        (OUTPUT.format(0, "1 2 3", "") + OUTPUT.format(1, "1 2", ""), ["line 2", "2 columns"]),
        (OUTPUT.format(0, "1 2 nan", ""), ["line 1", "nan"]),
        (OUTPUT.format(0, "1", ""), ["line 1", "1 coordinates"]),
        (OUTPUT.format(0, "1 2 3", "") + "1 2 3\n", ["line 2", "no OutputPoint"]),
    ):
        refused(tmp_path, "bad.txt", text, *words)


def test_dirlab_counts_from_one(tmp_path):
    grid = Grid.make((94, 256, 256), origin=(10, 20, 30), spacing=(0.97, 0.97, 2.5))
    text = "1\t1\t1\n 256 \t 2\t94\n"
    points = read(tmp_path, "Case1_300_T00_xyz.txt", text, format="dirlab", grid=grid)
    assert np.allclose(points.positions, [[10, 20, 30], [10 + 255 * 0.97, 20.97, 30 + 93 * 2.5]])
    refused(tmp_path, "c.txt", text, "grid=", format="dirlab")
    refused(tmp_path, "c.txt", "1 1 95\n", "outside", "c.txt", format="dirlab", grid=grid)
    refused(tmp_path, "c.txt", "1 1\n", "line 1", format="dirlab", grid=grid)


# files


def test_files_that_are_none(tmp_path):
    with pytest.raises(InputError, match="not found"):
        read_points(tmp_path / "no.csv")
    refused(tmp_path, "e.csv", "", "empty (0 bytes)")
    refused(tmp_path, "a.xlsx", "1,2,3", "unknown points format")
    refused(tmp_path, "a.csv", "1,2,3", "unknown format of", "'excel'", format="excel")
    (tmp_path / "b.csv").write_bytes(b"name,x,y\n\xff\xfe,1,2\n")
    with pytest.raises(InputError, match="UTF-8"):
        read_points(tmp_path / "b.csv")
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(InputError, match="folder"):
        read_points(tmp_path / "d.csv")
    with pytest.raises(InputError, match="unknown points format"):
        write_points(Points([[1, 2, 3]]), tmp_path / "p.xlsx")
    with pytest.raises(InputError, match="Unicode"):
        write_points(Points([[1, 2, 3]], ("\ud800",)), tmp_path / "p.csv")
    assert not (tmp_path / "p.csv").exists()


@pytest.mark.parametrize("suffix", ALL)
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_is_half_written(tmp_path, monkeypatch, suffix, error):
    path = tmp_path / f"p{suffix}"
    write_points(Points([[1, 2, 3]]), path)
    before = path.read_bytes()

    def half(self, data):
        with open(self, "wb") as file:
            file.write(data[: len(data) // 2])
        raise error

    monkeypatch.setattr("pathlib.Path.write_bytes", half)
    with pytest.raises(InputError if isinstance(error, OSError) else KeyboardInterrupt):
        write_points(Points([[4, 5, 6]]), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
