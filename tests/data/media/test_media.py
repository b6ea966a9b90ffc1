"""Media paths are resolved, and stay in their root."""

import pytest

from livecc_hf.data.media.paths import resolve_media


def test_local_paths(tmp_path):
    (tmp_path / "v").mkdir()
    file = tmp_path / "v" / "a.mp4"
    file.write_bytes(b"")
    assert resolve_media("v/a.mp4", tmp_path) == file
    assert resolve_media(str(file)) == resolve_media(str(file), tmp_path) == file
    with pytest.raises(FileNotFoundError, match=r"b\.mp4 does not exist.*media_root"):
        resolve_media("v/b.mp4", tmp_path)


def test_names_that_begin_with_a_tilde(tmp_path):
    file = tmp_path / "~take 1.mp4"
    file.write_bytes(b"")
    assert resolve_media("~take 1.mp4", tmp_path) == file
    with pytest.raises(FileNotFoundError, match="~nobody-here/a.mp4 does not exist"):
        resolve_media("~nobody-here/a.mp4")


def test_paths_on_the_hub_while_offline():
    with pytest.raises(FileNotFoundError, match="hf://datasets/me/clips/a.mp4 cannot be fetched"):
        resolve_media("a.mp4", "hf://datasets/me/clips")


@pytest.mark.parametrize("url", ["hf://me/clips/a.mp4", "hf://datasets/me", "hf://datasets/me/clips"])
def test_incomplete_urls_are_refused(url):
    with pytest.raises(ValueError, match=r"expected hf://datasets/USER/REPO"):
        resolve_media(url)


@pytest.mark.parametrize("path", ["../x.mp4", "/etc/x.mp4"])
def test_paths_that_leave_a_repository_are_refused(path):
    with pytest.raises(ValueError, match="leads out of"):
        resolve_media(path, "hf://datasets/me/clips")


@pytest.fixture()
def tree(tmp_path):
    """A root with a file, files next to the root, and links in the root that point out of it."""
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    for file in (root / "in side.mp4", tmp_path / "out.mp4", tmp_path / "sub.mp4"):
        file.write_bytes(b"")
    (root / "link.mp4").symlink_to(tmp_path / "out.mp4")
    (root / "elsewhere").symlink_to("/usr/bin")
    return root


def test_paths_stay_in_the_root_however_they_are_written(tree, monkeypatch):
    monkeypatch.setenv("HOME", str(tree.parent))
    out = tree.parent / "out.mp4"
    away = ["../out.mp4", "sub/../../out.mp4", str(out), f"file://{out}", "file://../out.mp4", "~/out.mp4"]
    away += [
        f"file://localhost{out}",
        f"file://{tree}/../out.mp4",
        str(tree / ".." / "out.mp4"),
        "elsewhere/../sub.mp4",
    ]
    away += [
        "/etc/passwd",
        "file:///etc/passwd",
        f"{tree}-2/x.mp4",
        "file:///%65tc/passwd",
        "elsewhere/../../etc/passwd",
    ]
    for path in away:
        with pytest.raises(ValueError, match=r"leads out of .*root: set media_root to a folder above it"):
            resolve_media(path, tree)
    monkeypatch.chdir(tree.parent)
    with pytest.raises(ValueError, match="leads out of root"):
        resolve_media(str(out), "root")
    assert resolve_media(str(out), "/") == out


def test_paths_in_the_root_are_found_however_they_are_written(tree, monkeypatch):
    inside = tree / "in side.mp4"
    ways = ["in side.mp4", str(inside), f"file://{inside}", f"file://{str(inside).replace(' ', '%20')}"]
    ways += ["file://in%20side.mp4", "sub/../in side.mp4", f"{tree}/sub/../in side.mp4", "../root/in side.mp4"]
    for path in ways:
        assert resolve_media(path, tree).samefile(inside)
    assert (
        resolve_media("link.mp4", tree) == tree / "link.mp4"
    )  # links in the root are the user's own, such as those of `videos: link`
    monkeypatch.chdir(tree.parent)
    for root in ("root", "./root", "root/sub/..", f"{tree}/../root"):
        assert resolve_media("link.mp4", root).samefile(tree.parent / "out.mp4")
        assert resolve_media(str(inside), root).samefile(inside)
