"""The sandbox environment for Inspect: Inspect's own checks of it, and evaluations."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from conftest import alive, example, sleeper, until
from inspect_ai import Task
from inspect_ai import eval as evaluate
from inspect_ai.dataset import Sample
from inspect_ai.log import read_eval_log
from inspect_ai.model import ChatMessageTool, ModelOutput, ModelUsage, get_model
from inspect_ai.solver import TaskState, generate, solver, use_tools
from inspect_ai.tool import bash, bash_session
from inspect_ai.util import (
    OutputLimitExceededError,
    SandboxEnvironmentSpec,
    SandboxUnavailableError,
    SandboxUserUnsupportedError,
    override_sandbox_output_limit,
    sandbox,
)

# Inspect's own: every one is collected here, and asks for `sandbox_env`.
from inspect_ai.util._sandbox.self_check import *  # noqa: F403  # pyright: ignore[reportWildcardImportFromLibrary]

from openbrain.adapters.inspect_ai import OpenbrainConfig, OpenbrainSandboxEnvironment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from inspect_ai.log import EvalLog
    from inspect_ai.solver import Generate, Solver
    from inspect_ai.util import SandboxEnvironment

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def sandbox_env(request: pytest.FixtureRequest) -> AsyncIterator[SandboxEnvironment]:
    if request.node.name == "test_exec_as_user":
        reason = "a sandbox has one user, who cannot become root"
        request.applymarker(pytest.mark.xfail(raises=SandboxUserUnsupportedError, reason=reason))
    environments = await OpenbrainSandboxEnvironment.sample_init("checks", None, {})
    yield environments["default"]
    await OpenbrainSandboxEnvironment.sample_cleanup("checks", None, environments, False)


async def test_a_missing_program_is_a_result(sandbox_env: SandboxEnvironment) -> None:
    result = await sandbox_env.exec(["no-such-program"])
    assert (result.success, result.returncode) == (False, 127)
    assert result.stderr == "`no-such-program` was not found\n"


@pytest.mark.parametrize(
    "wrong", [{"cmd": ["a\0b"]}, {"cmd": ["\ud800"]}, {"cmd": ["ls"], "cwd": "nowhere"}]
)
async def test_what_cannot_be_run_is_a_result(
    sandbox_env: SandboxEnvironment, wrong: dict[str, Any]
) -> None:
    result = await sandbox_env.exec(**wrong)
    assert (result.success, result.returncode) == (False, 126)
    assert result.stderr


async def test_a_timeout_has_the_output_so_far(sandbox_env: SandboxEnvironment) -> None:
    with pytest.raises(TimeoutError) as caught:
        await sandbox_env.exec(["sh", "-c", "echo begun; sleep 60"], timeout=1)
    assert getattr(caught.value, "truncated_output", None) == "begun\n"


async def test_output_beyond_the_limit_is_no_result(sandbox_env: SandboxEnvironment) -> None:
    with override_sandbox_output_limit(1000, "exec"):
        with pytest.raises(OutputLimitExceededError) as caught:
            await sandbox_env.exec(["seq", "100000"])
        assert (await sandbox_env.exec(["seq", "100"])).stdout.endswith("\n100\n")
    assert caught.value.limit_str == "1000 bytes"
    text = caught.value.truncated_output or ""
    assert text.startswith("1\n2\n")
    assert text.endswith("\n100000\n")
    with override_sandbox_output_limit(40_000_000, "exec"):
        result = await sandbox_env.exec(["head", "-c", "30000000", "/dev/zero"])
    assert len(result.stdout) == 30_000_000


async def test_a_file_that_is_too_long_for_openbrain(sandbox_env: SandboxEnvironment) -> None:
    await sandbox_env.exec(["truncate", "-s", "65M", "long"])
    with pytest.raises(OutputLimitExceededError, match="64 MiB"):
        await sandbox_env.read_file("long", text=False)
    with pytest.raises(ValueError, match="path"):
        await sandbox_env.read_file("")


async def test_bytes_that_are_no_text(sandbox_env: SandboxEnvironment) -> None:
    assert (await sandbox_env.exec(["printf", r"a\377"])).stdout == "a\ufffd"
    await sandbox_env.write_file("bytes", b"\xff")
    with pytest.raises(UnicodeDecodeError):
        await sandbox_env.read_file("bytes")


async def test_the_sandboxs_own_user_is_a_user(sandbox_env: SandboxEnvironment) -> None:
    name = (await sandbox_env.exec(["whoami"])).stdout.strip()
    assert (await sandbox_env.exec(["whoami"], user=name)).success
    with pytest.raises(SandboxUserUnsupportedError, match="own user"):
        await sandbox_env.exec(["whoami"], user="root")


async def test_a_sandbox_that_is_gone_is_unavailable(sandbox_env: SandboxEnvironment) -> None:
    await sandbox_env.as_type(OpenbrainSandboxEnvironment).sandbox.kill_async()
    for call in (
        sandbox_env.exec(["true"]),
        sandbox_env.read_file("file"),
        sandbox_env.write_file("file", ""),
    ):
        with pytest.raises(SandboxUnavailableError, match="ended"):
            await call


async def test_there_is_no_network_unless_configured(sandbox_env: SandboxEnvironment) -> None:
    interfaces = ["ls", "/sys/class/net"]
    own = sandbox_env.as_type(OpenbrainSandboxEnvironment).sandbox
    assert own.isolation.network == "none"
    assert (await sandbox_env.exec(interfaces)).stdout.split() in ([], ["lo"])
    config = OpenbrainConfig(network=True, allowed_domains=("example.com",))
    environments = await OpenbrainSandboxEnvironment.sample_init("checks", config, {})
    open_ = environments["default"].as_type(OpenbrainSandboxEnvironment).sandbox
    assert open_.isolation.network != "none"
    await open_.kill_async()


async def test_a_configuration_may_be_a_file(tmp_path: Path) -> None:
    file = tmp_path / "it.yaml"
    file.write_text("env: {NAME: value}\nlimits: {pids: 64}\ntimeout: 60\n")
    environments = await OpenbrainSandboxEnvironment.sample_init("checks", str(file), {})
    assert (await environments["default"].exec(["printenv", "NAME"])).stdout == "value\n"
    await OpenbrainSandboxEnvironment.sample_cleanup("checks", None, environments, True)
    file.write_text("netwrok: true\n")
    with pytest.raises(ValueError, match="netwrok"):
        await OpenbrainSandboxEnvironment.sample_init("checks", str(file), {})


async def test_cancelling_kills_the_command(sandbox_env: SandboxEnvironment, mark: str) -> None:
    task = asyncio.create_task(sandbox_env.exec(["sh", "-c", sleeper(mark)]))
    while len(alive(mark)) < 3:
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert alive(mark) == []


def run(task: Task, tmp_path: Path, *outputs: ModelOutput) -> EvalLog:
    """An evaluation whose model says what the test says, as the log that it leaves."""
    for output in outputs:
        # Otherwise the model counts them, with a dictionary that it gets from the network.
        output.usage = ModelUsage()
    model = get_model("mockllm/model", custom_outputs=list(outputs), memoize=False)
    logs = evaluate(task, model=model, log_dir=str(tmp_path / "logs"), display="none")
    assert logs[0].status == "success", logs[0].error
    return read_eval_log(logs[0].location)


def calls(tool: str, **arguments: Any) -> ModelOutput:
    return ModelOutput.for_tool_call("mockllm/model", tool, arguments)


def says(text: str) -> ModelOutput:
    return ModelOutput.from_content("mockllm/model", text)


def answers(log: EvalLog) -> list[ChatMessageTool]:
    (sample,) = log.samples or []
    return [message for message in sample.messages if isinstance(message, ChatMessageTool)]


def test_the_example(tmp_path: Path) -> None:
    """Found by its name: nothing here imports the adapter for Inspect."""
    model = calls("bash", command="wc -l <numbers"), says("3")
    log = run(example("inspect_task").count_lines(), tmp_path, *model)
    assert [answer.text.strip() for answer in answers(log)] == ["3"]
    assert log.results is not None
    assert log.results.scores[0].metrics["accuracy"].value == 1


def test_what_goes_wrong_is_told_to_the_model(tmp_path: Path) -> None:
    log = run(
        Task(solver=[use_tools(bash(timeout=1)), generate()], sandbox="openbrain"),
        tmp_path,
        calls("bash", command="echo begun; sleep 60"),
        calls("bash", command="echo oops >&2; exit 3"),
        calls("bash", command="yes | head -c 20000000"),
        calls("bash", command="a\0b"),
        says("done"),
    )
    timeout, failed, long, wrong = answers(log)
    assert timeout.error is not None
    assert timeout.error.type == "timeout"
    assert "begun" in timeout.text
    assert "oops" in failed.text
    assert long.error is not None
    assert long.error.type == "limit"
    assert "NUL byte" in wrong.text


def test_inspects_own_tools_work_in_it(tmp_path: Path) -> None:
    """A shell that stays open is a program of Inspect's, which it puts into the sandbox."""
    log = run(
        Task(solver=[use_tools(bash_session()), generate()], sandbox="openbrain"),
        tmp_path,
        calls("bash_session", action="type_submit", input="cd /usr; NAME=kept"),
        calls("bash_session", action="type_submit", input="echo $NAME in $PWD"),
        says("done"),
    )
    assert [answer.error for answer in answers(log)] == [None, None]
    assert "kept in /usr" in answers(log)[1].text


@solver
def leave(mark: str, then: Callable[[], Awaitable[None]] | None = None) -> Solver:
    """Leaves processes and a file behind, and finds nothing of another sample."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        del generate
        assert (await sandbox().exec(["ls"])).stdout == ""
        await sandbox().write_file("left", "")
        await sandbox().exec(["sh", "-c", f"{sleeper(mark)} >/dev/null 2>&1 & true"])
        assert until(lambda: bool(alive(mark)))
        if then is not None:
            await then()
        return state

    return solve


def test_every_sample_has_its_own_sandbox_which_ends_with_it(tmp_path: Path, mark: str) -> None:
    samples = [Sample(input=str(number)) for number in range(4)]
    log = run(Task(dataset=samples, solver=leave(mark), sandbox="openbrain"), tmp_path)
    assert len(log.samples or []) == 4
    assert alive(mark) == []


def test_a_failed_sample_ends_its_sandbox(tmp_path: Path, mark: str) -> None:
    async def fail() -> None:
        raise KeyError("on purpose")

    task = Task(solver=leave(mark, fail), sandbox="openbrain")
    logs = evaluate(task, model="mockllm/model", log_dir=str(tmp_path), display="none")
    assert logs[0].status == "error"
    assert alive(mark) == []


def test_a_sample_that_takes_too_long_ends_its_sandbox(tmp_path: Path, mark: str) -> None:
    async def wait() -> None:
        await sandbox().exec(["sleep", "600"])

    task = Task(solver=leave(mark, wait), sandbox="openbrain", time_limit=2)
    logs = evaluate(task, model="mockllm/model", log_dir=str(tmp_path), display="none")
    (sample,) = logs[0].samples or []
    assert sample.limit is not None
    assert sample.limit.type == "time"
    assert alive(mark) == []


def test_a_configuration_is_in_the_log(tmp_path: Path) -> None:
    config = OpenbrainConfig(env={"NAME": "value"}, limits={"memory": "512MiB"})
    spec = SandboxEnvironmentSpec("openbrain", config)
    log = run(Task(solver=leave("none-such"), sandbox=spec), tmp_path)
    assert log.eval.sandbox is not None
    assert log.eval.sandbox.config == config
