"""The two servers as processes: what they print, whom they answer, and what is left of them."""

import json
import os
import signal
import socket
import subprocess

import httpx2
import pytest

from conftest import MODERN, OPENBRAIN, appears, gone

pytestmark = pytest.mark.anyio

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}
INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}


class Pipes:
    """`openbrain mcp` and its pipes, line by line."""

    def __init__(self, home):
        self.process = subprocess.Popen(
            [OPENBRAIN, "mcp"],
            cwd=home.path,
            env=home.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.ask(INITIALIZE)
        self.say(INITIALIZED)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with self.process:
            self.process.kill()

    def say(self, message):
        line = message if isinstance(message, str) else json.dumps(message)
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def ask(self, message):
        self.say(message)
        return json.loads(self.process.stdout.readline())

    def call(self, command, **more):
        arguments = {"command": command, **more}
        params = {"name": "exec_command", "arguments": arguments}
        return {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}

    def end(self):
        self.process.stdin.close()
        assert self.process.wait(10) == 0
        return self.process.stdout.read()


async def test_standard_output_carries_the_protocol_alone(home):
    with Pipes(home) as pipes:
        for command in [
            "echo to stdout; echo to stderr >&2",
            "for fd in /proc/self/fd/*; do echo noise > $fd; done 2>/dev/null",
            "echo noise > /dev/stdout; echo noise > /dev/tty",
            'printf \'\\n{"jsonrpc":"2.0"}\\n\'',
        ]:
            answer = pipes.ask(pipes.call(command))
            assert answer["id"] == 7 and "result" in answer
        # Neither standard stream of the server is one of a command's descriptors.
        answer = pipes.ask(pipes.call("ls -l /proc/self/fd"))
        listed = answer["result"]["structuredContent"]["stdout"]
        theirs = {
            os.readlink(f"/proc/{os.getpid()}/fd/{stream.fileno()}")
            for stream in (pipes.process.stdin, pipes.process.stdout)
        }
        assert not any(pipe in listed for pipe in theirs), listed
        assert pipes.end() == ""


async def test_a_wrong_line_is_answered_and_no_end(home):
    with Pipes(home) as pipes:
        answer = pipes.ask("{ not json")
        assert answer["error"]["code"] == -32700
        for no_id in [None, 1.5, {}]:
            answer = pipes.ask({"jsonrpc": "2.0", "id": no_id, "method": "tools/list"})
            assert answer["error"]["code"] == -32600
        answer = pipes.ask({"jsonrpc": "2.0", "id": 3, "method": "no/such"})
        assert answer["error"]["code"] == -32601
        answer = pipes.ask(pipes.call("echo on"))
        assert answer["result"]["structuredContent"]["stdout"] == "on\n"
        pipes.end()


@pytest.mark.parametrize("how", ["eof", "hup", "int", "term", "kill"])
async def test_nothing_is_left_when_the_client_or_the_server_is_gone(home, how):
    with Pipes(home) as pipes:
        started = home.path / "pid"
        command = f"setsid sleep 1000 & echo $! > {started}; wait"
        pipes.say(pipes.call(command))
        pid = int(await appears(started))
        if how == "eof":
            pipes.process.stdin.close()
        else:
            pipes.process.send_signal(signal.Signals[f"SIG{how.upper()}"])
        pipes.process.wait(10)
        await gone(pid)


async def test_a_client_of_http_that_vanishes_takes_its_command_along(home):
    started = home.path / "pid"
    command = f"setsid sleep 1000 & echo $! > {started}; wait"
    params = {
        "name": "exec_command",
        "arguments": {"command": command},
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {},
        },
    }
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
    with home.serve() as (address, _):
        curl = subprocess.Popen(
            ["curl", "-sS", address + "/mcp", "-d", body]
            + ["-H", "Content-Type: application/json"]
            + ["-H", "Accept: application/json, text/event-stream"]
            + ["-H", f"MCP-Protocol-Version: {MODERN}"]
            + ["-H", "Mcp-Method: tools/call", "-H", "Mcp-Name: exec_command"],
            stdout=subprocess.DEVNULL,
        )
        pid = int(await appears(started))
        curl.kill()
        curl.wait()
        await gone(pid)


class Session:
    """A session of HTTP, as revisions before 2026-07-28 have it, request by request."""

    def __init__(self, address):
        self.url = address + "/mcp"
        accept = "application/json, text/event-stream"
        self.client = httpx2.Client(headers={"Accept": accept}, timeout=30)
        answer = self.client.post(self.url, json=INITIALIZE)
        self.client.headers["Mcp-Session-Id"] = answer.headers["mcp-session-id"]
        self.client.headers["MCP-Protocol-Version"] = "2025-11-25"
        self.client.post(self.url, json=INITIALIZED)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.close()

    def call(self, tool, **arguments):
        """The open response of a call."""
        params = {"name": tool, "arguments": arguments}
        body = {"jsonrpc": "2.0", "id": 5, "method": "tools/call", "params": params}
        return self.client.stream("POST", self.url, json=body)

    def result(self, tool, **arguments):
        with self.call(tool, **arguments) as response:
            lines = [line for line in response.iter_lines() if line.startswith("data: {")]
        return json.loads(lines[-1].removeprefix("data: "))["result"]["structuredContent"]


@pytest.mark.parametrize("left", ["in the call", "with the handle"])
async def test_a_session_that_is_deleted_takes_its_commands_along(home, left):
    started = home.path / "pid"
    command = f"setsid sleep 1000 & echo $! > {started}; wait"
    with home.serve() as (address, _), Session(address) as session:
        if left == "in the call":
            with session.call("exec_command", command=command):
                pid = int(await appears(started))
                session.client.delete(session.url).raise_for_status()
        else:
            assert session.result("exec_command", command=command, background=True)["exec_id"]
            pid = int(await appears(started))
            session.client.delete(session.url).raise_for_status()
        await gone(pid)
        assert session.client.post(session.url, json=INITIALIZED).status_code == 404


async def test_a_handle_that_reaches_nobody_is_no_command_left_running(home):
    """A stream that closes cancels nothing before 2026-07-28: the client may come back for it."""
    started, done = home.path / "pid", home.path / "done"
    with home.serve() as (address, _), Session(address) as session:
        quick = f"echo $$ > {started}; sleep 0.5; echo > {done}"
        with session.call("exec_command", command=quick):
            await appears(started)
        await appears(done)
        started.unlink()
        long = f"setsid sleep 1000 & echo $! > {started}; wait"
        with session.call("exec_command", command=long, yield_seconds=4):
            pid = int(await appears(started))
        await gone(pid)


async def test_web_pages_do_not_reach_the_tools(home):
    with home.serve() as (address, _):
        body = json.dumps(INITIALIZE)
        for headers in [
            ["Host: evil.example:8000"],
            ["Origin: https://evil.example"],
            ["Origin: null"],
            ["Sec-Fetch-Site: cross-site"],
            ["Host: evil.example", "Origin: http://evil.example"],
        ]:
            flags = [flag for header in headers for flag in ("-H", header)]
            curl = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", address + "/mcp"]
            curl += ["-H", "Content-Type: application/json", "-d", body]
            curl += ["-H", "Accept: application/json, text/event-stream"]
            status = subprocess.run(curl + flags, capture_output=True, text=True, check=True).stdout
            assert status == "403", (headers, status)


def posted(address, body, *headers):
    """The status and the body of a request by curl."""
    curl = ["curl", "-sS", "-w", "\n%{http_code}", address + "/mcp", "--data-binary", "@-"]
    curl += ["-H", "Content-Type: application/json"]
    curl += ["-H", "Accept: application/json, text/event-stream"]
    curl += [flag for header in headers for flag in ("-H", header)]
    ran = subprocess.run(curl, input=body, capture_output=True, text=True, check=True)
    text, status = ran.stdout.rsplit("\n", 1)
    return int(status), text


async def test_the_token_is_asked_for(home):
    home.settings("server:\n  token: 0123456789abcdef0123456789abcdef\n")
    with home.serve() as (address, _):
        body = json.dumps(INITIALIZE)
        assert posted(address, body)[0] == 401
        assert posted(address, body, "Authorization: Bearer no")[0] == 401
        right = "Authorization: Bearer 0123456789abcdef0123456789abcdef"
        assert posted(address, body, right)[0] == 200


async def test_bodies_are_bounded_in_size_and_in_time(home):
    home.settings("server:\n  max_body: 64KiB\n")
    with home.serve() as (address, _):
        status, text = posted(address, " " * 70_000)
        assert (status, json.loads(text)["code"]) == (413, "body_too_large")
        # One that never comes: it has ten seconds.
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as slow:
            head = f"POST /mcp HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 10\r\n\r\n"
            slow.sendall(head.encode())
            assert b" 408 " in slow.makefile("rb").readline()


async def test_the_log_has_no_secrets_at_any_level(home):
    arguments = ["serve", "--listen", "127.0.0.1:0", "--log-level", "debug"]
    with subprocess.Popen(
        [OPENBRAIN, *arguments], cwd=home.path, env=home.env, stderr=subprocess.PIPE, text=True
    ) as server:
        said = iter(server.stderr.readline, "")
        address = next(line for line in said if "listening on" in line).strip().rsplit(" ", 1)[1]
        with Session(address) as session:
            secrets = {"env": {"TOKEN": "hunter2"}, "stdin": "hunter3"}
            result = session.result("exec_command", command="echo $TOKEN; cat", **secrets)
            assert result["stdout"] == "hunter2\nhunter3"
        server.terminate()
        log = "".join(said)
        assert server.wait(30) == 0
    assert "exec_command" in log, log
    assert "hunter" not in log, log


async def test_a_call_that_is_under_way_is_answered_when_the_server_is_asked_to_end(home):
    home.settings("server:\n  drain_seconds: 60\n")
    gate = home.path / "gate"
    os.mkfifo(gate)
    with home.serve() as (address, server), Session(address) as session:
        command = f"echo begun > {home.path}/begun; read x < {gate}; echo done"
        with session.call("exec_command", command=command) as response:
            await appears(home.path / "begun")
            server.send_signal(signal.SIGTERM)
            assert "1 commands have" in server.stderr.readline()
            gate.write_text("go\n")
            lines = [line for line in response.iter_lines() if line.startswith("data: {")]
        answer = json.loads(lines[-1].removeprefix("data: "))
        assert answer["result"]["structuredContent"]["stdout"] == "done\n"
        assert server.wait(30) == 0


async def test_a_session_that_is_silent_for_too_long_ends_with_everything_in_it(home):
    home.settings("server:\n  keep_seconds: 0.1\n  yield_seconds: 0.1\n")
    started = home.path / "pid"
    command = f"setsid sleep 1000 & echo $! > {started}; wait"
    with home.serve() as (address, _), Session(address) as session:
        assert session.result("exec_command", command=command, background=True)["exec_id"]
        await gone(int(await appears(started)))


async def test_a_client_that_waits_for_its_answer_is_not_silent(home):
    home.settings("server:\n  keep_seconds: 0.2\n")
    with home.serve() as (address, _), Session(address) as session:
        assert session.result("exec_command", command="sleep 3; echo on")["stdout"] == "on\n"


async def test_the_handle_comes_when_the_settings_say(home):
    home.settings("server:\n  yield_seconds: 0.2\n")
    with Pipes(home) as pipes:
        answer = pipes.ask(pipes.call("sleep 1000"))
        assert answer["result"]["structuredContent"]["status"] == "running"
        pipes.end()


async def test_what_a_caller_sends_is_not_sent_back_at_length(home):
    with Pipes(home) as pipes:
        for arguments in [
            {"command": ["x" * 100_000]},
            {"command": "true", "y" * 100_000: 1},
            {"command": "true", "workdir": "/" + "z" * 100_000},
        ]:
            params = {"name": "exec_command", "arguments": arguments}
            call = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}
            answer = pipes.ask(call)
            assert answer["result"]["isError"] is True
            assert len(json.dumps(answer)) < 12_000, len(json.dumps(answer))
        noise = pipes.ask(pipes.call("head -c 1000000 /dev/zero"))
        assert len(json.dumps(noise)) < 64_000, len(json.dumps(noise))
        pipes.end()


async def test_the_audit_log_has_who_the_guard_has_seen(home):
    with home.serve() as (address, _), Session(address) as session:
        session.result("exec_command", command="exit 3")
    command = [OPENBRAIN, "audit", "--json", "--surface", "mcp"]
    log = subprocess.run(command, env=home.env, cwd=home.path, capture_output=True, check=True)
    start, end = (json.loads(line) for line in log.stdout.splitlines())
    assert start["caller"] == f"uid:{os.geteuid()} test"
    assert (start["command"], end["status"], end["exit_code"]) == ("exit 3", "exited", 3)
