"""What random requests do not find: commands that run, so that what comes after them is tried too."""

import json
import random

import schemathesis

COMMANDS = [
    {"command": "true"},
    {"command": "echo out; echo err >&2; exit 3"},
    {"command": "sleep 1", "timeout": 0.5},
    {"command": "cat", "stdin": {"pipe": True}, "timeout": 1},
    {"command": ["printf", "\\377\\0"]},
    {"command": "seq 20000", "limits": {"output": "64k"}},
]
SANDBOXES = [
    {},
    {"name": "mine", "labels": {"a": "b"}, "timeout": 2},
    {"env": {"A": "b"}, "workdir": "/tmp", "limits": {"memory": "64MiB"}},
]
PATHS = ["/tmp", "/tmp/file", "file", "/tmp/new/file", "/etc/passwd", "/none", "/proc/self/fd"]
STARTS = (
    "POST /exec",
    "POST /v1/execs",
    "POST /v1/sandboxes/{id}/exec",
    "POST /v1/sandboxes/{id}/execs",
)
chosen = random.Random(1)


@schemathesis.hook
def before_call(context, case, kwargs):
    """Gives half of the requests something that can be meant."""
    if chosen.random() < 0.5:
        return
    if case.operation.label in STARTS and isinstance(case.body, dict):
        case.body = dict(chosen.choice(COMMANDS))
    elif case.operation.label == "POST /v1/sandboxes" and isinstance(case.body, dict):
        case.body = dict(chosen.choice(SANDBOXES))
    elif "/files" in case.operation.path and isinstance(case.query, dict):
        for name in case.query.keys() & {"path", "from", "to"}:
            case.query[name] = chosen.choice(PATHS)


@schemathesis.deserializer("application/x-ndjson")
def read_lines(context, response):
    """Reads every line; the last one is held to the schema, which is that of a line."""
    return [json.loads(line) for line in response.text.splitlines()][-1]


@schemathesis.serializer("application/x-tar")
def write_archive(context, value):
    """Archives that are none, which have to be refused."""
    return value if isinstance(value, bytes) else json.dumps(value, default=str).encode()


@schemathesis.deserializer("application/octet-stream", "application/x-tar")
def read_bytes(context, response):
    """Any bytes will do."""
    return list(response.content)
