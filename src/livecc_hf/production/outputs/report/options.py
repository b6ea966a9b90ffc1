"""The options of a report."""

from __future__ import annotations

from dataclasses import dataclass, field, fields


@dataclass(frozen=True)
class ReportOptions:
    """How much a report shows; a picture of 192 pixels takes about 5 kB."""

    samples: int = field(default=6, metadata={"help": "Number of dropped items shown for each reason of a stage."})
    kept_samples: int = field(default=12, metadata={"help": "Number of kept clips (or videos) shown."})
    frames: int = field(default=8, metadata={"help": "Pictures per shown item; 0: none, and no video is opened."})
    frame_px: int = field(default=192, metadata={"help": "Longer side of a picture, in pixels."})
    max_pictures: int = field(default=1000, metadata={"help": "Maximum number of pictures in the report."})

    def __post_init__(self) -> None:
        least = {"samples": 1, "kept_samples": 1, "frame_px": 16}
        for item in fields(self):
            value, lowest = getattr(self, item.name), least.get(item.name, 0)
            if value < lowest:
                raise ValueError(f"report.{item.name} is {value}: expected {lowest} or more, such as {item.default}")
