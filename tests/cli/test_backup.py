"""`domainflow backup` and `restore` where there is nothing to copy; tests/system does the rest."""

from pathlib import Path

from tests.cli.processes import process


def _refused(*arguments: str) -> str:
    command = process(*arguments)
    out, said = command.communicate()
    assert (command.returncode, out) == (1, "")
    return said


def test_what_is_no_suite_and_no_backup_is_refused_with_a_reason(tmp_path: Path) -> None:
    target, data = tmp_path / "backup", tmp_path / "data"

    said = _refused("backup", str(target), "--data", str(data))
    assert said == f"error: no suite ever ran on {data}\n"

    target.mkdir()
    said = _refused("restore", str(target), "--data", str(data))
    assert said == f"error: {target} is no backup: it has no backup.json\n"
    assert not data.exists()
