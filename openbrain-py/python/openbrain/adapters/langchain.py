r"""A LangChain tool: a shell in a sandbox.

    >>> from openbrain import Sandbox
    >>> from openbrain.adapters.langchain import shell_tool
    >>> with Sandbox(timeout=600, network=False) as sandbox:
    ...     shell = shell_tool(sandbox)
    ...     shell.invoke({"command": "echo hello > greeting"})
    ...     shell.invoke({"command": "cat greeting; exit 3"})
    '(no output)\n[exit code 0]'
    'hello\n[exit code 3]'

Any agent that takes LangChain's tools takes this one: `create_agent(model, [shell_tool(sandbox)])`.
"""

from __future__ import annotations

from typing import Annotated, Any

from langchain_core.tools import StructuredTool, ToolException
from pydantic import BaseModel, Field

from openbrain import Exec, Output, Sandbox, errors

__all__ = ["ShellInput", "shell_tool"]

_DESCRIPTION = """\
Run a shell script in a sandbox. Files, background processes and installed packages stay for the \
next call; variables and the working directory do not. Returns standard output, standard error and \
how the command ended."""


class ShellInput(BaseModel):
    """The arguments of the tool."""

    command: Annotated[str, Field(description="the script, for /bin/sh")]
    timeout: Annotated[
        float | None, Field(gt=0, description="seconds until the command is killed")
    ] = None


def shell_tool(
    sandbox: Sandbox,
    *,
    name: str = "shell",
    timeout: float = 120,
    max_timeout: float = 3600,
    max_output: int = 64 * 1024,
) -> StructuredTool:
    """A tool that runs scripts in a sandbox.

    A command that fails or times out is an answer, with the output so far; its `artifact` is the
    whole result, `openbrain.Output.to_dict()`. What cannot be run is an error that the model may
    read; a sandbox that is gone is an exception.

    Args:
        sandbox: An open sandbox. Who opened it ends it.
        name: The name that the model has for the tool.
        timeout: Seconds for a command that names none.
        max_timeout: The most seconds that a command may name.
        max_output: Bytes to keep of standard output and of standard error, half of the beginning
            and half of the end.
    """

    def request(command: str, asked: float | None) -> Exec:
        seconds = min(asked or timeout, max_timeout)
        return sandbox.command(command).timeout(seconds).limits(output=max_output)

    def run(command: str, timeout: float | None = None) -> tuple[str, dict[str, Any]]:
        try:
            return _answer(request(command, timeout).run())
        except errors.InvalidRequestError as error:
            raise ToolException(str(error)) from error

    async def run_async(command: str, timeout: float | None = None) -> tuple[str, dict[str, Any]]:  # noqa: ASYNC109
        try:
            return _answer(await request(command, timeout).run_async())
        except errors.InvalidRequestError as error:
            raise ToolException(str(error)) from error

    return StructuredTool.from_function(
        run,
        run_async,
        name=name,
        description=_DESCRIPTION,
        args_schema=ShellInput,
        response_format="content_and_artifact",
        handle_tool_error=True,
    )


def _answer(output: Output) -> tuple[str, dict[str, Any]]:
    parts = [output.stdout]
    if output.stderr:
        parts += ["[standard error]", output.stderr]
    if not output.stdout and not output.stderr:
        parts = ["(no output)"]
    parts.append(f"[{_end(output)}]")
    return "\n".join(part.removesuffix("\n") for part in parts if part), output.to_dict()


def _end(output: Output) -> str:
    if output.exit_code is not None:
        return f"exit code {output.exit_code}"
    if output.timed_out:
        return f"timed out after {output.duration_ms / 1000:.1f} s"
    return "killed" if output.signal is None else f"ended by signal {output.signal}"
