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
chosen = random.Random(1)


@schemathesis.hook
def before_call(context, case, kwargs):
    """Gives half of the requests for a command one that can be meant."""
    starts = case.operation.label in ("POST /exec", "POST /v1/execs")
    if starts and isinstance(case.body, dict) and chosen.random() < 0.5:
        case.body = dict(chosen.choice(COMMANDS))


@schemathesis.deserializer("application/x-ndjson")
def read_lines(context, response):
    """Reads every line; the last one is held to the schema, which is that of a line."""
    return [json.loads(line) for line in response.text.splitlines()][-1]


@schemathesis.deserializer("application/octet-stream")
def read_bytes(context, response):
    """Any bytes will do."""
    return list(response.content)
