"""A shell executor for the OpenAI Agents SDK: the commands of its `ShellTool` run in a sandbox.

>>> from agents import Agent, ShellTool
>>> from openbrain import Sandbox
>>> from openbrain.adapters.openai_agents import shell_executor
>>> with Sandbox(timeout=600, network=False) as sandbox:
...     agent = Agent(name="builder", tools=[ShellTool(executor=shell_executor(sandbox))])
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agents import ShellCallOutcome, ShellCommandOutput, ShellResult

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agents import ShellCommandRequest

    from openbrain import Output, Sandbox

__all__ = ["shell_executor"]

# As openbrain itself says it.
_OMITTED = "\n[openbrain: {} bytes omitted]\n"


def shell_executor(
    sandbox: Sandbox,
    *,
    timeout: float = 120,
    max_timeout: float = 3600,
    max_output_length: int = 64 * 1024,
) -> Callable[[ShellCommandRequest], Awaitable[ShellResult]]:
    """The `executor` of a `ShellTool`: runs the commands of a call one after the other.

    A command that fails is an outcome, one that times out is one with the output so far and the
    last of its call. What cannot be run at all is an exception, which the SDK tells the model.

    Args:
        sandbox: An open sandbox. Who opened it ends it.
        timeout: Seconds for each command of a call that names no `timeout_ms`.
        max_timeout: The most seconds that a call may name.
        max_output_length: Characters of a call's output, if the call asks for no less. Each command
            has the same share, of which the beginning and the end of each stream are kept.
    """

    async def execute(request: ShellCommandRequest) -> ShellResult:
        action = request.data.action
        seconds = min(action.timeout_ms / 1000 if action.timeout_ms else timeout, max_timeout)
        asked = action.max_output_length
        length = max_output_length if asked is None else min(max(asked, 0), max_output_length)
        share = length // max(len(action.commands), 1)
        outputs: list[ShellCommandOutput] = []
        for command in action.commands:
            run = sandbox.command(command).timeout(seconds).limits(output=max(share, 1))
            output = await run.run_async()
            outputs.append(_command_output(command, output, share))
            if output.timed_out:
                break
        return ShellResult(output=outputs)

    return execute


def _command_output(command: str, output: Output, share: int) -> ShellCommandOutput:
    code = output.exit_code
    if code is None and output.signal is not None:
        code = 128 + output.signal
    # Errors have half of it, and what is left over: they are what a model goes on with.
    errors = max(share // 2, share - len(output.stdout_bytes))
    stderr = _shorten(output.stderr_bytes, output.stderr_total, errors)
    stdout = _shorten(output.stdout_bytes, output.stdout_total, share - len(stderr))
    outcome = ShellCallOutcome("timeout" if output.timed_out else "exit", code)
    return ShellCommandOutput(stdout=stdout, stderr=stderr, outcome=outcome, command=command)


def _shorten(data: bytes, total: int, length: int) -> str:
    """The text of a stream in so many characters: of a longer one the beginning and the end."""
    if len(data) > length:
        kept = length - len(_OMITTED.format(total))
        if kept <= 0:
            data = data[:length]
        else:
            note = _OMITTED.format(total - kept).encode()
            data = data[: kept - kept // 2] + note + data[len(data) - kept // 2 :]
    return data.decode("utf-8", "replace")
