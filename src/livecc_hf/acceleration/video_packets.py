"""Find the packets of a video that can be skipped when only some frames are wanted.

With two frames wanted of thirty per second, a decoder need not decode all thirty:

* H.264 marks whether other pictures refer to a picture (`nal_ref_idc`); a picture that is neither wanted nor referred
  to is skipped.
* Nothing after an IDR picture refers to anything before it, so pictures between the last wanted one and the next IDR
  picture are skipped. In intra-only codecs (MJPEG, ProRes), every picture is like an IDR picture.

The decoded frames have the same pixels as without skipping. Whether a frame is wanted depends on when the next one
appears, so packets are read ahead until that is known: no earlier frame can follow once the decoding times have reached
a presentation time. Everything else (other codecs, interlaced pictures, packets without times, times that decrease) is
decoded in full.
"""

import heapq
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from fractions import Fraction
from typing import Any

# Packets read ahead at most; H.264 displays a picture at most 16 later than it decodes it.
_MAX_AHEAD = 96
_END = object()  # of packets
# H.264's network abstraction layer unit types.
_NAL_SLICE, _NAL_IDR, _NAL_SEI, _NAL_SPS, _NAL_PPS, _NAL_DELIMITER, _NAL_FILLER = 1, 5, 6, 7, 8, 9, 12
# Units before a picture's slice that do not affect other pictures.
_NAL_HARMLESS = frozenset({_NAL_SEI, _NAL_DELIMITER, _NAL_FILLER})
# Profiles whose parameter sets begin with the colour format, and all supported ones (not multi-view or scalable).
_HIGH_PROFILES = frozenset({100, 110, 122, 244, 44})
_PROFILES = _HIGH_PROFILES | {66, 77, 88}


class SkippedFramesError(Exception):
    """Packets were skipped that should not have been: read the file again without skipping."""


class PictureKind(Enum):
    """How other pictures depend on a picture."""

    START = "no later picture refers to an earlier one"
    REFERENCE = "other pictures may refer to it"
    DISPOSABLE = "no picture refers to it"
    UNKNOWN = "must be decoded"


class _Entry:
    """A packet that was read ahead; `pts` is `None` if it has no frame."""

    __slots__ = ("dts", "kind", "number", "packet", "pts", "wanted")

    def __init__(self, packet: Any, number: int, kind: PictureKind, pts: int | None, dts: int | None):
        self.packet, self.number, self.kind, self.pts, self.dts = packet, number, kind, pts, dts
        self.wanted: bool | None = None


class PacketFilter:
    """Yields the packets that must be decoded, and checks that their frames come out of the decoder.

    Args:
        stream: the `av` video stream.
    """

    def __init__(self, stream: Any):
        self._time_base = stream.time_base
        kind_of = _kinds_of(stream.codec_context)
        self._given_up = kind_of is None
        self._kind_of = kind_of or _unknown
        self._wanted: Callable[[Fraction, Fraction], bool] | None = None
        self._ahead: deque[_Entry] = deque()
        self._n_read = 0
        self._at_end = False
        self._times: list[int] = []
        self._last_dts: int | None = None
        self._last_shown: int | None = None
        self._started = False
        self._needed_up_to = -1
        # Heaps of presentation times: sent to the decoder but not yet decoded, and skipped.
        self._sent: list[int] = []
        self._skipped: list[int] = []
        self._n_skipped = 0

    def skip_unless(self, wanted: Callable[[Fraction, Fraction], bool]) -> None:
        """Begin to skip frames for which `wanted(appears_s, leaves_s)` is false."""
        self._wanted = wanted

    def give_up(self) -> None:
        """Stop skipping packets.

        Raises:
            SkippedFramesError: if some have been skipped already.
        """
        self._given_up = True
        if self._n_skipped:
            raise SkippedFramesError

    def needed(self, packets: Iterable[Any]) -> Iterator[Any]:
        """Yield the packets that must be decoded, in order."""
        packets = iter(packets)
        while self._ahead or self._read(packets):
            entry = self._ahead[0]
            skip = self._may_skip() and not self._is_needed(entry, packets)
            self._ahead.popleft()
            if skip and entry.pts is not None:
                self._skip(entry.pts)
            else:
                self._started |= entry.kind is PictureKind.START
                if entry.pts is not None:
                    heapq.heappush(self._sent, entry.pts)
                yield entry.packet

    def skipped_before(self, frame: Any) -> Iterator[Fraction]:
        """Yield the times in seconds of skipped frames that appear before a decoded frame."""
        if self._given_up:
            return
        if not self._sent or self._sent[0] != frame.pts or frame.time_base != self._time_base:
            self.give_up()
            return
        shown = heapq.heappop(self._sent)
        while self._skipped and self._skipped[0] < shown:
            yield heapq.heappop(self._skipped) * self._time_base
        self._last_shown = shown

    def check_end(self) -> int:
        """Return how many pictures were sent to the decoder but did not come out.

        Raises:
            SkippedFramesError: if there are any, or skipped ones after the last frame, and packets were skipped.
        """
        if self._given_up:
            return 0
        n_lost = len(self._sent)
        if n_lost or self._skipped:
            self.give_up()
        return n_lost

    def _may_skip(self) -> bool:
        return self._wanted is not None and self._started and not self._given_up

    def _read(self, packets: Iterator[Any]) -> bool:
        """Read one packet ahead; False at the end."""
        packet: Any = next(packets, _END)
        if packet is _END:
            self._at_end = True
            return False
        self._n_read += 1
        entry = _Entry(packet, self._n_read, PictureKind.UNKNOWN, None, None)
        self._ahead.append(entry)
        if self._given_up:
            return True
        if packet is None or packet.size == 0:
            self._at_end = True
        elif not packet.is_discard:
            self._note_times(entry)
        return True

    def _note_times(self, entry: _Entry) -> None:
        pts, dts = entry.packet.pts, entry.packet.dts
        # Matroska's first packets have no decoding time.
        orderly = pts is not None and (dts is None or (pts >= dts and (self._last_dts is None or dts > self._last_dts)))
        if not orderly or self._at_end or entry.packet.is_corrupt or entry.packet.time_base != self._time_base:
            self.give_up()
            return
        index = bisect_left(self._times, pts)
        if self._times[index : index + 1] == [pts]:
            self.give_up()
            return
        insort(self._times, pts)
        oldest = self._ahead[0].dts
        if len(self._times) > 4 * _MAX_AHEAD and oldest is not None:
            # No packet, read or still to come, has a presentation time before its decoding time.
            del self._times[: bisect_left(self._times, oldest)]
        self._last_dts = self._last_dts if dts is None else dts
        entry.pts, entry.dts, entry.kind = pts, dts, self._kind_of(entry.packet)

    def _is_needed(self, entry: _Entry, packets: Iterator[Any]) -> bool:
        """Return whether the first packet read ahead is wanted, or a later one that may refer to it is."""
        # The end is decoded in full, because that is where a truncated file shows.
        if self._is_wanted(entry, packets) or self._at_end:
            return True
        if entry.kind is PictureKind.DISPOSABLE:
            return False
        if entry.number < self._needed_up_to:
            return True
        index = 1
        while index < len(self._ahead) or (len(self._ahead) < _MAX_AHEAD and self._read(packets)):
            later = self._ahead[index]
            if later.kind is PictureKind.START:
                return self._given_up
            if self._is_wanted(later, packets):
                self._needed_up_to = later.number
                return True
            index += 1
        return True

    def _is_wanted(self, entry: _Entry, packets: Iterator[Any]) -> bool:
        if entry.wanted is None:
            pts = entry.pts
            is_unknown = entry.kind is PictureKind.UNKNOWN
            leaves = None if pts is None or is_unknown else self._leaves(pts, packets)
            if pts is None or leaves is None or self._wanted is None or self._given_up:
                entry.wanted = True
            else:
                entry.wanted = self._wanted(pts * self._time_base, leaves * self._time_base)
        return entry.wanted

    def _leaves(self, pts: int, packets: Iterator[Any]) -> int | None:
        """Return when the next picture appears; `None` if this is the last one, or the next is too far ahead."""
        while not self._given_up:
            index = bisect_right(self._times, pts)
            following = self._times[index] if index < len(self._times) else None
            # Later packets have presentation times after the last decoding time read.
            if following is not None and self._reached(following):
                return following
            if len(self._ahead) >= _MAX_AHEAD or not self._read(packets):
                return None if not self._at_end else following
        return None

    def _reached(self, time: int) -> bool:
        return self._at_end or (self._last_dts is not None and self._last_dts >= time)

    def _skip(self, pts: int) -> None:
        if self._last_shown is not None and pts < self._last_shown:
            self.give_up()
        self._n_skipped += 1
        heapq.heappush(self._skipped, pts)


def _unknown(_packet: Any) -> PictureKind:
    return PictureKind.UNKNOWN


def _kinds_of(codec: Any) -> Callable[[Any], PictureKind] | None:
    """Return a function that gives the kind of a packet's picture, or `None` if the codec is not supported."""
    if codec.codec is not None and codec.codec.intra_only:
        return lambda _packet: PictureKind.START
    if codec.name != "h264" or not codec.extradata:
        return None
    extradata = bytes(codec.extradata)
    if extradata[0] == 1:
        length_size = (extradata[4] & 3) + 1 if len(extradata) > 8 else 0
        parameters = extradata[8 : 8 + int.from_bytes(extradata[6:8], "big")] if extradata[5] & 31 == 1 else b""
    else:
        length_size = 0
        units = [extradata[at:] for at in _start_codes(extradata) if extradata[at] & 31 == _NAL_SPS]
        parameters = units[0].split(b"\0\0\1")[0].rstrip(b"\0") if len(units) == 1 else b""
    if not _is_plain_progressive(parameters):
        return None
    return lambda packet: _h264_kind(bytes(packet), length_size, parameters)


def _h264_kind(data: bytes, length_size: int, parameters: bytes) -> PictureKind:
    """Return the kind of a packet's picture, from its first slice."""
    extras = False
    for at in _after_lengths(data, length_size) if length_size else _start_codes(data):
        unit = data[at] & 31
        if unit == _NAL_IDR:
            return PictureKind.START
        if unit == _NAL_SLICE:
            disposable = not data[at] & 0x60 and not extras
            return PictureKind.DISPOSABLE if disposable else PictureKind.REFERENCE
        if unit == _NAL_SPS and data[at : at + len(parameters)] != parameters:
            return PictureKind.UNKNOWN
        if unit not in _NAL_HARMLESS:
            extras = True
            if unit not in (_NAL_SPS, _NAL_PPS):
                return PictureKind.UNKNOWN
    return PictureKind.UNKNOWN


def _start_codes(data: bytes) -> Iterator[int]:
    """Yield the offsets at which the units of an Annex B byte stream begin."""
    at = data.find(b"\0\0\1")
    while 0 <= at < len(data) - 3:
        yield at + 3
        at = data.find(b"\0\0\1", at + 3)


def _after_lengths(data: bytes, length_size: int) -> list[int]:
    """Return the offsets of the units of an MP4 or Matroska packet; empty if their lengths do not add up to it."""
    begins, at = [], 0
    while at + length_size < len(data):
        begins.append(at + length_size)
        at += length_size + int.from_bytes(data[at : at + length_size], "big")
    return begins if at == len(data) else []


class _Bits:
    """Reads numbers from the bits of a parameter set."""

    def __init__(self, data: bytes):
        data = data.replace(b"\0\0\3", b"\0\0")
        self._bits = "".join(f"{byte:08b}" for byte in data)
        self._at = 0

    def fixed(self, n_bits: int) -> int:
        self._at += n_bits
        return int(self._bits[self._at - n_bits : self._at], 2)

    def golomb(self) -> int:
        n_zeros = self._bits.index("1", self._at) - self._at
        self._at += n_zeros
        return self.fixed(n_zeros + 1) - 1


def _is_plain_progressive(parameters: bytes) -> bool:
    """Return whether an H.264 sequence parameter set guarantees one whole, progressive picture per packet."""
    try:
        bits = _Bits(parameters)
        _unit, profile, _constraints, _level = (bits.fixed(8) for _ in range(4))
        if profile not in _PROFILES:
            return False
        bits.golomb()  # the set's number
        if profile in _HIGH_PROFILES:
            if bits.golomb() == 3:  # colour without subsampling
                bits.fixed(1)
            bits.golomb(), bits.golomb(), bits.fixed(1)  # bit depths, lossless bypass
            if bits.fixed(1):  # own scaling matrices
                return False
        bits.golomb()  # length of the frame number
        order_type = bits.golomb()
        if order_type == 0:
            bits.golomb()
        elif order_type == 1:
            bits.fixed(1), bits.golomb(), bits.golomb()
            for _ in range(bits.golomb()):
                bits.golomb()
        bits.golomb()  # number of references
        gaps_allowed = bits.fixed(1)
        bits.golomb(), bits.golomb()  # size
        frames_only = bits.fixed(1)
    except (ValueError, IndexError):
        return False
    return bool(frames_only and not gaps_allowed)
