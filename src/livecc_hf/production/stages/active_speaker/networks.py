"""Light-ASD (CVPR 2023) and LR-ASD (IJCV 2025), which decide whether a face speaks; weights keep published names."""

from __future__ import annotations

import torch
from torch import nn

_PIXEL_MEAN, _PIXEL_STD = 0.4161, 0.1688
_WIDTHS = (32, 64, 128)
_EPS, _MOMENTUM = 1e-3, 0.01  # of batch norms


def _layer(kind: str, n_in: int, out: int, size: int, stride: int = 1) -> list[nn.Module]:
    """Return a convolution without bias over one kind of axis, and its batch norm.

    Args:
        kind: the axis: "picture" (height and width) or "frames" of a video, "coefficients" or "steps" of a sound.
        n_in: input channels.
        out: output channels.
        size: of the kernel.
        stride: over the picture; other axes have stride 1.
    """
    pad = size // 2
    if kind in ("coefficients", "steps"):
        shape, padding = ((size, 1), (pad, 0)) if kind == "coefficients" else ((1, size), (0, pad))
        return [nn.Conv2d(n_in, out, shape, 1, padding, bias=False), nn.BatchNorm2d(out, _EPS, _MOMENTUM)]
    if kind == "picture":
        conv = nn.Conv3d(n_in, out, (1, size, size), (1, stride, stride), (0, pad, pad), bias=False)
    else:
        conv = nn.Conv3d(n_in, out, (size, 1, 1), 1, (pad, 0, 0), bias=False)
    return [conv, nn.BatchNorm3d(out, _EPS, _MOMENTUM)]


class _ParallelBlock(nn.Module):
    """Light-ASD's block: kernels of 3 and 5 in parallel, first over the picture (or coefficients), then over time."""

    def __init__(self, kinds: tuple[str, str], n_in: int, out: int, stride: int = 1):
        super().__init__()
        self._letter = {"picture": "s", "coefficients": "m"}[kinds[0]]
        for size in (3, 5):
            for letter, kind, given in ((self._letter, kinds[0], n_in), ("t", kinds[1], out)):
                conv, norm = _layer(kind, given, out, size, stride)
                self.add_module(f"{letter}_{size}", conv)
                self.add_module(f"bn_{letter}_{size}", norm)
        self.last, self.bn_last = _layer(kinds[1], out, out, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branches = []
        for size in (3, 5):
            y = x
            for letter in (self._letter, "t"):
                norm = self.get_submodule(f"bn_{letter}_{size}")
                y = norm(self.get_submodule(f"{letter}_{size}")(y)).relu()
            branches.append(y)
        return self.bn_last(self.last(branches[0] + branches[1])).relu()


class _ChainBlock(nn.Module):
    """LR-ASD's block: kernels of 5 and 3 in sequence, over the picture (or coefficients), then over time."""

    def __init__(self, kinds: tuple[str, str], n_in: int, out: int, stride: int = 1):
        super().__init__()
        letter = {"picture": "s", "coefficients": "m"}[kinds[0]]
        plan = (
            (f"{letter}_1", f"{letter}_norm_1", kinds[0], n_in, out // 2, 5, stride),
            (f"{letter}_2", f"{letter}_norm_2", kinds[0], out // 2, out, 3, 1),
            ("t_1", "t_norm_1", kinds[1], out, out, 5, 1),
            ("t_2", "t_norm_2", kinds[1], out, out, 3, 1),
        )
        self._order = [(conv, norm) for conv, norm, *_ in plan]
        for conv_name, norm_name, kind, given, n_out, size, step in plan:
            conv, norm = _layer(kind, given, n_out, size, step)
            self.add_module(conv_name, conv)
            self.add_module(norm_name, norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv, norm in self._order:
            x = self.get_submodule(norm)(self.get_submodule(conv)(x)).relu()
        return x


class _Encoder(nn.Module):
    """Three blocks with pooling between them; returns 128 features for each frame of 1/25 s."""

    def __init__(self, block: type[nn.Module], kinds: tuple[str, str]):
        super().__init__()
        self._is_video = kinds[0] == "picture"
        given = 1
        for number, width in enumerate(_WIDTHS, 1):
            stride = 2 if self._is_video and number == 1 else 1
            self.add_module(f"block{number}", block(kinds, given, width, stride))
            given = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for number in range(1, len(_WIDTHS) + 1):
            x = self.get_submodule(f"block{number}")(x)
            if number < len(_WIDTHS):
                x = self._pool(x)
        if self._is_video:
            return x.amax(dim=(3, 4)).transpose(1, 2)
        return x.mean(dim=2).transpose(1, 2)

    def _pool(self, x: torch.Tensor) -> torch.Tensor:
        if self._is_video:
            return nn.functional.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))
        return nn.functional.max_pool2d(x, (1, 3), (1, 2), (0, 1))


class _SequentialGrus(nn.Module):
    """Light-ASD's temporal part: a GRU forward in time, then one backward over its output."""

    def __init__(self, width: int):
        super().__init__()
        self.gru_forward = nn.GRU(width, width, batch_first=True)
        self.gru_backward = nn.GRU(width, width, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.gelu(self.gru_forward(x)[0])
        return nn.functional.gelu(self.gru_backward(x.flip(1))[0].flip(1))


class _Gate(nn.Module):
    """LR-ASD's gate: concatenates two vectors and weights each element by a sigmoid of all elements."""

    def __init__(self, width: int):
        super().__init__()
        self.attention = nn.Conv1d(width, width, 1, bias=False)
        self.bn = nn.BatchNorm1d(width, _EPS, _MOMENTUM)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        both = torch.cat((x, y), 2).transpose(1, 2)
        return (both * self.bn(self.attention(both)).sigmoid()).transpose(1, 2)


class _GatedGrus(nn.Module):
    """LR-ASD's temporal part: a GRU forward and a GRU backward in time, gated."""

    def __init__(self, width: int):
        super().__init__()
        self.gru_forward = nn.GRU(width, width // 4, batch_first=True)
        self.gru_backward = nn.GRU(width, width // 4, batch_first=True)
        self.attention = _Gate(width // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(self.gru_forward(x)[0], self.gru_backward(x.flip(1))[0].flip(1))


class _Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.FC = nn.Linear(_WIDTHS[-1], 2)


class _Trunk(nn.Module):
    """Two encoders, and the modules that join their outputs; its attribute names are those of the weights.

    Args:
        block: class of the encoders' blocks.
        ends: the modules that join the encoders' outputs, by name.
    """

    def __init__(self, block: type[nn.Module], ends: dict[str, nn.Module]):
        super().__init__()
        self.visualEncoder = _Encoder(block, ("picture", "frames"))
        self.audioEncoder = _Encoder(block, ("coefficients", "steps"))
        for name, module in ends.items():
            self.add_module(name, module)


class SpeakerNetwork(nn.Module):
    """Base of both networks: two encoders, the modules that join their outputs, and a head with two logits per frame.

    Args:
        block: class of the encoders' blocks.
        **ends: the modules that join the encoders' outputs, by name.
    """

    def __init__(self, block: type[nn.Module], **ends: nn.Module):
        super().__init__()
        self.model = _Trunk(block, ends)
        self.lossAV = _Head()

    def forward(self, faces: torch.Tensor, mfcc: torch.Tensor) -> torch.Tensor:
        """Return a logit for each frame; above 0 the face speaks.

        Args:
            faces: of shape (tracks, frames, 112, 112), gray, 0 to 255, 25 frames per second.
            mfcc: of shape (tracks, 4 * frames, 13), see `mfcc.mfcc`.

        Returns:
            float32 of shape (tracks, frames).
        """
        dtype = self.lossAV.FC.weight.dtype
        pixels = ((faces.to(torch.float32) / 255 - _PIXEL_MEAN) / _PIXEL_STD).to(dtype)
        seen = self.model.visualEncoder(pixels[:, None])
        heard = self.model.audioEncoder(mfcc.to(dtype)[:, None].transpose(2, 3))
        return self.lossAV.FC(self._join(heard, seen))[..., 1].float()

    def _join(self, heard: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Return the head's input from the encoders' outputs, all of shape (tracks, frames, 128)."""
        raise NotImplementedError


class LightAsd(SpeakerNetwork):
    """Light-ASD, 1.0 M parameters: a lightweight model for active speaker detection (arXiv 2303.04439)."""

    def __init__(self):
        super().__init__(_ParallelBlock, GRU=_SequentialGrus(_WIDTHS[-1]))

    def _join(self, heard: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        return self.model.get_submodule("GRU")(heard + seen)


class LrAsd(SpeakerNetwork):
    """LR-ASD, 0.8 M parameters: lightweight and robust, the successor of Light-ASD."""

    def __init__(self):
        super().__init__(_ChainBlock, fusion=_Gate(2 * _WIDTHS[-1]), detector=_GatedGrus(2 * _WIDTHS[-1]))

    def _join(self, heard: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        return self.model.get_submodule("detector")(self.model.get_submodule("fusion")(heard, seen))
