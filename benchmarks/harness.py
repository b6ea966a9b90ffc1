"""Names the machine and the versions that a benchmark ran with."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def hardware() -> str:
    """The processor's name, with family and model, and how many cores this process may use."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = told.get("model name", platform.machine())
    if "cpu family" in told:  # virtual machines leave of the name no more than the maker
        name += f" (family {told['cpu family']}, model {told.get('model')})"
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


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
