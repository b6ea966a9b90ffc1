"""Where the files that come with the package lie: the bundled model, the demonstration clip, recipes and examples."""

from pathlib import Path

_HERE = Path(__file__).parent


def bundled_model_path() -> Path:
    """Return the folder of livecc-tiny, a demonstration model that knows moving coloured shapes only."""
    return _existing(_HERE / "livecc-tiny")


def demo_clip_path() -> Path:
    """Return a clip that livecc-tiny has never seen."""
    return _existing(_HERE / "demo" / "clip.mp4")


def demo_events_path() -> Path:
    """Return the path of what truly happens in the demonstration clip, as JSON."""
    return _existing(_HERE / "demo" / "events.json")


def recipes_path() -> Path:
    """Return the folder of recipes, which is `recipes/` in a clone."""
    return _beside_package("recipes")


def examples_path() -> Path:
    """Return the folder of example scripts, which is `examples/` in a clone."""
    return _beside_package("examples")


def _beside_package(name: str) -> Path:
    installed = _HERE.parent / name
    return installed if installed.is_dir() else _existing(_HERE.parents[2] / name)


def _existing(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing from this installation: install livecc-hf again")
    return path
