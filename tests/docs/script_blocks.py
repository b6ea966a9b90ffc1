"""Runs the browser's script in Node, against a server on this machine; the page's video and canvas are made up."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from blocks import Block
from PIL import Image
from servers import Servers
from shell import Shell
from stand_ins import TEXTS, replaced

_PAGE = """
const fs = require("fs");
const began = performance.now();
const video = { get currentTime() { return (performance.now() - began) / 1000; } };
class OffscreenCanvas {
  constructor(width, height) { this.width = width; this.height = height; }
  getContext() { return { drawImage() {} }; }
  async convertToBlob(options) { return new Blob([fs.readFileSync("frame.jpg")], options); }
}
setTimeout(() => process.exit(0), 7000);
"""


def run_script(block: Block, folder: Path) -> str:
    """Run the block for seven seconds and return what it logs; it must hear words."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node to run a browser's script")
    (folder / "token").write_text("TOKEN\n")
    Image.new("RGB", (640, 360), (200, 40, 40)).save(folder / "frame.jpg")
    with Servers(folder) as servers, Shell(folder, servers) as shell:
        shell.run("livecc serve --token-file token --max-sessions 2")
        script = folder / "page.js"
        script.write_text(_PAGE + servers.filled_in(replaced(block.text, TEXTS)))
        done = subprocess.run(
            [node, "--experimental-websocket", script.name], cwd=folder, capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 0, done.stderr
    assert re.search(r"(?m)^\d+(\.\d+)? \S", done.stdout), done.stdout + done.stderr
    return done.stdout
