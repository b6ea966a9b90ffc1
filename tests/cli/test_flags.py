"""Messages that name options as the command line does."""

import argparse

from livecc_hf.cli.flags import with_flags


def test_options_are_named_as_they_were_given():
    args = argparse.Namespace(top_k=-1, top_p=1.5, max_pixels=10, greedy=True, query="0", fps=None)
    for message, shown in (
        ("top_k=-1: expected a whole number at least 0", "--top-k -1: expected a whole number at least 0"),
        ("top_p=1.5, not 1", "--top-p 1.5, not 1"),
        ("max_pixels=10 is less than a token", "--max-pixels 10 is less than a token"),
        ("top_k=5: another value, from a file", "top_k=5: another value, from a file"),
        ("greedy=True", "greedy=True"),
        ("fps=0: not given", "fps=0: not given"),
        ("unknown=1", "unknown=1"),
    ):
        assert with_flags(message, args) == shown
        assert with_flags(message, None) == message
