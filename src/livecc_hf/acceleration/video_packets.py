"""Tells which packets of a video need not be decoded for the frames that are wanted.

Two frames a second are wanted of thirty, and a codec need not decode all thirty for them:

* H.264 says of each picture whether others refer to it (`nal_ref_idc`); one that is neither wanted nor referred to
  is left out.
* Nothing after an IDR picture refers to anything before it; pictures between the last wanted one and the next IDR
  picture are left out. In codecs that know no references (MJPEG, ProRes), each picture is like that.

What is decoded is decoded to the same pixels. Which frame is wanted depends on when the next one appears, so packets
are read ahead until that is known: the reading is over for a time once the decoding times have reached it.
Everything else (other codecs, interlaced pictures, packets without times, times that go back) is decoded in full.
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
# Those that may precede a picture's slice without mattering to other pictures.
_NAL_OF_NO_CONSEQUENCE = frozenset({_NAL_SEI, _NAL_DELIMITER, _NAL_FILLER})
# Profiles whose parameter sets begin with the colour format, and those read here: more views or layers are not.
_HIGH_PROFILES = frozenset({100, 110, 122, 244, 44})
_PROFILES = _HIGH_PROFILES | {66, 77, 88}


class SkippedFramesError(Exception):
    """The file is not as its packets said; read it again, all of it."""


class PictureKind(Enum):
    """What other pictures need of one."""

    START = "nothing from here on refers to what came before"
    REFERENCE = "others may refer to it"
    DISPOSABLE = "nothing refers to it"
    UNKNOWN = "it has to be decoded"


class _Entry:
    """A packet read ahead; `pts` is `None` if it gives no frame."""

    __slots__ = ("dts", "kind", "number", "packet", "pts", "wanted")

    def __init__(self, packet: Any, number: int, kind: PictureKind, pts: int | None, dts: int | None):
        self.packet, self.number, self.kind, self.pts, self.dts = packet, number, kind, pts, dts
        self.wanted: bool | None = None


class PacketFilter:
    """Passes on the packets that have to be decoded, and keeps account of what then has to come out.

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
        # Presentation times of what went to the decoder and has not come out, and of what was left out.
        self._sent: list[int] = []
        self._skipped: list[int] = []
        self._n_skipped = 0

    def skip_unless(self, wanted: Callable[[Fraction, Fraction], bool]) -> None:
        """Begin to leave out what is not wanted: a function of the times a frame appears and leaves."""
        self._wanted = wanted

    def give_up(self) -> None:
        """Stop leaving out packets.

        Raises:
            SkippedFramesError: some have been left out already.
        """
        self._given_up = True
        if self._n_skipped:
            raise SkippedFramesError

    def needed(self, packets: Iterable[Any]) -> Iterator[Any]:
        """Those of the stream's packets that have to be decoded, in their order."""
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
        """Given a frame that was decoded: the times in seconds of those left out that appear before it."""
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
        """How many pictures that were sent did not come out.

        Raises:
            SkippedFramesError: some did not, and others have been left out.
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
        place = bisect_left(self._times, pts)
        if self._times[place : place + 1] == [pts]:
            self.give_up()
            return
        insort(self._times, pts)
        oldest = self._ahead[0].dts
        if len(self._times) > 4 * _MAX_AHEAD and oldest is not None:
            # No packet that waits or is yet to come appears before it is decoded.
            del self._times[: bisect_left(self._times, oldest)]
        self._last_dts = self._last_dts if dts is None else dts
        entry.pts, entry.dts, entry.kind = pts, dts, self._kind_of(entry.packet)

    def _is_needed(self, entry: _Entry, packets: Iterator[Any]) -> bool:
        """Whether the first packet that waits is wanted, or one that may refer to it."""
        # The end is decoded whole: that is where a cut shows.
        if self._is_wanted(entry, packets) or self._at_end:
            return True
        if entry.kind is PictureKind.DISPOSABLE:
            return False
        if entry.number < self._needed_up_to:
            return True
        place = 1
        while place < len(self._ahead) or (len(self._ahead) < _MAX_AHEAD and self._read(packets)):
            later = self._ahead[place]
            if later.kind is PictureKind.START:
                return self._given_up
            if self._is_wanted(later, packets):
                self._needed_up_to = later.number
                return True
            place += 1
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
        """When the next picture appears; `None` if it is the last, or that is too far ahead."""
        while not self._given_up:
            place = bisect_right(self._times, pts)
            following = self._times[place] if place < len(self._times) else None
            # What is yet to come appears after it is decoded, thus after the last decoding time read.
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
    """Return what tells the kinds of a codec's pictures from their packets; `None`: nothing here."""
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
    """Return the kind of the picture in a packet: that of its first slice."""
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
        if unit not in _NAL_OF_NO_CONSEQUENCE:
            extras = True
            if unit not in (_NAL_SPS, _NAL_PPS):
                return PictureKind.UNKNOWN
    return PictureKind.UNKNOWN


def _start_codes(data: bytes) -> Iterator[int]:
    """Where the units of an Annex B byte stream begin."""
    at = data.find(b"\0\0\1")
    while 0 <= at < len(data) - 3:
        yield at + 3
        at = data.find(b"\0\0\1", at + 3)


def _after_lengths(data: bytes, length_size: int) -> list[int]:
    """Where the units of an MP4 or Matroska packet begin; empty if their lengths are not those of the packet."""
    begins, at = [], 0
    while at + length_size < len(data):
        begins.append(at + length_size)
        at += length_size + int.from_bytes(data[at : at + length_size], "big")
    return begins if at == len(data) else []


class _Bits:
    """Reads a parameter set's numbers."""

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
    """Whether an H.264 sequence parameter set promises one whole picture a packet, as far as read here."""
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
