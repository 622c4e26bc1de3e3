"""The LangChain tool, by itself and in an agent with a model that says what the test says."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from conftest import alive, example, sleeper, until
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, ToolMessage

from openbrain import Sandbox, errors
from openbrain.adapters.langchain import shell_tool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_core.tools import StructuredTool


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(timeout=60, network=False) as sandbox:
        yield sandbox


def call(tool: StructuredTool, **arguments: Any) -> ToolMessage:
    """What an agent gets: a message with the text for the model and the artifact for programs."""
    message: Any = tool.invoke({"type": "tool_call", "id": "1", "name": "shell", "args": arguments})
    assert isinstance(message, ToolMessage)
    return message


def test_the_text_is_for_the_model_and_the_artifact_for_programs(sandbox: Sandbox) -> None:
    message = call(shell_tool(sandbox), command="echo one; echo two >&2; exit 3")
    assert message.content == "one\n[standard error]\ntwo\n[exit code 3]"
    assert message.artifact["exit_code"] == 3
    assert message.artifact["isolation"]["level"] == "namespaces"
    assert message.artifact["sandbox_id"] == sandbox.id
    json.dumps(message.artifact)


def test_what_one_call_leaves_the_next_one_finds(sandbox: Sandbox) -> None:
    tool = shell_tool(sandbox)
    assert call(tool, command="echo kept > file").content == "(no output)\n[exit code 0]"
    assert call(tool, command="cat file").content == "kept\n[exit code 0]"


def test_a_timeout_is_an_answer_with_the_output_so_far(sandbox: Sandbox) -> None:
    message = call(shell_tool(sandbox), command="echo begun; sleep 60", timeout=0.5)
    assert str(message.content).startswith("begun\n[timed out after 0.5")
    assert message.artifact["timed_out"]


def test_a_model_cannot_ask_for_more_time_than_allowed(sandbox: Sandbox) -> None:
    tool = shell_tool(sandbox, max_timeout=0.2)
    assert call(tool, command="sleep 60", timeout=3000).artifact["timed_out"]
    assert call(shell_tool(sandbox, timeout=0.2), command="sleep 60").artifact["timed_out"]


def test_a_signal_is_told(sandbox: Sandbox) -> None:
    assert call(shell_tool(sandbox), command="kill -9 $$").content == (
        "(no output)\n[ended by signal 9]"
    )


def test_long_output_keeps_its_beginning_and_its_end(sandbox: Sandbox) -> None:
    text = str(call(shell_tool(sandbox, max_output=1000), command="seq 100000").content)
    assert text.startswith("1\n2\n")
    assert "bytes omitted]" in text
    assert text.endswith("100000\n[exit code 0]")
    assert len(text) < 1200


def test_bytes_that_are_no_text_are_replaced(sandbox: Sandbox) -> None:
    message = call(shell_tool(sandbox), command=r"printf 'a\377b'")
    assert message.content == "a\ufffdb\n[exit code 0]"
    assert message.artifact["stdout_base64"] == "Yf9i"


@pytest.mark.parametrize("command", ["", "a\0b", "echo \ud800"])
def test_what_cannot_be_run_is_told_to_the_model(sandbox: Sandbox, command: str) -> None:
    message = call(shell_tool(sandbox), command=command)
    assert message.status == "error"
    assert message.content


def test_a_sandbox_that_is_gone_is_no_answer(sandbox: Sandbox) -> None:
    sandbox.kill()
    with pytest.raises(errors.SandboxLostError):
        call(shell_tool(sandbox), command="true")


def test_cancelling_kills_the_command(mark: str) -> None:
    async def main() -> None:
        async with Sandbox(timeout=60, network=False) as sandbox:
            call = shell_tool(sandbox).ainvoke({"command": sleeper(mark)})
            task = asyncio.ensure_future(call)
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


def test_the_example() -> None:
    command = {"command": "python3 --version; hostname"}
    asked = AIMessage("", tool_calls=[{"id": "1", "name": "shell", "args": command}])
    model = Model(messages=iter([asked, AIMessage("That one.")]))
    assert example("langchain_tool").main(model) == "That one."
