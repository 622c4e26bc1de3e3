"""What the tests of the MCP server share: servers, and the official clients that talk to them."""

import os
import signal
import subprocess
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters

OPENBRAIN = os.environ["TEST_OPENBRAIN"]
MODERN = "2026-07-28"

# Every test that takes `reach` runs once for each way a client has.
# In the newer era the client asks the server which revisions it has.
WAYS = [(transport, era) for transport in ("stdio", "http") for era in ("legacy", "auto")]


class Home:
    """A home of its own, with settings, in which servers run."""

    def __init__(self, path: Path):
        self.path = path
        self.env = {"PATH": os.environ["PATH"], "HOME": str(path), "LANG": "C.UTF-8"}

    def settings(self, text: str) -> None:
        """Writes the user's settings file."""
        folder = self.path / ".config/openbrain"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "settings.yaml").write_text(text)

    def program(self, name: str, text: str) -> None:
        """Puts a program where commands find it."""
        folder = self.path / "bin"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
        self.env["PATH"] = f"{folder}:{self.env['PATH']}"

    @contextmanager
    def serve(self):
        """`openbrain serve` at a free port, as (address, process)."""
        command = [OPENBRAIN, "serve", "--listen", "127.0.0.1:0", "--log-level", "warn"]
        server = subprocess.Popen(
            command, cwd=self.path, env=self.env, stderr=subprocess.PIPE, text=True
        )
        line = server.stderr.readline()
        assert "http://" in line, line + server.stderr.read()
        try:
            yield "http://" + line.strip().rsplit("http://")[-1], server
        finally:
            server.send_signal(signal.SIGTERM)
            server.communicate(timeout=30)

    def stdio(self) -> StdioServerParameters:
        """`openbrain mcp` for a client to start."""
        arguments = ["mcp", "--log-level", "warn"]
        return StdioServerParameters(
            command=OPENBRAIN, args=arguments, env=self.env, cwd=str(self.path)
        )


class Reach:
    """One way to reach a server, and the home that it runs in."""

    def __init__(self, home: Home, transport: str, era: str):
        self.home, self.transport, self.era = home, transport, era

    @asynccontextmanager
    async def client(self, **options):
        """The official client, connected."""
        if self.transport == "stdio":
            async with Client(self.home.stdio(), mode=self.era, **options) as client:
                yield client
            return
        with self.home.serve() as (address, _):
            async with Client(address + "/mcp", mode=self.era, **options) as client:
                yield client


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


@pytest.fixture(params=WAYS, ids=["-".join(way) for way in WAYS])
def reach(request, home):
    return Reach(home, *request.param)


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def gone(pid: int) -> None:
    """Waits until a process has ended."""
    import anyio

    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with anyio.fail_after(10):
            await anyio.wait_readable(fd)
    finally:
        os.close(fd)


async def appears(path: Path) -> str:
    """Waits until a file has a line, and reads it."""
    import anyio

    with anyio.fail_after(10):
        while not (path.exists() and path.read_text().endswith("\n")):
            await anyio.sleep(0.01)
    return path.read_text().strip()
