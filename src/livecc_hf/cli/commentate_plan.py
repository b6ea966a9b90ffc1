"""Plans `livecc commentate`: the videos, the files to write, and checks of options that conflict."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from livecc_hf.captions.writers import FORMATS
from livecc_hf.cli.flags import flag_of
from livecc_hf.cli.model_arguments import check_window_options
from livecc_hf.cli.times import check_range
from livecc_hf.modeling.video_file import local_file
from livecc_hf.sources.spec import SourceSpec, parse_spec, redact
from livecc_hf.utils.output_file import check_writable

_FORMAT_SUFFIXES = {"text": ".txt", "srt": ".srt", "vtt": ".vtt", "jsonl": ".jsonl"}
_SUFFIX_FORMATS = {suffix: format for format, suffix in _FORMAT_SUFFIXES.items()}
assert set(_FORMAT_SUFFIXES) == set(FORMATS)
# Characters of a source's name that are replaced in a file name.
_UNSAFE = re.compile(r"[^\w.-]+")
_PLACEHOLDER = re.compile(r"\{\w+\}")
PLACEHOLDERS = ("{stem}", "{name}", "{parent}", "{folder}")


@dataclass(frozen=True)
class Job:
    """One video to comment on.

    Attributes:
        video: the argument; a `file://` URL is its path.
        spec: the parsed argument; `None` if it is not valid, or there is no such file.
        error: why `spec` is `None`.
        output: the file for the words; `None`: standard output only.
        format: the format of that file.
        overlay: the file for the copy of the video with the words.
    """

    video: str
    spec: SourceSpec | None
    error: Exception | None
    output: Path | None
    format: str
    overlay: Path | None

    @property
    def is_file(self) -> bool:
        """Whether it is a video file, which can be read more than once."""
        return self.spec is not None and self.spec.kind == "file"


def plan(args: argparse.Namespace) -> list[Job]:
    """Return one job for each video.

    Raises:
        ValueError: if options conflict, a file cannot be written or has an unknown suffix, or two jobs would write the
            same file.
        OSError: if a single video does not exist.
    """
    jobs = [_job(video, args) for video in args.videos]
    known = [job for job in jobs if job.spec is not None]
    check_range(args.start, args.end)
    _check_sources(args, known)
    _check_pairs(args)
    _check_targets(args, known)
    if len(jobs) > 1 and args.output is None and args.format not in (None, "text"):
        raise ValueError(
            f"--format {args.format}: several videos on standard output are text only; give --output a folder, "
            "or a pattern such as {folder}/{stem}." + args.format
        )
    return jobs


def _job(video: str, args: argparse.Namespace) -> Job:
    video, spec, error = local_file(video), None, None
    try:
        spec = parse_spec(video, args.live, args.rtsp_transport)
    except (OSError, ValueError) as found:
        if len(args.videos) == 1:
            raise
        error = found
    n_videos = len(args.videos)
    format = args.format or _format_of(args.output)
    output = args.output and _target("--output", args.output, video, spec, _FORMAT_SUFFIXES[format], n_videos)
    overlay = args.overlay and _target("--overlay", args.overlay, video, spec, ".mp4", n_videos)
    return Job(video, spec, error, output, format, overlay)


def _format_of(output: Path | None) -> str:
    """Return the format that the suffix of `--output` stands for; text without a suffix."""
    suffix = "" if output is None or output.is_dir() else output.suffix.lower()
    if suffix and suffix not in _SUFFIX_FORMATS:
        known = ", ".join(_SUFFIX_FORMATS)
        raise ValueError(
            f"--output {output}: unknown suffix {suffix}; expected one of {known}, or give --format for a file of "
            "another name"
        )
    return _SUFFIX_FORMATS.get(suffix, "text")


def _target(option: str, given: Path, video: str, spec: SourceSpec | None, suffix: str, n_videos: int) -> Path:
    """Return the file to write for a video: the given file, a file in the given folder, or the filled-in pattern."""
    if unknown := set(_PLACEHOLDER.findall(str(given))) - set(PLACEHOLDERS):
        raise ValueError(f"{option} {given}: unknown {min(unknown)}; expected some of {', '.join(PLACEHOLDERS)}")
    source = Path(video)
    if spec is not None and not spec.is_path:  # a URL, a camera, standard input
        path = unquote(urlsplit(spec.url).path) if "://" in spec.name else spec.name
        source = Path(_UNSAFE.sub("-", Path(path).name).strip("-") or "video")
    if any(placeholder in str(given) for placeholder in PLACEHOLDERS):
        parent = source.absolute().parent.name
        values = (source.stem, source.name, parent, str(source.parent))
        name = str(given)
        for placeholder, value in zip(PLACEHOLDERS, values, strict=True):
            name = name.replace(placeholder, value)
        given = Path(name)
    elif given.is_dir():
        given = given / f"{source.stem}{suffix}"
    elif n_videos > 1:
        raise ValueError(
            f"{option} {given}: one file for {n_videos} videos; give a folder that exists, or a pattern such as "
            f"{{folder}}/{{stem}}{suffix}"
        )
    if not given.parent.is_dir():
        raise ValueError(f"{option} {given}: expected a file name in a folder that exists")
    return given


def _check_sources(args: argparse.Namespace, jobs: Sequence[Job]) -> None:
    """Raise an error for options that do not apply to the kind of a source."""
    for job in jobs:
        spec = job.spec
        if spec is None:
            continue
        if spec.is_live and len(args.videos) > 1:
            raise ValueError(
                f"{spec.name} is read as live, but several videos are commented on one after the other: give it alone, "
                "or with --file if it is a recording"
            )
        unsupported = ["start", "end"] if spec.is_live else []
        unsupported += [] if job.is_file else ["overlay", "max_gap"]
        given = [flag_of(name) for name in unsupported if getattr(args, name) is not None]
        if given:
            way_out = "leave it out"
            way_out += ", or give --file if it is a recording" if spec.is_live and given != ["--overlay"] else ""
            what = f"for video files only, and {redact(job.video)} is read as a stream"
            raise ValueError(f"{' and '.join(given)}: {what}; {way_out}")
        if args.realtime and spec.is_live:
            raise ValueError(
                f"--realtime is for recordings, and {spec.name} is read as live: leave --realtime out, or give --file "
                "if it is a recording"
            )
    given = [flag_of(name) for name in ("stall_timeout", "reconnects") if getattr(args, name) is not None]
    given += ["--rtsp-transport"] * (args.rtsp_transport != "auto") + ["--no-verify-tls"] * (not args.verify_tls)
    if given and jobs and all(job.is_file for job in jobs):
        raise ValueError(f"{' and '.join(given)}: not for video files, such as {jobs[0].video}; leave it out")


def _check_pairs(args: argparse.Namespace) -> None:
    check_window_options(args)
    if args.overlay_font is not None and args.overlay is None:
        raise ValueError("--overlay-font is the font of an overlay: give --overlay too, or leave it out")


def _check_targets(args: argparse.Namespace, jobs: Sequence[Job]) -> None:
    """Raise an error if a file would be written twice or cannot be written, or a video would be overwritten."""
    videos = [job.video for job in jobs if job.is_file]
    written: dict[Path, tuple[str, str]] = {}
    for job in jobs:
        for option, path in (("--output", job.output), ("--overlay", job.overlay)):
            if path is None:
                continue
            for video in videos if path.exists() else ():
                if path.samefile(video):
                    which = "the video itself" if video == job.video else f"one of the videos, {video}"
                    raise ValueError(f"{option} {path} is {which}: choose another name")
            check_writable(path, option)
            other_option, other = written.setdefault(path.resolve(), (option, job.video))
            if other_option != option:
                raise ValueError(f"--output and --overlay would both write {path}: choose another name for one")
            if other is not job.video:
                raise ValueError(
                    f"{option}: the words of {other} and {job.video} would both go to {path}; give a pattern that "
                    f"distinguishes them, with {', '.join(PLACEHOLDERS)}, such as {{folder}}/{{name}}{path.suffix}"
                )
