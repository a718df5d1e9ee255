"""Reads the domains of a page: candidates a window at a time, until the page is full or they are
enough."""

from bisect import bisect_left, bisect_right
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice, pairwise, repeat, takewhile
from typing import Any, Literal, TypeAlias

from domainflow.query.v1.filter_pb2 import DomainFilter as FilterMessage
from services.query.campaigns import Campaign, Runs
from services.query.conditions import conditions_of
from services.query.derived import PageCopies
from services.query.domain_rows import DomainRows, Known
from services.query.messages import copied_name, copied_that_match
from services.query.page_plan import (
    MOSTLY,
    RANKED,
    SMALL,
    SMALL_WHILE_SETTLING,
    DomainFilter,
    Key,
    Kind,
    Order,
    Sizes,
    Source,
    after_prefix,
    allowance,
    skips_chunks,
    sources,
    supposed_share,
    tests_of,
    window,
)
from services.query.pages import Copied, Pages, Span
from services.query.ranked_pages import Ranked, RankedPages
from services.query.ranks import ScoreRanks
from services.query.recent import Recent

# Windows of one page, chunks that one of them passes, and chunks that are told apart by their TLDs.
_WINDOWS, _CHUNKS, _NAMED_CHUNKS = 4, 64, 256
# Up to so many candidates, reading all of them from a copy takes less time than asking the tables
# which of them match.
_FEW = 150
# Settled chunks that are kept of a campaign at rest: of 10 million names.
_MOST_SETTLED = 2_048
# A sample: parts of the campaign, and domains of each.
_PARTS, _EACH = 8, 12

_Field: TypeAlias = Literal[
    "dns_pending", "dns_verdicts", "http_verdicts", "lead_statuses", "lead_reasons", "keywords"
]


@dataclass(frozen=True, slots=True)
class SmallSet:
    """All domains of a filter in their order, ascending, by key; in order of name `names` has the
    name of each, and `name_of` by position."""

    keys: Sequence[Key]
    names: Sequence[str] = ()
    name_of: Mapping[int, str] = field(default_factory=dict)


# A domain of a page: what the tables have of it, or a copy, as it goes over the wire.
Found: TypeAlias = Known | bytes
# None: the set is not small.
SmallSets: TypeAlias = Recent[tuple[SmallSet | None]]
# Settled chunks in the order of their settlement; None: too many to keep.
SettledChunks: TypeAlias = Recent[tuple[Sequence[Span] | None]]
# Of copies by score, by their ids.
Directories: TypeAlias = Recent[ScoreRanks]


class KeyGone(LookupError):
    """The domain that a key leads to is not there any more."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Domains in the direction of the walk. `stopped`: the key that it goes on behind, None at the
    end. `examined`: candidates that were looked at."""

    domains: Sequence[tuple[Key, Found]]
    stopped: Key | None
    examined: int


@dataclass(frozen=True, slots=True)
class _Window:
    """Candidates in the direction of the walk; `last`: how far they reach, None: to the end.

    `majors` of their keys, where they are not all 0; `copied`, `known`: what was read of a copy, or
    of the tables, with them.
    """

    positions: Sequence[int]
    last: Key | None
    majors: Sequence[int] | None = None
    copied: Copied | None = None
    known: Mapping[int, Known] | None = None

    def keys(self, kept: Container[int] | None = None) -> list[Key]:
        """The keys of all candidates, or of those that are kept."""
        majors = repeat(0) if self.majors is None else self.majors
        pairs = zip(majors, self.positions, strict=False)
        return [Key(m, p) for m, p in pairs if kept is None or p in kept]


class PageReader:
    """Reads one campaign's domains of one filter in one order.

    With `copies`, true ones for pages, domains come from there: nothing changes meanwhile, or the
    copies are not true any more and the page is read anew.
    """

    def __init__(
        self,
        pages: Pages,
        campaign: Campaign,
        runs: Runs,
        message: FilterMessage,
        chosen: DomainFilter,
        order: Order,
        sizes: Sizes,
        small_sets: SmallSets,
        settled_chunks: SettledChunks,
        copies: PageCopies | None,
        directories: Directories,
    ) -> None:
        self._pages, self._rows = pages, DomainRows(pages.pool)
        self._settled_chunks = settled_chunks
        self._changed = campaign.revision
        self._copy_id = None if copies is None else copies.id
        # The copy in the order of the page, and where the last window ended in it: a key, its rank.
        self._ranked_id: int | None = None
        if copies is not None and order is Order.NAME:
            self._ranked_id = copies.by_name
        if copies is not None and order is Order.SCORE:
            self._ranked_id = copies.by_score
        self._stood: tuple[Key, int] | None = None
        self._ranked_pages = RankedPages(pages.pool)
        self._directories = directories
        self._revision: int | None = None
        self._small_sets = small_sets
        self._no, self._name_count = campaign.no, campaign.name_count
        self._runs = runs
        self._message = message
        self._chosen = chosen
        self._tests = tests_of(chosen)
        self._order = order
        self._sizes = sizes
        self._sources = sources(chosen, sizes)
        # What drives the walk; in order of name and score the order's own index does.
        self._source = self._sources[0]
        if order is Order.NAME or order is Order.SCORE:
            self._source = self._sources[-1]
            if order is Order.SCORE:
                self._source = Source(Kind.ANALYSED, (), sizes.analysed)
        self._conditions = conditions_of(_rest(message, self._source, order))
        self._total: int | None = None
        # Positions of a block, and chunks of the next window: supposed, then seen.
        self._block, self._chunks = 400, 4
        # Candidates a position of the settled chunks.
        self._density = self._source.size / max(1, sizes.settled)

    @property
    def revision(self) -> int | None:
        """The campaign's revision when the last statement was done, if that one said so."""
        return self._revision

    @property
    def among_many(self) -> bool:
        """Whether the domains are surely found among more than a page looks at."""
        first = self._sources[0]
        return first.counted and first.size > SMALL

    @property
    def total(self) -> int | None:
        """How many domains there are to list, where a page was read of all of them in order."""
        return self._total

    async def read(
        self, start: Key | None, *, inclusive: bool, ascending: bool, size: int
    ) -> Stretch:
        """Up to `size` domains behind `start`, or from one end. Raises KeyGone."""
        if self._chosen.dns_pending and (
            self._order is Order.SETTLE_TIME or self._sizes.settled >= self._sizes.names
        ):
            return Stretch([], None, 0)
        small = await self._small_set()
        if small is not None:
            self._total = len(small.keys)
            return await self._read_small(small, start, inclusive, ascending, size)
        need, found, examined = size + 1, list[tuple[Key, Found]](), 0
        chosen = self._chosen
        if self._order is Order.NAME and start is not None:
            # From one name that begins so on all do, up to the end.
            chosen = replace(chosen, prefix="")
        share = supposed_share(chosen, self._sizes, self._source) if self._conditions else 1.0
        tables = len(self._conditions.by_table) + self._conditions.pending
        allowed = allowance(self._order, self._source, self._sizes, tables)
        if self._ranked_id is not None:
            allowed, tables = RANKED, 1
        elif self._copy_id is not None and allowed <= _FEW:
            # A copy has all at one place.
            allowed, tables = allowed * max(1, tables), 1
        allowed = max(allowed, need // max(1, tables))
        at: Key | None = start
        for _ in range(_WINDOWS):
            limit = window(need - len(found), share, allowed - examined)
            # Of nearly all of them everything is to be known.
            whole = self._copy_id is None and (not self._conditions or share >= MOSTLY)
            seen = await self._window(at, inclusive, ascending, limit, whole=whole)
            inclusive = False
            examined += len(seen.positions)
            at = seen.last
            few = self._copy_id is not None and len(seen.positions) <= _FEW
            if seen.copied is not None:
                more = self._of_copy(seen, seen.copied, need - len(found))
                found, hits = found + more, len(more)
            elif seen.known is not None:
                more = self._passing(seen.keys(), seen.known)
                found, hits = found + more, len(more)
            elif self._conditions and not few and (self._copy_id is not None or share < MOSTLY):
                wanted = need - len(found)
                keys, copied = await self._matching(seen, wanted, ascending)
                hits = len(keys)
                if hits >= wanted:
                    keys = keys[:wanted]
                    at = keys[-1]
                found += await self._known(keys, wanted, copied=copied, matching=True)
            else:
                more = await self._known(seen.keys(), need - len(found))
                found, hits = found + more, len(more)
            share = max(0.001, (hits + 0.5) / (len(seen.positions) + 1))
            if len(found) >= need:
                return Stretch(found[:size], found[size - 1][0], examined)
            # What is left is too little for another window.
            if at is None or examined * 2 >= allowed:
                break
        return Stretch(found[:size], at, examined)

    async def _matching(
        self, seen: _Window, wanted: int, ascending: bool
    ) -> tuple[list[Key], Copied | None]:
        """Keys of the candidates that match, `wanted` of them at least if there are so many, and
        what was read of a copy with them."""
        positions = seen.positions
        in_order = sorted(positions, reverse=not ascending) == list(positions)
        if self._copy_id is None or not in_order:
            kept = await self._pages.matching(self._no, self._runs, self._conditions, positions)
            return seen.keys(kept), None
        found = await self._pages.matching_copied(
            self._no,
            self._runs,
            self._conditions,
            positions,
            limit=wanted,
            ascending=ascending,
            copy_id=self._copy_id,
        )
        return seen.keys(set(found.positions)), found.copied

    async def estimate(self) -> int:
        """About how many domains there are, by a sample of them."""
        count, source = self._name_count, self._sources[0]
        if self._order is Order.SCORE and self._sizes.analysed < source.size:
            source = Source(Kind.ANALYSED, (), self._sizes.analysed)
        conditions = conditions_of(_rest(self._message, source, Order.POSITION))
        size = source.size
        if source.kind in (Kind.NAMES, Kind.PENDING):
            step = max(1, count // (_PARTS * _EACH))
            positions: Sequence[int] = list(range(0, count, step))
            if self._order is Order.SETTLE_TIME:
                size = self._sizes.settled
        else:
            edges = [count * part // _PARTS for part in range(_PARTS + 1)]
            spans = [Span(*edge) for edge in pairwise(edges)]
            sample = await self._pages.from_source(
                self._no, self._runs, source, spans, limit=_PARTS * _EACH, each=_EACH
            )
            positions = sample.positions
            if not source.counted:
                size = sum(_extrapolated(positions, span) for span in spans)
        kept = await self._pages.matching(self._no, self._runs, conditions, positions)
        return size * len(kept) // max(1, len(positions))

    def _of_copy(self, seen: _Window, copied: Copied, wanted: int) -> list[tuple[Key, Found]]:
        """As `_known`, of candidates that were read of a copy with where they are."""
        self._revision = copied.revision
        positions, majors = seen.positions, seen.majors
        domains = [copied.domains[position] for position in positions]
        places: Iterable[int] = range(len(domains))
        if self._conditions:
            places = copied_that_match(self._chosen, domains, wanted)
        return [
            (Key(0 if majors is None else majors[place], positions[place]), domains[place])
            for place in places
        ]

    async def _known(
        self,
        keys: Sequence[Key],
        wanted: int,
        *,
        copied: Copied | None = None,
        matching: bool = False,
    ) -> list[tuple[Key, Found]]:
        """What is known of these, without those that do not match, or not any more: each is seen
        as one statement saw it. `copied`: what was read of a copy already; `matching`: they did,
        and a copy does not change. Behind `wanted` ones that match others may be left out."""
        if copied is not None:
            self._revision = copied.revision
        if self._copy_id is not None and keys:
            positions = [key.position for key in keys]
            copied = copied or await self._pages.packed(self._no, self._copy_id, positions)
            if copied is not None:
                self._revision = copied.revision
                pairs: list[tuple[Key, Found]]
                pairs = [(key, copied.domains[key.position]) for key in keys]
                if matching or not self._conditions:
                    return pairs
                domains = [copied.domains[key.position] for key in keys]
                return [pairs[place] for place in copied_that_match(self._chosen, domains, wanted)]
            # It is being removed.
            self._copy_id = self._ranked_id = None
        rows = await self._rows.at(self._no, self._runs, [key.position for key in keys])
        return self._passing(keys, rows)

    def _passing(self, keys: Sequence[Key], rows: Mapping[int, Known]) -> list[tuple[Key, Found]]:
        revision, name_count = next((row.campaign for row in rows.values()), (None, None))
        self._revision = revision if name_count == self._name_count else None
        known = ((key, rows.get(key.position)) for key in keys)
        tests = self._tests
        return [(key, e) for key, e in known if e and all(test(*e) for test in tests)]

    async def _small_set(self) -> SmallSet | None:
        """All domains of the filter in their order, when they are few.

        In order of position they need not be put in order. In any other the walk along the order
        would pass the whole campaign for them. They are the same until results change.
        """
        if self._order is Order.POSITION:
            return None
        what = self._message.SerializeToString(deterministic=True)
        key = (self._no, self._name_count, self._runs, self._sizes.revision, self._order, what)
        kept = self._small_sets.get(key)
        if kept is None:
            kept = (await self._find_small_set(),)
            self._small_sets.keep(key, kept)
        return kept[0]

    async def _find_small_set(self) -> SmallSet | None:
        everywhere = [Span(0, self._name_count)]
        most = SMALL if self._sizes.settled >= self._name_count else SMALL_WHILE_SETTLING
        for source in self._sources[:-1]:
            if source.kind in (Kind.PENDING, Kind.ANALYSED):
                continue
            if source.size > most and source.counted:
                continue
            conditions = conditions_of(_rest(self._message, source, Order.POSITION))
            if not conditions and self._order in (Order.NAME, Order.SCORE):
                majors = await self._pages.small_set(
                    self._no, self._runs, source, self._order, self._name_count, most=most
                )
                if majors is not None:
                    return self._small(majors)
                continue
            found = await self._pages.from_source(
                self._no, self._runs, source, everywhere, limit=most + 1
            )
            if found.all_there:
                kept = await self._pages.matching(self._no, self._runs, conditions, found.positions)
                return await self._in_order(kept)
        return None

    async def _in_order(self, positions: Iterable[int]) -> SmallSet:
        positions = list(positions)
        if self._order is Order.SETTLE_TIME and self._copy_id is not None:
            chunks = await self._all_settled()
            if chunks is not None:
                return SmallSet(sorted(_keys_in(chunks, positions)))
        if self._order is not Order.NAME:
            return self._small(
                await self._pages.majors(self._no, self._runs, self._order, positions)
            )
        return self._small(await self._pages.names(self._no, positions))

    def _small(self, found: Mapping[int, Any]) -> SmallSet:
        """Of names by position, or what stands for them in another order."""
        if self._order is Order.NAME:
            ordered = sorted(found, key=found.__getitem__)
            return SmallSet([Key(0, p) for p in ordered], [found[p] for p in ordered], found)
        keys = (Key(major, p) for p, major in found.items() if major is not None)
        return SmallSet(sorted(keys))

    async def _read_small(
        self, small: SmallSet, start: Key | None, inclusive: bool, ascending: bool, size: int
    ) -> Stretch:
        keys = small.keys
        if start is not None:
            place: Any = start
            places: Sequence[Any] = keys
            if self._order is Order.NAME:
                place = small.name_of.get(start.position)
                if place is None:
                    # Not a domain of the set any more, but where it stands among them.
                    names = await self._pages.names(self._no, [start.position])
                    place = names.get(start.position)
                places = small.names
                if place is None:
                    raise KeyGone
            if ascending:
                keys = keys[(bisect_left if inclusive else bisect_right)(places, place) :]
            else:
                keys = keys[: (bisect_right if inclusive else bisect_left)(places, place)]
        if not ascending:
            keys = keys[::-1]
        # The start itself need not match, and anything may be withdrawn meanwhile.
        looked_at = keys[: size + 2]
        found = await self._known(looked_at, len(looked_at))
        if len(found) > size:
            return Stretch(found[:size], found[size - 1][0], len(looked_at))
        stopped = looked_at[-1] if len(keys) > len(looked_at) else None
        return Stretch(found, stopped, len(looked_at))

    async def _window(
        self, at: Key | None, inclusive: bool, ascending: bool, limit: int, *, whole: bool
    ) -> _Window:
        """The next candidates; `whole`: what the tables have of them too, if that is no other way
        to the server."""
        self._revision = None
        if self._order is Order.NAME:
            if self._ranked_id is not None:
                ranked = await self._along_ranks_of_names(at, inclusive, ascending, limit)
                if ranked is not None:
                    return ranked
                # It is being removed, or is not in the order that was supposed.
                self._ranked_id = None
            return await self._by_name(at, inclusive, ascending, limit, whole=whole)
        if at is not None and inclusive:
            # Behind the one ahead of it.
            at = Key(at.major, at.position + (-1 if ascending else 1))
        if self._order is Order.SCORE:
            if self._ranked_id is not None:
                ranked = await self._along_ranks_of_scores(at, ascending, limit)
                if ranked is not None:
                    return ranked
                self._ranked_id = None
            scored = await self._pages.by_score(
                self._no,
                self._runs.analysis,
                self._chosen.scores,
                at,
                limit=limit,
                ascending=ascending,
                copy_id=self._read_together(limit),
                runs=self._runs if whole else None,
            )
            return _Window(
                scored.positions, scored.last, scored.majors, scored.copied, scored.known
            )
        if self._order is Order.SETTLE_TIME:
            return await self._by_settlement(at, ascending, limit)
        first, past = 0, self._name_count
        if at is not None:
            first, past = (at.position + 1, past) if ascending else (first, min(at.position, past))
        if first >= past:
            return _Window([], None)
        span = Span(first, past)
        if self._source.kind is Kind.NAMES:
            return await self._along_names(span, ascending, limit)
        if self._source.kind is Kind.PENDING:
            spans = await self._pages.open_spans(
                self._no, self._runs.dns, first, past, limit=limit, ascending=ascending
            )
            positions = list(chain.from_iterable(_along(span, ascending) for span in spans))
            all_there = len(positions) < limit
            positions = positions[:limit]
        else:
            found = await self._pages.from_source(
                self._no,
                self._runs,
                self._source,
                [span],
                limit=limit,
                ascending=ascending,
                copy_id=self._read_together(limit),
            )
            return _Window(found.positions, found.last, copied=found.copied)
        return _Window(positions, None if all_there else Key(0, positions[-1]))

    def _read_together(self, limit: int) -> int | None:
        """The copy that so many candidates are to be read of together with where they are."""
        return self._copy_id if limit <= _FEW else None

    async def _along_names(self, span: Span, ascending: bool, limit: int) -> _Window:
        """All positions, but for chunks that are known to have none of the TLDs."""
        run: Span | None = span
        passed = span
        if self._chosen.tlds and skips_chunks(self._sizes):
            run, passed = await self._with_tlds(span, ascending, limit)
        positions = _along(run, ascending)[:limit] if run is not None else range(0)
        if run is not None and len(positions) < run.past - run.first:
            last = positions[-1]
        else:
            last = passed.past - 1 if ascending else passed.first
        end = last == (span.past - 1 if ascending else span.first)
        return _Window(positions, None if end else Key(0, last))

    async def _with_tlds(self, span: Span, ascending: bool, limit: int) -> tuple[Span | None, Span]:
        """The nearest piece of the span that may have names with these TLDs, and what is known
        with it: there is nothing else in the latter."""
        named = await self._pages.named_spans(
            self._no,
            self._chosen.tlds,
            span.first,
            span.past,
            limit=_NAMED_CHUNKS,
            ascending=ascending,
        )
        # Whatever has no chunk may have them.
        pieces = list[tuple[Span, bool]]()
        rest = span
        for piece, some in named:
            gap = Span(rest.first, piece.first) if ascending else Span(piece.past, rest.past)
            pieces += [(gap, True), (piece, some)]
            rest = Span(piece.past, rest.past) if ascending else Span(rest.first, piece.first)
        if len(named) < _NAMED_CHUNKS:
            pieces.append((rest, True))
        run, passed = None, None
        for piece, some in pieces:
            if piece.first >= piece.past:
                continue
            if some:
                run = _together(run, piece)
            elif run is not None:
                break
            passed = _together(passed, piece)
            if run is not None and run.past - run.first >= limit:
                break
        return run, passed or span

    async def _by_name(
        self, at: Key | None, inclusive: bool, ascending: bool, limit: int, *, whole: bool
    ) -> _Window:
        found, block = await self._pages.by_name(
            self._no,
            self._chosen.prefix,
            at,
            # One more to see whether there is one, and the position itself.
            limit=limit + 2,
            blocks=2 + limit // self._block,
            ascending=ascending,
            copy_id=self._read_together(limit),
            runs=self._runs if whole else None,
        )
        self._block = block or self._block
        positions, majors = found.positions, found.majors or ()
        if at is not None:
            if positions[:1] != [at.position]:
                if at.major:
                    # Names were sorted anew, into other blocks.
                    at = Key(0, at.position)
                    return await self._by_name(at, inclusive, ascending, limit, whole=whole)
                raise KeyGone
            positions, majors = positions[not inclusive :], majors[not inclusive :]
        end = found.all_there and len(positions) <= limit
        positions, majors = positions[:limit], majors[:limit]
        last = None if end or not positions else Key(majors[-1], positions[-1])
        return _Window(positions, last, majors, found.copied, found.known)

    async def _along_ranks_of_names(
        self, at: Key | None, inclusive: bool, ascending: bool, limit: int
    ) -> _Window | None:
        """Out of the copy in order of name; None: it has not all of it, or is not there."""
        assert self._ranked_id is not None
        prefix, start = self._chosen.prefix, self._stood_at(at)
        found = await self._ranked_pages.by_name(
            self._no,
            self._ranked_id,
            at if start is None else start,
            prefix=prefix,
            limit=limit,
            ascending=ascending,
            count=self._name_count,
        )
        if found is None or found.rank is None or not found.first <= found.rank < found.past:
            return None
        rank = found.rank
        if at is not None and found.positions[rank - found.first] != at.position:
            return None
        including = inclusive or at is None
        if ascending:
            first = rank if including else rank + 1
            ranks = range(first, min(first + limit, self._name_count))
            end = ranks.stop >= self._name_count
        else:
            past = rank + 1 if including else rank
            ranks = range(max(0, past - limit), past)
            end = ranks.start == 0
        if not _has(found, ranks):
            return None
        if prefix and ranks:
            name = copied_name(found.domains[(ranks[-1] if ascending else ranks[0]) - found.first])
            end = end or (name >= after_prefix(prefix) if ascending else name < prefix)
        majors = [1 + each // found.block for each in ranks]
        return self._ranked_window(found, ranks, majors, ascending=ascending, end=end)

    async def _along_ranks_of_scores(
        self, at: Key | None, ascending: bool, limit: int
    ) -> _Window | None:
        """As `_along_ranks_of_names`, in order of score and behind the key."""
        assert self._ranked_id is not None
        directory = await self._directory(self._ranked_id)
        if directory is None:
            return None
        bounds = directory.between(*self._chosen.scores)
        # One of these ranks is where the page begins, or ends when it leads down.
        among, rank = range(0), self._stood_at(at)
        if rank is not None:
            rank += ascending
        elif at is None:
            rank = bounds.start if ascending else bounds.stop
        else:
            at = Key(at.major, at.position + ascending)
            among = directory.around(*at)
        near, far = (rank, rank) if rank is not None else (among.start, among.stop)
        if ascending:
            reach = range(max(near, bounds.start), min(far + limit, bounds.stop))
        else:
            reach = range(max(near - limit, bounds.start), min(far, bounds.stop))
        if not reach:
            return _Window([], None)
        found = await self._ranked_pages.by_score(self._no, self._ranked_id, reach)
        if found is None or not _has(found, reach):
            return None
        if rank is None:
            assert at is not None
            # Within one score they are in order of position.
            edges = (min(max(edge, reach.start), reach.stop) - found.first for edge in (near, far))
            rank = found.first + bisect_left(found.positions, at.position, *edges)
        if ascending:
            ranks = range(max(rank, reach.start), min(rank + limit, reach.stop))
            end = ranks.stop >= bounds.stop
        else:
            ranks = range(max(rank - limit, reach.start), min(rank, reach.stop))
            end = ranks.start <= bounds.start
        majors = list(directory.scores(ranks))
        return self._ranked_window(found, ranks, majors, ascending=ascending, end=end)

    async def _directory(self, copy_id: int) -> ScoreRanks | None:
        directory = self._directories.get(copy_id)
        if directory is None:
            directory = await self._ranked_pages.directory(copy_id)
            if directory is not None:
                self._directories.keep(copy_id, directory)
        return directory

    def _ranked_window(
        self, found: Ranked, ranks: range, majors: Sequence[int], *, ascending: bool, end: bool
    ) -> _Window:
        here = slice(ranks.start - found.first, ranks.stop - found.first)
        positions, domains = found.positions[here], found.domains[here]
        copied = Copied(dict(zip(positions, domains, strict=True)), found.revision)
        if not ascending:
            positions, majors = positions[::-1], majors[::-1]
        if end or not positions:
            return _Window(positions, None, majors, copied)
        last = Key(majors[-1], positions[-1])
        self._stood = last, ranks[-1] if ascending else ranks[0]
        return _Window(positions, last, majors, copied)

    def _stood_at(self, at: Key | None) -> int | None:
        """The rank of the key, if the last window ended with it."""
        return self._stood[1] if self._stood is not None and self._stood[0] == at else None

    async def _by_settlement(self, at: Key | None, ascending: bool, limit: int) -> _Window:
        asked, self._chunks = self._chunks, _CHUNKS
        chunks = await self._settled_spans(at, asked, ascending)
        spans: list[Span] = []
        last, expected = None, 0.0
        for chunk in chunks:
            if expected >= limit:
                break
            span = _behind(chunk, at, ascending)
            last = Key(span.revision, span.past - 1 if ascending else span.first)
            if span.first < span.past and self._may_have(span):
                spans.append(span)
                expected += max(1.0, (span.past - span.first) * self._density)
        else:
            if len(chunks) < asked:
                last = None
        if not spans:
            return _Window([], last)
        copied = None
        if self._source.kind is Kind.NAMES:
            all_of_them = chain.from_iterable(_along(span, ascending) for span in spans)
            positions: Sequence[int] = list(islice(all_of_them, limit + 1))
            all_there, positions = len(positions) <= limit, positions[:limit]
        else:
            found = await self._pages.from_source(
                self._no,
                self._runs,
                self._source,
                spans,
                limit=limit,
                ascending=ascending,
                copy_id=self._read_together(limit),
            )
            positions, all_there, copied = found.positions, found.all_there, found.copied
            covered = sum(span.past - span.first for span in spans)
            self._density = max(len(positions), 1) / covered if all_there else self._density
        majors = list[int]()
        for span in spans:
            here = range(span.first, span.past)
            rest = islice(positions, len(majors), None)
            majors += [span.revision for _ in takewhile(here.__contains__, rest)]
        if not all_there:
            last = Key(majors[-1], positions[-1])
        return _Window(positions, last, majors, copied)

    async def _settled_spans(self, at: Key | None, limit: int, ascending: bool) -> Sequence[Span]:
        """As `Pages.settled_spans`. Of a campaign at rest they are read once and kept."""
        everything = await self._all_settled() if self._copy_id is not None else None
        if everything is None:
            return await self._pages.settled_spans(
                self._no, self._runs.dns, at, limit=limit, ascending=ascending
            )
        if at is None:
            return everything[:limit] if ascending else everything[::-1][:limit]
        # Behind the last one that does not begin behind the key.
        place = bisect_right(everything, at, key=_begin)
        if not ascending:
            return everything[max(0, place - limit) : place][::-1]
        if place and _holds(everything[place - 1], at):
            place -= 1
        return everything[place : place + limit]

    async def _all_settled(self) -> Sequence[Span] | None:
        key = (self._no, self._runs.dns, self._changed)
        kept = self._settled_chunks.get(key)
        if kept is None:
            found = await self._pages.settled_spans(
                self._no, self._runs.dns, None, limit=_MOST_SETTLED + 1, ascending=True
            )
            kept = (found if len(found) <= _MOST_SETTLED else None,)
            self._settled_chunks.keep(key, kept)
        return kept[0]

    def _may_have(self, chunk: Span) -> bool:
        """Whether the chunk may have domains with the verdicts that are asked for."""
        verdicts, counts = self._chosen.dns_verdicts, chunk.outcome_counts
        return not verdicts or any(v <= len(counts) and counts[v - 1] for v in verdicts)


def _rest(message: FilterMessage, source: Source, order: Order) -> FilterMessage:
    """The filter without what the source, or the index of the order, sees to."""
    rest = FilterMessage()
    rest.CopyFrom(message)
    field = _FIELD.get(source.kind)
    if field is not None:
        rest.ClearField(field)
    if source.kind is Kind.WARNED and rest.has_warnings:
        rest.ClearField("has_warnings")
    if order is Order.SCORE:
        rest.ClearField("min_score")
        rest.ClearField("max_score")
    return rest


_FIELD: Mapping[Kind, _Field] = {
    Kind.PENDING: "dns_pending",
    Kind.DNS: "dns_verdicts",
    Kind.HTTP: "http_verdicts",
    Kind.STATUS: "lead_statuses",
    Kind.REASON: "lead_reasons",
    Kind.KEYWORD: "keywords",
}


def _has(found: Ranked, ranks: range) -> bool:
    return not ranks or (found.first <= ranks.start and ranks.stop <= found.past)


def _along(span: Span, ascending: bool) -> range:
    positions = range(span.first, span.past)
    return positions if ascending else positions[::-1]


def _together(one: Span | None, other: Span) -> Span:
    if one is None:
        return other
    return Span(min(one.first, other.first), max(one.past, other.past))


def _behind(chunk: Span, at: Key | None, ascending: bool) -> Span:
    """The part of a chunk that lies behind a key."""
    if at is None or at.major != chunk.revision:
        return chunk
    if ascending:
        return replace(chunk, first=max(chunk.first, at.position + 1))
    return replace(chunk, past=min(chunk.past, at.position))


def _keys_in(chunks: Sequence[Span], positions: Iterable[int]) -> Iterator[Key]:
    """Keys in order of settlement of positions that are all settled."""
    by_position = sorted(chunks, key=lambda chunk: chunk.first)
    firsts = [chunk.first for chunk in by_position]
    for position in positions:
        place = bisect_right(firsts, position) - 1
        if place >= 0 and position < by_position[place].past:
            yield Key(by_position[place].revision, position)


def _begin(chunk: Span) -> Key:
    return Key(chunk.revision, chunk.first)


def _holds(chunk: Span, at: Key) -> bool:
    """Whether something of the chunk is at the key or behind it; it begins at it or before."""
    return chunk.revision == at.major and chunk.past > at.position


def _extrapolated(positions: Sequence[int], span: Span) -> int:
    """How many there are in the span, when these are the first ones in it."""
    here = [position for position in positions if span.first <= position < span.past]
    if len(here) < _EACH:
        return len(here)
    return len(here) * (span.past - span.first) // (here[-1] - span.first + 1)
