"""Points from what users give, and the checks that every function with points makes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from samreg.errors import InputError
from samreg.quality import dice, summarise_errors, target_registration_error
from samreg.spatial import AffineTransform, Grid, Image, Points, as_points
from samreg.spatial.inputs import points_in
from samreg.spatial.points import paired_points, require_inside

GRID = Grid.make((40, 50, 60), origin=(-200, -300, 50), spacing=2)


@pytest.mark.parametrize("empty", [[], [[]], (), np.zeros((0, 3)), np.zeros(0), torch.zeros(0, 3)])
def test_an_empty_list_is_no_points(empty):
    assert as_points(empty, 3).positions.shape == (0, 3)
    with pytest.raises(InputError, match="no points in the template: the list is empty"):
        points_in(empty, GRID, "the template")


@pytest.mark.parametrize("given", [(1, 2, 3), [[1, 2, 3]], np.array([1, 2, 3]), torch.tensor([[1.0, 2, 3]])])
def test_one_position_is_one_point(given):
    assert as_points(given, 3).positions.tolist() == [[1, 2, 3]]


def test_data_frames_are_read_by_the_names_of_their_columns():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"z": [3.1, 30], "y": [2.0, 20], "x": [1, 10]})
    assert as_points(frame, 3).positions.tolist() == [[1, 2, 3.1], [10, 20, 30]]
    assert as_points(frame.iloc[0], 3).positions.tolist() == [[1, 2, 3.1]], "one row"
    named = as_points(frame.assign(label=[7, 8], score=[0.5, 1]), 3)
    assert (named.names, named.scores.tolist()) == (("7", "8"), [0.5, 1])
    assert as_points(frame.set_index(pd.Index(["apex", "carina"])), 3).names == ("apex", "carina")
    assert as_points(frame.rename(columns={"x": "R", "y": "A", "z": "S"}), 3).positions[0].tolist() == [-1, -2, 3.1]
    assert as_points(pd.DataFrame(np.eye(3)), 3).positions.tolist() == np.eye(3).tolist(), "columns without names"
    for refused, why in ((frame[["x"]], "no columns x, y"), (frame.assign(x=[np.nan, 1]), "line 2")):
        with pytest.raises(InputError, match=why):
            as_points(refused, 3)
    with pytest.raises(InputError, match="two columns of one name"):
        as_points(pd.concat([frame, frame], axis=1), 3)
    for raw in (Points, AffineTransform.identity(3).transform_points):
        with pytest.raises(InputError, match="as_points"):
            raw(frame)


@pytest.mark.parametrize(
    "junk",
    [
        5, None, object(), b"points", {"a": 1}, {1, 2, 3}, [[1, 2], [3]], ["a", "b", "c"], [[1j, 2, 3]], [[None, 1, 2]],
        [[1, 2, np.nan]], [10**400, 1, 2], np.zeros((2, 2, 2)), (x for x in "ab"), np.array(["2020-01-01"], "M8[D]"),
    ],
)  # fmt: skip
def test_what_is_no_points_is_refused(junk):
    with pytest.raises(InputError, match="points"):
        as_points(junk, 3)


@pytest.mark.parametrize("junk", [None, "abc", [[1, 2], [3]], [10**400, 1, 2], object()])
def test_a_transform_refuses_what_is_no_points(junk):
    with pytest.raises(InputError, match="points must"):
        AffineTransform.identity(3).transform_points(junk)


@pytest.mark.parametrize(("option", "value"), [("names", "ab"), ("names", 5), ("scores", "ab"), ("scores", [1, 2, 3])])
def test_names_and_scores_that_are_none(option, value):
    with pytest.raises(InputError, match=option):
        Points([[1, 2, 3], [4, 5, 6]], **{option: value})


def test_points_of_another_frame_are_refused_with_a_remedy_that_fits():
    world = GRID.index_to_world([[10, 20, 30], [30, 20, 10]])
    require_inside(Points(world), GRID, "the image")
    with pytest.raises(InputError, match=r"2 of 2 points lie outside the image.*if they were in RAS"):
        require_inside(Points(world * [-1, -1, 1]), GRID, "the image")
    with pytest.raises(InputError, match="voxel indices\\? Give world"):
        require_inside(Points([[10, 20, 30], [30, 20, 10]]), GRID, "the image")
    with pytest.raises(InputError, match="2 coordinates"):
        require_inside(Points([[1, 2]]), GRID, "the image")


def test_points_that_are_paired_and_those_left_out(caplog):
    fixed = Points(np.eye(3), ("a", "b", "c"))
    first, second = paired_points(fixed, Points(2 * np.eye(3)[:2], ("c", "d")))
    assert (first.names, second.names) == (("c",), ("c",))
    assert "2 fixed landmarks have no counterpart and are left out: a, b" in caplog.text
    assert "1 moving landmarks have no counterpart and are left out: d" in caplog.text
    with pytest.raises(InputError, match=r"\(a, b, c\) and the moving ones \(x\) have no name in common"):
        paired_points(fixed, Points([[0, 0, 0]], ("x",)))
    with pytest.raises(InputError, match="no moving landmarks"):
        paired_points(fixed, Points(np.zeros((0, 3))))
    with pytest.raises(InputError, match="same name more than once"):
        paired_points(fixed, Points(np.eye(3), ("a", "a", "b")))


def test_masked_arrays_are_refused_wherever_numbers_are_read() -> None:
    """What was masked, such as landmarks that a reader had left out, was used as if it were not."""
    masked = np.ma.masked_array([[1.0, 2.0, 3.0], [-99.0, -99.0, -99.0]], mask=[[False] * 3, [True] * 3])
    grid = Grid.make((4, 4, 4), spacing=2.0)
    stay = AffineTransform.identity(3)
    labels = np.ma.masked_array(np.ones((3, 3), int), mask=np.eye(3))
    for read in (
        lambda: Points(masked),
        lambda: as_points(masked[1], 3),
        lambda: Points(masked.data, scores=np.ma.masked_array([1.0, 2.0], [False, True])),
        lambda: grid.world_to_index(masked),
        lambda: target_registration_error(stay, masked, masked.data),
        lambda: summarise_errors(masked[:, 0]),
        lambda: dice(labels, labels.data),
        lambda: Image.from_array(labels, spacing=1.0),
    ):
        with pytest.raises(InputError, match="masked array, whose mask would be lost; leave out"):
            read()
    unmasked = np.ma.masked_array(masked.data, mask=False)
    np.testing.assert_array_equal(Points(unmasked).positions, masked.data)
