"""Names the machine and the versions that a benchmark ran with."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def hardware() -> str:
    """The processor's name and how many cores this process may use."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {len(os.sched_getaffinity(0))} cores"


def memory_gb() -> float:
    """The machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def software(*packages: str) -> dict:
    """Python's version and those of packages, `None` for one that is not installed."""
    versions: dict[str, str | None] = {}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return {"versions": versions, "python": platform.python_version()}


def surroundings(device: str) -> dict:
    """What runs a model: the device, the processor, PyTorch's threads and the versions."""
    import torch

    return {
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else "cpu",
        "hardware": hardware(),
        "threads": torch.get_num_threads(),
        **software("torch", "transformers"),
    }
