"""Detects faces in pictures by YuNet or SCRFD (onnxruntime), or by an object detector of transformers."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ....utils.extras import require_extra
from ....utils.text import one_line
from ..model import load_pretrained
from .hub_files import find_weights

MIN_SCORE = 0.5
_MAX_OVERLAP = 0.4  # IoU above which the face with the lower score is dropped
_DIVISOR = 32  # sides of the network's input are multiples of it
_ONNX = ".onnx"


class FaceDetector(ABC):
    """Detects faces in pictures."""

    @abstractmethod
    def __call__(self, frames: np.ndarray) -> list[np.ndarray]:
        """Return the faces of each picture.

        Args:
            frames: uint8 of shape (frames, height, width, 3), RGB.

        Returns:
            For each picture, float32 of shape (faces, 4): left, top, right, bottom in pixels, by descending score.
        """


def load_detector(source: str, device: str) -> FaceDetector:
    """Load a face detector.

    Args:
        source: an ONNX file, a folder that holds one, or `repo:file.onnx` of a Hub repository; or the folder or Hub id
            of an object detector of transformers.
        device: such as "cpu" or "cuda:0".

    Raises:
        ImportError: if onnxruntime is missing.
        ValueError: if the detector cannot be loaded, or does not detect faces.
    """
    path = Path(source).expanduser()
    is_onnx = source.endswith(_ONNX) or (path.is_dir() and not (path / "config.json").is_file())
    if not is_onnx:
        return _TransformersDetector(source, device)
    file = find_weights(source, (_ONNX,), "active_speaker.detector", "a face detector (YuNet or SCRFD)")
    session = _session(file, device)
    names = [item.name for item in session.get_outputs()]
    if {"cls_8", "obj_8", "bbox_8"} <= set(names):
        return _YuNet(session)
    if len(names) in _SCRFD_STRIDES:
        return _Scrfd(session)
    raise ValueError(
        f"active_speaker.detector: {source} has the outputs {', '.join(names)}: expected those of YuNet (cls_8, obj_8, "
        "bbox_8, ...) or of SCRFD (6, 9, 10 or 15 outputs)"
    )


def _session(file: Path, device: str) -> Any:
    require_extra("data", "face detection", "onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    providers: list[Any] = ["CPUExecutionProvider"]
    kind, _, index = device.partition(":")
    if kind == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": int(index or 0)}))
    try:
        return onnxruntime.InferenceSession(str(file), options, providers)
    except Exception as error:
        raise ValueError(f"active_speaker.detector: {file} cannot be loaded: {one_line(error)}") from error


class _OnnxDetector(FaceDetector):
    """Runs one picture at a time, in the model's input size, or in the picture's size if the model takes any."""

    def __init__(self, session: Any):
        self._session = session
        [given] = session.get_inputs()
        self._name, shape = given.name, given.shape
        sizes = [size for size in shape[2:] if isinstance(size, int) and size > 0]
        is_fixed = len(sizes) == 2 and len(shape) == 4
        self._size: tuple[int, int] | None = (sizes[0], sizes[1]) if is_fixed else None

    def __call__(self, frames: np.ndarray) -> list[np.ndarray]:
        return [self._faces(frame) for frame in frames]

    def _faces(self, frame: np.ndarray) -> np.ndarray:
        picture, scale = self._place(frame)
        found = self._session.run(None, {self._name: self._pixels(picture).transpose(2, 0, 1)[None]})
        boxes, scores = self._decode(found, picture.shape[:2])
        sure = scores >= MIN_SCORE
        boxes, scores = boxes[sure] / scale, scores[sure]
        return _clip_boxes(boxes[_without_overlaps(boxes, scores)], frame.shape[:2])

    def _place(self, frame: np.ndarray) -> tuple[np.ndarray, float]:
        """Return the picture scaled into the top left of the input size, padded with black, and its scale."""
        height, width = frame.shape[:2]
        if self._size is None:
            tall, wide = (-(-side // _DIVISOR) * _DIVISOR for side in (height, width))
            scale = 1.0
        else:
            tall, wide = self._size
            scale = min(tall / height, wide / width)
            frame = _resize(frame, round(height * scale), round(width * scale))
        whole = np.zeros((tall, wide, 3), np.uint8)
        whole[: frame.shape[0], : frame.shape[1]] = frame[:tall, :wide]
        return whole, scale

    @abstractmethod
    def _pixels(self, picture: np.ndarray) -> np.ndarray:
        """Return the network's input, float32 of shape (height, width, 3), for an RGB picture."""

    @abstractmethod
    def _decode(self, found: Sequence[np.ndarray], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Return boxes (faces, 4) and scores (faces,) from the outputs for an input of size (height, width)."""


class _YuNet(_OnnxDetector):
    """OpenCV's YuNet: for each cell a class score, an objectness score, and the centre and log size of the box."""

    def _pixels(self, picture: np.ndarray) -> np.ndarray:
        return picture[..., ::-1].astype(np.float32)  # BGR, 0 to 255

    def _decode(self, found: Sequence[np.ndarray], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        named = dict(zip((item.name for item in self._session.get_outputs()), found, strict=True))
        strides = sorted(int(match[1]) for name in named if (match := re.fullmatch(r"cls_(\d+)", name)))
        boxes, scores = [], []
        for stride in strides:
            cells = _cells(size, stride)
            scale = named[f"bbox_{stride}"].reshape(-1, 4)
            middles = (cells + scale[:, :2]) * stride
            halves = np.exp(scale[:, 2:]) * stride / 2
            boxes.append(np.concatenate([middles - halves, middles + halves], 1))
            both = [np.clip(named[f"{kind}_{stride}"].reshape(-1), 0, 1) for kind in ("cls", "obj")]
            scores.append(np.sqrt(both[0] * both[1]))
        return np.concatenate(boxes), np.concatenate(scores)


_SCRFD_STRIDES = {6: (8, 16, 32), 9: (8, 16, 32), 10: (8, 16, 32, 64, 128), 15: (8, 16, 32, 64, 128)}


class _Scrfd(_OnnxDetector):
    """InsightFace's SCRFD: for each anchor of a cell a score, and the distances to the box's four sides."""

    def _pixels(self, picture: np.ndarray) -> np.ndarray:
        return (picture.astype(np.float32) - 127.5) / 128

    def _decode(self, found: Sequence[np.ndarray], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        strides = _SCRFD_STRIDES[len(found)]
        boxes, scores = [], []
        for number, stride in enumerate(strides):
            score = found[number].reshape(-1)
            away = found[number + len(strides)].reshape(-1, 4) * stride
            cells = _cells(size, stride) * stride
            anchors = np.repeat(cells, len(score) // len(cells), axis=0)
            boxes.append(np.concatenate([anchors - away[:, :2], anchors + away[:, 2:]], 1))
            scores.append(score)
        return np.concatenate(boxes), np.concatenate(scores)


class _TransformersDetector(FaceDetector):
    """An object detector of transformers with a label for faces, or with a single label."""

    def __init__(self, source: str, device: str):
        from transformers import AutoImageProcessor, AutoModelForObjectDetection

        self._processor = load_pretrained(AutoImageProcessor.from_pretrained, source)
        self._model = load_pretrained(AutoModelForObjectDetection.from_pretrained, source, device_map=device).eval()
        labels = {int(number): str(name) for number, name in self._model.config.id2label.items()}
        self._wanted = {number for number, name in labels.items() if "face" in name.lower()}
        if len(labels) == 1:
            self._wanted = set(labels)
        if not self._wanted:
            some = ", ".join(list(labels.values())[:8])
            raise ValueError(
                f"active_speaker.detector: {source} detects {some}: expected a detector with a label for faces"
            )

    def __call__(self, frames: np.ndarray) -> list[np.ndarray]:
        import torch

        inputs = self._processor(images=list(frames), return_tensors="pt", input_data_format="channels_last")
        inputs = inputs.to(self._model.device, self._model.dtype)
        with torch.inference_mode():
            found = self._model(**inputs)
        size = frames.shape[1:3]
        rows = self._processor.post_process_object_detection(found, MIN_SCORE, target_sizes=[size] * len(frames))
        faces = []
        for row in rows:
            boxes, scores = row["boxes"].float().cpu().numpy(), row["scores"].float().cpu().numpy()
            is_face = np.isin(row["labels"].cpu().numpy(), list(self._wanted))
            boxes, scores = boxes[is_face], scores[is_face]
            faces.append(_clip_boxes(boxes[_without_overlaps(boxes, scores)], size))
        return faces


def _cells(size: tuple[int, int], stride: int) -> np.ndarray:
    """Return the column and row of each cell, of shape (cells, 2)."""
    rows, columns = np.mgrid[: size[0] // stride, : size[1] // stride]
    return np.stack([columns.reshape(-1), rows.reshape(-1)], 1).astype(np.float32)


def _without_overlaps(boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the indices of boxes left by non-maximum suppression, by descending score."""
    import torch
    from torchvision.ops import nms

    boxes, scores = np.ascontiguousarray(boxes, np.float32), np.ascontiguousarray(scores, np.float32)
    return nms(torch.from_numpy(boxes), torch.from_numpy(scores), _MAX_OVERLAP).numpy()


def _clip_boxes(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return boxes clipped to the picture (height, width), without those narrower or lower than a pixel."""
    height, width = size
    boxes = np.clip(boxes, 0, [width, height, width, height]).astype(np.float32)
    return boxes[(boxes[:, 2] - boxes[:, 0] >= 1) & (boxes[:, 3] - boxes[:, 1] >= 1)]


def _resize(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR))
