"""Live senders on a simulated clock, so that half a minute of silence takes no time.

What a sender writes is known with the time at which it writes it; a reader who waits for data moves the clock there.
FFmpeg's real muxers and demuxers are in between, with all that they hold back.
"""

from dataclasses import dataclass

from senders import FPS, LiveEncoder

from livecc_hf.sources.errors import StalledError

MUXERS = {
    "mpegts": ("mpegts", {}),
    "flv": ("flv", {}),
    "matroska": ("matroska", {}),
    "matroska, live": ("matroska", {"live": "1"}),
    "mp4, a fragment a picture": ("mp4", {"movflags": "frag_every_frame+empty_moov+default_base_moof"}),
    "mp4, a fragment a second": ("mp4", {"movflags": "frag_keyframe+empty_moov+default_base_moof"}),
}


class VirtualTime:
    """Replaces the module `time` in the tested modules."""

    def __init__(self, now_s=1000.0):
        self.now_s = now_s

    def monotonic(self):
        return self.now_s

    def sleep(self, seconds):
        self.now_s += seconds


@dataclass
class Sender:
    """A sender whose frame n is n tenths of a second after `began_s`.

    Attributes:
        clock: what moves.
        muxer: one of `MUXERS`.
        stall_s: `(from, to)`, in seconds after `began_s`: nothing is sent.
        loses: whether the pictures of the stall are lost; else they come after it.
        restarts: whether each connection's times begin at 0; else they are the pictures'.
    """

    clock: VirtualTime
    muxer: str = "mpegts"
    stall_s: tuple[float, float] = (0.0, 0.0)
    loses: bool = True
    restarts: bool = False
    key_frames_s: float = 0.5
    began_s: float = 1000.0
    end_s: float = 60.0

    def data_from(self, joined_s):
        """Return the data for a connection made at this time: `(when, bytes)`, from the last key frame on."""
        step = round(self.key_frames_s * FPS)
        first = int((joined_s - self.began_s) * FPS) // step * step
        begins, ends = self.stall_s
        sent, file = [], _Written()
        name, options = MUXERS[self.muxer]
        with LiveEncoder(file, muxer=name, options=options, key_frames=step) as encoder:
            for n in range(first, round(self.end_s * FPS)):
                at_s = n / FPS
                is_away = begins <= at_s < ends
                if is_away and self.loses:
                    continue
                encoder.send(n, n - first if self.restarts else n)
                when = self.began_s + (ends if is_away else at_s)
                sent.append((max(when, joined_s), file.take()))
        return [(when, data) for when, data in sent if data]


class _Written:
    """A file that is not seekable."""

    def __init__(self):
        self._data = b""

    def write(self, data):
        self._data += bytes(data)
        return len(data)

    def take(self):
        data, self._data = self._data, b""
        return data


class VirtualPipe:
    """A file object for PyAV with the data of a sender."""

    def __init__(self, clock, data, stall_s, cut_s=float("inf")):
        self._clock, self._stall_s, self._cut_s = clock, stall_s, cut_s
        self._data = data
        self._at = 0
        self._rest = b""

    def read(self, size):
        while self._at < len(self._data) and self._data[self._at][0] <= min(self._clock.now_s, self._cut_s):
            self._rest += self._data[self._at][1]
            self._at += 1
        if not self._rest:
            if self._at == len(self._data) or self._data[self._at][0] > self._cut_s:
                return b""
            wait_s = self._data[self._at][0] - self._clock.now_s
            if wait_s > self._stall_s:
                self._clock.now_s += self._stall_s
                raise StalledError(f"no data came for {self._stall_s:g} s")
            self._clock.now_s += wait_s
            return self.read(size)
        part, self._rest = self._rest[:size], self._rest[size:]
        return part

    def close(self):
        pass
