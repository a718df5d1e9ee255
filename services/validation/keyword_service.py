"""The part of ValidationService that keeps keyword sets, and looks for keywords in texts."""

import asyncio
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from domainflow.validation.v1 import keyword_pb2 as pb
from domainflow.validation.v1 import validation_service_pb2_grpc as pb_grpc
from services.chassis.errors import (
    EtagMismatch,
    FieldViolation,
    InvalidFields,
    ResourceNotFound,
)
from services.chassis.matching.choice import Keywords, check_choice, check_set
from services.chassis.matching.keywords import PageHits
from services.chassis.seal import Seal
from services.chassis.server import Rules
from services.validation.content import markup
from services.validation.documents import Form
from services.validation.keyword_library import KeywordLibrary
from services.validation.named_calls import NamedCalls, check_texts, fill, rules_of
from services.validation.named_store import NamedStore, New, Stored
from services.validation.site_evidence import rule_hits_to_pb

FORM = Form(
    "domainflow.keyword-sets.v1",
    "keyword_sets",
    pb.KeywordSet,
    ("name", "description", "rules", "expression"),
    max_size=3 * 1024 * 1024,
)
_KIND = "keyword_set"
# Lists read sets whole, and show their rules by number only.
_LIST_BYTES = 16 * 1024 * 1024
# Of all texts of a call together.
MAX_TEXT_BYTES = 2 * 1024 * 1024
# Bytes of an answer from which on hits have no snippets, and at most.
_SNIPPET_BYTES = 2 * 1024 * 1024
_ANSWER_BYTES = 7 * 512 * 1024
# How often a change of rules is tried anew because somebody else changed the set meanwhile.
_TRIES = 10
# Where what the set has already stands, in a change of its rules.
_PRESENT = "(present)"

Context = Any


class KeywordService(pb_grpc.ValidationServiceServicer):
    """See validation_service.proto for every RPC's contract."""

    _keyword_sets: NamedCalls[pb.KeywordSet]
    _keywords: KeywordLibrary

    async def CreateKeywordSet(
        self, request: pb.CreateKeywordSetRequest, context: Context
    ) -> pb.CreateKeywordSetResponse:
        return await self._keyword_sets.create(request, pb.CreateKeywordSetResponse)

    async def GetKeywordSet(
        self, request: pb.GetKeywordSetRequest, context: Context
    ) -> pb.GetKeywordSetResponse:
        return await self._keyword_sets.get(request, pb.GetKeywordSetResponse)

    async def ListKeywordSets(
        self, request: pb.ListKeywordSetsRequest, context: Context
    ) -> pb.ListKeywordSetsResponse:
        return await self._keyword_sets.list(request, pb.ListKeywordSetsResponse)

    async def UpdateKeywordSet(
        self, request: pb.UpdateKeywordSetRequest, context: Context
    ) -> pb.UpdateKeywordSetResponse:
        return await self._keyword_sets.update(request, pb.UpdateKeywordSetResponse)

    async def DeleteKeywordSet(
        self, request: pb.DeleteKeywordSetRequest, context: Context
    ) -> pb.DeleteKeywordSetResponse:
        return await self._keyword_sets.delete(request, pb.DeleteKeywordSetResponse)

    async def ExportKeywordSets(
        self, request: pb.ExportKeywordSetsRequest, context: Context
    ) -> pb.ExportKeywordSetsResponse:
        return await self._keyword_sets.export(request, pb.ExportKeywordSetsResponse)

    async def ImportKeywordSets(
        self, request: pb.ImportKeywordSetsRequest, context: Context
    ) -> pb.ImportKeywordSetsResponse:
        return await self._keyword_sets.import_(request, pb.ImportKeywordSetsResponse)

    async def SetKeywordRules(
        self, request: pb.SetKeywordRulesRequest, context: Context
    ) -> pb.SetKeywordRulesResponse:
        store, set_id = self._keyword_sets.store, UUID(request.keyword_set_id)
        for left in reversed(range(_TRIES)):
            before = await store.get(set_id)
            if request.etag and request.etag != before.etag:
                raise store.changed(set_id, before.etag)
            changed = await asyncio.to_thread(_changed, before, request)
            await self._keyword_sets.run(_check_changed, changed, request)
            try:
                response = await store.update(
                    set_id,
                    _new(changed),
                    self._keyword_sets.answering(pb.SetKeywordRulesResponse),
                    # What was looked at is what is changed: rules that somebody else adds meanwhile
                    # stay.
                    etag=before.etag,
                    validate_only=request.validate_only,
                )
            except EtagMismatch:
                if request.etag or not left:
                    raise
                continue
            return pb.SetKeywordRulesResponse.FromString(response)
        raise AssertionError("the last try returns or raises")

    async def ScanText(self, request: pb.ScanTextRequest, context: Context) -> pb.ScanTextResponse:
        keywords = await self._keywords.of_choice(request.keywords)
        response = pb.ScanTextResponse()
        size = 0
        for index, text in enumerate(request.texts):
            # One at a time: others get their turn between two.
            hits = await asyncio.to_thread(
                _hits_of, text, keywords, with_snippets=size < _SNIPPET_BYTES
            )
            size += hits.ByteSize() + 5
            if size > _ANSWER_BYTES:
                problem = "has more hits than an answer holds: give fewer texts or rules at once"
                raise InvalidFields([FieldViolation(f"texts[{index}]", problem)])
            response.texts.append(hits)
        return response


def keyword_set_calls(store: NamedStore, seal: Seal) -> NamedCalls[pb.KeywordSet]:
    return NamedCalls(
        store,
        seal,
        kind=_KIND,
        form=FORM,
        requests=(pb.CreateKeywordSetRequest, pb.UpdateKeywordSetRequest),
        to_pb=keyword_set_to_pb,
        to_new=_new,
        check=check_texts,
        thorough=check_set,
        listed=_listed,
        read_bytes=_LIST_BYTES,
    )


def keyword_set_to_pb(keyword_set: Stored) -> pb.KeywordSet:
    message = pb.KeywordSet.FromString(keyword_set.body)
    fill(message, keyword_set, _KIND)
    message.version = keyword_set.version
    message.rule_count = len(message.rules)
    return message


def _listed(keyword_set: Stored) -> pb.KeywordSet:
    message = keyword_set_to_pb(keyword_set)
    del message.rules[:]
    return message


def _new(keyword_set: pb.KeywordSet) -> New:
    kept = pb.KeywordSet(rules=keyword_set.rules, expression=keyword_set.expression)
    return New(
        keyword_set.name, keyword_set.description, kept.SerializeToString(deterministic=True)
    )


def _changed(before: Stored, request: pb.SetKeywordRulesRequest) -> pb.KeywordSet:
    """The set with rules added, replaced and removed. Raises ResourceNotFound."""
    message = keyword_set_to_pb(before)
    rules = {rule.name: rule for rule in message.rules}
    for name in request.removed_rules:
        if rules.pop(name, None) is None:
            raise ResourceNotFound("keyword_rule", name)
    rules.update((rule.name, rule) for rule in request.rules)
    return pb.KeywordSet(
        name=message.name,
        description=message.description,
        rules=rules.values(),
        expression=message.expression,
    )


def _check_changed(
    keyword_set: pb.KeywordSet, request: pb.SetKeywordRulesRequest
) -> Iterator[FieldViolation]:
    given = {rule.name: f"rules[{number}]" for number, rule in enumerate(request.rules)}
    rule_paths = [given.get(rule.name, _PRESENT) for rule in keyword_set.rules]
    # Of an expression only what it speaks of can have changed.
    for each in check_set(
        keyword_set, _PRESENT, rule_paths=rule_paths, expression_path="removed_rules"
    ):
        # What is wrong with a rule that was there, or with all together, comes of the new ones.
        field = "rules" if each.field.startswith(_PRESENT) else each.field
        yield FieldViolation(field, each.description)


def _hits_of(text: pb.ScannedText, keywords: Keywords, *, with_snippets: bool) -> pb.TextHits:
    seen, title, whole = text.text, text.title, True
    if text.is_html:
        document = markup.parse(
            text.text.encode(), url="http://localhost/", content_type="text/html; charset=utf-8"
        )
        seen, title = document.text, document.title
        whole = len(seen) < markup.MAX_TEXT
    hits: PageHits = (
        keywords.scan(seen, title) if with_snippets else keywords.scan(seen, title, snippets=0)
    )
    return pb.TextHits(
        rule_hits=rule_hits_to_pb(hits),
        keyword_match=keywords.matches(hits),
        hits_complete=hits.complete and whole,
    )


def _check_set_rules(request: pb.SetKeywordRulesRequest) -> Iterator[FieldViolation]:
    removed = set(request.removed_rules)
    seen: dict[str, int] = {}
    for index, rule in enumerate(request.rules):
        first = seen.setdefault(rule.name, index)
        if first != index:
            yield FieldViolation(f"rules[{index}].name", f"is that of rules[{first}] already")
        if rule.name in removed:
            yield FieldViolation(f"rules[{index}].name", "is among removed_rules, too")


def _check_scan(request: pb.ScanTextRequest) -> Iterator[FieldViolation]:
    if request.HasField("keywords"):
        yield from check_choice(request.keywords, "keywords", needed=True)
    size = sum(len(each.text.encode()) for each in request.texts)
    if size > MAX_TEXT_BYTES:
        yield FieldViolation("texts", f"have {size:,} bytes together; at most {MAX_TEXT_BYTES:,}")


# What the contract's own rules cannot say, by type of request.
RULES: Rules = {
    **rules_of(_KIND, pb.CreateKeywordSetRequest, pb.UpdateKeywordSetRequest, check_texts),
    pb.SetKeywordRulesRequest: _check_set_rules,
    pb.ScanTextRequest: _check_scan,
}
