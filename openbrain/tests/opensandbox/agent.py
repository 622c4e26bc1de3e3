#!/usr/bin/python3 -I
"""A stand-in for execd, the agent inside an OpenSandbox sandbox, for tests.

It answers on port 44772 the calls that a client makes in a sandbox: commands, files, metrics and the
relay to other ports. It follows the wire format and the oddities of the real agent, of an older and a
newer release, and can be told to misbehave. All that is chosen by variables of the container, which a
test sets in `env` when it creates the sandbox:

    AGENT_CONTRACT=old|new   How output is sent; see `FileOutput` and `PipeOutput`. Default new.
    AGENT_TAIL_MS=N          Pause between the terminal event and the end. Default 1000 old, 200 new.
    AGENT_UNCLEAN_END=1      End a stream without its last chunk.
    AGENT_SSE=1              Standard `data:` lines instead of bare JSON.
    AGENT_NEVER_READY=1      Never listen.
    AGENT_READY_DELAY_MS=N   Listen after so long.
    AGENT_FAIL_FIRST=N:CODE  Answer the first N requests but /ping with the status CODE.
    AGENT_CUT_AFTER=N        Close the connection of a stream after N bytes of events.
    AGENT_STALL_AFTER=N      Send nothing more on a stream after N events, and keep it open.
    AGENT_GARBAGE=1          Frames that are not JSON, and unknown types, before each event.
    AGENT_HUGE=N             One stdout event of N letters `x` after the first event.
    AGENT_NO_TERMINAL=1      End a stream without its terminal event.
    AGENT_DUP=1              Send the terminal event twice.
    AGENT_NO_MODES=1         Ignore the modes of uploaded files: nothing uploaded can be executed.

Commands do not see these variables. `EXECD_ACCESS_TOKEN` demands the token, as in the real agent.
"""

import errno
import fnmatch
import grp
import itertools
import json
import os
import pwd
import re
import select
import shutil
import signal
import socket
import stat
import subprocess
import threading
import time
from datetime import datetime, timezone
from urllib.parse import parse_qs, unquote, urlsplit

PORT = 44772
PING_SECONDS = 3
KILL_SECONDS = 3
SIGNAL_NAMES = {1: "hangup", 2: "interrupt", 3: "quit", 6: "aborted", 9: "killed", 11: "segmentation fault",
                13: "broken pipe", 15: "terminated"}


def setting(name, default=0):
    return int(os.environ.get(f"AGENT_{name}") or default)


OLD = os.environ.get("AGENT_CONTRACT") == "old"
TOKEN = os.environ.get("EXECD_ACCESS_TOKEN", "")
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("AGENT_")}
FAILURES = itertools.count()
ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Failure(Exception):
    """An answer that is not a success."""

    def __init__(self, status, code, message):
        super().__init__(message)
        self.status, self.body = status, {"code": code, "message": message}


# Commands


class Command:
    """A process with its own group, from its request to its end. Ended commands are kept for ever."""

    known = {}

    def __init__(self, request):
        self.id = os.urandom(16).hex()
        self.text = request.get("command") or " ".join(request.get("argv") or [])
        self.background = bool(request.get("background"))
        self.timeout = milliseconds(request.get("timeout"))
        self.error = self.exit_code = self.finished_at = self.process = None
        self.started_at = now()
        self.start_time = time.monotonic()
        options = process_options(request)
        self.output = (BackgroundOutput if self.background else FileOutput if OLD else PipeOutput)(self.id)
        self.ended, ended = os.pipe()
        Command.known[self.id] = self
        try:
            self.process = subprocess.Popen(
                arguments(request), stdin=subprocess.DEVNULL, stdout=self.output.stdout, stderr=self.output.stderr,
                start_new_session=True, **options)
        except (OSError, subprocess.SubprocessError) as error:
            self.finish(f"fork/exec: {error}", -1)
            os.close(ended)
        else:
            threading.Thread(target=self.wait, args=(ended,), daemon=True).start()
        self.output.started()

    def wait(self, ended):
        try:
            code = self.process.wait(self.timeout)
        except subprocess.TimeoutExpired:
            self.kill(signal.SIGKILL)
            code = self.process.wait()
        if code < 0:
            self.finish(f"signal: {SIGNAL_NAMES.get(-code, -code)}", -1)
        else:
            self.finish(f"exit status {code}" if code else None, code)
        os.close(ended)

    def finish(self, error, exit_code):
        self.error, self.exit_code, self.finished_at = error, exit_code, now()

    def kill(self, number):
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass

    def interrupt(self):
        self.kill(signal.SIGTERM)
        if not select.select([self.ended], [], [], KILL_SECONDS)[0]:
            self.kill(signal.SIGKILL)

    def running(self):
        return self.finished_at is None

    def status(self):
        status = {"id": self.id, "content": self.text, "running": self.running(), "started_at": self.started_at}
        if not self.running():
            status |= {"exit_code": self.exit_code, "finished_at": self.finished_at}
        if self.error:
            status["error"] = self.error
        return status

    def terminal_event(self):
        """What ends the stream. Only a success is called complete."""
        if self.error:
            value = self.error if self.process is None else str(self.exit_code)
            return {"type": "error", "error": {"ename": "CommandExecError", "evalue": value, "traceback": [self.error]}}
        return {"type": "execution_complete", "execution_time": int((time.monotonic() - self.start_time) * 1000)}

    def stream(self, events):
        """Sends the events of a foreground command; it goes on when nobody reads them."""
        events.send({"type": "init", "text": self.id})
        events.send({"type": "ping", "text": "pong"})
        next_ping = time.monotonic() + PING_SECONDS
        ended = False
        while not ended:
            ended = self.output.wait(self.ended, max(0, next_ping - time.monotonic()))
            if time.monotonic() >= next_ping:
                events.send({"type": "ping", "text": "pong"})
                next_ping = time.monotonic() + PING_SECONDS
            events.send_output(self.output.read(ended))
        os.close(self.ended)
        self.output.close()
        events.end(self.terminal_event())


class PipeOutput:
    """The newer contract: lines with their terminators, so that the texts of a stream join to the stream."""

    def __init__(self, _):
        self.readers, writers = {}, []
        for name in ("stdout", "stderr"):
            reader, writer = os.pipe()
            os.set_blocking(reader, False)
            self.readers[reader] = name
            writers.append(writer)
        self.stdout, self.stderr = writers
        self.held = {"stdout": [], "stderr": []}
        self.ready = []
        self.poll = select.poll()
        for reader in self.readers:
            self.poll.register(reader, select.POLLIN)

    def started(self):
        os.close(self.stdout)
        os.close(self.stderr)

    def wait(self, ended, seconds):
        """Waits for output or the end; says whether the command has ended."""
        self.poll.register(ended, select.POLLIN)
        self.ready = [file for file, _ in self.poll.poll(seconds * 1000)]
        return ended in self.ready

    def read(self, ended):
        """The lines that are there. After the end one read takes what the pipe holds, and nothing waits
        for processes that were left in the background."""
        for reader, name in list(self.readers.items()):
            if ended or reader in self.ready:
                block = self.read_block(reader)
                yield name, self.lines(name, block, last=ended or not block)

    def read_block(self, reader):
        """Some bytes; none at the end of the stream, or when there are none now."""
        try:
            block = os.read(reader, 1 << 20)
        except BlockingIOError:
            return b""
        if not block:
            self.poll.unregister(reader)
            del self.readers[reader]
            os.close(reader)
        return block

    def lines(self, name, block, last):
        """Whole lines; a rest is held until its end comes. A `\\r` may be half of a `\\r\\n`."""
        held = self.held[name]
        if not last and b"\n" not in block and b"\r" not in block and not (held and held[-1].endswith(b"\r")):
            held.append(block)
            return []
        lines = b"".join([*held, block]).splitlines(keepends=True)
        self.held[name] = [lines.pop()] if lines and not last and not lines[-1].endswith(b"\n") else []
        return [line.decode(errors="replace") for line in lines]

    def close(self):
        for reader in self.readers:
            os.close(reader)


class FileOutput:
    """The older contract: files looked at every 100 ms; terminators are lost, an empty line is `\\n`."""

    TICK = 0.1

    def __init__(self, name):
        try:
            self.files = {stream: open(f"/tmp/{name}.{stream}", "w+b") for stream in ("stdout", "stderr")}
        except OSError as error:
            raise Failure(500, "RUNTIME_ERROR", f"open output: {error.strerror}") from error
        self.stdout, self.stderr = self.files.values()
        self.readers = {stream: open(file.name, "rb") for stream, file in self.files.items()}
        self.held = dict.fromkeys(self.files, b"")

    def started(self):
        for file in self.files.values():
            file.close()

    def wait(self, ended, seconds):
        return bool(select.select([ended], [], [], min(seconds, self.TICK))[0])

    def read(self, ended):
        for stream in sorted(self.readers, key=lambda _: os.urandom(1)):
            *lines, rest = re.split(b"[\n\r]", self.held[stream] + self.readers[stream].read())
            if ended and rest:
                lines.append(rest)
            self.held[stream] = rest
            yield stream, [line.decode(errors="replace") or "\n" for line in lines]

    def close(self):
        for file in self.readers.values():
            file.close()


class BackgroundOutput:
    """Both streams in one file, for `/command/{id}/logs`."""

    def __init__(self, name):
        try:
            self.stdout = self.stderr = open(f"/tmp/{name}.output", "w+b")
        except OSError as error:
            raise Failure(500, "RUNTIME_ERROR", f"open output: {error.strerror}") from error

    def started(self):
        self.stdout.close()

    def since(self, cursor):
        with open(self.stdout.name, "rb") as file:
            file.seek(cursor)
            return file.read()


def arguments(request):
    command, argv = request.get("command"), request.get("argv")
    if argv is not None and not OLD:
        if command or not argv:
            raise Failure(400, "INVALID_REQUEST_BODY", "exactly one of command and argv is required")
        return argv
    if not command:
        raise Failure(400, "INVALID_REQUEST_BODY", "command is required")
    return [shutil.which("bash") or "sh", "-c", command]


def process_options(request):
    """The working directory, environment and user of a process."""
    environment = ENVIRONMENT | environment_file() | (request.get("envs") or {})
    cwd = os.path.expandvars(os.path.expanduser(request.get("cwd") or "")) or None
    if cwd and not os.path.isdir(cwd):
        raise Failure(400, "INVALID_REQUEST_BODY", f"working directory does not exist: {cwd}")
    arguments(request)
    uid, gid = request.get("uid"), request.get("gid")
    if uid is None:
        if gid is not None:
            raise Failure(400, "INVALID_REQUEST_BODY", "gid requires uid")
        return {"cwd": cwd, "env": environment}
    return {"cwd": cwd, "env": environment, "user": uid, "group": uid if gid is None else gid, "extra_groups": []}


def environment_file():
    try:
        with open(os.environ.get("EXECD_ENVS", "/opt/opensandbox/.env")) as file:
            return dict(line.strip().split("=", 1) for line in file if "=" in line)
    except OSError:
        return {}


def milliseconds(value):
    if value is None:
        return None
    if not isinstance(value, int) or value < 1:
        raise Failure(400, "INVALID_REQUEST_BODY", "timeout must be at least 1 ms")
    return value / 1000


def now():
    return datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")


# The stream of events


class Cut(Exception):
    """The connection is to be closed as it is."""


class Events:
    """The events of one command on the wire, with the faults that were asked for."""

    def __init__(self, connection):
        self.connection = connection
        self.gone = False
        self.count = 0
        self.bytes = 0
        self.cut_after = setting("CUT_AFTER", -1)
        self.stall_after = setting("STALL_AFTER", -1)
        connection.send_head(200, {"Content-Type": "text/event-stream", "Cache-Control": "no-cache",
                                   "Transfer-Encoding": "chunked"})

    def send(self, event):
        """Sends one event. Empty values are left out, as the real agent does."""
        event["timestamp"] = int(time.time() * 1000)
        event = {name: value for name, value in event.items() if value not in (0, "")}
        self.write([ENCODE(event).encode()])
        if self.count == 1 and setting("HUGE"):
            self.send({"type": "stdout", "text": "x" * setting("HUGE")})

    def send_output(self, output):
        for stream, texts in output:
            end = f',"timestamp":{int(time.time() * 1000)}}}'
            start = f'{{"type":"{stream}","text":'
            self.write([f"{start}{ENCODE(text)}{end}".encode() for text in texts])

    def end(self, event):
        for _ in range(2 if setting("DUP") else 1):
            if not setting("NO_TERMINAL"):
                self.send(dict(event))
        time.sleep(setting("TAIL_MS", 1000 if OLD else 200) / 1000)
        if self.stalled():
            time.sleep(86400)
        if self.gone or setting("UNCLEAN_END"):
            raise Cut
        self.connection.write(b"0\r\n\r\n")

    def stalled(self):
        return 0 <= self.stall_after <= self.count

    def write(self, events):
        """Sends events as one chunk, as far as faults allow."""
        if 0 <= self.stall_after < self.count + len(events):
            events = events[:max(0, self.stall_after - self.count)]
        self.count += len(events)
        data = b"".join(map(self.frame, events))
        if 0 <= self.cut_after < self.bytes + len(data):
            data = data[:self.cut_after - self.bytes]
        if data and not self.gone:
            self.bytes += len(data)
            try:
                self.connection.write(b"%x\r\n%b\r\n" % (len(data), data))
            except OSError:
                # The command goes on; its output is thrown away.
                self.gone = True
        if self.bytes == self.cut_after and not self.gone:
            self.gone = True
            self.connection.client.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def frame(event):
        garbage = b'}garbage{\n\n{"type":"weather","text":"rain"}\n\n' if setting("GARBAGE") else b""
        return garbage + (b"data: " if setting("SSE") else b"") + event + b"\n\n"


# HTTP


class Request:
    """A request, with its body read."""

    def __init__(self, method, target, headers, body):
        self.method, self.target, self.headers, self.body = method, target, headers, body
        parts = urlsplit(target)
        self.path = unquote(parts.path)
        self.query = parse_qs(parts.query)

    def parameter(self, name, default=None):
        values = self.query.get(name)
        if not values and default is None:
            raise Failure(400, "MISSING_QUERY", f"missing query parameter `{name}`")
        return values[0] if values else default

    def json(self):
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise Failure(400, "INVALID_REQUEST_BODY", f"invalid JSON: {error}") from error


class Connection:
    """One client, served by a thread until it leaves."""

    def __init__(self, client):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.client = client
        self.reader = client.makefile("rb", 1 << 16)
        self.write = client.sendall

    def serve(self):
        try:
            while (request := self.read_request()) is not None:
                self.answer(request)
                if request.headers.get("connection", "").lower() == "close":
                    break
            self.client.shutdown(socket.SHUT_RDWR)
        except (OSError, ValueError, Cut):
            pass
        finally:
            self.reader.close()
            self.client.close()

    def answer(self, request):
        try:
            handle(request, self)
        except Failure as failure:
            self.send_json(failure.body, failure.status)
        except OSError as error:
            if error.errno in (errno.EPIPE, errno.ECONNRESET):
                raise
            missing = isinstance(error, FileNotFoundError)
            self.send_json({"code": "FILE_NOT_FOUND" if missing else "RUNTIME_ERROR", "message": str(error)},
                           404 if missing else 500)

    def read_request(self):
        line = self.reader.readline(1 << 16)
        if not line.strip():
            return None
        method, target, _ = line.decode("latin-1").split(" ", 2)
        headers = {}
        while (line := self.reader.readline(1 << 16)).strip():
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        if headers.get("expect", "").lower() == "100-continue":
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return Request(method, target, headers, self.read_body(headers))

    def read_body(self, headers):
        if headers.get("transfer-encoding", "").lower() != "chunked":
            return self.reader.read(int(headers.get("content-length") or 0))
        chunks = []
        while size := int(self.reader.readline().split(b";")[0], 16):
            chunks.append(self.reader.read(size))
            self.reader.readline()
        while self.reader.readline().strip():
            pass
        return b"".join(chunks)

    def send_head(self, status, headers):
        lines = [f"HTTP/1.1 {status} {'OK' if status < 400 else 'Error'}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.write("\r\n".join([*lines, "", ""]).encode())

    def send(self, body, status=200, **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.send_head(status, {**headers, "Content-Length": len(body)})
        self.write(body)

    def send_json(self, value, status=200):
        self.send(json.dumps(value).encode(), status, Content_Type="application/json")


def handle(request, connection):
    """Finds the route of a request and answers it."""
    relayed = re.fullmatch(r"/proxy/(\d+)(/.*)?", request.path)
    if relayed:
        rest = re.sub(r"^/proxy/\d+", "", request.target) or "/"
        if int(relayed[1]) != PORT:
            return relay(request, connection, int(relayed[1]), rest)
        # The server hands out this address for the agent itself.
        return handle(Request(request.method, rest, request.headers, request.body), connection)
    if TOKEN and request.headers.get("x-execd-access-token") != TOKEN:
        return connection.send_json({"error": "Unauthorized: invalid or missing access token"}, 401)
    count, _, status = os.environ.get("AGENT_FAIL_FIRST", "0").partition(":")
    if request.path != "/ping" and next(FAILURES) < int(count):
        return connection.send_json({"code": "UNKNOWN", "message": "told to fail"}, int(status))
    for method, pattern, route in ROUTES:
        if method == request.method and (match := re.fullmatch(pattern, request.path)):
            return route(request, connection, *match.groups())
    raise Failure(404, "UNKNOWN", f"no route for {request.method} {request.path}")


def relay(request, connection, port, target):
    """Passes a request to a port of the sandbox, and bytes both ways until the other side ends."""
    try:
        upstream = socket.create_connection(("127.0.0.1", port))
    except OSError as error:
        return connection.send(f"dial 127.0.0.1:{port}: {error.strerror}".encode(), 502, Content_Type="text/plain")
    upgrade = "upgrade" in request.headers
    headers = {name: value for name, value in request.headers.items() if name != "transfer-encoding"}
    headers |= {"content-length": len(request.body)} | ({} if upgrade else {"connection": "close"})
    head = [f"{request.method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    with upstream:
        upstream.sendall("\r\n".join(head).encode() + request.body)
        if upgrade:
            threading.Thread(target=pump, args=(connection.reader.read1, upstream), daemon=True).start()
        else:
            # Or the client sends its next request to a connection that is about to be closed.
            status = b""
            while not status.endswith(b"\n") and (byte := upstream.recv(1)):
                status += byte
            connection.write(status + (b"Connection: close\r\n" if status else b""))
        pump(upstream.recv, connection.client)
    raise Cut


def pump(read, target):
    try:
        while block := read(1 << 16):
            target.sendall(block)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


# Routes: commands


def ping(_, connection):
    connection.send(b"")


def run_command(request, connection):
    command = Command(request.json())
    if not command.background:
        return command.stream(Events(connection))
    events = Events(connection)
    events.send({"type": "init", "text": command.id})
    events.end({"type": "execution_complete"})


def find_command(name):
    if name not in Command.known:
        raise Failure(404, "INVALID_REQUEST_BODY", f"command not found: {name}")
    return Command.known[name]


def command_status(_, connection, name):
    connection.send_json(find_command(name).status())


def command_logs(request, connection, name):
    command = Command.known.get(name)
    if command is None or not command.background:
        raise Failure(400, "INVALID_REQUEST_BODY", f"no background command: {name}")
    cursor = max(0, int(request.parameter("cursor", "0")))
    output = command.output.since(cursor)
    connection.send(output, Content_Type="text/plain", EXECD_COMMANDS_TAIL_CURSOR=cursor + len(output))


def interrupt_command(request, connection):
    command = Command.known.get(request.parameter("id"))
    if command is None or not command.running():
        raise Failure(500, "RUNTIME_ERROR", "no such running command")
    command.interrupt()
    connection.send(b"")


def metrics(_, connection):
    """Numbers of the host, after the second that they are measured over."""
    before = cpu_times()
    time.sleep(1)
    idle, total = (new - old for new, old in zip(cpu_times(), before))
    with open("/proc/meminfo") as file:
        memory = {line.split(":")[0]: int(line.split()[1]) // 1024 for line in file}
    connection.send_json({
        "cpu_count": os.cpu_count(), "cpu_used_pct": round(100 * (1 - idle / max(1, total)), 2),
        "mem_total_mib": memory["MemTotal"], "mem_used_mib": memory["MemTotal"] - memory["MemAvailable"],
        "timestamp": int(time.time() * 1000)})


def cpu_times():
    with open("/proc/stat") as file:
        times = [int(field) for field in file.readline().split()[1:]]
    return times[3] + times[4], sum(times)


# Routes: files


def describe(path):
    """What `/files/info` says of a path. The mode is octal digits written as a decimal number."""
    info = os.lstat(path)
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}
    return {"path": path, "type": kinds.get(stat.S_IFMT(info.st_mode), "other"), "size": info.st_size,
            "modified_at": instant(info.st_mtime), "created_at": instant(info.st_ctime),
            "owner": name_of(pwd.getpwuid, info.st_uid), "group": name_of(grp.getgrgid, info.st_gid),
            "mode": int(f"{stat.S_IMODE(info.st_mode):o}")}


def instant(seconds):
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat().replace("+00:00", "Z")


def name_of(lookup, number):
    try:
        return lookup(number)[0]
    except KeyError:
        return str(number)


def apply_permission(path, permission):
    mode = permission.get("mode")
    if mode and not setting("NO_MODES"):
        os.chmod(path, int(str(mode), 8))
    owner, group = permission.get("owner") or None, permission.get("group") or None
    if owner or group:
        shutil.chown(path, owner, group)


def files_info(request, connection):
    connection.send_json({path: describe(path) for path in request.query.get("path", [])})


def files_delete(request, connection):
    for path in request.query.get("path", []):
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
    connection.send(b"")


def files_permissions(request, connection):
    for path, permission in request.json().items():
        apply_permission(path, permission)
    connection.send(b"")


def files_move(request, connection):
    for item in request.json():
        if os.path.lexists(item["dest"]):
            raise Failure(500, "RUNTIME_ERROR", f"destination exists: {item['dest']}")
        os.makedirs(os.path.dirname(item["dest"]) or "/", exist_ok=True)
        shutil.move(item["src"], item["dest"])
    connection.send(b"")


def files_search(request, connection):
    pattern = request.parameter("pattern", "**")
    found = [os.path.join(directory, name) for directory, _, names in os.walk(request.parameter("path"))
             for name in names if fnmatch.fnmatch(name, pattern)]
    connection.send_json([describe(path) for path in sorted(found)])


def files_replace(request, connection):
    counts = {}
    for path, item in request.json().items():
        with open(path, "r+", newline="") as file:
            text = file.read()
            counts[path] = {"replacedCount": text.count(item["old"]) if item["old"] else 0}
            file.seek(0)
            file.write(text.replace(item["old"], item["new"]) if item["old"] else text)
            file.truncate()
    if request.parameter("verbose", "false") == "true":
        return connection.send_json(counts)
    connection.send(b"")


def files_upload(request, connection):
    pending = list(multipart(request))
    while pending:
        name, filename, content = pending.pop(0)
        if name != "metadata" or filename is None or not pending or pending[0][0] != "file":
            raise Failure(400, "INVALID_FILE", "expected pairs of the file parts `metadata` and `file`")
        try:
            metadata = json.loads(content)
            path = metadata["path"]
        except (ValueError, KeyError, TypeError) as error:
            raise Failure(400, "INVALID_FILE_METADATA", f"invalid metadata: {error!r}") from error
        os.makedirs(os.path.dirname(path) or "/", exist_ok=True)
        with open(path, "wb") as file:
            file.write(pending.pop(0)[2])
            file.flush()
            os.fsync(file.fileno())
        apply_permission(path, metadata)
    connection.send(b"")


def multipart(request):
    """The parts of a form: name, file name or None, content."""
    boundary = re.search(r'boundary="?([^";]+)', request.headers.get("content-type", ""))
    if not boundary:
        raise Failure(400, "INVALID_FILE", "expected multipart/form-data")
    for part in (b"\r\n" + request.body).split(b"\r\n--" + boundary[1].encode())[1:]:
        if part.startswith(b"--"):
            return
        head, _, content = part.partition(b"\r\n\r\n")
        name = re.search(rb'[ ;]name="([^"]*)"', head)
        filename = re.search(rb'filename="((?:[^"\\]|\\.)*)"', head)
        yield name and name[1].decode(), filename and filename[1].decode(), content
    raise Failure(400, "INVALID_FILE", "the form has no end")


def files_download(request, connection):
    path = request.parameter("path")
    if "offset" in request.query or "limit" in request.query:
        return download_lines(request, connection, path)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        start, end = byte_range(request.headers.get("range"), size)
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", "Content-Length": end - start,
                   "Content-Disposition": f'attachment; filename="{os.path.basename(path)}"'}
        if "range" in request.headers:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        connection.send_head(206 if "range" in request.headers else 200, headers)
        if end > start:
            connection.client.sendfile(file, start, end - start)


def byte_range(header, size):
    """The first range of a header, with its end excluded."""
    if not header:
        return 0, size
    match = re.match(r"bytes=(\d*)-(\d*)", header)
    if not match or match.groups() == ("", ""):
        raise Failure(416, "INVALID_REQUEST_BODY", f"invalid range: {header}")
    first, last = match.groups()
    start = int(first) if first else max(0, size - int(last))
    end = min(size, int(last) + 1) if first and last else size
    if start >= end:
        raise Failure(416, "INVALID_REQUEST_BODY", f"invalid range: {header}")
    return start, end


def download_lines(request, connection, path):
    with open(path, errors="replace") as file:
        lines = file.read().split("\n")
    first = max(1, int(request.parameter("offset", "1"))) - 1
    count = int(request.parameter("limit", str(len(lines))))
    connection.send("\n".join(lines[first:first + count]).encode(), Content_Type="text/plain")


def directories_create(request, connection):
    for path, permission in request.json().items():
        os.makedirs(path, exist_ok=True)
        apply_permission(path, permission)
    connection.send(b"")


def directories_delete(request, connection):
    for path in request.query.get("path", []):
        if os.path.lexists(path):
            shutil.rmtree(path)
    connection.send(b"")


def directories_list(request, connection):
    root, depth = request.parameter("path"), int(request.parameter("depth", "1"))
    if os.path.islink(root):
        raise Failure(400, "INVALID_FILE", f"is a symbolic link: {root}")
    connection.send_json([describe(path) for path in entries(root, depth)])


def entries(root, depth):
    for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
        yield entry.path
        if depth > 1 and entry.is_dir(follow_symlinks=False):
            yield from entries(entry.path, depth - 1)


ROUTES = [
    ("GET", "/ping", ping),
    ("POST", "/command", run_command),
    ("DELETE", "/command", interrupt_command),
    ("GET", "/command/status/([^/]+)", command_status),
    ("GET", "/command/([^/]+)/logs", command_logs),
    ("GET", "/metrics", metrics),
    ("GET", "/files/info", files_info),
    ("DELETE", "/files", files_delete),
    ("POST", "/files/permissions", files_permissions),
    ("POST", "/files/mv", files_move),
    ("GET", "/files/search", files_search),
    ("POST", "/files/replace", files_replace),
    ("POST", "/files/upload", files_upload),
    ("GET", "/files/download", files_download),
    ("POST", "/directories", directories_create),
    ("DELETE", "/directories", directories_delete),
    ("GET", "/directories/list", directories_list),
]


def main():
    if setting("NEVER_READY"):
        signal.pause()
    time.sleep(setting("READY_DELAY_MS") / 1000)
    with socket.create_server(("0.0.0.0", PORT), backlog=128) as server:
        while True:
            client, _ = server.accept()
            threading.Thread(target=Connection(client).serve, daemon=True).start()


if __name__ == "__main__":
    main()
