"""A sandbox environment for Inspect: `sandbox="openbrain"` in a task, `--sandbox openbrain`.

Inspect finds it by itself where both packages are installed. Every sample has a sandbox of its own,
without a network unless its configuration says otherwise, which ends with the sample:

    >>> from inspect_ai import Task
    >>> from inspect_ai.util import SandboxEnvironmentSpec
    >>> from openbrain.adapters.inspect_ai import OpenbrainConfig
    >>> task = Task(sandbox="openbrain")
    >>> config = OpenbrainConfig(limits={"memory": "512MiB"})
    >>> task = Task(sandbox=SandboxEnvironmentSpec("openbrain", config))

On the command line a configuration is a YAML file of these fields: `--sandbox openbrain:it.yaml`.
Inspect's asyncio backend is needed, which is its default.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, overload

from inspect_ai.util import (
    ExecResult,
    OutputLimitExceededError,
    SandboxEnvironment,
    SandboxEnvironmentLimits,
    SandboxUnavailableError,
    SandboxUserUnsupportedError,
    sandboxenv,
)
from pydantic import BaseModel

from openbrain import Output, Sandbox, errors

if TYPE_CHECKING:
    from collections.abc import Generator

    from inspect_ai.util import SandboxEnvironmentConfigType

__all__ = ["OpenbrainConfig", "OpenbrainSandboxEnvironment"]

# Where commands start and relative paths are taken from.
_WORKSPACE = PurePosixPath("/workspace")


class OpenbrainConfig(BaseModel, frozen=True, extra="forbid"):
    """What the sandbox of a sample is like, by the words of `openbrain.Sandbox`.

    Attributes:
        image: Image of the sandbox, on an OpenSandbox server.
        timeout: Seconds until the sandbox ends, whatever becomes of the sample: a day.
        mounts: Host paths to make visible: `SRC:DST[:ro|rw|overlay]`.
        expose: Host paths to make visible, read-only, at the same place.
        env: Environment variables of every command.
        network: Whether commands reach the network.
        allowed_domains: The only names that commands may reach; needs `network`.
        limits: Resource limits by name, as in `openbrain.Exec.limits`.
    """

    image: str | None = None
    timeout: float = 86_400
    mounts: tuple[str, ...] = ()
    expose: tuple[str, ...] = ()
    env: dict[str, str] = {}
    network: bool = False
    allowed_domains: tuple[str, ...] | None = None
    limits: dict[str, int | float | str] = {}

    def __hash__(self) -> int:
        """Inspect keeps configurations in sets; pydantic knows no hash of a dict."""
        return hash(self.model_dump_json())


class OpenbrainSandboxEnvironment(SandboxEnvironment):
    """The sandbox of one sample, as Inspect has it.

    Commands run as the sandbox's own user, and as no other. A command that exceeds an output limit
    is an `OutputLimitExceededError` with the beginning and the end of the output, one that exceeds
    its time a `TimeoutError` with what there was of it. One without a timeout may take as long as
    the sandbox lives.

    Attributes:
        sandbox: The sandbox itself: `sandbox().as_type(OpenbrainSandboxEnvironment).sandbox`.
    """

    def __init__(self, sandbox: Sandbox, lifetime: float) -> None:
        """Made by Inspect, for each sample."""
        super().__init__()
        self.sandbox = sandbox
        self._lifetime = lifetime

    @classmethod
    def default_concurrency(cls) -> int | None:
        """How many sandboxes there are at once unless `--max-sandboxes` says."""
        return 2 * (os.cpu_count() or 1)

    @classmethod
    def config_deserialize(cls, config: dict[str, Any]) -> BaseModel:
        """The configuration that a log has."""
        return OpenbrainConfig(**config)

    @classmethod
    async def sample_init(
        cls, task_name: str, config: SandboxEnvironmentConfigType | None, metadata: dict[str, str]
    ) -> dict[str, SandboxEnvironment]:
        """Opens the sandbox of a sample."""
        del task_name, metadata
        options = _config(config).model_dump()
        # Inspect has an output limit for each command; the sandbox's own only bounds those.
        options["limits"] = {"output": "100MiB", **options["limits"]}
        return {"default": cls(await Sandbox.create(**options), options["timeout"])}

    @classmethod
    async def sample_cleanup(
        cls,
        task_name: str,
        config: SandboxEnvironmentConfigType | None,
        environments: dict[str, SandboxEnvironment],
        interrupted: bool,
    ) -> None:
        """Ends the sandbox of a sample with everything in it."""
        del task_name, config, interrupted
        for environment in environments.values():
            await environment.as_type(cls).sandbox.kill_async()

    async def exec(
        self,
        cmd: list[str],
        input: str | bytes | None = None,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        user: str | None = None,
        timeout: int | None = None,  # noqa: ASYNC109
        timeout_retry: bool = True,
        concurrency: bool = True,
    ) -> ExecResult[str]:
        """Runs a command; text that is no UTF-8 is replaced. A signal is 128 and its number.

        It is never tried again: a time that is over says nothing about the sandbox.
        """
        del timeout_retry, concurrency
        try:
            with _available():
                await self._check_user(user)
                request = self.sandbox.command(cmd).workdir(_WORKSPACE / (cwd or ""))
                request = request.timeout(self._lifetime if timeout is None else timeout)
                request = request.limits(output=SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE)
                for name, value in (env or {}).items():
                    request = request.env(name, value)
                if input is not None:
                    request = request.stdin(input)
                return _result(await request.run_async(), timeout)
        except errors.CommandNotFoundError as error:
            return ExecResult(False, 127, "", f"{error}\n")
        except errors.InvalidRequestError as error:
            # What no shell could run either: a NUL byte, a working directory that is not there.
            return ExecResult(False, 126, "", f"{error}\n")

    async def write_file(self, file: str, contents: str | bytes) -> None:
        """Replaces the content of a file; makes it, and the directories above it."""
        with _available():
            await self.sandbox.files.write_async(file, contents)

    @overload
    async def read_file(self, file: str, text: Literal[True] = True) -> str: ...
    @overload
    async def read_file(self, file: str, text: Literal[False]) -> bytes: ...

    async def read_file(self, file: str, text: bool = True) -> str | bytes:
        """The content of a file, up to Inspect's limit or 64 MiB, which is openbrain's."""
        with _available():
            try:
                content = await self.sandbox.files.read_async(file)
            except errors.InvalidRequestError as error:
                if not file or "\0" in file:
                    raise
                raise OutputLimitExceededError("64 MiB", None) from error
        if len(content) > SandboxEnvironmentLimits.MAX_READ_FILE_SIZE:
            raise OutputLimitExceededError(SandboxEnvironmentLimits.MAX_READ_FILE_SIZE_STR, None)
        return content.decode() if text else content

    def default_polling_interval(self) -> float:
        """Seconds between two looks of Inspect's own tools; a command here costs little."""
        return 0.2

    async def _check_user(self, user: str | None) -> None:
        if user is None:
            return
        own = (await self.sandbox.exec_async("id -u; id -un")).stdout.split()
        if user not in own:
            raise SandboxUserUnsupportedError(
                f"commands run as the sandbox's own user ({'/'.join(own)}), and not as {user!r}"
            )


class _TimedOutError(TimeoutError):
    """A command that took too long, with the attribute in which Inspect looks for its output."""

    def __init__(self, message: str, truncated_output: str) -> None:
        super().__init__(message)
        self.truncated_output = truncated_output


# A call, because Inspect's decorator would leave the class without a type.
sandboxenv(name="openbrain")(OpenbrainSandboxEnvironment)


def _config(config: SandboxEnvironmentConfigType | None) -> OpenbrainConfig:
    if config is None:
        return OpenbrainConfig()
    if isinstance(config, str):
        import yaml

        return OpenbrainConfig(**(yaml.safe_load(Path(config).read_text()) or {}))
    if not isinstance(config, OpenbrainConfig):
        raise TypeError(f"an `OpenbrainConfig` is needed, and not a `{type(config).__name__}`")
    return config


def _result(output: Output, timeout: float | None) -> ExecResult[str]:
    both = output.stdout + output.stderr
    if output.timed_out:
        raise _TimedOutError(f"the command timed out after {timeout} seconds", both)
    if output.truncated:
        raise OutputLimitExceededError(SandboxEnvironmentLimits.MAX_EXEC_OUTPUT_SIZE_STR, both)
    code = output.exit_code
    if code is None:
        code = 128 + (output.signal or 9)
    return ExecResult(output.success, code, output.stdout, output.stderr)


@contextlib.contextmanager
def _available() -> Generator[None]:
    """A sandbox that is gone is no result of a command."""
    try:
        yield
    except (errors.SandboxLostError, errors.SandboxUnavailableError) as error:
        raise SandboxUnavailableError(str(error)) from error
