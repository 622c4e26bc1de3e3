"""Copies to the host that fail: what was there stays, and the exception says whose fault it was."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from typing import TYPE_CHECKING

import pytest

from openbrain import Sandbox, errors

if TYPE_CHECKING:
    from pathlib import Path


def test_an_archive_that_is_not_made_leaves_the_old_one(tmp_path: Path) -> None:
    out = tmp_path / "out.tar"
    out.write_text("old")
    with Sandbox(timeout=60, network=False) as sandbox:
        sandbox.exec("mkdir d; echo > d/open; echo > d/shut; chmod 0 d/shut", check=True)
        with pytest.raises(FileNotFoundError) as missing:
            sandbox.files.download_tar("missing", out)
        with pytest.raises(PermissionError) as refused:
            asyncio.run(sandbox.files.download_tar_async("d", out))
    assert (missing.value.errno, missing.value.filename) == (errno.ENOENT, "missing")
    assert (refused.value.errno, refused.value.filename) == (errno.EACCES, "d")
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


def test_an_archive_that_is_replaced_keeps_its_mode_and_its_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    old, link = tmp_path / "there/old.tar", tmp_path / "link.tar"
    old.write_text("old")
    old.chmod(0o600)
    link.symlink_to(old)
    with Sandbox(timeout=60, network=False) as sandbox:
        assert sandbox.files.download_tar(".", link) == old.stat().st_size
    assert link.is_symlink()
    assert old.stat().st_mode & 0o777 == 0o600
    assert list(old.parent.iterdir()) == [old]


def test_a_failure_of_the_host_names_the_archive(tmp_path: Path) -> None:
    archive = tmp_path / "missing/out.tar"
    with Sandbox(timeout=60, network=False) as sandbox, pytest.raises(FileNotFoundError) as caught:
        sandbox.files.download_tar(".", archive)
    assert caught.value.filename == str(archive)


def test_a_sandbox_that_is_lost_is_no_failure_of_the_archive(tmp_path: Path) -> None:
    """A pipe in place of the archive holds the work up until the sandbox is gone."""
    archive = tmp_path / "pipe"
    os.mkfifo(archive)
    raised: list[BaseException] = []
    with Sandbox(timeout=60, network=False) as sandbox:
        sandbox.exec("seq 5000000 > numbers", check=True)

        def download() -> None:
            try:
                sandbox.files.download_tar(".", archive)
            except errors.OpenbrainError as error:
                raised.append(error)

        other = threading.Thread(target=download)
        other.start()
        with archive.open("rb") as reader:
            assert len(reader.read(512)) == 512
            sandbox.kill()
            reader.read()
        other.join(20)
    assert [type(error) for error in raised] == [errors.SandboxLostError]


def test_a_copy_names_the_file_that_is_missing_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "file").write_text("")
    with Sandbox(timeout=60, network=False) as sandbox:
        files = sandbox.files
        with pytest.raises(OSError, match="Read-only") as refused:
            files.upload(tmp_path / "here", "/usr/x")
        assert (refused.value.errno, refused.value.filename) == (errno.EROFS, None)
        with pytest.raises(FileNotFoundError) as missing:
            asyncio.run(files.upload_async(tmp_path / "missing", "there"))
        assert missing.value.filename == str(tmp_path / "missing")
        with pytest.raises(NotADirectoryError) as in_the_way:
            files.download(".", tmp_path / "file/below")
        assert in_the_way.value.filename is None
        with pytest.raises(FileNotFoundError) as gone:
            asyncio.run(files.download_async("missing", tmp_path / "back"))
        assert gone.value.filename == "missing"
