"""An environment with this package and what it cannot do without: none of the extras is in it."""

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
_OURS = "livecc-hf"


def base_distributions() -> set[str]:
    """The distributions that `pip install .` brings, by their dependencies."""
    found, waiting = set(), [(_OURS, frozenset())]
    while waiting:
        name, extras = waiting.pop()
        for text in importlib.metadata.requires(name) or ():
            requirement = Requirement(text)
            marker = requirement.marker
            if marker and not any(marker.evaluate({"extra": extra}) for extra in extras or {""}):
                continue
            key = re.sub(r"[-_.]+", "-", requirement.name).lower()
            if (key, frozenset(requirement.extras)) not in found:
                found.add((key, frozenset(requirement.extras)))
                waiting.append((key, frozenset(requirement.extras)))
    return {name for name, _ in found}


def make_bare_site(site: Path) -> Path:
    """Link the packages into a folder that serves as `site-packages`, and return it."""
    for name in base_distributions():
        distribution = importlib.metadata.distribution(name)
        tops = {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}
        for top in tops:
            if not (site / top).exists():
                (site / top).symlink_to(distribution.locate_file(top))
    package = site / "livecc_hf"
    package.mkdir()
    for path in (ROOT / "src/livecc_hf").iterdir():
        (package / path.name).symlink_to(path)
    ours = importlib.metadata.distributions(name=_OURS)  # a build leaves one in the clone too
    infos = (Path(found.locate_file(f"livecc_hf-{found.version}.dist-info")) for found in ours)
    info = next(filter(Path.is_dir, infos))
    (site / info.name).symlink_to(info)
    return site


def run_bare(site: Path, *argv: object, **options) -> subprocess.CompletedProcess:
    """Run `python ARGV` where only `site` and the standard library can be imported."""
    env = os.environ | {"PYTHONPATH": str(site)}
    command = [sys.executable, "-S", *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=env, **options)
