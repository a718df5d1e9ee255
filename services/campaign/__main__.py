"""The campaign service as a process: `python -m services.campaign`."""

import asyncio
import logging
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta

import uvloop
from nats.aio.msg import Msg

from domainflow.campaign.v1 import campaign_service_pb2_grpc
from services.campaign.configuration import rules_of
from services.campaign.deletion import Eraser
from services.campaign.dispatcher import Dispatcher
from services.campaign.service import CampaignService
from services.campaign.store import Store
from services.campaign.watch import Hub
from services.chassis import jetstream, telemetry
from services.chassis.config import BadEnvironment, read_settings
from services.chassis.contract import CAMPAIGN
from services.chassis.http_settings import Network, networks_of
from services.chassis.pool_reports import process_label, reported
from services.chassis.postgres import Beside, Pulse, open_pool
from services.chassis.seal import BadKey, Seal, parse_keys
from services.chassis.server import serve


@dataclass(frozen=True, slots=True)
class Settings:
    """Environment of this process; names in upper case."""

    database_url: str
    # One server, or those of a cluster, comma-separated.
    nats_url: str
    # host:port to listen on.
    campaign_address: str
    # Base64 of 32 bytes; several, comma-separated, to rotate: the first seals.
    page_token_key: str
    # Copies that the cluster keeps of the queue; 1 for a single server.
    nats_replicas: int = 1
    # Private networks that HTTP settings may allow, comma-separated.
    http_allowed_networks: str = ""
    # Days after its last event that the history of a campaign that is over is kept; 0: for ever.
    event_retention_days: int = 0
    log_format: str = "text"


def _networks(settings: Settings) -> tuple[Network, ...]:
    try:
        return networks_of(settings.http_allowed_networks)
    except ValueError as problem:
        raise BadEnvironment(f"HTTP_ALLOWED_NETWORKS: {problem}") from None


async def run(settings: Settings) -> None:
    """Serve and dispatch until a signal ends it."""
    async with AsyncExitStack() as stack:
        pool = await open_pool(
            settings.database_url, application_name="domainflow-campaign", max_size=12
        )
        stack.push_async_callback(pool.close)
        pools = {process_label("campaign"): pool}
        reports = Beside(settings.database_url, application_name="domainflow-campaign-reports")
        await stack.enter_async_context(reports)
        await stack.enter_async_context(reported(reports, lambda: pools))
        pulse = await stack.enter_async_context(Pulse(settings.database_url))
        networks = _networks(settings)
        store = Store(pool, allowed_networks=networks)
        # Before any start can take names that belong to a campaign of the version before.
        await store.reservations.adopt()
        hub = Hub(store)
        waking: list[Callable[[], None]] = [hub.wake]

        def wake() -> None:
            for each in waking:
                each()

        async def dispatch() -> None:
            # Beside the calls, which need no queue: they are answered while it is away.
            queue = await jetstream.connect(settings.nats_url, name="campaign")
            try:
                days = settings.event_retention_days
                dispatcher = Dispatcher(
                    store=store,
                    queue=queue,
                    replicas=settings.nats_replicas,
                    event_retention=timedelta(days=days) if days > 0 else None,
                )
                waking.append(dispatcher.wake)

                async def on_event(message: Msg) -> None:
                    dispatcher.wake()
                    # Which campaign, 0 for the suite itself; of any when it cannot be read.
                    hub.wake(int(message.data) if message.data.isdigit() else None)

                await queue.subscribe(jetstream.EVENT_SUBJECT, cb=on_event)
                await dispatcher.dispatch()
            finally:
                await queue.close()

        service = CampaignService(
            store=store, hub=hub, seal=Seal(parse_keys(settings.page_token_key)), wake=wake
        )
        eraser = Eraser(store.deletions, on_finished=hub.wake)
        async with asyncio.TaskGroup() as group:
            loops = [
                group.create_task(dispatch()),
                group.create_task(hub.follow()),
                group.create_task(eraser.erase()),
            ]
            await serve(
                settings.campaign_address,
                service_name=CAMPAIGN,
                register=lambda server: (
                    campaign_service_pb2_grpc.add_CampaignServiceServicer_to_server(service, server)
                ),
                ready=pulse.check,
                rules=rules_of(networks),
            )
            for loop in loops:
                loop.cancel()


def main() -> int:
    try:
        settings = read_settings(Settings)
        parse_keys(settings.page_token_key)
        _networks(settings)
    except (BadEnvironment, BadKey) as problem:
        sys.stderr.write(f"{problem}\n")
        return 2
    telemetry.set_up("campaign", json_logs=settings.log_format == "json")
    try:
        # A thousand watchers cost 0.43 cores, with asyncio's own loop 0.52 (one run each).
        uvloop.run(run(settings))
    except Exception:
        logging.getLogger(__name__).exception("the campaign service ended")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
