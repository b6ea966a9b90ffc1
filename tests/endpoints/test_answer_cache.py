"""The answers of language models in a file: shared by threads, kept when a run is killed."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from livecc_hf.endpoints.answer_cache import AnswerCache, AnswerCacheError


def test_a_key_depends_on_every_part_and_its_order():
    assert AnswerCache.key("model", {"a": 1, "b": 2}) == AnswerCache.key("model", {"b": 2, "a": 1})
    assert len({AnswerCache.key(*parts) for parts in [("a", "b"), ("b", "a"), ("ab",), ("a", None), ("\ud83d",)]}) == 5


def test_answers_are_there_for_the_next_run(tmp_path):
    file = tmp_path / "new/answers.sqlite"
    cache = AnswerCache(file)
    assert cache.get("key") is None
    cache.put("key", {"text": "Ü"})
    cache.put("key", {"text": "é"})
    cache.close()
    assert AnswerCache(file).get("key") == {"text": "é"}


def test_without_a_file_nothing_is_cached():
    cache = AnswerCache(None)
    cache.put("key", 1)
    assert cache.get("key") is None
    cache.close()


def test_an_answer_that_was_put_survives_a_kill(tmp_path):
    file = tmp_path / "answers.sqlite"
    code = (
        "import os, signal, sys; from livecc_hf.endpoints.answer_cache import AnswerCache\n"
        "AnswerCache(sys.argv[1]).put('key', [1, 2]); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, file]).returncode == -9
    assert AnswerCache(file).get("key") == [1, 2]


def test_threads_share_a_cache(tmp_path):
    cache = AnswerCache(tmp_path / "answers.sqlite")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: cache.put(str(n), n), range(100)))
        assert list(pool.map(lambda n: cache.get(str(n)), range(100))) == list(range(100))


def test_a_file_that_is_damaged_later_says_what_is_kept(tmp_path):
    cache = AnswerCache(tmp_path / "answers.sqlite")
    cache._connection.execute("DROP TABLE answers")
    with pytest.raises(AnswerCacheError, match=r"answers.sqlite cannot be read: .* Finished work is kept"):
        cache.get("key")
    with pytest.raises(AnswerCacheError, match=r"answers.sqlite cannot be written: "):
        cache.put("key", 1)
