"""The batch loader skips samples that cannot be read, and stops on a full disk."""

import errno
import os

import pytest
from torch.utils.data import DataLoader

from livecc_hf.data.batches.collator import CommentaryCollator
from livecc_hf.data.batches.loader import BOOKKEEPING, BatchLoader, SkippedSample
from livecc_hf.data.batches.packing import plan_singles
from livecc_hf.data.dataset import DataPart, TrainingData, open_data
from livecc_hf.data.samples.sample import EncodeOptions
from livecc_hf.data.sources import tiny  # noqa: F401 - registers the source
from livecc_hf.data.unusable import UnusableSample
from livecc_hf.utils.extras import MissingExtraError

OPTIONS = EncodeOptions(keep_trailing_silence=True)
ENTRY = {"source": "tiny", "length": [4, 6], "samples": 1}


class FailingPart:
    """A part with one item, which raises an error when it is encoded."""

    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 1

    def __getitem__(self, row):
        return self

    def encode(self, processor, options):
        raise self.error

    def origin(self, row):
        return "videos.jsonl:7"


@pytest.fixture()
def make_loader(tiny_processor, make_model):
    """Return a function that makes a loader of two samples, the second of which raises an error."""

    def make(error):
        data = open_data([ENTRY], tiny_processor, OPTIONS)
        both = TrainingData([*data.parts, DataPart("failing", {}, FailingPart(error), 1.0)], tiny_processor, OPTIONS)
        return BatchLoader(both, plan_singles(2), CommentaryCollator(make_model("mrope").config, 0))

    return make


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UnusableSample("no_words", "nothing is said"), "no_words"),
        (OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), "a.mp4"), "unreadable_media"),
        (OSError(errno.EACCES, os.strerror(errno.EACCES), "a.mp4"), "unreadable_media"),
    ],
)
def test_an_unusable_sample_is_skipped_and_reported(make_loader, error, reason):
    batch = make_loader(error)([{"row": 0}, {"row": 1}])
    found = batch[BOOKKEEPING]
    assert found["n_samples"] == 2
    assert found["skipped"] == [SkippedSample(1, "videos.jsonl:7", reason, str(error))]
    assert (batch["labels"][1] == -100).all() and (batch["labels"][0] != -100).any()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a.mp4"),
        ValueError("the chat template is another one"),
        MissingExtraError("reading it needs the av package"),
    ],
    ids=["full disk", "ValueError", "MissingExtraError"],
)
def test_an_error_in_a_worker_process_is_raised_as_it_is(make_loader, error):
    """The worker's traceback is the error's cause, not part of its message."""
    loader = make_loader(error)
    with pytest.raises(type(error)) as caught:
        next(iter(DataLoader([{"row": 1}], collate_fn=loader, num_workers=1)))
    assert (type(caught.value), str(caught.value)) == (type(error), str(error))
    assert getattr(caught.value, "filename", None) == getattr(error, "filename", None)
    assert "Traceback" in str(caught.value.__cause__) and "in encode" in str(caught.value.__cause__)


def test_a_full_disk_stops_the_run(make_loader):
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a.mp4")
    with pytest.raises(OSError, match=r"No space left on device: 'a\.mp4'"):
        make_loader(error)([{"row": 1}])
