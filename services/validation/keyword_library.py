"""Keywords ready to scan pages, as callers and campaigns choose them; kept while in use."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from uuid import UUID

from domainflow.validation.v1 import keyword_pb2 as pb
from services.chassis.errors import FieldViolation, InvalidFields
from services.chassis.matching.choice import Keywords, compile_choice
from services.validation.named_store import NamedStore

# Compiled choices that are kept: ten thousand rules take some ten megabytes.
MAX_KEPT = 8

_Key = tuple[bytes, tuple[tuple[str, int], ...], str]


class KeywordLibrary:
    """Compiles choices of keywords in threads, one at a time, and remembers the latest."""

    def __init__(self, keyword_sets: NamedStore) -> None:
        self._sets = keyword_sets
        self._kept: OrderedDict[_Key, Keywords] = OrderedDict()
        self._compiling = asyncio.Lock()

    async def of_choice(self, choice: pb.KeywordChoice, path: str = "keywords") -> Keywords:
        """By the present versions of the sets. Raises InvalidFields and ResourceNotFound."""
        ids = [UUID(each) for each in choice.keyword_set_ids]
        stored = [await self._sets.get(each) for each in ids]
        versions = tuple((str(each.id), each.version) for each in stored)
        return await self._compiled(choice, versions, [each.body for each in stored], path)

    async def of_versions(
        self,
        choice: pb.KeywordChoice,
        versions: Sequence[pb.KeywordSetVersion],
        path: str = "keywords",
    ) -> Keywords:
        """By these versions of the sets, one for each `keyword_set_ids`, also when the sets were
        changed or deleted since. Raises InvalidFields and ResourceNotFound."""
        by_id = {UUID(each.keyword_set_id): each.version for each in versions}
        key: list[tuple[str, int]] = []
        for number, text in enumerate(choice.keyword_set_ids):
            each = UUID(text)
            if each not in by_id:
                at = f"{path}.keyword_set_ids[{number}]"
                raise InvalidFields([FieldViolation(at, "has no version that was taken")])
            key.append((str(each), by_id[each]))
        found = self._found((choice.SerializeToString(deterministic=True), tuple(key), path))
        if found is not None:
            return found
        bodies = [(await self._sets.version(UUID(each), version)).body for each, version in key]
        return await self._compiled(choice, tuple(key), bodies, path)

    async def _compiled(
        self,
        choice: pb.KeywordChoice,
        versions: tuple[tuple[str, int], ...],
        bodies: Sequence[bytes],
        path: str,
    ) -> Keywords:
        key = choice.SerializeToString(deterministic=True), versions, path
        async with self._compiling:
            if (found := self._found(key)) is not None:
                return found
            keywords = await asyncio.to_thread(_compile, choice, bodies, path)
            self._kept[key] = keywords
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
            return keywords

    def _found(self, key: _Key) -> Keywords | None:
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found


def _compile(choice: pb.KeywordChoice, bodies: Sequence[bytes], path: str) -> Keywords:
    return compile_choice(choice, [pb.KeywordSet.FromString(each) for each in bodies], path)
