"""Tries the fixture with the official SDK: .ci/opensandbox check

Whatever the SDK can do with a real agent, it must be able to do with the stand-in, in both contracts.
"""

import asyncio
import os
import statistics
import tempfile
import time
from datetime import timedelta

from opensandbox import Sandbox, SandboxManager
from opensandbox.config import ConnectionConfig
from opensandbox.models.execd import RunCommandOpts
from opensandbox.models.filesystem import ContentReplaceEntry, MoveEntry, SearchEntry, SetPermissionEntry, WriteEntry
from opensandbox.models.sandboxes import Host, NetworkPolicy, NetworkRule, SandboxFilter, Volume

MARK = {"made-by": "openbrain-check"}


def connection():
    return ConnectionConfig(
        domain=os.environ["TEST_OPENSANDBOX_URL"].removeprefix("http://"),
        api_key=os.environ["TEST_OPENSANDBOX_KEY"])


async def create(contract, **options):
    return await Sandbox.create(
        os.environ["TEST_OPENSANDBOX_IMAGE"], connection_config=connection(), metadata=MARK,
        resource={"cpu": "1", "memory": "512Mi"}, env={"AGENT_CONTRACT": contract}, **options)


def equal(found, expected):
    assert found == expected, f"found {found!r}, expected {expected!r}"


def texts(messages):
    return [message.text for message in messages]


async def commands(sandbox, contract):
    run = sandbox.commands.run
    done = await run("echo one; echo; printf two; echo three >&2")
    equal(done.exit_code, 0)
    equal(texts(done.logs.stdout), ["one", "\n", "two"] if contract == "old" else ["one\n", "\n", "two"])
    equal(texts(done.logs.stderr), ["three"] if contract == "old" else ["three\n"])

    equal((await run("exit 7")).exit_code, 7)
    killed = await run("kill -9 $$")
    equal((killed.exit_code, killed.error.traceback), (-1, ["signal: killed"]))

    begun = time.monotonic()
    late = await run("sleep 60", opts=RunCommandOpts(timeout=timedelta(milliseconds=300)))
    equal((late.exit_code, late.error.traceback), (-1, ["signal: killed"]))
    assert time.monotonic() - begun < 5, "the timeout came late"

    where = await run("pwd; id -u; echo $X", opts=RunCommandOpts(
        working_directory="/usr", uid=1234, gid=1234, envs={"X": "y"}))
    equal([text.strip() for text in texts(where.logs.stdout)], ["/usr", "1234", "y"])
    if contract == "new":
        equal(texts((await run(["printf", "%s", "a b"])).logs.stdout), ["a b"])


async def background(sandbox):
    job = await sandbox.commands.run("echo out; echo err >&2; sleep 60", opts=RunCommandOpts(background=True))
    while True:
        logs = await sandbox.commands.get_background_command_logs(job.id, cursor=0)
        if logs.content == "out\nerr\n":
            break
    equal(logs.cursor, 8)
    assert (await sandbox.commands.get_command_status(job.id)).running
    await sandbox.commands.interrupt(job.id)
    status = await sandbox.commands.get_command_status(job.id)
    equal((status.running, status.exit_code), (False, -1))


async def files(sandbox):
    content = bytes(range(256)) * 5000
    await sandbox.files.write_files([
        WriteEntry(path="/data/a/binary", data=content, mode=640),
        WriteEntry(path="/data/a/text", data="one\ntwo\nthree\n")])
    equal(await sandbox.files.read_bytes("/data/a/binary"), content)
    equal(await sandbox.files.read_bytes("/data/a/binary", range_header="bytes=10-19"), content[10:20])
    equal(await sandbox.files.read_file("/data/a/text", offset=2, limit=1), "two")
    info = (await sandbox.files.get_file_info(["/data/a/binary"]))["/data/a/binary"]
    equal((info.size, info.mode, info.owner), (len(content), 640, "root"))
    await sandbox.files.set_permissions([
        SetPermissionEntry(path="/data/a/binary", mode=600, owner="daemon", group="daemon")])
    await sandbox.files.move_files([MoveEntry(src="/data/a/binary", dest="/data/b/moved")])
    await sandbox.files.replace_contents([
        ContentReplaceEntry(path="/data/a/text", old_content="two", new_content="2")])
    equal(await sandbox.files.read_file("/data/a/text"), "one\n2\nthree\n")
    found = await sandbox.files.search(SearchEntry(path="/data", pattern="m*"))
    equal([(entry.path, entry.mode, entry.owner) for entry in found], [("/data/b/moved", 600, "daemon")])
    await sandbox.files.create_directories([WriteEntry(path="/data/c", mode=700)])
    await sandbox.files.delete_files(["/data/b/moved", "/data/none"])
    await sandbox.files.delete_directories(["/data"])
    equal(texts((await sandbox.commands.run("ls /data 2>/dev/null | wc -l")).logs.stdout)[0].strip(), "0")


async def lifecycle(sandbox):
    metrics = await sandbox.get_metrics()
    assert metrics.cpu_count > 0 and metrics.memory_total_in_mib > metrics.memory_used_in_mib > 0, metrics
    renewed = await sandbox.renew(timedelta(minutes=20))
    assert (await sandbox.get_info()).expires_at == renewed.expires_at
    manager = await SandboxManager.create(connection())
    listed = await manager.list_sandbox_infos(SandboxFilter(metadata=MARK, states=["Running"]))
    assert sandbox.id in [info.id for info in listed.sandbox_infos]
    await sandbox.pause()
    equal((await sandbox.get_info()).status.state, "Paused")
    await manager.resume_sandbox(sandbox.id)
    await manager.close()


async def everything(contract):
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        volume = Volume(name="work", host=Host(path=directory), mount_path="/workspace")
        sandbox = await create(contract, volumes=[volume])
        try:
            await commands(sandbox, contract)
            await background(sandbox)
            await files(sandbox)
            await sandbox.commands.run("echo from inside > /workspace/file")
            with open(f"{directory}/file") as file:
                equal(file.read(), "from inside\n")
            await lifecycle(sandbox)
        finally:
            await sandbox.destroy()


async def policy():
    rules = [NetworkRule(action="allow", target="192.0.2.0/24")]
    sandbox = await create("new", network_policy=NetworkPolicy(default_action="deny", egress=rules))
    try:
        equal((await sandbox.get_egress_policy()).egress, rules)
        connect = "timeout 5 bash -c '</dev/tcp/{}/80'"
        equal((await sandbox.commands.run(connect.format("198.51.100.1"))).exit_code, 1)
        await sandbox.patch_egress_rules([NetworkRule(action="allow", target="198.51.100.1")])
        equal([rule.target for rule in (await sandbox.get_egress_policy()).egress], ["192.0.2.0/24", "198.51.100.1"])
        await sandbox.delete_egress_rules(["198.51.100.1"])
        equal((await sandbox.get_egress_policy()).egress, rules)
    finally:
        await sandbox.destroy()


async def measure(contract):
    """The time of create, run and kill, and of a run in an open sandbox, in milliseconds."""
    whole, runs = [], []
    for _ in range(5):
        begun = time.monotonic()
        sandbox = await create(contract)
        started = time.monotonic()
        await sandbox.commands.run("true")
        runs.append(time.monotonic() - started)
        await sandbox.destroy()
        whole.append(time.monotonic() - begun)
    return [round(1000 * statistics.median(times)) for times in (whole, runs)]


async def main():
    for contract in ("old", "new"):
        await everything(contract)
        print(f"{contract} contract: works with the SDK")
    await policy()
    print("network policy: works with the SDK")
    for contract in ("old", "new"):
        whole, run = await measure(contract)
        print(f"{contract} contract: create, run and kill {whole} ms, the run {run} ms (medians of 5)")


asyncio.run(main())
