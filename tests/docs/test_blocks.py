"""Every code block of the README and of the pages in docs/ is run, and prints what its page shows.

How to add one: CONTRIBUTING.md, "Code in the pages".
"""

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from blocks import PAGES, Block, blocks_of, difference
from data_blocks import run_files, run_grammar, run_json, run_yaml
from python_blocks import run_python
from reader_folder import copy_for, make_reader_folder, write_spoken
from script_blocks import run_script
from servers import Servers
from shell import Shell
from stand_ins import ENVIRONMENT, MADE_BY, NO_CODE, NOT_RUN, OPTIONS, SERVERS, TEXTS, reason_not_to_run

BLOCKS = [block for page in PAGES for block in blocks_of(page)]
# What takes long, by what stands in a block.
_SLOW = (
    r"livecc (train|data|push|merge|serve|convert|demo)|my_filters:|rtsp:|--realtime|make demo|source: |new WebSocket|"
    r"examples/"
)


def run_bash(block: Block, folder: Path) -> str:
    """Run a shell block line by line and return what it prints."""
    with Servers(folder) as servers, Shell(folder, servers) as shell:
        if "urls.txt" in block.text:
            (folder / "urls.txt").write_text(servers.filled_in("{site}/match.mp4\n"))
        if "--input spoken" in block.text:
            write_spoken(folder / "spoken")
        for command in block.commands:
            shell.run(command)
    return shell.printed


RUNNERS = {"bash": run_bash, "python": run_python, "js": run_script, "json": run_json, "yaml": run_yaml}
# Blocks without a language, by how they begin.
PLAIN = {"<|im_start|>system": run_grammar, "my-videos/": run_files}


def runner_of(block: Block):
    """The function that runs a block, and `None` where there is none."""
    if block.language in RUNNERS:
        return RUNNERS[block.language]
    return next((run for start, run in PLAIN.items() if not block.language and block.text.startswith(start)), None)


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    return make_reader_folder(tmp_path_factory.mktemp("reader"))


def as_param(block: Block):
    marks = [pytest.mark.slow] if re.search(_SLOW, block.text) else []
    return pytest.param(block, id=f"{block.page}:{block.line}", marks=marks)


@pytest.mark.parametrize("block", [as_param(block) for block in BLOCKS if block.language not in NO_CODE])
def test_the_block_runs_and_prints_what_the_page_shows(block, template, tmp_path, monkeypatch):
    for package in ("trl", "datasets", "fastapi", "matplotlib", "yt_dlp"):
        pytest.importorskip(package)
    runner = runner_of(block)
    assert runner is not None, (
        f"{block.page}, line {block.line}: nothing runs a block of language {block.language!r}: see CONTRIBUTING.md, "
        "'Code in the pages'"
    )
    folder = copy_for(tmp_path / "reader", template)
    monkeypatch.chdir(folder)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    printed = runner(block, folder)
    shown = block.shown or (block.shown_by_print if block.language == "python" else "")
    assert not shown or difference(shown, printed) is None, difference(shown, printed)


def test_there_are_blocks_of_every_page_with_code():
    assert {block.page for block in BLOCKS} >= {"README.md", "CONTRIBUTING.md", "docs/training.md", "docs/serving.md"}
    fences = sum(len(re.findall(r"(?m)^ *```", (Path(__file__).parents[2] / page).read_text())) for page in PAGES)
    assert fences == 2 * (len(BLOCKS) + sum(bool(block.shown) for block in BLOCKS))


def test_what_stands_in_is_needed():
    """No exception outlives the block that it was made for."""
    commands = [command for block in BLOCKS if block.language == "bash" for command in block.commands]
    code = "\n".join(block.text for block in BLOCKS)
    for start in NOT_RUN:
        assert any(command.strip().startswith(start) for command in commands), start
    run = [command for command in commands if reason_not_to_run(command) is None]
    for pattern in OPTIONS:
        assert any(re.search(pattern, command) for command in run), pattern
    for start in (*SERVERS, *ENVIRONMENT):
        assert any(command.startswith(start) for command in run), start
    for name in (*TEXTS, *MADE_BY):
        assert name in code, name
    for start in PLAIN:
        assert any(block.text.startswith(start) for block in BLOCKS), start
    assert {block.language for block in BLOCKS} >= NO_CODE.keys()


class TestTheHarness:
    PAGE = (
        "Text.\n```bash\necho a  # first\nlivecc x \\\n  --y\n```\n<!-- b -->\n```text\na\n...\n```\n"
        "  ```js\n  f()\n  ```\n"
    )

    def test_finds_blocks_and_their_output(self):
        shell, script = blocks_of("p.md", self.PAGE)
        assert (shell.language, shell.line, shell.shown) == ("bash", 2, "a\n...\n")
        assert shell.commands == ["echo a  # first", "livecc x --y"]
        assert (script.language, script.text) == ("js", "f()\n")

    def test_a_new_block_that_nothing_runs_is_seen(self):
        [block] = blocks_of("p.md", "```rust\nfn main() {}\n```\n")
        assert runner_of(block) is None
        assert block.language not in NO_CODE
        [block] = blocks_of("p.md", "```\nsomething new\n```\n")
        assert runner_of(block) is None

    def test_a_command_that_fails_is_seen(self, tmp_path):
        with Servers(tmp_path) as servers, Shell(tmp_path, servers) as shell:
            shell.run("echo hello")
            assert shell.printed == "hello\n"
            for line in ("false", "livecc commentate none.mp4", "livecc comentate a", "cat none | cat", "nonsense"):
                with pytest.raises(AssertionError, match="ended with"):
                    shell.run(line)
            for line in ('pip install "livecc-hf[train]"', 'pip install ".[trian]"', "pip install nonsense"):
                with pytest.raises(AssertionError, match="pip install"):
                    shell.run(line)
            with pytest.raises(AssertionError, match="there is no recipes/none.yaml"):
                shell.run("accelerate launch --config_file recipes/none.yaml")

    @pytest.mark.parametrize(
        ("shown", "printed", "fits"),
        [
            ("a\nb", "first\na\nb\nlast", True),
            ("a\nb", "a\nx\nb", False),
            ("a\n...\nb", "a\nx\ny\nb", True),
            ("a\n...\n", "a\n", True),
            ("took … s", "took 1.5 s", True),
            ("took 1 s", "took 1x s", False),
            ("a", "ab", False),
            ("1 ...", "1 ...", True),
            ("1 ...", "1 b", False),
        ],
    )
    def test_compares_lines(self, shown, printed, fits):
        assert (difference(shown, printed) is None) == fits

    def test_finds_what_print_shows(self):
        [block] = blocks_of(
            "p.md", "```python\nprint(1)\n# 1\nx = 2\n# no output\nprint(x,\n      3)\n# 2 3\n# 4\n```\n"
        )
        assert block.shown_by_print == "1\n2 3\n4"
