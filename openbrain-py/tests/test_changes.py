"""What commands have changed: reported, saved, applied, discarded."""

from __future__ import annotations

import asyncio
import errno
import os
import pickle
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import openbrain
from openbrain import Change, Changes, Exec, Sandbox, SavedChanges, errors

if TYPE_CHECKING:
    from collections.abc import Callable

SCRIPT = "echo two >> old; echo new > new; rm gone"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    work = tmp_path / "work"
    work.mkdir()
    (work / "old").write_text("one\n")
    (work / "gone").write_text("")
    return work


def _changed(work: Path, script: str = SCRIPT) -> Changes:
    exec = Exec(script).sandbox().network(False).mount(work, "/workspace", "overlay").changes()
    changes = exec.run(check=True).changes
    assert changes is not None
    return changes


def test_nothing_is_reported_unless_asked_for() -> None:
    result = openbrain.exec("touch new", sandbox=True, network=False)
    assert result.changes is None
    assert "changes" not in result.to_dict()


def test_a_command_reports_its_changes(work: Path) -> None:
    mounts = f"{work}:/workspace:overlay"
    result = openbrain.exec(SCRIPT, sandbox=True, network=False, mounts=mounts, changes=True)
    changes = result.changes
    assert changes is not None
    assert (changes.id, changes.truncated) == (None, False)
    gone, new, old = changes.entries
    assert (gone.change, new.change, old.change) == ("deleted", "added", "modified")
    assert (old.path, old.mount, old.kind, old.size) == ("/workspace/old", "/workspace", "file", 8)
    assert old.diff is not None
    assert "+two" in old.diff
    assert result.to_dict()["changes"]["entries"][2]["path"] == "/workspace/old"
    assert (work / "old").read_text() == "one\n"


def test_saved_changes_are_applied_and_discarded(work: Path) -> None:
    changes = _changed(work)
    saved = changes.save()
    assert saved is not None
    assert changes.id == saved.id
    assert SavedChanges.list() == (saved,)
    assert saved.changes() == changes
    applied = saved.apply("/workspace/old", Path("new"))
    assert applied.paths == ("/workspace/new", "/workspace/old")
    assert ((work / "old").read_text(), (work / "new").read_text()) == ("one\ntwo\n", "new\n")
    assert [change.path for change in saved.changes().entries] == ["/workspace/gone"]
    assert (work / "gone").exists()
    saved.discard()
    assert SavedChanges.list() == ()
    for call in (saved.changes, saved.apply, saved.discard):
        with pytest.raises(errors.InvalidRequestError, match=saved.id):
            call()


def test_saved_changes_know_their_time_and_their_mounts(work: Path) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    saved = _changed(work).save()
    assert saved is not None
    assert before <= saved.saved_at <= datetime.now(UTC)
    assert saved.saved_at.utcoffset() == timedelta(0)
    assert saved.mounts == (str(work),)
    saved.apply("new")
    named = SavedChanges(saved.id)
    (listed,) = SavedChanges.list()
    (later,) = asyncio.run(SavedChanges.list_async())
    for other in (named, listed, later):
        assert (other.saved_at, other.mounts) == (saved.saved_at, saved.mounts)
    with pytest.raises(errors.InvalidRequestError, match="missing"):
        _ = SavedChanges("missing").saved_at


def test_the_command_knows_what_was_saved(work: Path) -> None:
    from openbrain.__main__ import command

    saved = _changed(work).save()
    assert saved is not None
    listed = subprocess.run([command(), "changes"], capture_output=True, text=True, check=True)
    assert saved.id in listed.stdout


def test_a_host_that_moved_on_is_a_conflict(work: Path) -> None:
    saved = _changed(work).save()
    assert saved is not None
    (work / "old").write_text("somebody else\n")
    with pytest.raises(errors.ConflictError, match="old"):
        saved.apply()
    assert not (work / "new").exists()
    assert saved.apply("new").paths == ("/workspace/new",)
    with pytest.raises(ValueError, match="other"):
        saved.apply("other")


def test_a_sandbox_reports_its_changes(work: Path) -> None:
    async def main() -> None:
        mounts = f"{work}:/workspace:overlay"
        async with Sandbox(timeout=60, network=False, mounts=mounts) as sandbox:
            await sandbox.exec_async("echo two >> old")
            changes = await sandbox.changes_async()
            assert sandbox.changes() == changes
            with pytest.raises(ValueError, match="changes"):
                await sandbox.command("true").changes().run_async()
            saved = await changes.save_async()
        assert saved is not None
        assert await SavedChanges.list_async() == (saved,)
        assert len((await saved.changes_async()).entries) == 1
        assert (await saved.apply_async("old")).paths == ("/workspace/old",)
        with pytest.raises(errors.InvalidRequestError):
            await saved.discard_async()

    asyncio.run(main())
    assert (work / "old").read_text() == "one\ntwo\n"


def test_a_stream_ends_with_the_changes(work: Path) -> None:
    exec = Exec("echo > new").sandbox().network(False).mount(work, None, "overlay").changes()
    with exec.spawn() as process:
        list(process)
    assert process.output is not None
    assert process.output.changes is not None
    assert [change.path for change in process.output.changes.entries] == ["/workspace/new"]


def test_what_no_mount_has_is_not_saved() -> None:
    result = openbrain.exec("touch new", sandbox=True, network=False, changes=True)
    assert result.changes is not None
    assert [change.mount for change in result.changes.entries] == [None]
    assert result.changes.save() is None
    assert result.changes.id is None


def test_a_report_of_another_process_is_not_saved(work: Path) -> None:
    twin = pickle.loads(pickle.dumps(_changed(work)))
    assert len(twin.entries) == 3
    with pytest.raises(errors.InvalidRequestError, match="this process"):
        twin.save()


def test_any_name_is_reported_and_applied(work: Path) -> None:
    changes = _changed(work, r"touch $(printf 'a\377')")
    (change,) = changes.entries
    assert os.fsencode(change.path) == b"/workspace/a\xff"
    assert Change(**change.to_dict()) == change
    assert isinstance(change.to_dict()["path"], dict)
    saved = changes.save()
    assert saved is not None
    assert saved.apply(change.path).paths == (change.path,)
    assert os.listdir(os.fsencode(work)).count(b"a\xff") == 1


def test_a_failure_of_the_directory_says_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    state.write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    with pytest.raises(NotADirectoryError, match="cannot read") as caught:
        SavedChanges.list()
    assert (caught.value.errno, caught.value.filename) == (errno.ENOTDIR, None)


def test_without_a_home_nothing_is_saved(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = _changed(work)
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    with pytest.raises(errors.InvalidRequestError, match="HOME"):
        changes.save()


def test_a_forked_child_saves_what_it_has_a_copy_of(
    python: Callable[..., subprocess.Popen[str]], work: Path
) -> None:
    child = python(
        """
import os, sys, openbrain
exec = openbrain.Exec("echo > new").sandbox().network(False)
changes = exec.mount(sys.argv[1], None, "overlay").changes().run().changes
child = os.fork()
if child == 0:
    print(changes.save().apply().paths, flush=True)
    os._exit(0)
os.waitpid(child, 0)
""",
        str(work),
    )
    assert child.communicate(timeout=20) == ("('/workspace/new',)\n", "")
