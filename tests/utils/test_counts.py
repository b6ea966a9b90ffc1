"""Checks of options that count something."""

from types import SimpleNamespace

import pytest

from livecc_hf.utils.counts import check_counts


def test_the_first_that_is_less_than_one_is_named():
    options = SimpleNamespace(few=1, limit=None, none=0, less=-3)
    check_counts(options, "few", "limit")
    with pytest.raises(ValueError, match=r"^none is 0: expected at least 1$"):
        check_counts(options, "few", "none", "less")
