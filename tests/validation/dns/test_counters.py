"""What an engine counts is what there is, whatever happens to names meanwhile."""

import asyncio
from contextlib import suppress
from random import Random

from services.sandbox.dns_server import Faults, SandboxDns, SandboxDnsSettings
from services.sandbox.truth import Mix
from services.validation.dns import wire
from services.validation.dns.engine import Engine
from services.validation.dns.resolvers import Resolver
from services.validation.dns.settings import EngineSettings
from services.validation.dns.upstream import ANY, Route
from tests.validation.dns.replies import names, until

FAULTS = Faults(loss=0.05, servfail=0.05, late=0.02, truncate=0.05, bogus=0.02)
SETTINGS = EngineSettings(window=500, timeout=0.1, soft_delay=0.01, queries_per_socket=300)


def check(engine: Engine) -> None:
    """Every name in flight is in exactly one place, and resolvers' counts are their channels'."""
    flight = engine._flight
    pending = 0
    for upstream in engine._upstreams.all:
        waiting = [it for channel in upstream.live_channels() for it in channel.pending.values()]
        assert upstream.out == len(waiting)
        assert upstream.old == sum(it.sent_at <= upstream.mark for it in waiting)
        pending += len(waiting)
    queued = sum(query.call is not None for _, _, query in flight.queue)
    assert flight.count == pending + queued + len(flight.over_tcp)


async def test_counts_stay_right_through_faults_cancellations_and_quarantine(mute, dead_port):
    random = Random(1)
    mix = Mix(mute=0.01, slow=0)
    async with SandboxDns(SandboxDnsSettings(mix=mix, faults=FAULTS)) as server:
        well = Resolver(*server.address)
        limited = Resolver(*server.address, operated_by="limited", in_flight_limit=20)
        resolvers = [well, limited, mute, dead_port]
        routes = [ANY, ANY, Route(resolver=limited), Route(avoid_operator=well.operator)]
        async with Engine(resolvers, SETTINGS) as engine:

            async def ask() -> None:
                for _ in range(8):
                    asked = names(random.choice([1, 50, 600]))
                    call = asyncio.ensure_future(
                        engine.resolve(
                            asked, qtype=random.choice(wire.QTYPES), route=random.choice(routes)
                        )
                    )
                    if random.random() < 0.3:
                        asyncio.get_running_loop().call_later(0.1 * random.random(), call.cancel)
                    with suppress(asyncio.CancelledError):
                        assert [it.name for it in await call] == asked
                    check(engine)

            async def disturb() -> None:
                while True:
                    await asyncio.sleep(0.02)
                    random.choice([engine.quarantine, engine.admit])(random.choice(resolvers))
                    check(engine)

            disturbing = asyncio.create_task(disturb())
            await asyncio.gather(*(ask() for _ in range(20)))
            disturbing.cancel()
            check(engine)
            stats = engine.stats()
            assert stats.in_flight == stats.waiting == 0
            assert [(it.out, it.old) for it in engine._upstreams.all] == [(0, 0)] * 4
            await until(lambda: engine._ticker is None)
