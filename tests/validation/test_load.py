"""What a worker says of itself over the last seconds."""

import pytest

from services.sandbox.dns_server import Faults, SandboxDns, SandboxDnsSettings
from services.validation import machine
from services.validation.dns.plan import Plan
from services.validation.dns.resolvers import Resolver
from services.validation.engines import Engines
from services.validation.load import Counts, EndpointCounts, LoadMeter

MS = 1_000_000


def counts(endpoint: str, source: int = 1, **figures: int) -> EndpointCounts:
    return EndpointCounts(source, endpoint, Counts(**figures))


def measure(meter: LoadMeter, *endpoints: EndpointCounts, settled: int = 0):
    return meter.measure(settled=settled, in_flight=7, task_limit=9, endpoints=endpoints)


def test_figures_are_those_since_the_last_report() -> None:
    meter = LoadMeter()
    measure(meter, counts("a:53", sent=100, answered=50, lost=50, timed=1, waited_ns=900 * MS))

    load = measure(
        meter,
        counts("a:53", sent=200, answered=140, lost=60, timed=3, waited_ns=904 * MS),
        settled=500,
    )

    assert load.loss == pytest.approx(0.1)
    assert load.latency_us == 2000
    assert load.names_per_second > 0
    assert (load.names_in_flight, load.task_limit) == (7, 9)
    assert measure(meter, settled=500).names_per_second == 0


def test_an_engine_that_was_opened_anew_begins_at_nothing() -> None:
    meter = LoadMeter()
    measure(meter, counts("a:53", source=1, sent=1000, answered=1000))

    load = measure(meter, counts("a:53", source=2, sent=10, answered=9, lost=1))

    assert load.loss == pytest.approx(0.1)


def test_engines_that_ask_the_same_resolver_are_counted_together() -> None:
    load = measure(
        LoadMeter(),
        counts("a:53", source=1, sent=10, answered=10),
        counts("a:53", source=2, sent=10, lost=10),
    )

    (endpoint,) = load.endpoints
    assert (endpoint.endpoint, endpoint.loss) == ("a:53", 0.5)


def test_the_worst_ten_endpoints_are_told_of_worst_first() -> None:
    many = [
        counts(f"host-{n}:53", sent=10, answered=10, timed=1, waited_ns=n * MS) for n in range(20)
    ]

    load = measure(
        LoadMeter(), *many, counts("lossy:53", sent=10, answered=5, lost=5), counts("unused:53")
    )

    assert [it.endpoint for it in load.endpoints] == [
        "lossy:53",
        *(f"host-{n}:53" for n in range(19, 10, -1)),
    ]
    assert len(load.SerializeToString()) < 1024


async def test_the_engine_takes_the_time_of_answers() -> None:
    settings = SandboxDnsSettings(faults=Faults(loss=0, late=0, delay=0.03))
    async with SandboxDns(settings) as server, Engines() as engines:
        resolver = Resolver(*server.address)
        async with engines.use(Plan((resolver,))) as examiner:
            await examiner.examine([f"name-{number}.com" for number in range(200)])
        meter = LoadMeter()

        load = measure(meter, *engines.endpoints())

    assert load.latency_us >= 30_000
    assert [it.endpoint for it in load.endpoints] == [str(resolver)]


def test_the_machine_tells_what_is_used_of_it() -> None:
    memory = machine.memory()
    busy = machine.BusyCores()

    assert 0 < memory.free <= memory.total
    assert machine.process_memory() > 1 << 20
    assert machine.process_seconds() > 0
    assert machine.cores() >= 1
    assert busy.look() >= 0
