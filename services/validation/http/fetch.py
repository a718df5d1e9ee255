"""One page of one name: https, then http, along redirects, within limits, with evidence.

What a server does wrong is a verdict. Raised is only what says nothing about the name.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from typing import NamedTuple, Self

import aiohttp
from aiohttp import CookieJar
from multidict import CIMultiDictProxy
from yarl import URL

from services.chassis.http_settings import HttpSettings
from services.validation.http import certificates, urls
from services.validation.http.addresses import PUBLIC_ONLY, AddressPolicy, judge_of
from services.validation.http.certificates import TlsFacts
from services.validation.http.decoding import ACCEPTED, NotDecodable, decoder_for
from services.validation.http.dialing import (
    MAX_ADDRESSES,
    BrokenFraming,
    Clock,
    Dial,
    PinnedConnector,
    Trust,
    dialled,
)
from services.validation.http.failures import ERRORS, classify, distrust_of
from services.validation.http.proxy_pool import Result, Use
from services.validation.http.requests import Client, Response, head_of, is_one_line
from services.validation.http.retry import retry_after_of
from services.validation.http.robots import (
    ALLOW_ALL,
    MAX_ROBOTS,
    Robots,
    RobotsCache,
)
from services.validation.http.robots import parse as parse_robots
from services.validation.http.tunnels import ProxyFailure, ProxySource, Tunnels
from services.validation.http.turns import Place, Turns
from services.validation.http.urls import BadUrl, Target
from services.validation.http.verdict import (
    REDIRECTS,
    Truncation,
    Verdict,
    falls_back,
    nearer,
    of_status,
)

# The addresses of a host, in the order to try them; empty when there are none. May raise
# TimeoutError, another OSError, or HostExcluded.
Resolve = Callable[[str], Awaitable[Sequence[str]]]

# Redirects of a robots.txt that are followed (RFC 9309, 2.3.1.2).
_ROBOTS_REDIRECTS = 5
# Failed answers for robots.txt that are kept, each with headers up to the persona's limit.
_MAX_SILENT = 256
# Proxies that one fetch tries: one that fails says nothing about the name.
MAX_PROXIES = 3
# What compression may add to a body that does not compress.
_WIRE_SLACK = 64 * 1024
# Of a robots.txt that lies elsewhere: it is none.
_NOT_TO_BE_ASKED = (Verdict.ADDRESS_NOT_ALLOWED, Verdict.EXCLUDED)


class HostExcluded(Exception):
    """The host must not be asked; the text says why."""


class Redirect(NamedTuple):
    """One response that led elsewhere."""

    # Of the request.
    url: str
    status: int


class Trial(NamedTuple):
    """What one scheme and port came to."""

    scheme: str
    port: int
    verdict: Verdict
    # In words; empty for a page.
    reason: str


class PageHeaders(NamedTuple):
    """Headers of the last response that say something of the page; empty where they are missing.
    At most 500 characters each, of location 2,000."""

    content_type: str = ""
    content_language: str = ""
    server: str = ""
    location: str = ""
    retry_after: str = ""
    last_modified: str = ""


class Fetch(NamedTuple):
    """A verdict with its evidence, and the page. A tuple: hundreds are made a second."""

    name: str
    verdict: Verdict
    # In words, at most some 300 characters; empty for an ordinary page.
    reason: str
    # Status of the last response, 0 when none came, and its URL, empty when none came.
    status: int
    final_url: str
    # The responses before it, in order.
    redirects: tuple[Redirect, ...]
    # The schemes and ports that were asked, in order; the last or the nearest gave the verdict.
    trials: tuple[Trial, ...]
    # What cut the page. A page that is cut is used as far as it came.
    truncation: Truncation
    headers: PageHeaders
    # Decoded bytes of the page; empty unless its status is an allowed one.
    body: bytes
    # Of the last https response; None without one.
    tls: TlsFacts | None
    # What the last connection was made to; empty without one.
    address: str
    # Microseconds of the last request until it was connected (0 on a kept connection), from then
    # until the first byte; and of the whole fetch.
    connect_us: int
    first_byte_us: int
    duration_us: int
    # Schemes and ports asked.
    attempts: int
    # Seconds that the last response asks to wait; None when it does not.
    retry_after: float | None
    # The proxy of the last request, URL without credentials; empty without one.
    proxy: str = ""


class _Exchange:
    """One request, and what came."""

    __slots__ = (
        "began",
        "dial",
        "failure",
        "headers",
        "parts",
        "reason",
        "size",
        "status",
        "truncation",
    )

    def __init__(self) -> None:
        # Of the performance counter.
        self.began = 0.0
        # None while all is well.
        self.failure: Verdict | None = None
        self.reason = ""
        # 0 until the headers are complete.
        self.status = 0
        self.headers: CIMultiDictProxy[str] | None = None
        self.parts: list[bytes] = []
        self.size = 0
        self.truncation = Truncation.NONE
        self.dial: Dial | None = None

    def fail(self, verdict: Verdict, reason: str) -> "_Exchange":
        self.failure, self.reason = verdict, reason
        return self

    def header(self, name: str) -> str:
        return self.headers.get(name, "") if self.headers is not None else ""


class _Persona:
    """What settings come to for requests, made once."""

    __slots__ = ("head", "ports", "settings")

    def __init__(self, settings: HttpSettings) -> None:
        self.settings = settings
        self.ports = settings.ports
        headers = [*settings.headers, ("User-Agent", settings.user_agent)]
        headers.append(("Accept-Encoding", ACCEPTED))
        if settings.accept_language:
            headers.append(("Accept-Language", settings.accept_language))
        if not settings.keep_alive:
            headers.append(("Connection", "close"))
        self.head = head_of(headers)


class _Run:
    """One fetch in progress."""

    __slots__ = (
        "addresses",
        "at",
        "cookies",
        "deadline",
        "distrust",
        "exchange",
        "failed",
        "last",
        "persona",
        "place",
        "proxies_failed",
        "proxies_refusing",
        "proxy",
        "proxy_failure",
        "redirects",
        "responses",
        "settings",
        "use",
        "use_worked",
    )

    def __init__(self, persona: _Persona, deadline: float, place: Place | None) -> None:
        self.persona = persona
        self.settings = persona.settings
        self.place = place
        # By the loop's clock.
        self.deadline = deadline
        # Where the present request has its turn: of several addresses the first, until another one
        # is connected to.
        self.at = ("address", "")
        # Of hosts already resolved: one answer for the whole fetch.
        self.addresses: dict[str, tuple[str, ...]] = {}
        self.cookies: CookieJar | None = None
        # Why the certificate of a host is not trusted.
        self.distrust: dict[str, str] = {}
        # Origins that did not answer in HTTP are not asked again.
        self.failed: dict[tuple[str, str, int], tuple[Verdict, str]] = {}
        self.redirects: list[Redirect] = []
        self.responses = 0
        # The last exchange about a page, the last with a response, and where that was sent.
        self.exchange: _Exchange | None = None
        self.last: tuple[_Exchange, Target] | None = None
        # The proxy of all requests, as long as it does not fail, and whether a response came
        # through it.
        self.use: Use | None = None
        self.use_worked = False
        # Ids of those that failed before it, and of those that did not and let the present request
        # not through; how the last of them failed, once no other is tried.
        self.proxies_failed: set[str] = set()
        self.proxies_refusing: set[str] = set()
        self.proxy_failure: ProxyFailure | None = None
        # Of the last request, as results call it.
        self.proxy = ""

    def stopped(self, exchange: _Exchange, target: Target) -> tuple[Verdict, str]:
        """What a robots.txt comes to that did not come: that speaks for the page. A server without
        time may say when to come again."""
        if exchange.failure is not None:
            return exchange.failure, exchange.reason
        self.exchange, self.last = exchange, (exchange, target)
        self.responses += 1
        return of_status(exchange.status, ()), f"robots.txt: status {exchange.status}"


class Fetcher:
    """Fetches pages; one per process. To be entered in the loop that uses it."""

    def __init__(
        self,
        resolve: Resolve,
        *,
        policy: AddressPolicy = PUBLIC_ONLY,
        turns: Turns | None = None,
        roots: str = "",
        proxies: ProxySource | None = None,
        proxy_policy: AddressPolicy | None = None,
        trust: Trust | None = None,
        proxy_trust: Trust | None = None,
    ) -> None:
        """`roots`: certificates (PEM) of authorities trusted beside the system's; `trust`, which
        several may share, has its own. `proxies`: every request goes through one of them, or is
        not sent; `proxy_policy`: of their own addresses, where it is another than the sites';
        `proxy_trust`: in their own certificates, without one the system's, whatever `roots` are:
        they get passwords."""
        self._resolve = resolve
        self._judge = judge_of(policy)
        # Without anybody in it, it is empty, and false.
        self._turns = Turns() if turns is None else turns
        self._trust = trust or Trust(roots)
        self._proxies = proxies
        proxy_judge = self._judge if proxy_policy is None else judge_of(proxy_policy)
        self._tunnels = Tunnels(proxy_judge, (proxy_trust or Trust()).context)
        self._robots = RobotsCache()
        # Servers without an answer for robots.txt, or time for it: when, and what they said, for
        # those who were waiting for it. One after the other they would ask in vain.
        self._silent: dict[tuple[str, str, int, str], tuple[float, _Exchange, Target]] = {}
        self._personas: dict[int, _Persona] = {}
        self._client: Client

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._client = Client(PinnedConnector(self._judge, self._tunnels))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._client.close()

    async def fetch(
        self,
        name: str,
        settings: HttpSettings,
        *,
        path: str = "/",
        addresses: Sequence[str] = (),
        place: Place | None = None,
    ) -> Fetch:
        """Fetch the page of a name (A-labels, lower case). `addresses`: of the name, where they are
        known; else it is resolved. `place`: is stepped aside from while the fetch waits for its
        turn at a host. Raises MachineExhausted, and BadUrl for what is no name."""
        targets = (
            urls.of_name(scheme, name, port, path)
            for scheme in settings.schemes
            for port in settings.ports_of(scheme)
        )
        return await self._fetch(name, settings, targets, addresses, place)

    async def fetch_url(
        self,
        url: str,
        settings: HttpSettings,
        *,
        addresses: Sequence[str] = (),
        place: Place | None = None,
    ) -> Fetch:
        """Fetch one URL, whose port the settings must allow. `addresses`: of its host, where they
        are known. `place`: as in `fetch`. Raises MachineExhausted and BadUrl."""
        target = urls.parse(url)
        return await self._fetch(target.host, settings, iter((target,)), addresses, place)

    async def _fetch(
        self,
        name: str,
        settings: HttpSettings,
        targets: Iterator[Target],
        addresses: Sequence[str],
        place: Place | None,
    ) -> Fetch:
        began = time.perf_counter()
        run = _Run(self._persona(settings), self._loop.time() + settings.total_timeout, place)
        if addresses:
            run.addresses[name] = tuple(addresses)
        trials: list[Trial] = []
        verdict, reason = Verdict.UNREACHABLE, "nothing to ask"
        # Of the trial that came nearest: what is told where none brought a page.
        told: tuple[_Exchange | None, tuple[_Exchange, Target] | None, list[Redirect]]
        told = (None, None, [])
        try:
            for target in targets:
                run.redirects, run.responses, run.exchange, run.last = [], 0, None, None
                now_verdict, now_reason = await self._follow(run, target)
                trials.append(Trial(target.scheme, target.port, now_verdict, now_reason))
                final = not falls_back(now_verdict)
                if final or len(trials) == 1 or nearer(now_verdict, verdict):
                    verdict, reason = now_verdict, now_reason
                    # A redirect that led to no response is itself the last one.
                    told = run.exchange, run.last, run.redirects[: max(0, run.responses - 1)]
                if final or self._loop.time() >= run.deadline:
                    break
        finally:
            self._give_back(run, Result.UNKNOWN)
        return self._told(name, verdict, reason, trials, told, began, run.proxy)

    async def _follow(self, run: _Run, target: Target) -> tuple[Verdict, str]:
        """Ask for a page and go where it redirects to."""
        settings = run.settings
        seen = set()
        while True:
            if refused := await self._refused(run, target):
                return refused
            # The same URL with other cookies is another request: many sites set one and come back.
            asked = target.text, _cookie(run.cookies, target.url)
            if asked in seen:
                return Verdict.TOO_MANY_REDIRECTS, "redirected in a circle"
            seen.add(asked)
            exchange = run.exchange = await self._exchange(
                run,
                target,
                limit=settings.body_limit,
                read=settings.allowed_statuses,
                cookie=asked[1],
            )
            if exchange.status:
                run.responses += 1
                run.last = exchange, target
            if exchange.failure is not None:
                return exchange.failure, exchange.reason
            location = exchange.header("Location") if exchange.status in REDIRECTS else ""
            if not location or not settings.max_redirects:
                verdict = of_status(exchange.status, settings.allowed_statuses)
                return verdict, "" if verdict is Verdict.OK else f"status {exchange.status}"
            run.redirects.append(Redirect(target.text, exchange.status))
            if len(run.redirects) > settings.max_redirects:
                return Verdict.TOO_MANY_REDIRECTS, f"more than {settings.max_redirects} redirects"
            if settings.cookies and exchange.headers is not None:
                self._keep_cookies(run, target.url, exchange.headers)
            try:
                target = urls.redirected(target.url, location)
            except BadUrl as bad:
                return Verdict.PROTOCOL_ERROR, str(bad)

    async def _refused(self, run: _Run, target: Target) -> tuple[Verdict, str] | None:
        """Why a page is not asked for, if so."""
        if target.port not in run.persona.ports:
            return Verdict.ADDRESS_NOT_ALLOWED, f"port {target.port} is not allowed"
        if not run.settings.respect_robots:
            return None
        origin = target.scheme, target.host, target.port, run.settings.robots_token
        robots = self._robots.get(origin, self._loop.time())
        if robots is None:
            # One asks, the others wait for what he learns.
            key, since = ("robots", origin), self._loop.time()
            if not self._turns.enter(key, 1):
                _step_aside(run)
                await self._turns.take(key, at_once=1)
            try:
                run.deadline += self._loop.time() - since
                robots = self._robots.get(origin, self._loop.time())
                if robots is None:
                    if (silent := self._silent.get(origin)) and silent[0] >= since:
                        return run.stopped(*silent[1:])
                    found = await self._ask_robots(run, target)
                    if not isinstance(found, Robots):
                        return found
                    robots = found
                    self._robots.put(origin, robots, self._loop.time())
            finally:
                self._turns.give(key)
        if robots.allows(target.url.raw_path_qs):
            return None
        return Verdict.EXCLUDED, "robots.txt forbids it"

    async def _ask_robots(self, run: _Run, page: Target) -> Robots | tuple[Verdict, str]:
        """The rules of a page's origin, or why it is not known whether there are any: then the page
        must not be asked for either."""
        target = urls.robots_of(page)
        origin = page.scheme, page.host, page.port, run.settings.robots_token
        for _ in range(_ROBOTS_REDIRECTS + 1):
            exchange = await self._exchange(run, target, limit=MAX_ROBOTS, read=range(200, 300))
            if exchange.failure is not None:
                if exchange.failure in _NOT_TO_BE_ASKED and target.host != page.host:
                    return ALLOW_ALL
                # That this fetch had no time left says nothing to others.
                if self._loop.time() < run.deadline:
                    self._keep_silent(origin, exchange, target)
                return run.stopped(exchange, target)
            status, location = exchange.status, exchange.header("Location")
            if status == 429 or 500 <= status <= 599:
                self._keep_silent(origin, exchange, target)
                return run.stopped(exchange, target)
            if 200 <= status <= 299:
                return parse_robots(b"".join(exchange.parts), run.settings.robots_token)
            if status not in REDIRECTS or not location:
                return ALLOW_ALL
            try:
                target = urls.redirected(target.url, location)
            except BadUrl:
                return ALLOW_ALL
            if target.port not in run.persona.ports:
                return ALLOW_ALL
        return ALLOW_ALL

    def _keep_silent(
        self, origin: tuple[str, str, int, str], exchange: _Exchange, target: Target
    ) -> None:
        if len(self._silent) >= _MAX_SILENT:
            self._silent.clear()
        self._silent[origin] = self._loop.time(), exchange, target

    async def _exchange(
        self,
        run: _Run,
        target: Target,
        *,
        limit: int,
        read: Sequence[int] | frozenset[int] | range,
        cookie: str = "",
    ) -> _Exchange:
        """Ask one host once (again where a kept connection or a certificate makes it necessary);
        read the body if its status is one of `read`, and up to `limit` bytes of it."""
        origin = target.scheme, target.host, target.port
        if known := run.failed.get(origin):
            return _Exchange().fail(*known)
        exchange = _Exchange()
        run.proxies_refusing.clear()
        if run.place is not None:
            # Whoever waited for another's robots.txt does nothing more from aside.
            since = self._loop.time()
            await run.place.come_back()
            run.deadline += self._loop.time() - since
        addresses = await self._addresses(run, target, exchange)
        if exchange.failure is not None:
            return exchange
        settings, turns, waiting = run.settings, self._turns, self._loop.time()
        host, run.at = ("host", target.host), ("address", addresses[0])
        if settings.host_rate or not turns.enter(host, settings.host_concurrency):
            _step_aside(run)
            await turns.take(host, at_once=settings.host_concurrency, rate=settings.host_rate)
        try:
            at_once, rate = settings.address_concurrency, settings.address_rate
            if rate or not turns.enter(run.at, at_once):
                _step_aside(run)
                await turns.take(run.at, at_once=at_once, rate=rate)
            try:
                if run.place is not None:
                    await run.place.come_back()
                run.deadline += self._loop.time() - waiting
                # Of these, a proxy that fails takes one each.
                tries = 3 if self._proxies is None else 2 + MAX_PROXIES
                while await self._ask(run, target, addresses, exchange, limit, read, cookie):
                    exchange = _Exchange()
                    tries -= 1
                    if not tries:
                        exchange.fail(
                            Verdict.CONNECTION_RESET, "connections were cut again and again"
                        )
                        break
            finally:
                turns.give(run.at)
        finally:
            turns.give(host)
        if exchange.failure is not None and falls_back(exchange.failure) and not exchange.status:
            run.failed[origin] = exchange.failure, exchange.reason
        return exchange

    async def _addresses(self, run: _Run, target: Target, exchange: _Exchange) -> tuple[str, ...]:
        """Resolve a host once a fetch, and judge what comes; or fail the exchange."""
        host = target.host
        found: Sequence[str]
        if target.literal:
            found = (host,)
        elif host in run.addresses:
            found = run.addresses[host]
        else:
            latest = min(run.deadline, self._loop.time() + run.settings.connect_timeout)
            try:
                with Clock(self._loop, latest):
                    found = await self._resolve(host)
            except TimeoutError:
                exchange.fail(Verdict.TIMEOUT, f"resolving {host} took too long")
                return ()
            except OSError as error:
                exchange.fail(Verdict.UNREACHABLE, f"resolving {host}: {error}"[:300])
                return ()
            except HostExcluded as excluded:
                exchange.fail(Verdict.EXCLUDED, str(excluded)[:300])
                return ()
            run.addresses[host] = tuple(found)
        if not found:
            exchange.fail(Verdict.UNREACHABLE, f"{host} has no address")
            return ()
        allowed: list[str] = []
        reason = ""
        for address in found:
            if why := self._judge(address):
                reason = reason or why
            elif len(allowed) < MAX_ADDRESSES:
                allowed.append(address)
        if not allowed:
            exchange.fail(Verdict.ADDRESS_NOT_ALLOWED, reason)
        return tuple(allowed)

    async def _ask(
        self,
        run: _Run,
        target: Target,
        addresses: tuple[str, ...],
        exchange: _Exchange,
        limit: int,
        read: Sequence[int] | frozenset[int] | range,
        cookie: str,
    ) -> bool:
        """Send one request; whether it has to be sent again. Only cancellation and
        MachineExhausted leave here."""
        settings = run.settings
        if self._proxies is not None and run.use is None:
            if run.proxy_failure is not None:
                exchange.fail(run.proxy_failure.verdict, run.proxy_failure.reason)
                return False
            run.use = self._proxies.choose(run.proxies_failed)
            if run.use is None:
                exchange.fail(Verdict.PROXY_ERROR, "no proxy of the pool can be used now")
                return False
        proxy = None
        if run.use is not None:
            proxy = run.use.member.proxy
            run.proxy = proxy.label
        distrust = run.distrust.get(target.host, "")
        context = (
            True
            if target.scheme == "http"
            else await self._trust.context(
                settings.tls_floor,
                verified=not distrust,
                named=settings.enforce_certificates,
            )
        )
        head = run.persona.head
        if cookie:
            head += head_of((("Cookie", cookie),))
        token = None
        exchange.began = time.perf_counter()
        try:
            connected_by = min(run.deadline, self._loop.time() + settings.connect_timeout)
            with Clock(self._loop, connected_by) as clock:
                dial = exchange.dial = Dial(
                    addresses,
                    head_limit=settings.header_limit,
                    clock=clock,
                    first_byte_timeout=settings.first_byte_timeout,
                    latest=run.deadline,
                    proxy=proxy,
                    arrived=None if len(addresses) == 1 else partial(self._arrived, run),
                )
                token = dialled.set(dial)
                response = await self._client.get(target.url, dial, context, head)
                try:
                    clock.move(run.deadline)
                    run.use_worked = True
                    if dial.tls is not None and distrust:
                        dial.tls = replace(dial.tls, distrust=distrust)
                    if _head_size(response, dial) > settings.header_limit:
                        exchange.fail(Verdict.PROTOCOL_ERROR, "more headers than allowed")
                        return False
                    exchange.status, exchange.headers = response.status, response.headers
                    if response.status in read:
                        await _read(response, exchange, limit)
                finally:
                    # Kept for the next request if all of it was read, else closed.
                    response.release()
        except ProxyFailure as failure:
            return self._through_another(run, exchange, failure)
        except TimeoutError:
            if exchange.size:
                exchange.truncation = Truncation.TIME
            elif late := self._late_proxy(exchange):
                return self._through_another(run, exchange, late)
            else:
                exchange.fail(Verdict.TIMEOUT, _late(exchange, self._loop.time() >= run.deadline))
        except aiohttp.ClientConnectorCertificateError as error:
            if not settings.enforce_certificates and not distrust:
                run.distrust[target.host] = distrust_of(error)
                return True
            exchange.fail(*classify(error))
        except NotDecodable as error:
            if exchange.size:
                exchange.truncation = Truncation.BROKEN
            else:
                exchange.fail(Verdict.PROTOCOL_ERROR, str(error))
        except BrokenFraming as error:
            # Also when some of it was readable: how much depends on how packets were cut.
            exchange.fail(Verdict.PROTOCOL_ERROR, f"no HTTP: {error}")
        except ERRORS as error:
            dialling = exchange.dial
            if dialling is not None and dialling.refusal:
                exchange.fail(Verdict.ADDRESS_NOT_ALLOWED, dialling.refusal)
            elif exchange.size:
                exchange.truncation = Truncation.BROKEN
            else:
                verdict, reason = classify(error)
                connected = dialling is not None and dialling.connected_at > 0
                if verdict is Verdict.CONNECTION_RESET and dialling is not None:
                    if connected and not dialling.fresh and not exchange.status:
                        # It was closed while it was kept (RFC 9112, 9.3.1): nothing was answered.
                        return True
                    if not connected and target.scheme == "https":
                        verdict, reason = Verdict.TLS_HANDSHAKE, f"{reason} in the handshake"
                exchange.fail(verdict, reason)
        finally:
            if token is not None:
                dialled.reset(token)
            if exchange.dial is not None:
                # It leads back here: the page would wait for the collector of garbage.
                exchange.dial.arrived = None
        return False

    def _arrived(self, run: _Run, address: str) -> None:
        if run.at != (there := ("address", address)):
            self._turns.move(run.at, there, rate=run.settings.address_rate)
            run.at = there

    def _through_another(self, run: _Run, exchange: _Exchange, failure: ProxyFailure) -> bool:
        """Whether to send the request again, through another proxy; else the exchange fails."""
        exchange.fail(failure.verdict, failure.reason)
        assert run.use is not None
        assert self._proxies is not None
        if failure.verdict is not Verdict.PROXY_ERROR:
            return False
        failed = failure.result is Result.FAILED
        (run.proxies_failed if failed else run.proxies_refusing).add(run.use.member.proxy_id)
        self._give_back(run, failure.result, failure.reason if failed else "")
        tried = run.proxies_failed | run.proxies_refusing
        if len(tried) < MAX_PROXIES and self._loop.time() < run.deadline:
            run.use = self._proxies.choose(tried)
            if run.use is not None:
                return True
        if failed:
            run.proxy_failure = failure
        return False

    def _late_proxy(self, exchange: _Exchange) -> ProxyFailure | None:
        """Whether it was the proxy that took too long to connect. One that was asked for a tunnel
        and does not answer waits for the site, if it answers others meanwhile."""
        dial = exchange.dial
        if dial is None or dial.proxy is None or dial.connected_at or dial.progress.is_open:
            return None
        asked_at = dial.progress.asked_at
        if asked_at is None:
            return ProxyFailure("the connection to the proxy took too long")
        if self._tunnels.has_answered(dial.proxy, asked_at):
            return None
        return ProxyFailure("the proxy did not answer")

    def _give_back(self, run: _Run, result: Result, reason: str = "") -> None:
        if run.use is not None and self._proxies is not None:
            if result is Result.UNKNOWN and run.use_worked:
                result = Result.WORKED
            self._proxies.give_back(run.use, result, reason)
        run.use, run.use_worked = None, False

    def _persona(self, settings: HttpSettings) -> _Persona:
        """By identity: comparing settings costs more than making one."""
        persona = self._personas.get(id(settings))
        if persona is None:
            if len(self._personas) >= 64:
                self._personas.clear()
            # It holds the settings, so that no others get their id.
            persona = self._personas[id(settings)] = _Persona(settings)
        return persona

    def _keep_cookies(self, run: _Run, url: URL, headers: CIMultiDictProxy[str]) -> None:
        if "Set-Cookie" not in headers:
            return
        if run.cookies is None:
            run.cookies = CookieJar(quote_cookie=False)
        run.cookies.update_cookies_from_headers(headers.getall("Set-Cookie")[:50], url)

    def _told(
        self,
        name: str,
        verdict: Verdict,
        reason: str,
        trials: list[Trial],
        told: tuple[_Exchange | None, tuple[_Exchange, Target] | None, list[Redirect]],
        began: float,
        proxy: str,
    ) -> Fetch:
        exchange, last, redirects = told
        status, final_url, headers, tls, retry_after = 0, "", PageHeaders(), None, None
        if last is not None:
            answered, target = last
            status, final_url = answered.status, target.text
            headers = _page_headers(answered)
            if headers.retry_after:
                retry_after = retry_after_of(headers.retry_after, datetime.now(UTC))
            if answered.dial is not None and answered.dial.tls is not None:
                tls = certificates.facts(answered.dial.tls, target.host, datetime.now(UTC))
        address, connect_us, first_byte_us, body = "", 0, 0, b""
        truncation = Truncation.NONE
        if exchange is not None:
            if verdict is Verdict.OK:
                body, truncation = b"".join(exchange.parts), exchange.truncation
            if (dial := exchange.dial) is not None and dial.connected_at:
                address = dial.address
                if dial.fresh:
                    connect_us = _us(dial.connected_at - exchange.began)
                if dial.first_byte_at:
                    first_byte_us = _us(dial.first_byte_at - dial.connected_at)
        return Fetch(
            name=name,
            verdict=verdict,
            reason=reason,
            status=status,
            final_url=final_url,
            redirects=tuple(redirects),
            trials=tuple(trials),
            truncation=truncation,
            headers=headers,
            body=body,
            tls=tls,
            address=address,
            connect_us=connect_us,
            first_byte_us=first_byte_us,
            duration_us=_us(time.perf_counter() - began),
            attempts=len(trials),
            retry_after=retry_after,
            proxy=proxy,
        )


def _step_aside(run: _Run) -> None:
    if run.place is not None:
        run.place.step_aside()


def nothing_asked(name: str, verdict: Verdict, reason: str) -> Fetch:
    """What is told of a name that was not asked for, and why."""
    return Fetch(
        name=name,
        verdict=verdict,
        reason=reason,
        status=0,
        final_url="",
        redirects=(),
        trials=(),
        truncation=Truncation.NONE,
        headers=PageHeaders(),
        body=b"",
        tls=None,
        address="",
        connect_us=0,
        first_byte_us=0,
        duration_us=0,
        attempts=0,
        retry_after=None,
    )


async def _read(response: Response, exchange: _Exchange, limit: int) -> None:
    """Read the body up to a limit of decoded bytes, one more to know whether it was all."""
    decoder = decoder_for(exchange.header("Content-Encoding"))
    wire = 0
    async for chunk in response.content.iter_any():
        wire += len(chunk)
        part = decoder.feed(chunk, limit + 1 - exchange.size)
        if part:
            exchange.parts.append(part)
            exchange.size += len(part)
        if exchange.size > limit:
            exchange.parts[-1] = part[: len(part) - (exchange.size - limit)]
            exchange.size = limit
            exchange.truncation = Truncation.SIZE
            return
        # Codings that take bytes and give none.
        if wire > limit + limit // 8 + _WIRE_SLACK:
            exchange.truncation = Truncation.SIZE
            return


def _head_size(response: Response, dial: Dial) -> int:
    """Bytes of the headers, or of all that came with them if that is little enough."""
    if dial.head_size <= dial.head_limit:
        return dial.head_size
    return sum(len(name) + len(value) + 4 for name, value in response.raw_headers)


def _cookie(jar: CookieJar | None, url: URL) -> str:
    """The Cookie header for a URL; empty without one."""
    if jar is None:
        return ""
    cookies = (f"{name}={it.value}" for name, it in jar.filter_cookies(url).items())
    # A quoted value may hold line ends in disguise.
    return "; ".join(filter(is_one_line, cookies))


def _late(exchange: _Exchange, over: bool) -> str:
    """Which clock ran out."""
    dial = exchange.dial
    if exchange.status:
        return "no byte of the page within the time for the whole fetch"
    phase = "the response's headers" if dial and dial.connected_at else "the connection"
    return f"{phase} took too long" + (": the whole fetch's time was over" if over else "")


def _page_headers(exchange: _Exchange) -> PageHeaders:
    if exchange.headers is None:
        return PageHeaders()
    get = exchange.headers.get
    return PageHeaders(
        _clean(get("Content-Type", ""), 500),
        _clean(get("Content-Language", ""), 500),
        _clean(get("Server", ""), 500),
        _clean(get("Location", ""), 2000),
        _clean(get("Retry-After", ""), 500),
        _clean(get("Last-Modified", ""), 500),
    )


def _clean(value: str, longest: int) -> str:
    """Text that can be stored: what is no UTF-8 comes from the parser as surrogates."""
    if value.isascii():
        return value[:longest]
    value = value[:longest]
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _us(seconds: float) -> int:
    return int(seconds * 1_000_000)
