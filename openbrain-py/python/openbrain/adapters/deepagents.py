r"""A backend for deepagents: files and `execute` of an agent are those of a sandbox.

    >>> from openbrain import Sandbox
    >>> from openbrain.adapters.deepagents import sandbox_backend
    >>> with Sandbox(timeout=600, network=False) as sandbox:
    ...     backend = sandbox_backend(sandbox)
    ...     backend.write("/workspace/greeting", "hello").path
    ...     backend.execute("cat greeting; exit 3")
    '/workspace/greeting'
    ExecuteResponse(output='hello', exit_code=3, truncated=False)

`create_deep_agent(model, backend=sandbox_backend(sandbox))` makes an agent of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepagents.backends.composite import CompositeBackend
from deepagents.backends.protocol import (
    ExecuteResponse,
    FileDownloadResponse,
    FileUploadResponse,
)
from deepagents.backends.sandbox import BaseSandbox

from openbrain import Output, Sandbox, errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deepagents.backends.protocol import BackendProtocol, FileOperationError

    from openbrain import Exec

__all__ = ["sandbox_backend"]

_FileError = (errors.FileFailedError, errors.InvalidRequestError)


def sandbox_backend(
    sandbox: Sandbox,
    *,
    timeout: float = 120,
    max_output: int = 4 * 1024 * 1024,
    routes: Mapping[str, BackendProtocol] | None = None,
) -> CompositeBackend:
    """A sandbox as the backend of an agent.

    A command that fails or times out is a response, with the output so far; the exit code of a
    timeout is 124, that of a signal 128 and its number. A sandbox that is gone is an exception.
    Results that are too long for a model are kept in the sandbox, below `/tmp/deepagents`.

    Args:
        sandbox: An open sandbox. Who opened it ends it.
        timeout: Seconds for a command that names none.
        max_output: Bytes of output to keep of one command, half of the beginning and half of the
            end. Files that an agent reads are output too: pages of up to 500 KiB, encoded.
        routes: Other backends, by the prefix of the paths that are theirs, as `CompositeBackend`
            has them: `{"/memories/": StoreBackend()}`.
    """
    own = _Backend(sandbox, timeout, max_output)
    # The root of a sandbox, where deepagents would put them, cannot be written.
    return CompositeBackend(own, dict(routes or {}), artifacts_root="/tmp/deepagents")


class _Backend(BaseSandbox):
    # Long output is a file in the sandbox from the start, and is not sent out and back in.
    enable_capture_offload = True

    def __init__(self, sandbox: Sandbox, timeout: float, max_output: int) -> None:
        self._sandbox = sandbox
        self._timeout = timeout
        self._max_output = max_output

    @property
    def id(self) -> str:
        """The name of the sandbox."""
        return self._sandbox.id

    def execute(self, command: str, *, timeout: int | None = None) -> ExecuteResponse:
        """Runs a script; both of its streams are one, as a terminal shows them."""
        try:
            return self._response(self._request(command, timeout).run())
        except errors.InvalidRequestError as error:
            return _not_run(error)

    async def aexecute(self, command: str, *, timeout: int | None = None) -> ExecuteResponse:  # noqa: ASYNC109
        """As `execute`. Cancelling it kills the command."""
        try:
            return self._response(await self._request(command, timeout).run_async())
        except errors.InvalidRequestError as error:
            return _not_run(error)

    def upload_files(self, files: list[tuple[str, bytes]]) -> list[FileUploadResponse]:
        """Writes files, each with the directories above it."""
        responses: list[FileUploadResponse] = []
        for path, content in files:
            try:
                self._sandbox.files.write(path, content)
                responses.append(FileUploadResponse(path))
            except _FileError as error:
                responses.append(FileUploadResponse(path, _reason(error)))
        return responses

    async def aupload_files(self, files: list[tuple[str, bytes]]) -> list[FileUploadResponse]:
        """As `upload_files`."""
        responses: list[FileUploadResponse] = []
        for path, content in files:
            try:
                await self._sandbox.files.write_async(path, content)
                responses.append(FileUploadResponse(path))
            except _FileError as error:
                responses.append(FileUploadResponse(path, _reason(error)))
        return responses

    def download_files(self, paths: list[str]) -> list[FileDownloadResponse]:
        """Reads files of up to 64 MiB."""
        responses: list[FileDownloadResponse] = []
        for path in paths:
            try:
                responses.append(FileDownloadResponse(path, self._sandbox.files.read(path)))
            except _FileError as error:
                responses.append(FileDownloadResponse(path, None, _reason(error)))
        return responses

    async def adownload_files(self, paths: list[str]) -> list[FileDownloadResponse]:
        """As `download_files`."""
        responses: list[FileDownloadResponse] = []
        for path in paths:
            try:
                content = await self._sandbox.files.read_async(path)
                responses.append(FileDownloadResponse(path, content))
            except _FileError as error:
                responses.append(FileDownloadResponse(path, None, _reason(error)))
        return responses

    def _request(self, command: str, timeout: float | None) -> Exec:
        # On the same line, so that the numbers of lines in the shell's messages are right. What is
        # no script at all is said on standard error before that.
        request = self._sandbox.command(f"exec 2>&1; {command}" if command.strip() else command)
        # 0 is what models say when they mean no timeout.
        return request.timeout(timeout or self._timeout).limits(output=self._max_output)

    def _response(self, output: Output) -> ExecuteResponse:
        text = output.stdout + output.stderr
        code = output.exit_code
        if output.timed_out:
            text += f"\n[openbrain: timed out after {output.duration_ms / 1000:.1f} s]\n"
            code = 124
        elif code is None:
            code = 128 + (output.signal or 9)
        return ExecuteResponse(text, code, output.truncated)


def _not_run(error: Exception) -> ExecuteResponse:
    """What a model may ask for that no shell can run: nothing at all, a NUL byte."""
    return ExecuteResponse(f"not run: {error}", 126)


def _reason(error: Exception) -> FileOperationError | str:
    match error:
        case FileNotFoundError():
            return "file_not_found"
        case PermissionError():
            return "permission_denied"
        case IsADirectoryError():
            return "is_directory"
        case NotADirectoryError():
            return "invalid_path"
        case _:
            return str(error)
