"""Writes face detectors in the published layouts, which detect a coloured mark over a face."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import nn

MARK_RGB = (255, 0, 255)
FACE_PX = 96  # side of the boxes that are found
STRIDES = (8, 16, 32)
MARK_ABOVE_PX = 56  # from a mark's middle down to its face's
_MARK_STRIDE = 8  # marks cover one cell of this


class _Marks(nn.Module):
    """Return the share of the mark's colour in each cell, from pictures in the layout's number range."""

    def __init__(self, mark: tuple[float, float, float], half: float):
        super().__init__()
        self.register_buffer("mark", torch.tensor(mark).view(1, 3, 1, 1))
        self.half = half

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        far = (x - self.mark).abs().sum(1, keepdim=True) / self.half
        return nn.functional.avg_pool2d((1 - far).clamp(0, 1), _MARK_STRIDE)


class YuNetLayout(nn.Module):
    """Twelve outputs: class, object, box and points for each stride; BGR from 0 to 255."""

    def __init__(self):
        super().__init__()
        self.marks = _Marks(MARK_RGB[::-1], 300.0)

    def forward(self, x: torch.Tensor):
        found = self.marks(x).flatten(2).transpose(1, 2)
        cls, obj, box, points = [], [], [], []
        side, down = torch.tensor(FACE_PX / _MARK_STRIDE).log(), 0.5 + MARK_ABOVE_PX / _MARK_STRIDE
        for stride in STRIDES:
            of = found if stride == _MARK_STRIDE else _nothing(x, stride)
            cls.append(of)
            obj.append(of)
            box.append(torch.cat([of * 0 + 0.5, of * 0 + down, of * 0 + side, of * 0 + side], 2))
            points.append(of.repeat(1, 1, 10))
        return (*cls, *obj, *box, *points)


class ScrfdLayout(nn.Module):
    """Nine outputs: score, distances to the sides and points for each stride, two anchors a cell; RGB about 0."""

    def __init__(self):
        super().__init__()
        self.marks = _Marks(tuple((value - 127.5) / 128 for value in MARK_RGB), 2.3)

    def forward(self, x: torch.Tensor):
        found = self.marks(x).flatten(2).transpose(1, 2)
        scores, boxes, points = [], [], []
        middle, half = _MARK_STRIDE / 2, FACE_PX / 2
        for stride in STRIDES:
            of = found if stride == _MARK_STRIDE else _nothing(x, stride)
            both = torch.cat([of, 0 * of], 2).reshape(-1, 1)  # the second anchor finds nothing
            scores.append(both)
            sides = (half - middle, half - middle - MARK_ABOVE_PX, half + middle, half + middle + MARK_ABOVE_PX)
            boxes.append(torch.cat([0 * both + side / stride for side in sides], 1))
            points.append(both.repeat(1, 10))
        return (*scores, *boxes, *points)


def _nothing(x: torch.Tensor, stride: int) -> torch.Tensor:
    """A score of 0 for each cell."""
    return 0 * nn.functional.avg_pool2d(x, stride)[:, :1].flatten(2).transpose(1, 2)


def write_detector(path: Path, layout: nn.Module, size: tuple[int, int] | None = None) -> Path:
    """Write an ONNX file.

    Args:
        path: ends in .onnx.
        layout: what is in it.
        size: height and width that it asks for; default: any.
    """
    names = (
        [f"{kind}_{stride}" for kind in ("cls", "obj", "bbox", "kps") for stride in STRIDES]
        if isinstance(layout, YuNetLayout)
        else [f"output.{number}" for number in range(9)]
    )
    axes = None if size else {"input": {2: "height", 3: "width"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            layout.eval(),
            (torch.zeros(1, 3, *(size or (64, 64))),),
            str(path),
            dynamo=False,
            input_names=["input"],
            output_names=names,
            dynamic_axes=axes,
        )
    return path
