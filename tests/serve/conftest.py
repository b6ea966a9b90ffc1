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
