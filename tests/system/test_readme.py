"""The calls that the README shows, run as they stand there."""

import asyncio
import json
import os
import re
import sys
from pathlib import Path

import pytest

from tests.system.campaigns import World

README = Path(__file__).parents[2] / "README.md"

pytestmark = pytest.mark.asyncio(loop_scope="module")


def readme_script() -> str:
    block = re.search(
        r"<!-- run by tests/system/test_readme.py -->\n```sh\n(.*?)```", README.read_text(), re.S
    )
    assert block
    return block.group(1)


async def test_five_calls_of_the_readme_run_as_they_stand(world: World) -> None:
    environment = {
        **os.environ,
        "DOOR": f"http://{world.suite.address}",
        "RESOLVER": world.resolver,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }

    shell = await asyncio.create_subprocess_exec(
        "bash",
        "-euo",
        "pipefail",
        "-c",
        readme_script(),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await shell.communicate()

    assert shell.returncode == 0, errors.decode()
    text = output.decode()
    assert "domainflow.campaign.v1.CampaignService/WatchCampaigns" in text
    assert '"campaignFinished"' in text
    last = json.loads("{" + text.rsplit("\n{", 1)[1])
    assert last["summary"]["domainCount"] == "9"
