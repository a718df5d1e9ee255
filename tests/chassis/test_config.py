"""Settings from the environment."""

from dataclasses import dataclass

import pytest

from services.chassis.config import BadEnvironment, read_settings


@dataclass(frozen=True, slots=True)
class Settings:
    database_url: str
    nats_url: str
    window: int
    timeout: float = 2.5
    log_format: str = "text"


WHOLE = {"DATABASE_URL": "d", "NATS_URL": "n", "WINDOW": "7"}


def test_variables_become_typed_settings() -> None:
    assert read_settings(Settings, WHOLE) == Settings("d", "n", 7)
    assert read_settings(Settings, WHOLE | {"TIMEOUT": "0.5", "LOG_FORMAT": "json"}) == Settings(
        "d", "n", 7, 0.5, "json"
    )


def test_everything_that_is_missing_or_wrong_is_named_at_once() -> None:
    with pytest.raises(BadEnvironment) as caught:
        read_settings(Settings, {"WINDOW": "many", "TIMEOUT": "soon"})

    assert str(caught.value) == (
        "DATABASE_URL is not set; NATS_URL is not set; WINDOW='many' is not int;"
        " TIMEOUT='soon' is not float"
    )


def test_an_empty_variable_is_none() -> None:
    with pytest.raises(BadEnvironment, match="NATS_URL is not set"):
        read_settings(Settings, WHOLE | {"NATS_URL": ""})


def test_the_process_environment_is_read_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in WHOLE.items():
        monkeypatch.setenv(name, value)

    assert read_settings(Settings).nats_url == "n"
