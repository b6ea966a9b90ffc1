"""Where the files that come with the package lie: the bundled model, the demonstration clip and its true events."""

from pathlib import Path

_HERE = Path(__file__).parent


def bundled_model_path() -> Path:
    """The folder of livecc-tiny, a demonstration model that knows moving coloured shapes only."""
    return _existing(_HERE / "livecc-tiny")


def demo_clip_path() -> Path:
    """A clip that livecc-tiny has never seen."""
    return _existing(_HERE / "demo" / "clip.mp4")


def demo_events_path() -> Path:
    """What truly happens in the demonstration clip, as JSON."""
    return _existing(_HERE / "demo" / "events.json")


def _existing(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing from this installation: install livecc-hf again")
    return path
