"""The stage `asr`: fills the timed words of videos by speech recognition."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ....captions.languages import is_same_language
from ....data.media.paths import resolve_media
from ....utils.counts import check_counts
from ....utils.extras import require_extra
from ....utils.text import one_line
from ...backends.speech_audio import MAX_SILENCE_S, SPEECH_RATE_HZ, NoAudioError, SpeechAudio, decode_speech
from ...columns import with_column
from ...errors import DeviceError
from ...schemas import WORDS, words_array
from ...watchdog import items_done
from ..base import LostPart, StageResult, lost_parts, split
from ..model import ModelStage, device_option, load_pretrained
from .hallucinations import HallucinationRules, HeardWord, LostWords, Stretch

TimedWord = tuple[float, float, str]
# Parts of CTranslate2's messages that show a failed device, on which every later video would fail too.
_DEVICE_FAILURES = ("CUDA", "cuBLAS", "cuDNN", "libcu")


class Transcript(NamedTuple):
    """The speech recognised in one video.

    Attributes:
        words: `(start_s, end_s, word)`, in the order spoken.
        language: code of the language, such as "en".
        speech_s: seconds of speech that voice activity detection found.
        lost: words removed as hallucinations, by rule.
    """

    words: list[TimedWord]
    language: str | None
    speech_s: float
    lost: tuple[LostWords, ...] = ()


class _Failure(NamedTuple):
    reason: str
    detail: str
    value: float = np.nan
    lost: tuple[LostWords, ...] = ()


@dataclass(frozen=True)
class Asr(ModelStage, HallucinationRules):
    """Fills `words` by speech recognition with faster-whisper, and `language` if it is null.

    Silero's voice activity detection, which is part of faster-whisper, finds stretches of speech of up to 30 s. They
    are transcribed in batches, with word times from the model's cross-attention. Times are those that a player shows,
    even if the sound starts late, has gaps or changes its format. The audio stream is the one that a player would
    choose; damaged parts are skipped. The next video is decoded while the current one is transcribed.

    `HallucinationRules` removes words that nobody said. The video is kept with its other words, and each rule adds a
    dropped row without hours: `repetitive`, `silent_stretch`, `words_past_end`, `looped_words`, `words_at_once`,
    `long_word`, `improbable_words` (value: the number that was compared; text: the first removed words).

    Dropped: `no_audio` (no audio stream), `no_speech` (no voice, no words, or only hallucinated words; value: seconds
    with a voice), `error` (the file does not exist or cannot be decoded).

    The default model is the one of the LiveCC paper (arXiv 2504.16030, Live-WhisperX: large-v3-turbo).
    """

    name: ClassVar[str] = "asr"
    takes: ClassVar[str] = "videos"
    needs_gpu: ClassVar[bool] = True
    batch_rows: ClassVar[int] = 16

    model: str = field(
        default="large-v3-turbo",
        metadata={"help": "A Whisper size (tiny ... large-v3-turbo), or the folder or Hub id of a CTranslate2 model."},
    )
    language: str | None = field(
        default=None, metadata={"help": "Code of the spoken language, such as 'en'; default: detected in each video."}
    )
    multilingual: bool = field(
        default=False, metadata={"help": "Detect the language of each stretch, for videos in several languages."}
    )
    device: str | None = device_option()
    compute_type: str = field(
        default="default",
        metadata={"help": "CTranslate2's compute type: 'float16', 'int8_float16', 'int8', ...; default: the model's."},
    )
    chunks_per_batch: int = field(default=16, metadata={"help": "Stretches of speech transcribed at once."})
    beam_size: int = field(default=5, metadata={"help": "Width of the beam search; 1: greedy, faster. (Whisper: 5)"})
    vad_threshold: float = field(
        default=0.5, metadata={"help": "Minimum probability for 32 ms of sound to count as a voice. (Silero: 0.5)"}
    )
    cpu_threads: int = field(
        default=0, metadata={"help": "Threads on a CPU; 0: $OMP_NUM_THREADS, or 4 if it is not set."}
    )
    max_silence_s: float = field(
        default=MAX_SILENCE_S,
        metadata={"help": "A longer forward jump of the audio timestamps, in seconds, is ignored as damage."},
    )
    replace_words: bool = field(
        default=False, metadata={"help": "Also transcribe videos that already have words, from captions."}
    )

    def __post_init__(self):
        if not 0 < self.vad_threshold < 1:
            raise ValueError(
                f"vad_threshold is {self.vad_threshold}: expected a probability between 0 and 1, such as 0.5"
            )
        if not 0 < self.max_silence_s < math.inf:
            raise ValueError(f"max_silence_s is {self.max_silence_s}: expected seconds above 0, such as 3600")
        check_counts(self, "chunks_per_batch", "beam_size")
        if self.cpu_threads < 0:
            raise ValueError(f"cpu_threads is {self.cpu_threads}: expected 0 or more")
        if self.multilingual and self.language is not None:
            raise ValueError(
                f"language is {self.language!r} and multilingual is set: expected only one of the two, since "
                "multilingual detects the language of each stretch"
            )
        self.check()

    def load(self) -> Any:
        """Return the faster-whisper pipeline.

        Raises:
            ImportError: if faster-whisper is not installed.
            ValueError: if the model cannot be loaded, does not know the language, or does not run on its device.
        """
        require_extra("data", "speech recognition", "faster_whisper")
        from faster_whisper import BatchedInferencePipeline, WhisperModel

        source = self._source()
        device, _, index = (self.device or "auto").partition(":")
        if index and not index.isdigit():
            raise ValueError(f"device is {self.device!r}: expected cpu, cuda or cuda:0")
        model = load_pretrained(
            WhisperModel,
            source,
            device=device,
            device_index=int(index or 0),
            compute_type=self.compute_type,
            cpu_threads=self.cpu_threads,
        )
        self._check_languages(model.supported_languages)
        if model.model.device == "cuda":
            _try_device(model)
        return BatchedInferencePipeline(model)

    def _check_languages(self, known: list[str]) -> None:
        way_out = "; a multilingual model knows more, such as small or large-v3-turbo" if len(known) == 1 else ""
        if self.language is not None and self._whisper_code(known) is None:
            raise ValueError(
                f"language {self.language!r} is not one that {self.model} knows: {', '.join(known)}{way_out}"
            )
        if self.multilingual and len(known) == 1:
            raise ValueError(f"multilingual is set, but {self.model} knows only {known[0]}{way_out}")

    def _whisper_code(self, known: list[str]) -> str | None:
        """Return the model's own code of the wanted language, such as "en" for "eng"; `None` if it has none."""
        if self.language is None or self.language in known:
            return self.language
        wanted = self.language
        return next((code for code in known if is_same_language(code, wanted)), None)

    def _source(self) -> str:
        from faster_whisper import available_models

        path = Path(self.model).expanduser()
        if path.is_dir():
            if not (path / "model.bin").is_file():
                raise ValueError(
                    f"{self.model} holds no model.bin: expected a CTranslate2 model; convert a transformers model with "
                    f"`ct2-transformers-converter --model {self.model} --output_dir OUT "
                    "--copy_files tokenizer.json preprocessor_config.json`"
                )
            return str(path)
        if "/" not in self.model and self.model not in available_models():
            sizes = ", ".join(available_models())
            raise ValueError(f"Whisper size {self.model!r} is unknown: expected a folder, a Hub id, or one of {sizes}")
        return self.model

    def __call__(self, batch: pa.Table) -> StageResult:
        """Transcribe the videos of a batch in `VIDEO_SCHEMA`.

        Raises:
            DeviceError: if the accelerator fails, as when it runs out of memory.
            RuntimeError: if main memory runs out.
        """
        videos = batch["video"].to_pylist()
        wanted = np.flatnonzero(self._is_wanted(batch)).tolist()
        if wanted:
            self.open()  # here, so that a failure to load is not reported as an error of a video
        reasons = np.full(len(videos), None, dtype=object)
        values = np.full(len(videos), np.nan)
        details: list[str | None] = [None] * len(videos)
        found: dict[int, Transcript] = {}
        parts: list[LostPart] = []
        for i, audio in zip(wanted, self._decode_ahead([videos[i] for i in wanted]), strict=True):
            outcome = audio if isinstance(audio, _Failure) else self._outcome(audio, videos[i])
            if isinstance(outcome, _Failure):
                reasons[i], details[i], values[i] = outcome.reason, outcome.detail, outcome.value
            else:
                found[i] = outcome
            parts += [LostPart(i, lost.reason, lost.value, lost.detail, lost.text) for lost in outcome.lost]
            items_done()
        result = split(self.name, _fill_columns(batch, found), reasons, values, details)
        return StageResult(result.kept, pa.concat_tables([result.dropped, lost_parts(self.name, batch, parts)]))

    def needs_open(self, batch: pa.Table) -> bool:
        """Return whether any video needs a transcript; if all have captions, the model is not even downloaded."""
        return bool(self._is_wanted(batch).any())

    def _is_wanted(self, batch: pa.Table) -> np.ndarray:
        n_words = pc.fill_null(pc.list_value_length(batch["words"]), 0).to_numpy()
        return (n_words == 0) | self.replace_words

    def transcribe(self, audio: SpeechAudio) -> Transcript:
        """Recognise the words of one video.

        Args:
            audio: as `decode_speech` returns it.
        """
        pipeline = self.loaded
        segments, info = pipeline.transcribe(
            audio.samples,
            language=self._whisper_code(pipeline.model.supported_languages),
            multilingual=self.multilingual,
            word_timestamps=True,
            batch_size=self.chunks_per_batch,
            beam_size=self.beam_size,
            # faster-whisper's defaults for batches, except the threshold
            vad_parameters={"threshold": self.vad_threshold, "min_silence_duration_ms": 160},
        )
        stretches = [_stretch(segment) for segment in segments]
        words, lost = self.apply(stretches, len(audio.samples) / SPEECH_RATE_HZ, audio.shown_s)
        return Transcript(_order_words(words, audio), info.language, float(info.duration_after_vad), tuple(lost))

    def _decode_ahead(self, videos: list[str]) -> Iterator[SpeechAudio | _Failure]:
        """Yield the decoded sound of each video; a thread decodes the next video meanwhile."""
        with ThreadPoolExecutor(1) as pool:
            waiting = [pool.submit(_decode, video, self.max_silence_s) for video in videos[:1]]
            following: list[str | None] = [*videos[1:], None]
            for video in following:
                if not waiting:
                    return
                done = waiting.pop().result()
                if video is not None:
                    waiting.append(pool.submit(_decode, video, self.max_silence_s))
                yield done

    def _outcome(self, audio: SpeechAudio, video: str) -> Transcript | _Failure:
        if not len(audio.samples):
            return _Failure("no_speech", "the audio stream is empty", 0.0)
        try:
            transcript = self.transcribe(audio)
        except Exception as error:
            is_device = any(word in str(error) for word in _DEVICE_FAILURES)
            if isinstance(error, MemoryError) or is_device:
                raise (DeviceError if is_device else RuntimeError)(
                    f"speech recognition failed at {video}: {one_line(error)}; if memory ran out, lower "
                    f"chunks_per_batch (now {self.chunks_per_batch}) or beam_size (now {self.beam_size})"
                ) from error
            return _Failure("error", one_line(error))
        if not transcript.words:
            detail = (
                f"a voice in {transcript.speech_s:.1f} s of {len(audio.samples) / SPEECH_RATE_HZ:.1f} s, and no words"
            )
            if transcript.lost:
                detail += f" except {sum(lost.n_lost for lost in transcript.lost)} hallucinated ones"
            detail += f"; its sound is damaged: {'; '.join(audio.damage)}" if audio.damage else ""
            return _Failure("no_speech", detail, transcript.speech_s, transcript.lost)
        return transcript


def _try_device(model: Any) -> None:
    """Run the encoder once: CTranslate2 loads its CUDA libraries only when it runs."""
    try:
        model.encode(model.feature_extractor(np.zeros(SPEECH_RATE_HZ, np.float32)))
    except RuntimeError as error:
        way_out = "set asr.device=cpu"
        if "cannot be loaded" in str(error):  # a library is missing
            way_out = (
                "CTranslate2 needs cuBLAS of CUDA 12 even if PyTorch comes with another version: pip install "
                f"nvidia-cublas-cu12 and add its lib folder to LD_LIBRARY_PATH, or {way_out}"
            )
        raise ValueError(f"speech recognition does not run on the GPU: {one_line(error)}; {way_out}") from error


def _decode(video: str, max_silence_s: float) -> SpeechAudio | _Failure:
    try:
        return decode_speech(resolve_media(video), max_silence_s)
    except NoAudioError as error:
        return _Failure("no_audio", one_line(error))
    except Exception as error:  # a broken file must not end the run, whatever error FFmpeg raises
        return _Failure("error", one_line(error))


def _stretch(segment: Any) -> Stretch:
    """Convert a segment of faster-whisper; in batched mode, a segment holds all words of one stretch."""
    timed = ((float(word.start), float(word.end), word.word.strip(), word.probability) for word in segment.words or ())
    words = [HeardWord(*word) for word in timed if word[2]]
    return Stretch(words, segment.compression_ratio, segment.avg_logprob, segment.no_speech_prob)


def _order_words(words: list[HeardWord], audio: SpeechAudio) -> list[TimedWord]:
    """Return words on the player's clock, with starts that never decrease and ends not after the sound's end."""
    ordered, earliest_s = [], 0.0
    length_s = len(audio.samples) / SPEECH_RATE_HZ
    for word in words:
        begin_s = min(max(word.start_s, earliest_s), length_s)
        end_s = min(max(word.end_s, begin_s), length_s)
        ordered.append((audio.shown_s(begin_s), audio.shown_s(end_s), word.text))
        earliest_s = begin_s
    return ordered


def _fill_columns(batch: pa.Table, found: dict[int, Transcript]) -> pa.Table:
    """Return the batch with the words and languages of the transcripts, which are given by row."""
    if not found:
        return batch
    words = batch["words"].combine_chunks()
    words = words if isinstance(words, pa.Array) else pa.concat_arrays(words.chunks)
    heard = words_array([transcript.words for transcript in found.values()])
    # Each row takes its words from an array of all old and all new words.
    source = np.arange(len(batch))
    source[list(found)] = len(batch) + np.arange(len(found))
    batch = with_column(batch, "words", pa.concat_arrays([words.cast(WORDS), heard]).take(pa.array(source)))
    if "language" not in batch.column_names:
        return batch
    languages = batch["language"].to_pylist()
    for i, transcript in found.items():
        languages[i] = languages[i] or transcript.language
    return with_column(batch, "language", pa.array(languages, pa.string()))
