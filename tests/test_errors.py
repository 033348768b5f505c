"""The checks of plain options: what a user may give, and the message for what not."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samreg.errors import (
    InputError,
    require_choice,
    require_flag,
    require_number,
    require_options,
    require_progress,
    require_seed,
)

ANYTHING = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary()),
    st.lists(st.integers(), max_size=2),
    *map(st.just, (np.eye(2), np.float32(2), np.int8(3), np.zeros(0), object(), int)),
)


@given(ANYTHING, st.booleans())
def test_a_number_is_finite_and_in_range_or_refused(value, integer):
    try:
        number = require_number("n", value, minimum=-5, maximum=5, integer=integer)
    except InputError as error:
        assert str(error).startswith("n must be a")  # noqa: PT017
    else:
        assert type(number) is int or (type(number) is float and not integer)
        assert -5 <= number <= 5
        assert number == value


@pytest.mark.parametrize(("given", "number"), [(2, 2), (np.int64(3), 3), (np.array(4), 4), (1.5, 1.5)])
def test_numbers_of_numpy_are_numbers(given, number):
    assert require_number("n", given) == number


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("2", "threads must be a whole number of at least 1, got '2'"),
        (2.0, "got 2.0"),
        (True, "got True"),
        (0, "of at least 1, got 0"),
        (np.ones((50, 50)), "..."),
    ],
)
def test_what_is_no_number_is_said_on_one_line(given, words):
    with pytest.raises(InputError) as caught:
        require_number("threads", given, minimum=1, integer=True)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 160


@pytest.mark.parametrize("given", [math.nan, math.inf, -math.inf])
def test_numbers_are_finite(given):
    with pytest.raises(InputError, match="must be a number"):
        require_number("spacing", given)


@given(ANYTHING)
def test_other_options_are_taken_or_refused(value):
    for check in (
        require_seed,
        require_progress,
        lambda v: require_flag("verbose", v),
        lambda v: require_options("o", v),
        lambda v: require_choice("search", v, ("a", "b")),
    ):
        try:
            check(value)
        except InputError as error:
            assert len(str(error)) < 250  # noqa: PT017


def test_options_are_a_mapping_or_a_dataclass():
    @dataclass
    class Options:
        levels: int = 3

    assert require_options("engine_options", Options()) == {"levels": 3}
    assert require_options("engine_options", None) == {}
    for wrong in (Options, {1: 2}, [("levels", 3)]):
        with pytest.raises(InputError, match="engine_options must map names to values"):
            require_options("engine_options", wrong)
