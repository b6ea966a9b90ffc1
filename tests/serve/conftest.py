"""A running server, and frames for it."""

import pytest


@pytest.fixture(scope="module")
def model(make_model):
    return make_model("mrope")


@pytest.fixture(scope="module")
def server(model, processor):
    from served import serving

    with serving(model, processor) as served:
        yield served


@pytest.fixture
def frames():
    from served import some_frames

    return some_frames(16)


@pytest.fixture(autouse=True)
def nothing_is_left(request):
    yield
    if "server" in request.fixturenames:
        from served import wait_for

        service = request.getfixturevalue("server").service
        wait_for(lambda: service.n_connected == 0 and len(service.pool) == 0)


@pytest.fixture(scope="module")
def tiny():
    """livecc-tiny and its processor."""
    from livecc_hf.assets import bundled_model_path
    from livecc_hf.checkpoints.loading import load_model_and_processor

    return load_model_and_processor(bundled_model_path(), device="cpu")[:2]


@pytest.fixture(scope="module")
def browser():
    from browsing import chromium

    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def served(tiny):
    from browsing import GREEDY
    from served import serving

    with serving(*tiny, GREEDY, max_messages_per_s=60.0) as running:
        yield running


@pytest.fixture
def watcher(browser, served):
    """A tab with the page of `served`."""
    from browsing import Watcher, address
    from served import wait_for

    with Watcher(browser, address(served)) as opened:
        yield opened
        assert opened.complaints == []
        assert opened.foreign == []
    wait_for(lambda: served.service.n_connected == 0 and len(served.service.pool) == 0)
