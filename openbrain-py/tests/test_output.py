"""The result as a value."""

from __future__ import annotations

import base64
import copy
import json
import pickle
import subprocess
from typing import Any

import pytest

import openbrain
from openbrain import Output


def test_reads_like_a_completed_process() -> None:
    command = ["sh", "-c", "echo out; echo err >&2; exit 3"]
    ours = openbrain.exec(command)
    theirs = subprocess.run(command, capture_output=True, text=True, check=False)
    for name in ("returncode", "stdout", "stderr"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert list(ours.args) == theirs.args
    with pytest.raises(openbrain.errors.CommandFailedError) as caught:
        ours.check_returncode()
    assert (caught.value.cmd, caught.value.returncode) == (ours.args, 3)
    assert (caught.value.stdout, caught.value.stderr) == (ours.stdout, ours.stderr)
    openbrain.exec("true").check_returncode()


def test_a_signal_is_a_negative_return_code() -> None:
    result = openbrain.exec("kill -15 $$")
    assert (result.status, result.signal, result.returncode) == ("signaled", 15, -15)


def test_cannot_be_changed() -> None:
    result = openbrain.exec("true")
    with pytest.raises(AttributeError, match="cannot be changed"):
        result.exit_code = 1
    with pytest.raises(AttributeError, match="cannot be changed"):
        del result.exit_code
    limits: Any = result.isolation.limits
    with pytest.raises(TypeError):
        limits["memory"] = "none"


def test_is_pickled_and_copied() -> None:
    result = openbrain.exec(["printf", "\\377"], sandbox=True)
    for twin in (pickle.loads(pickle.dumps(result)), copy.deepcopy(result), copy.copy(result)):
        assert twin == result
        assert hash(twin) == hash(result)
        assert twin.stdout_bytes == b"\xff"
        assert twin.args == ("printf", "\\377")
    assert result != openbrain.exec("true")


def test_json_is_that_of_every_edge() -> None:
    result = openbrain.exec(["printf", "a\\377"])
    fields = json.loads(result.to_json())
    assert fields == result.to_dict()
    assert fields["stdout"] == "a\ufffd"
    assert base64.b64decode(fields["stdout_base64"]) == b"a\xff"
    assert fields["stdout_bytes"] == 2
    assert "stderr_base64" not in fields


def test_every_field_of_the_library_is_here() -> None:
    """The command prints what serde makes of the same structure."""
    from openbrain.__main__ import command

    script = "printf '\\377'; printf '\\377' >&2; touch /workspace/new"
    sandboxed = ["--sandbox", "--no-network", "--changes"]
    printed = openbrain.exec([command(), "exec", "--json", *sandboxed, script])
    result = openbrain.exec(script, sandbox=True, network=False, changes=True)
    theirs, ours = json.loads(printed.stdout), result.to_dict()
    assert ours["changes"] == theirs["changes"]
    assert set(ours) - {"args"} == set(theirs)
    for name in ("isolation", "resources"):
        assert set(ours[name]) == set(theirs[name])


def test_text_is_decoded_and_bytes_are_exact() -> None:
    result = openbrain.exec(["printf", "\\303\\251\\303"])
    assert result.stdout == "é\ufffd"
    assert result.stdout_bytes == b"\xc3\xa9\xc3"


def test_repr_is_short() -> None:
    result = openbrain.exec("seq 100000")
    assert len(repr(result)) < 200
    assert repr(openbrain.exec("kill -9 $$")) == "Output('kill -9 $$', signal=9)"


def test_matches_by_structure() -> None:
    match openbrain.exec("echo hi; exit 2"):
        case Output(exit_code=2, stdout="hi\n"):
            pass
        case other:
            pytest.fail(repr(other))


def test_what_was_refused_is_told() -> None:
    program = "import socket; socket.create_connection(('10.255.255.1', 81), 9).recv(1)"
    result = openbrain.exec(["python3", "-c", program], sandbox=True, timeout=20)
    (denial,) = result.denials
    assert (denial.host, denial.port) == ("10.255.255.1", 81)
    assert denial.remedy
