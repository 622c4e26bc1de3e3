"""The shell executor for the OpenAI Agents SDK, by itself and in runs with a scripted model."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from agents import Agent, Runner, ShellResult, ShellTool, set_tracing_disabled
from agents.run_context import RunContextWrapper
from agents.testing import ScriptedModel, assistant_message
from agents.tool import ShellActionRequest, ShellCallData, ShellCommandRequest
from conftest import alive, example, sleeper, until
from openai.types.responses import ResponseFunctionShellToolCall
from openai.types.responses.response_function_shell_tool_call import Action

from openbrain import Sandbox
from openbrain.adapters.openai_agents import shell_executor

if TYPE_CHECKING:
    from collections.abc import Iterator

set_tracing_disabled(True)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(timeout=60, network=False) as sandbox:
        yield sandbox


def call(
    sandbox: Sandbox, *commands: str, timeout_ms: int | None = None, length: int | None = None
) -> ShellResult:
    """What the SDK gets for a call of the model."""
    action = ShellActionRequest(list(commands), timeout_ms, length)
    request = ShellCommandRequest(RunContextWrapper(None), ShellCallData("1", action))

    async def main() -> ShellResult:
        return await shell_executor(sandbox)(request)

    return asyncio.run(main())


def test_the_commands_of_a_call_run_one_after_the_other(sandbox: Sandbox) -> None:
    result = call(sandbox, "echo one > file", "cat file; echo two >&2; exit 3", "kill -9 $$")
    assert [(output.stdout, output.stderr, output.exit_code) for output in result.output] == [
        ("", "", 0),
        ("one\n", "two\n", 3),
        ("", "", 137),
    ]
    assert [output.status for output in result.output] == ["completed"] * 3
    assert result.output[0].command == "echo one > file"


def test_a_timeout_is_an_outcome_and_the_last_one(sandbox: Sandbox) -> None:
    result = call(sandbox, "echo begun; sleep 60", "echo never", timeout_ms=300)
    (output,) = result.output
    assert (output.status, output.exit_code, output.stdout) == ("timeout", None, "begun\n")


@pytest.mark.parametrize("length", [0, 1, 30, 500, 4000])
def test_no_more_output_than_asked_for(sandbox: Sandbox, length: int) -> None:
    both = "seq 100000; seq 100000 >&2"
    result = call(sandbox, both, "seq 100000", "echo ä; printf '\\377'", length=length)
    assert sum(len(output.stdout) + len(output.stderr) for output in result.output) <= length
    if length >= 500:
        for text in (result.output[0].stdout, result.output[0].stderr, result.output[1].stdout):
            assert text.startswith("1\n2\n")
            assert text.endswith("\n100000\n")
        left_out = 588895 - 4000 // 3 + len("\n[openbrain: 588895 bytes omitted]\n")
        assert length < 4000 or f"[openbrain: {left_out} bytes omitted]" in result.output[1].stdout
    if length >= 30:
        assert result.output[2].stdout == "ä\n\ufffd"


def test_one_stream_has_what_the_other_leaves(sandbox: Sandbox) -> None:
    (output,) = call(sandbox, "seq 100000; echo oops >&2", length=1000).output
    assert output.stderr == "oops\n"
    assert 900 < len(output.stdout) <= 995


def shell_call(*commands: str) -> list[Any]:
    """What a model says to call the shell."""
    item = ResponseFunctionShellToolCall(
        id="item",
        call_id="call",
        type="shell_call",
        status="completed",
        action=Action(commands=list(commands), timeout_ms=20_000, max_output_length=4096),
    )
    return [item]


def test_the_model_reads_what_the_commands_said(sandbox: Sandbox) -> None:
    model = ScriptedModel([shell_call("echo out; exit 4"), [assistant_message("Seen.")]])
    tools: list[Any] = [ShellTool(executor=shell_executor(sandbox))]
    result = asyncio.run(Runner.run(Agent(name="a", model=model, tools=tools), "look"))
    assert result.final_output == "Seen."
    assert model.last_call is not None
    read: Any = model.last_call.input[-1]
    assert read["type"] == "shell_call_output"
    assert read["output"] == [
        {"stdout": "out\n", "stderr": "", "outcome": {"type": "exit", "exit_code": 4}}
    ]


def test_what_cannot_be_run_is_told_to_the_model(sandbox: Sandbox) -> None:
    model = ScriptedModel([shell_call("a\0b"), [assistant_message("Seen.")]])
    tools: list[Any] = [ShellTool(executor=shell_executor(sandbox))]
    asyncio.run(Runner.run(Agent(name="a", model=model, tools=tools), "look"))
    assert model.last_call is not None
    read: Any = model.last_call.input[-1]
    assert "NUL byte" in read["output"][0]["stdout"]


def test_the_example() -> None:
    model = ScriptedModel([shell_call("python3 --version"), [assistant_message("That one.")]])
    assert asyncio.run(example("openai_shell").main(model)) == "That one."
    model.assert_complete()


def test_cancelling_a_run_kills_the_command(mark: str) -> None:
    async def main() -> None:
        async with Sandbox(timeout=60, network=False) as sandbox:
            model = ScriptedModel([shell_call(sleeper(mark))])
            tools: list[Any] = [ShellTool(executor=shell_executor(sandbox))]
            run = Runner.run(Agent(name="a", model=model, tools=tools), "look")
            task = asyncio.create_task(run)
            while len(alive(mark)) < 3:
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert until(lambda: not alive(mark), 2)

    asyncio.run(main())
