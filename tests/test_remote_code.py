"""A model whose class is of its folder's code runs in the package's pool: the two are other classes of one code."""

import zipfile
from pathlib import Path

import pytest
import torch
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from livecc_hf import CommentaryPool
from livecc_hf.assets import bundled_model_path
from livecc_hf.modeling import LiveCCForConditionalGeneration

GREEDY = {"do_sample": False}


@pytest.fixture(scope="module")
def remote():
    folder = str(bundled_model_path())
    cls = get_class_from_dynamic_module("modeling_livecc.LiveCCForConditionalGeneration", folder)
    assert cls is not LiveCCForConditionalGeneration
    processor_cls = get_class_from_dynamic_module("processing_livecc.StreamingProcessor", folder)
    config = cls.config_class.from_pretrained(folder)
    return cls.from_pretrained(folder, config=config).eval(), processor_cls.from_pretrained(folder)


def some_frames():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (10, 3, 84, 84), dtype=torch.uint8, generator=generator)


def test_it_says_in_a_pool_what_it_says_alone(remote):
    model, processor = remote
    assert type(model).__module__.startswith("transformers_modules")
    own = model.start_stream(processor, **GREEDY).push(some_frames())
    options = type(model.start_stream(processor).options)(do_sample=False)  # of the folder's code, too
    with CommentaryPool(model, processor, max_streams=2) as pool:
        streams = [pool.join(options), pool.join(**GREEDY)]
        for stream in streams:
            stream.push(some_frames())
        while pool.step():
            pass
        for stream in streams:
            said = list(iter(stream.take, None))
            assert [(s.start_s, s.text, s.token_ids) for s in said] == [(s.start_s, s.text, s.token_ids) for s in own]


def test_code_of_an_older_version_is_refused_where_the_pool_is_made(remote, tmp_path):
    with zipfile.ZipFile(Path(__file__).parent / "data/version_0_1/folders.zip") as archive:
        archive.extractall(tmp_path, [name for name in archive.namelist() if name.startswith("checkpoint/")])
    old = get_class_from_dynamic_module("processing_livecc.StreamingProcessor", str(tmp_path / "checkpoint"))
    processor = old.from_pretrained(tmp_path / "checkpoint")
    with pytest.raises(ValueError, match=r"the processor's code \(transformers_modules.*load_model_and_processor"):
        CommentaryPool(remote[0], processor, max_streams=1)
