"""A folder that goes away with its test: pytest would keep three runs of clusters of 60 MB each."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def data_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="domainflow-test-") as folder:
        yield Path(folder)
