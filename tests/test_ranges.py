"""Every value that a key of a config may not take is refused by name, before anything compiles."""

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_configs import flatten

import runs
from scorax import run_lib
from scorax.configs import base
from scorax.configs.ranges import RULES, Number, check_ranges

DEFAULTS = flatten(base.get_config().to_dict())
SWITCHES = [key for key, value in DEFAULTS.items() if isinstance(value, bool)]
TEXTS = [key for key, value in DEFAULTS.items() if isinstance(value, str)]
TUPLES = [key for key, value in DEFAULTS.items() if isinstance(value, tuple)]
NUMBERS = [key for key, rule in RULES.items() if isinstance(rule, Number)]
# Values that somebody may give to any key, by a slip or in despair.
NASTY = [
    *(0, -1, 1, 3, 7, 10**9, 10**20, 0.0, -1.0, 0.5, 1e30, math.nan, math.inf, -math.inf),
    *("", "unknown", "0", "/nowhere", "\0", None, True, False),
    *((), (0,), (-1,), (1.5,), (math.nan,), ("unknown",), (None,), (1, 2, 3), (10**9, 10**9)),
]


def set_value(config, field, value):
    """Sets a value of whatever type, which ml_collections itself would not allow."""
    section, _, key = field.rpartition(".")
    node = config[section] if section else config
    with config.unlocked(), node.ignore_type():
        node[key] = value
    return config


def refusal(field, value):
    """What is said of the value, which must be refused by name."""
    with pytest.raises(ValueError, match="^" + re.escape(field)) as error:
        check_ranges(set_value(base.get_config(), field, value))
    return str(error.value)


def test_every_key_has_a_rule_that_its_default_follows():
    assert RULES.keys() == DEFAULTS.keys()
    others = DEFAULTS.keys() - {*SWITCHES, *TEXTS, *TUPLES, *NUMBERS}
    assert others == {"data.image_size", "optim.grad_clip"}
    check_ranges(base.get_config())
    for field in NUMBERS:
        assert type(DEFAULTS[field]) is (int if RULES[field].whole else float), field


@pytest.mark.parametrize("field", NUMBERS)
def test_number_out_of_range_is_refused(field):
    for value in (math.nan, math.inf, -math.inf, 10**20, -(10**20), None, "1", (1,)):
        refusal(field, value)
    if RULES[field].whole:
        for value in (1.5, True):
            assert refusal(field, value) == f"{field}={value} must be a whole number"


@pytest.mark.parametrize("field", NUMBERS)
def test_ends_of_a_range_are_as_said(field):
    low, high = RULES[field].low, RULES[field].high
    for end in (low, high):
        if RULES[field].above and end == low:
            refusal(field, end)
        else:
            check_ranges(set_value(base.get_config(), field, end))
    assert re.search(r" must be at most [\d.,]+$", refusal(field, high + 1))
    assert re.search(r" must be (at least|greater than) [\d.,e-]+$", refusal(field, low - 1))


@pytest.mark.parametrize("field", TUPLES)
def test_element_out_of_range_is_refused(field):
    for element in (None, math.nan, 1.5j, ()):
        assert repr(element) in refusal(field, (element,))
    refusal(field, 3)
    refusal(field, None)


@pytest.mark.parametrize("field", SWITCHES + TEXTS)
def test_other_type_is_refused(field):
    for value in (None, 3, ("a",)):
        assert refusal(field, value).startswith(f"{field}={value!r} must be ")


def test_clipping_to_nothing_and_impossible_sizes_are_refused():
    assert "must not be 0, which would stop training" in refusal("optim.grad_clip", 0.0)
    for value in (math.nan, math.inf, None):
        refusal("optim.grad_clip", value)
    for value in (0, -1, 10**9, (32,), (32, 0), 1.5, "32", None):
        refusal("data.image_size", value)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(field=st.sampled_from(sorted(RULES)), value=st.sampled_from(NASTY))
def test_any_value_of_any_key_is_accepted_or_refused_in_a_sentence(field, value):
    config = set_value(runs.get_config(), field, value)
    try:
        run_lib._build(config)
    except ValueError as error:
        assert field.rpartition(".")[2] in str(error)
        assert "\n" not in str(error)
