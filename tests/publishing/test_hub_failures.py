"""Errors of the Hub's clients are explained; those of the program are not taken for a broken connection."""

import errno

import httpx2
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from livecc_hf.publishing.hub import PushError, Target, explain_failures
from livecc_hf.utils.disk import DiskFullError

URL = "http://127.0.0.1:9"


def explained(error, cause=None):
    """Return what is raised for an error of the client."""
    with pytest.raises(Exception) as raised, explain_failures(HfApi(URL, token="hf_x"), Target("me/tiny")):
        raise error from cause
    return raised.value


def refusal(status):
    request = httpx2.Request("POST", f"{URL}/api")
    return HfHubHTTPError("refused", response=httpx2.Response(status, request=request))


@pytest.mark.parametrize(
    "error",
    [
        httpx2.ConnectError("no route"),
        httpx2.ReadTimeout("slow"),
        httpx2.RemoteProtocolError("cut"),
        ConnectionError("Network error: error sending request"),
        TimeoutError("Timeout: no answer"),
        RuntimeError("Task error: Network error: error sending request"),
    ],
)
def test_errors_of_a_connection(error):
    found = explained(error)
    assert type(found) is ConnectionError and f"the Hub at {URL} cannot be reached" in str(found)
    assert str(error) in str(found) and found.__cause__ is error


def test_an_upload_without_xet_is_explained_by_its_cause():
    upload = RuntimeError("Error while uploading 'model.safetensors' to the Hub.")
    found = explained(upload, httpx2.WriteError("reset"))
    assert type(found) is ConnectionError and "'model.safetensors' to the Hub.: reset" in str(found)
    found = explained(upload, refusal(403))
    assert type(found) is PushError and "does not let you write to model me/tiny" in str(found)
    full = OSError(errno.ENOSPC, "No space left on device", "/tmp/a")
    assert type(explained(upload, full)) is DiskFullError
    assert explained(upload, KeyError("oid")) is upload


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shapes differ"),
        RuntimeError("Internal error: poisoned lock"),
        TypeError("no number"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/tmp/a"),
        TimeoutError(errno.ETIMEDOUT, "Connection timed out", "/nfs/model.safetensors"),
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
        PushError("no"),
    ],
)
def test_other_errors_are_not_changed(error):
    assert explained(error) is error


def test_storage_that_does_not_accept_the_token():
    hf_xet = pytest.importorskip("hf_xet")
    found = explained(hf_xet.XetAuthenticationError("Authentication error: token refresh failed"))
    assert type(found) is PushError and "token refresh failed" in str(found) and "hf auth login" in str(found)


def test_the_error_of_hf_xet_when_nothing_answers(tmp_path):
    hf_xet = pytest.importorskip("hf_xet")
    (tmp_path / "a.bin").write_bytes(bytes(range(256)) * 64)
    session = hf_xet.XetSession(hf_xet.XetConfig().with_config("client.retry_max_attempts", 0))

    def upload():
        with session.new_upload_commit(token_refresh_url=f"{URL}/x", token_refresh_headers={}) as commit:
            commit.start_upload_file(str(tmp_path / "a.bin"), sha256=hf_xet.COMPUTE_SHA256)

    with (
        pytest.raises(ConnectionError, match="the connection broke"),
        explain_failures(HfApi(URL, token="hf_x"), Target("me/tiny")),
    ):
        upload()
