"""What the official SDK needs for a run, and for a command in a sandbox that is open: one line of JSON
for each line on standard input, in seconds. Started by the benchmark, which takes turns with it."""

import asyncio
import json
import os
import sys
import time

from opensandbox import Sandbox
from opensandbox.config import ConnectionConfig


def create():
    return Sandbox.create(
        os.environ["TEST_OPENSANDBOX_IMAGE"],
        connection_config=ConnectionConfig(
            domain=os.environ["TEST_OPENSANDBOX_URL"].removeprefix("http://"),
            api_key=os.environ["TEST_OPENSANDBOX_KEY"]),
        resource={"memory": "4Gi"})


async def whole():
    sandbox = await create()
    try:
        assert (await sandbox.commands.run("true")).exit_code == 0
    finally:
        await sandbox.kill()
        await sandbox.close()


async def main():
    open_one = await create()
    try:
        for line in sys.stdin:
            start = time.monotonic()
            if line.strip() == "whole":
                await whole()
            else:
                assert (await open_one.commands.run("true")).exit_code == 0
            print(json.dumps(time.monotonic() - start), flush=True)
    finally:
        await open_one.kill()
        await open_one.close()


asyncio.run(main())
