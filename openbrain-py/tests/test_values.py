"""Records and requests as values: pickled, copied, resolved, never cut."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any, Literal, get_type_hints

import pytest

import openbrain
from openbrain import (
    Applied,
    Change,
    Changes,
    Check,
    Denial,
    Ended,
    Exec,
    FileChange,
    FileEntry,
    Found,
    LogPart,
    Logs,
    Mount,
    NetworkUse,
    Output,
    Report,
    Sandbox,
    Stderr,
    Stdout,
    Transfer,
    Volume,
)
from openbrain.record import Record

PUBLIC = [getattr(openbrain, name) for name in openbrain.__all__]
CLASSES = [value for value in PUBLIC if isinstance(value, type)]
RECORDS = [kind for kind in CLASSES if issubclass(kind, Record)]

CHANGE = Change(path="/w/a", change="added", kind="file", size=1, mode=0o644)
ENTRY = FileEntry(path="a", kind="file", mode=0o644, size=1, modified=1.5, target=None)
USE = {"host": "h", "port": 1, "connections": 1, "failed": 0, "bytes_sent": 1, "bytes_received": 2}
NETWORK = NetworkUse(**USE)
DENIAL = Denial(what="h:1", host="h", port=1, reason="r", remedy=None, count=2)
LOGS = Logs(stdout=LogPart(offset=1, data=b"\xff"), stderr=LogPart(offset=0, data=b""), ended=True)
CHECK = Check(id="one", status="ok", summary="as it should be", remedy=None)


def _records(output: Output) -> list[Record]:
    return [
        output,
        output.isolation,
        output.resources,
        Ended(output),
        NETWORK,
        DENIAL,
        CHANGE,
        Changes(id=None, entries=[CHANGE], truncated=False),
        Applied(paths=["/w/a"], skipped=[]),
        ENTRY,
        Found(entries=[ENTRY], truncated=True),
        FileChange(path="a", kind="created", is_directory=False),
        Transfer(entries=1, bytes=2, skipped=["a"]),
        LOGS,
        LOGS.stdout,
        CHECK,
        Report(ok=True, checks=[CHECK], isolation=output.isolation),
        Mount("/a", "/b", "ro"),
        Volume(container_path="/a", host_path="/b"),
        Stdout(data=b"a", text="a"),
        Stderr(data=b"a", text="a"),
    ]


@pytest.mark.parametrize("record", _records(openbrain.exec(["true"], sandbox=True)))
def test_every_record_is_pickled_and_copied(record: Record) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        twin = pickle.loads(pickle.dumps(record, protocol))
        assert (twin, repr(twin), hash(twin)) == (record, repr(record), hash(record))
        assert twin.to_dict() == record.to_dict()
    for twin in (copy.copy(record), copy.deepcopy(record)):
        assert twin == record


def test_every_record_is_tried() -> None:
    tried = {type(record) for record in _records(openbrain.exec("true"))}
    assert tried == set(RECORDS)


def test_an_exec_is_pickled_and_copied() -> None:
    exec = Exec(["cat"]).env("A", "b").limits(open_files=64).mount("/a").stdin(b"\xff")
    for twin in (pickle.loads(pickle.dumps(exec)), copy.copy(exec), copy.deepcopy(exec)):
        assert repr(twin) == repr(exec)
        assert twin.to_dict() == exec.to_dict()
    sent = pickle.loads(pickle.dumps(Exec.script("print(input())", "python").stdin("in")))
    assert sent.run().stdout == "in\n"
    with Sandbox(network=False) as sandbox:
        command = sandbox.command("echo inside")
        assert copy.deepcopy(command).run().stdout == "inside\n"
        with pytest.raises(TypeError, match="sandbox"):
            pickle.dumps(command)


def test_the_fields_of_a_request_are_copies() -> None:
    exec = Exec("true").env("A", "b").limits(output=1).mount("/a", "/b")
    fields = exec.to_dict()
    for part in (fields["env"], fields["limits"], fields["mounts"][0]):
        part.clear()
    fields["mounts"].clear()
    assert exec.to_dict() == Exec("true").env("A", "b").limits(output=1).mount("/a", "/b").to_dict()


def test_a_field_that_nobody_knows_is_not_lost() -> None:
    with pytest.raises(TypeError, match="no field newer"):
        Transfer(entries=1, bytes=2, skipped=[], newer=1)


@pytest.mark.parametrize("record", RECORDS)
def test_fields_are_declared_once_and_typed(record: type[Record]) -> None:
    declared = [name for kind in record.__mro__ for name in vars(kind).get("__annotations__", ())]
    assert [name for name in declared if name != "__match_args__"] == list(record.__match_args__)


def test_hints_can_be_resolved() -> None:
    """Annotations are texts; whoever asks for types at run time gets what they name."""
    assert get_type_hints(openbrain.exec)["return"] is Output
    assert get_type_hints(openbrain.exec_async)["check"] is bool
    assert get_type_hints(Sandbox.exec)["return"] is Output
    assert get_type_hints(Ended)["output"] is Output
    assert get_type_hints(Mount)["mode"] == Literal["rw", "ro", "overlay"]
    assert get_type_hints(FileEntry)["target"] == str | None
    assert get_type_hints(Output)["changes"] == Changes | None
    assert get_type_hints(Exec.to_dict)["return"] == dict[str, Any]


# What they raise has a result, whose module needs theirs.
@pytest.mark.parametrize("value", [v for v in PUBLIC if v is not openbrain.OpenbrainError])
def test_every_hint_can_be_resolved(value: Any) -> None:
    if inspect.isfunction(value) or isinstance(value, type):
        get_type_hints(value)
    for name, member in vars(value).items() if isinstance(value, type) else ():
        plain = member.fget if isinstance(member, property) else member
        function = getattr(plain, "__func__", plain)
        if not name.startswith("_") and inspect.isfunction(function):
            get_type_hints(function)
