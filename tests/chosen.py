"""What tests of the file readers share."""

from media import number_of

from livecc_hf.modeling import video_sampling


def read(path, *args, reader=video_sampling, **options):
    """(number painted on the frame, its sample time) of each frame chosen."""
    return [(number_of(f.frame), round(f.time_s, 6)) for f in reader.iter_frames(path, *args, **options)]


def numbers(path, *args, **options):
    return [number for number, _ in read(path, *args, **options)]
