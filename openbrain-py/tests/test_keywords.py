"""Keywords that reach the sandbox, and what only a whole process can have."""

from __future__ import annotations

import asyncio
import http.server
import threading
from typing import TYPE_CHECKING

import pytest
from conftest import until

import openbrain
from openbrain import INHERIT, Exec, Sandbox, errors

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path

CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 5).close()
    print("connected")
except OSError:
    print("refused")
"""


@pytest.fixture
def server() -> Iterator[int]:
    """A service of this host."""
    handler = http.server.BaseHTTPRequestHandler
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def _connect(host: str, port: int, **keywords: object) -> openbrain.Output:
    command = ["python3", "-c", CONNECT, host, str(port)]
    return openbrain.exec(command, sandbox=True, timeout=30, **keywords)  # type: ignore[arg-type]


def test_a_listed_host_is_reached_and_no_other(server: int) -> None:
    listed = f"localhost:{server}"
    assert _connect("localhost", server, allowed_hosts=[listed]).stdout == "connected\n"
    refused = _connect("localhost", server, allowed_hosts=["localhost:1"])
    assert refused.stdout == "refused\n"
    with Sandbox(timeout=60, allowed_hosts=[listed]) as sandbox:
        inside = sandbox.exec(["python3", "-c", CONNECT, "localhost", str(server)])
        assert inside.stdout == "connected\n"


@pytest.mark.parametrize(
    ("keywords", "host", "port"),
    [
        ({"allowed_ports": [443]}, "192.0.2.1", 80),
        ({"allowed_domains": ["a.example"]}, "b.example", 443),
    ],
)
def test_what_is_not_listed_is_denied(keywords: dict[str, object], host: str, port: int) -> None:
    result = _connect(host, port, **keywords)
    assert result.stdout == "refused\n"
    assert host in {denial.host for denial in result.denials}
    assert "443" in result.isolation.network or "a.example" in result.isolation.network
    with Sandbox(timeout=60, **keywords) as sandbox:  # type: ignore[arg-type]
        assert sandbox.isolation.network == result.isolation.network


def test_one_name_is_as_good_as_a_list_of_one() -> None:
    for keywords in ({"allowed_domains": "a.example"}, {"allowed_hosts": "10.0.0.5:1"}):
        result = openbrain.exec("true", sandbox=True, **keywords)  # type: ignore[arg-type]
        with Sandbox(timeout=60, **keywords) as sandbox:  # type: ignore[arg-type]
            assert sandbox.isolation.network == result.isolation.network
        assert next(iter(keywords.values())) in result.isolation.network


def test_the_builder_lists_the_same() -> None:
    exec = Exec("true").sandbox().allow_port(443).allow_domain("a.example").allow_host("10.0.0.5:1")
    fields = exec.to_dict()
    assert fields["allowed_ports"] == [443]
    assert fields["allowed_domains"] == ["a.example"]
    assert fields["allowed_hosts"] == ["10.0.0.5:1"]
    assert exec.run().success


def test_a_path_is_exposed_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "tool").write_text("content")
    command = f"cat {tmp_path}/tool; touch {tmp_path}/new"
    result = openbrain.exec(command, sandbox=True, network=False, expose=tmp_path)
    assert (result.stdout, result.success) == ("content", False)
    with Sandbox(timeout=60, network=False, expose=[str(tmp_path)]) as sandbox:
        assert sandbox.exec(command).stdout == "content"
    assert Exec("true").expose(tmp_path).to_dict()["expose"] == [str(tmp_path)]


def test_standard_input_is_inherited(python: Callable[..., subprocess.Popen[str]]) -> None:
    child = python("""
import openbrain
print(openbrain.exec("cat", stdin=openbrain.INHERIT).stdout)
print(openbrain.exec("cat", stdin=openbrain.INHERIT, sandbox=True, network=False).stdout, "end")
""")
    assert child.communicate("input", timeout=20) == ("input\n end\n", "")
    assert repr(INHERIT) == "openbrain.INHERIT"


def test_warnings_are_told() -> None:
    result = openbrain.exec("true", sandbox=True, network=False, limits={"cpus": 0.5})
    with Sandbox(timeout=60, network=False, limits={"cpus": 0.5}) as sandbox:
        warnings = sandbox.warnings
    assert all(isinstance(warning, str) for warning in (*result.warnings, *warnings))
    # Where no control group holds it, half a processor cannot be had.
    is_held = result.isolation.limits.get("cpus", "").startswith("cgroup")
    assert is_held is not any("cpus" in warning for warning in result.warnings)
    assert is_held is not any("cpus" in warning for warning in warnings)


def test_the_pool_is_kept_from_call_to_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBRAIN_POOL", "1")

    def start() -> str | None:
        monkeypatch.setenv("OUTER", "of the moment")
        result = openbrain.exec("echo $OUTER", sandbox=True, network=False)
        assert result.stdout == "\n"
        return result.start

    assert start() == "cold"
    assert until(lambda: start() == "warm", 20)
    assert openbrain.exec("echo $OUTER").stdout == "of the moment\n"


def test_settings_are_looked_up_for_each_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tmp_path / "settings.yaml"
    monkeypatch.setenv("OPENBRAIN_CONFIG", str(settings))
    for mode, backend in (("direct", "direct"), ("sandbox", "embedded"), ("direct", "direct")):
        settings.write_text(f"security: {{mode: {mode}}}\n")
        assert openbrain.exec("true").backend == backend


def test_the_doctor_says_what_a_command_would_get() -> None:
    report = openbrain.doctor()
    assert report.ok
    assert report.isolation is not None
    assert report.isolation.level == "namespaces"
    assert "trial" in {check.id for check in report.checks}
    assert {check.status for check in report.checks} <= {"ok", "warning"}
    assert asyncio.run(openbrain.doctor_async()).ok


def test_the_doctor_looks_at_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBRAIN_SERVER_URL", "http://127.0.0.1:9")
    report = openbrain.doctor()
    assert (report.ok, report.isolation) == (False, None)
    assert any(check.remedy for check in report.checks if check.status == "failed")


def test_a_report_is_refused_where_there_is_none() -> None:
    with pytest.raises(errors.OpenbrainError, match="sandbox"):
        openbrain.exec("true", changes=True)
