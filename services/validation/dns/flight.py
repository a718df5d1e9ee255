"""The names in flight: where each one is, and how many are where."""

import asyncio
import heapq
import time
from itertools import count

from services.validation.dns.query import Call, Query
from services.validation.dns.upstream import Channel, Upstream, Upstreams
from services.validation.dns.verdict import Answer, Evidence, Outcome, Verdict


class Flight:
    """Every name sent and not yet settled or abandoned.

    At any time each is in exactly one place: pending on a channel, in the queue of retries, or
    with a TCP task. Only these methods move one, besides the engine's two loops over all names.
    """

    def __init__(self, upstreams: Upstreams) -> None:
        self.count = 0
        # Names that wait for a retry, and what was settled meanwhile.
        self.queue: list[tuple[int, int, Query]] = []
        self.over_tcp: dict[Query, asyncio.Task[None]] = {}
        self._upstreams = upstreams
        self._sequence = count()

    def let_go(self, query: Query) -> bool:
        """End the live attempt, if there is one; an answer to it still counts."""
        if not self._withdraw(query):
            return False
        query.odd()
        query.channel.late[query.key] = query
        assert query.traces is not None
        query.traces.append((query.channel, query.key, query.sent_at))
        return True

    def take_back(self, upstream: Upstream) -> None:
        """Ask again what waits for `upstream` and may be asked elsewhere; be deaf to what it says.

        Costs none of a name's tries unless it is asked again.
        """
        held = []
        for channel in upstream.live_channels():
            for key, query in list(channel.late.items()):
                if query.may_move():
                    del channel.late[key]
            held += [query for query in channel.pending.values() if query.may_move()]
        for query in held:
            self._withdraw(query)
        over_tcp = [it for it in self.over_tcp if it.channel.upstream is upstream and it.may_move()]
        for query in over_tcp:
            self.over_tcp.pop(query).cancel()
        for query in held + over_tcp:
            query.odd()
            self.ask_later(query, 0)

    def answered(self, query: Query, channel: Channel, key: bytes) -> bool:
        """Expect nothing more from this attempt. Whether it was the live one."""
        if channel.late.pop(key, None) is not None:
            return False
        return self._withdraw(query)

    def ask_later(self, query: Query, delay: float) -> None:
        """Queue a name that is nowhere else for another attempt in `delay` seconds."""
        due = time.monotonic_ns() + int(delay * 1e9)
        heapq.heappush(self.queue, (due, next(self._sequence), query))

    def next_due(self, now: int) -> Query | None:
        """Take the name out of the queue whose turn has come. `now` in nanoseconds."""
        queue = self.queue
        while queue and queue[0][0] <= now:
            query = heapq.heappop(queue)[2]
            if query.call is not None:
                return query
        return None

    def send(self, query: Query, channel: Channel, now: int) -> None:
        """Make the next attempt pending on `channel`."""
        query.channel = channel
        query.key = key = channel.ids.pop()
        query.attempts += 1
        query.sent_at = now
        channel.pending[key] = query
        channel.upstream.count_sent(1)

    def unsend(self, query: Query, channel: Channel, key: bytes, sent_at: int) -> None:
        """Undo `send`: nothing went out. The rest is how the attempt before was sent."""
        del query.channel.pending[query.key]
        query.channel.upstream.count_sent(-1)
        query.attempts -= 1
        query.channel, query.key, query.sent_at = channel, key, sent_at

    def settle(
        self,
        query: Query,
        verdict: Verdict,
        answer: Answer,
        resolver: str,
        *,
        tcp: bool,
        evidence: Evidence | None = None,
    ) -> None:
        """Give a name its outcome, wherever it is."""
        call = query.call
        assert call is not None
        call.outcomes[query.index] = Outcome(
            call.names[query.index],
            verdict,
            answer.rcode,
            answer.addresses,
            answer.chain,
            answer.ttl,
            resolver,
            query.attempts,
            (time.monotonic_ns() - query.started_at) // 1000,
            tcp,
            answer.authority,
            evidence,
        )
        self._drop(query)
        call.left -= 1
        if not call.left:
            call.finish()

    def abandon(self, call: Call) -> None:
        """Free what a call holds. Walks the window: rare, so names need no list."""
        held = {query for query in self.over_tcp if query.call is call}
        held.update(query for _, _, query in self.queue if query.call is call)
        for channel in self._upstreams.channels():
            held.update(query for query in channel.pending.values() if query.call is call)
        for query in held:
            self._drop(query)

    def _withdraw(self, query: Query) -> bool:
        """Take the live attempt out, if there is one."""
        if query.channel.pending.pop(query.key, None) is None:
            return False
        query.channel.upstream.withdraw(query.sent_at)
        return True

    def _drop(self, query: Query) -> None:
        query.call = None
        self.count -= 1
        self._withdraw(query)
        query.forget()
        task = self.over_tcp.pop(query, None)
        if task is not None:
            task.cancel()
