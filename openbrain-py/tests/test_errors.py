"""Exceptions: one base, a stable code, and a builtin each."""

from __future__ import annotations

import builtins
import errno
import pickle
import traceback
from pathlib import Path
from typing import Any

import pytest

import openbrain
from openbrain import Sandbox, errors


def _classes() -> list[type[errors.OpenbrainError]]:
    found = [getattr(errors, name) for name in errors.__all__]
    return [kind for kind in found if kind is not errors.OpenbrainError]


@pytest.mark.parametrize("kind", _classes())
def test_each_is_the_base_and_a_builtin(kind: type[errors.OpenbrainError]) -> None:
    assert issubclass(kind, errors.OpenbrainError)
    others = {base.__name__ for base in kind.__mro__} & set(vars(builtins))
    assert others - {"Exception", "BaseException", "object"}


def test_every_code_of_the_library_has_its_class() -> None:
    """The list of the library, from its source: a new code without a class here is a failure."""
    source = Path(__file__).parents[2] / "openbrain/src/error.rs"
    codes = {line.split('"')[1] for line in source.read_text().splitlines() if '=> "' in line}
    assert len(codes) >= 9
    ours = {kind.code for kind in _classes()} - {"command_failed", "timed_out"}
    assert ours == codes


def test_what_the_library_knows_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        openbrain.exec(["no-such-program"])
    error = caught.value
    assert isinstance(error, errors.CommandNotFoundError)
    assert (error.code, error.retryable, error.result) == ("command_not_found", False, None)
    assert str(error) == error.strerror == "`no-such-program` was not found"
    assert (error.errno, error.filename) == (errno.ENOENT, "no-such-program")
    assert error.remedy
    assert f"hint: {error.remedy}" in "".join(traceback.format_exception(error))

    (tmp_path / "file").write_text("")
    with pytest.raises(PermissionError) as refused:
        openbrain.exec([str(tmp_path / "file")])
    assert isinstance(refused.value, errors.CommandNotExecutableError)
    assert (refused.value.errno, refused.value.filename) == (errno.EACCES, str(tmp_path / "file"))
    twin = pickle.loads(pickle.dumps(refused.value))
    assert (str(twin), twin.filename, twin.code) == (
        str(refused.value),
        refused.value.filename,
        "command_not_executable",
    )


def test_a_program_that_is_missing_in_a_sandbox_is_named() -> None:
    with Sandbox(timeout=60, network=False) as sandbox:
        command = ["no-such-program", "argument"]
        for call in (
            lambda: sandbox.exec(command),
            lambda: sandbox.start(command),
            lambda: sandbox.command(command).spawn(),
        ):
            with pytest.raises(FileNotFoundError) as caught:
                call()
            assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, "no-such-program")
        with pytest.raises(FileNotFoundError) as script:
            sandbox.exec("true", shell="no-such-shell")
        assert (script.value.errno, script.value.filename) == (errno.ENOENT, None)


@pytest.mark.parametrize("command", ["", " ", "a\0b", [], [""]])
def test_a_command_that_cannot_be_meant_is_refused(command: str | list[str]) -> None:
    with pytest.raises(errors.InvalidRequestError):
        openbrain.exec(command)


def test_values_of_the_wrong_kind_are_refused() -> None:
    with pytest.raises(TypeError):
        openbrain.exec(b"true")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        openbrain.exec("true", sandbx=True)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="memori"):
        openbrain.exec("true", limits={"memori": 1})


def test_a_text_that_is_no_utf8_is_refused() -> None:
    with Sandbox(timeout=60, network=False) as sandbox:
        background = sandbox.start("true")
        for call in (
            lambda: openbrain.exec("echo \udcff"),
            lambda: openbrain.exec("true", env={"\udcff": ""}),
            lambda: openbrain.exec("cat", stdin="\udcff"),
            lambda: sandbox.files.write("file", "\udcff"),
            lambda: sandbox.files.search(".", "\udcff"),
            lambda: sandbox.files.find(".", "\udcff"),
            lambda: sandbox.shell("\udcff"),
            lambda: sandbox.forward(80, ("\udcff", 0)),
            lambda: background.wait_for_log("\udcff", 1),
            openbrain.SavedChanges("\udcff").changes,
        ):
            with pytest.raises(errors.InvalidRequestError, match="surrogate"):
                call()


@pytest.mark.parametrize("wrong", [5, True, None, 1.5, ["x"]])
def test_what_is_written_is_bytes_or_a_text(wrong: Any) -> None:
    with pytest.raises(TypeError, match="PIPE or INHERIT"):
        openbrain.Exec("cat").stdin(wrong)
    with Sandbox(timeout=60, network=False) as sandbox:
        with pytest.raises(TypeError, match="bytes or a text"):
            sandbox.files.write("file", wrong)
        with sandbox.command("cat").stdin(openbrain.PIPE).spawn() as process:
            with pytest.raises(TypeError, match="bytes or a text"):
                process.write(wrong)
            process.write(bytearray(b"one "))
            process.write(memoryview(b"two "))
            assert process.wait().stdout == "one two "
        sandbox.files.write("file", bytearray(b"one "))
        sandbox.files.append("file", memoryview(b"two"))
        assert sandbox.exec("cat", stdin=memoryview(b"in")).stdout == "in"
        assert sandbox.files.read("file") == b"one two"


def test_settings_that_are_wrong_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBRAIN_MODE", "nonsense")
    with pytest.raises(errors.InvalidSettingsError):
        openbrain.exec("true")


def test_a_server_that_is_not_there_is_a_connection_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBRAIN_SERVER_URL", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError) as caught:
        openbrain.exec("true", sandbox=True)
    assert isinstance(caught.value, errors.SandboxUnavailableError)


def test_check_raises_with_the_whole_result() -> None:
    with pytest.raises(errors.CommandFailedError, match="code 3: no luck") as caught:
        openbrain.exec("echo out; echo no luck >&2; exit 3", check=True)
    assert caught.value.result.stdout == "out\n"
    assert openbrain.exec("true", check=True).success


def test_check_of_a_timeout_is_a_timeout_error() -> None:
    with pytest.raises(TimeoutError) as caught:
        openbrain.exec("echo early; sleep 60", timeout=0.1, check=True)
    assert isinstance(caught.value, errors.CommandTimeoutError)
    assert caught.value.result.stdout == "early\n"


def test_is_pickled() -> None:
    with pytest.raises(errors.CommandFailedError) as caught:
        openbrain.exec("exit 3", check=True)
    twin = pickle.loads(pickle.dumps(caught.value))
    assert (str(twin), twin.code, twin.result) == (
        str(caught.value),
        caught.value.code,
        caught.value.result,
    )
