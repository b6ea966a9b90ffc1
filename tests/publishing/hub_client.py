"""Runs `livecc` in a separate process against a local Hub server, as a user with an empty cache."""

import os
import subprocess
import sys
from pathlib import Path


def hub_environment(url: str, home: Path, **changes: str | None) -> dict[str, str]:
    """Return this process's environment with the settings for a Hub; `None` removes a variable."""
    kept = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    kept |= {"HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_write", "HF_HOME": str(home)}
    return {name: value for name, value in (kept | changes).items() if value is not None}


def livecc(url: str, home: Path, *argv: object, **changes: str | None) -> subprocess.CompletedProcess:
    """Run a command, and wait for it."""
    return subprocess.run(
        [sys.executable, "-m", "livecc_hf.cli.main", *map(str, argv)],
        env=hub_environment(url, home, **changes),
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )
