"""What a call costs beside its peers, in one run: `python openbrain-py/benches/start.py`.

Every round measures each contender once, in turn, so that a busy machine slows all alike; what
counts are the ratios of the medians. Run it with an installed release build.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import openbrain

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

ROUNDS = int(os.environ.get("ROUNDS", "300"))
WARM_UP = 5
AT_ONCE = 200
BALLAST = 1 << 30

# The same view that openbrain/benches/start.rs gives bubblewrap.
ETC = (
    "alternatives bash.bashrc ca-certificates ca-certificates.conf debian_version fonts inputrc "
    "java-17-openjdk ld.so.cache ld.so.conf ld.so.conf.d localtime magic maven mime.types "
    "os-release protocols python3 python3.11 services ssl terminfo timezone"
)


def bwrap() -> list[str]:
    """The command line of bubblewrap with the mounts of an openbrain sandbox."""
    command = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    command += ["--clearenv", "--setenv", "PATH", "/usr/bin:/bin", "--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib64"):
        path = f"/{name}"
        linked = os.path.islink(path)
        command += (
            ["--symlink", os.readlink(path), path] if linked else ["--ro-bind-try", path, path]
        )
    for name in ETC.split():
        command += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    command += ["--proc", "/proc", "--dev", "/dev", "--hostname", "sandbox"]
    for path in ("/tmp", "/var/tmp", "/run", "/home/sandbox", "/workspace"):
        command += ["--tmpfs", path]
    return [*command, "--chdir", "/workspace", "true"]


def measure(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The median time of each, in milliseconds."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + WARM_UP):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            if turn >= WARM_UP:
                times[name].append((time.perf_counter() - start) * 1000)
    medians = {name: statistics.median(found) for name, found in times.items()}
    for name, median in medians.items():
        deciles = statistics.quantiles(times[name], n=10)
        print(
            f"  {name:<24} median {median:8.2f} ms   p10 {deciles[0]:8.2f}   p90 {deciles[-1]:8.2f}"
        )
    return medians


def one(title: str, rounds: int) -> None:
    """One command at a time."""
    print(title)
    peer = bwrap()
    found = measure(
        {
            "subprocess": lambda: subprocess.run(
                "true", shell=True, capture_output=True, check=True
            ),
            "openbrain": lambda: openbrain.exec("true"),
            "subprocess, bwrap": lambda: subprocess.run(peer, capture_output=True, check=True),
            "openbrain, sandboxed": lambda: openbrain.exec(["true"], sandbox=True, network=False),
        },
        rounds,
    )
    ratio("direct / subprocess", found["openbrain"], found["subprocess"], "<= 1.0")
    sandboxed = found["openbrain, sandboxed"]
    ratio("sandboxed / bwrap by subprocess", sandboxed, found["subprocess, bwrap"], "<= 0.6")


def many(rounds: int) -> None:
    """Two hundred at once, in one event loop."""
    print(f"{AT_ONCE} at once under asyncio")

    async def theirs() -> None:
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_shell("true", stdout=pipe, stderr=pipe)
        await child.communicate()

    async def ours(*, sandbox: bool) -> None:
        result = await openbrain.exec_async(
            "true", sandbox=sandbox, network=False if sandbox else None
        )
        assert result.success

    def together(call: Callable[[], Coroutine[None, None, None]]) -> None:
        async def main() -> None:
            await asyncio.gather(*(call() for _ in range(AT_ONCE)))

        asyncio.run(main())

    found = measure(
        {
            "create_subprocess_shell": lambda: together(theirs),
            "openbrain": lambda: together(lambda: ours(sandbox=False)),
            "openbrain, sandboxed": lambda: together(lambda: ours(sandbox=True)),
        },
        rounds,
    )
    ratio(
        "200 direct / create_subprocess_shell",
        found["openbrain"],
        found["create_subprocess_shell"],
        "none",
    )


def served(rounds: int) -> None:
    """On the server of the tests, beside the official SDK, in an environment of its own."""
    if "TEST_OPENSANDBOX_URL" not in os.environ:
        print("NOT RUN: no server; `.ci/opensandbox run .ci/python bench` has one")
        return
    fixture = {name: os.environ[f"TEST_OPENSANDBOX_{name}"] for name in ("URL", "KEY", "IMAGE")}
    os.environ["OPENBRAIN_SERVER_URL"] = fixture["URL"]
    os.environ["OPEN_SANDBOX_API_KEY"] = fixture["KEY"]
    os.environ["OPENBRAIN_IMAGE"] = fixture["IMAGE"]
    print("on an OpenSandbox server")
    peer = [os.environ["TEST_OPENSANDBOX_PYTHON"], "openbrain/tests/opensandbox/peer.py"]
    with (
        subprocess.Popen(peer, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as sdk,
        openbrain.Sandbox() as sandbox,
    ):

        def ask(what: str) -> None:
            assert sdk.stdin is not None
            assert sdk.stdout is not None
            sdk.stdin.write(f"{what}\n")
            sdk.stdin.flush()
            assert sdk.stdout.readline()

        found = measure(
            {
                "openbrain": lambda: openbrain.exec("true", sandbox=True, check=True),
                "SDK": lambda: ask("whole"),
                "openbrain, open sandbox": lambda: sandbox.exec("true", check=True),
                "SDK, open sandbox": lambda: ask("open"),
            },
            rounds,
        )
        assert sdk.stdin is not None
        sdk.stdin.close()
    for name in ("OPENBRAIN_SERVER_URL", "OPEN_SANDBOX_API_KEY", "OPENBRAIN_IMAGE"):
        del os.environ[name]
    ratio("create, run, delete / SDK", found["openbrain"], found["SDK"], "<= 0.8")
    open_one = found["openbrain, open sandbox"]
    ratio("in an open sandbox / SDK", open_one, found["SDK, open sandbox"], "<= 0.5")


def imports(rounds: int) -> None:
    """A new interpreter each time, which tells how long the import took."""
    program = (
        "import time; start = time.perf_counter(); import {}; "
        "print((time.perf_counter() - start) * 1000)"
    )

    def once(module: str) -> float:
        command = [sys.executable, "-c", program.format(module)]
        return float(subprocess.run(command, capture_output=True, check=True, text=True).stdout)

    found: dict[str, list[float]] = {"openbrain": [], "subprocess": [], "asyncio": []}
    for _ in range(rounds):
        for module, times in found.items():
            times.append(once(module))
    print("import")
    for module, times in found.items():
        print(f"  {module:<24} median {statistics.median(times):8.2f} ms")


def ratio(what: str, ours: float, theirs: float, goal: str) -> None:
    """One line of what counts."""
    print(f"  ratio: {what:<38} {ours / theirs:5.2f}  (goal: {goal})")


def main() -> None:
    """Prints everything."""
    one("one at a time", ROUNDS)
    many(max(ROUNDS // 30, 3))
    imports(max(ROUNDS // 10, 5))
    served(max(ROUNDS // 20, 3))
    ballast = bytearray(b"\1") * BALLAST
    one("one at a time, with 1 GiB resident in the interpreter", ROUNDS // 3)
    assert ballast[-1] == 1


if __name__ == "__main__":
    main()
