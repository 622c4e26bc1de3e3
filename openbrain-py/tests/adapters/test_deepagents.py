"""The backend for deepagents, by itself and in an agent with a model that is given its words."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from conftest import alive, example, sleeper, until
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage

from openbrain import Sandbox, errors
from openbrain.adapters.deepagents import sandbox_backend

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deepagents.backends import CompositeBackend


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(timeout=60, network=False) as sandbox:
        yield sandbox


@pytest.fixture
def backend(sandbox: Sandbox) -> CompositeBackend:
    return sandbox_backend(sandbox)


def test_a_command_is_what_a_terminal_shows(backend: CompositeBackend) -> None:
    response = backend.execute("echo one; echo two >&2; echo three; exit 3")
    assert (response.output, response.exit_code) == ("one\ntwo\nthree\n", 3)
    assert not response.truncated


def test_what_is_no_script_is_said_by_the_shell(backend: CompositeBackend) -> None:
    response = backend.execute("true\nif")
    assert response.exit_code == 2
    assert "Syntax error" in response.output


def test_a_timeout_is_a_response_with_the_output_so_far(backend: CompositeBackend) -> None:
    response = backend.execute("echo begun; sleep 60", timeout=1)
    assert response.exit_code == 124
    assert response.output.startswith("begun\n\n[openbrain: timed out after 1.")


def test_a_signal_is_128_and_its_number(backend: CompositeBackend) -> None:
    assert backend.execute("kill -9 $$").exit_code == 137


def test_no_timeout_is_the_one_of_the_backend(sandbox: Sandbox) -> None:
    backend = sandbox_backend(sandbox, timeout=0.2)
    assert backend.execute("sleep 60").exit_code == 124
    assert backend.execute("sleep 60", timeout=0).exit_code == 124


def test_long_output_keeps_its_beginning_and_its_end(sandbox: Sandbox) -> None:
    response = sandbox_backend(sandbox, max_output=1000).execute("seq 100000")
    assert response.truncated
    assert response.output.startswith("1\n2\n")
    assert response.output.endswith("100000\n")


def test_bytes_that_are_no_text_are_replaced(backend: CompositeBackend) -> None:
    assert backend.execute(r"printf 'a\377b'").output == "a\ufffdb"


@pytest.mark.parametrize("command", ["", "  ", "a\0b", "echo \ud800"])
def test_what_cannot_be_run_is_a_response(backend: CompositeBackend, command: str) -> None:
    response = backend.execute(command)
    assert response.exit_code == 126
    assert asyncio.run(backend.aexecute(command)) == response


def test_a_sandbox_that_is_gone_is_an_exception(
    backend: CompositeBackend, sandbox: Sandbox
) -> None:
    sandbox.kill()
    with pytest.raises(errors.SandboxLostError):
        backend.execute("true")
    with pytest.raises(errors.SandboxLostError):
        backend.download_files(["x"])


def test_files_go_in_and_come_out(backend: CompositeBackend) -> None:
    uploads = [("/workspace/a/b", b"\xff\0"), ("/etc/passwd/c", b""), ("/tmp", b""), ("", b"")]
    outcomes = [(response.path, response.error) for response in backend.upload_files(uploads)]
    assert outcomes[:3] == [
        ("/workspace/a/b", None),
        ("/etc/passwd/c", "invalid_path"),
        ("/tmp", "is_directory"),
    ]
    assert outcomes[3][1]
    backend.execute("touch closed; chmod 0 closed")
    names = ["/workspace/a/b", "/nowhere", "/workspace/closed", "/workspace/a"]
    found = backend.download_files(names)
    assert [(file.content, file.error) for file in found] == [
        (b"\xff\0", None),
        (None, "file_not_found"),
        (None, "permission_denied"),
        (None, "is_directory"),
    ]

    async def again() -> None:
        assert [file.error for file in await backend.aupload_files(uploads)] == [
            error for _, error in outcomes
        ]
        assert await backend.adownload_files(names) == found

    asyncio.run(again())


def test_every_operation_on_files(backend: CompositeBackend) -> None:
    assert backend.write("/workspace/src/one.py", "alpha\nbeta\n").error is None
    assert backend.edit("/workspace/src/one.py", "beta", "gamma").occurrences == 1
    read = backend.read("/workspace/src/one.py", offset=1, limit=1)
    assert read.file_data is not None
    assert read.file_data["content"] == "gamma"
    assert [entry["path"] for entry in backend.ls("/workspace/src").entries or []] == [
        "/workspace/src/one.py"
    ]
    assert [match["path"] for match in backend.glob("*.py", "/workspace").matches or []] == [
        "/workspace/src/one.py"
    ]
    (match,) = backend.grep("gamma", "/workspace").matches or []
    assert (match["line"], match["text"]) == (2, "gamma")
    assert backend.delete("/workspace/src/one.py").error is None
    assert backend.read("/workspace/src/one.py").error


def test_files_that_are_long_or_no_text_come_whole(backend: CompositeBackend) -> None:
    """The longest page of the longest encoding fits into the output that is kept."""
    backend.upload_files([("/workspace/ctrl", b"\1" * 510_000), ("/workspace/bin", b"\xff" * 9)])
    page = backend.read("/workspace/ctrl")
    assert page.file_data is not None
    assert page.file_data["content"].startswith("\1" * 500_000)
    data = backend.read("/workspace/bin").file_data
    assert data is not None
    assert data.get("encoding") == "base64"


def test_cancelling_kills_the_command(mark: str) -> None:
    async def main() -> None:
        async with Sandbox(timeout=60, network=False) as sandbox:
            call = sandbox_backend(sandbox).aexecute(f"{sleeper(mark)}")
            task = asyncio.create_task(call)
            while len(alive(mark)) < 3:
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert until(lambda: not alive(mark), 2)

    asyncio.run(main())


class Model(GenericFakeChatModel):
    """A model that says what it was given, whatever tools it has."""

    def bind_tools(self, tools: Any, **options: Any) -> Any:
        """The tools are not its concern."""
        del tools, options
        return self


def says(*calls: tuple[str, dict[str, Any]], text: str = "") -> AIMessage:
    """A message of the model that calls tools."""
    return AIMessage(
        text,
        tool_calls=[
            {"id": f"{name}-{index}", "name": name, "args": arguments}
            for index, (name, arguments) in enumerate(calls)
        ],
    )


PROGRAM = """
found, number = 0, 1
while found < 20:
    number += 1
    found += all(number % divisor for divisor in range(2, number))
print(number, file=open("prime", "w"))
"""


def test_the_example(capsys: pytest.CaptureFixture[str]) -> None:
    messages = [
        says(("write_file", {"file_path": "/workspace/it.py", "content": PROGRAM})),
        says(("execute", {"command": "python3 it.py"})),
        AIMessage("It is 71."),
    ]
    assert example("deepagents_backend").main(Model(messages=iter(messages))) == "It is 71."
    assert capsys.readouterr().out == "prime: 71\n"


def test_long_output_of_an_agent_is_a_file_in_the_sandbox(sandbox: Sandbox) -> None:
    from deepagents import create_deep_agent

    messages = [says(("execute", {"command": "seq 200000; exit 3"})), AIMessage("Done.")]
    agent = create_deep_agent(Model(messages=iter(messages)), backend=sandbox_backend(sandbox))
    state: Any = agent.invoke({"messages": [{"role": "user", "content": "count"}]})
    (answer,) = [message for message in state["messages"] if message.type == "tool"]
    assert len(answer.content) < 20_000
    assert answer.artifact["exit_code"] == 3
    whole = answer.artifact["output_file"]
    assert sandbox.files.read(whole).endswith(b"199999\n200000\n")
