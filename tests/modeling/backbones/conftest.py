import pytest
from tiny_backbones import all_backbones, tiny_model, tiny_processor


@pytest.fixture(scope="module", params=all_backbones())
def backbone(request):
    """Each test that asks for it runs once with every backbone."""
    return request.param


@pytest.fixture(scope="module")
def backbone_processor(backbone, processor):
    return tiny_processor(backbone, processor)


@pytest.fixture(scope="module")
def backbone_model(backbone, processor):
    return tiny_model(backbone, processor.tokenizer)


@pytest.fixture(scope="module")
def options(backbone_processor):
    """Options of a deterministic stream with logits."""
    per_token = backbone_processor.video_processor.pixels_per_token
    return {
        "query": "Comment.",
        "do_sample": False,
        "max_new_tokens": 4,
        "repetition_penalty": 1.1,
        "output_logits": True,
        "min_pixels": 4 * per_token,
        "max_pixels": 12 * per_token,
        "stop_at_continuation": False,
    }


@pytest.fixture(scope="module")
def frames(load_frames):
    """(14, 3, 96, 130): 5 turns."""
    return load_frames("live_cc")[:14, :, :96, :130]
