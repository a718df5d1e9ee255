"""Keyword sets through a real port: compiled when saved, changed rule by rule, looked for."""

import asyncio
import json
from typing import Any
from uuid import UUID, uuid4

import pytest

from domainflow.validation.v1.keyword_pb2 import (
    KEYWORD_KIND_REGEX,
    CreateKeywordSetRequest,
    DeleteKeywordSetRequest,
    ExportKeywordSetsRequest,
    GetKeywordSetRequest,
    ImportKeywordSetsRequest,
    KeywordChoice,
    KeywordRule,
    KeywordSet,
    KeywordSetVersion,
    ListKeywordSetsRequest,
    ScannedText,
    ScanTextRequest,
    SetKeywordRulesRequest,
    TextHits,
    UpdateKeywordSetRequest,
)
from domainflow.validation.v1.validation_service_pb2_grpc import ValidationServiceStub
from services.chassis.errors import InvalidFields, ResourceNotFound
from services.validation.keyword_library import KeywordLibrary
from services.validation.store import Store
from tests.refusals import Refusal, refused

Stub = ValidationServiceStub


def rule(name: str, pattern: str = "", **more: Any) -> KeywordRule:
    return KeywordRule(name=name, pattern=pattern or name, **more)


def regex(name: str, pattern: str) -> KeywordRule:
    return rule(name, pattern, kind=KEYWORD_KIND_REGEX)


async def create(
    stub: Stub, name: str, *rules: KeywordRule, expression: str = "", **more: Any
) -> KeywordSet:
    keyword_set = KeywordSet(name=name, rules=rules, expression=expression)
    request = CreateKeywordSetRequest(keyword_set=keyword_set, **more)
    return (await stub.CreateKeywordSet(request)).keyword_set


async def get(stub: Stub, keyword_set: KeywordSet) -> KeywordSet:
    request = GetKeywordSetRequest(keyword_set_id=keyword_set.keyword_set_id)
    return (await stub.GetKeywordSet(request)).keyword_set


async def set_rules(stub: Stub, keyword_set: KeywordSet, **fields: Any) -> KeywordSet:
    request = SetKeywordRulesRequest(keyword_set_id=keyword_set.keyword_set_id, **fields)
    return (await stub.SetKeywordRules(request)).keyword_set


# Keeping.


async def test_rules_that_do_not_compile_are_refused_with_their_place(stub: Stub) -> None:
    bad = [rule("a"), regex("b", "x+"), rule("c"), regex("d", "ab(c"), regex("e", "a|")]
    good = await create(stub, "good", rule("a"))

    created = await refused(create(stub, "bad", *bad, expression="a AND nothing"))
    update = KeywordSet(keyword_set_id=good.keyword_set_id, name="good", rules=bad)
    updated = await refused(stub.UpdateKeywordSet(UpdateKeywordSetRequest(keyword_set=update)))
    tried = await refused(create(stub, "bad", *bad, validate_only=True))

    faults = {"keyword_set.rules[3].pattern", "keyword_set.rules[4].pattern"}
    assert created.fields == faults | {"keyword_set.expression"}
    assert updated.fields == tried.fields == faults
    assert "keyword_set.rules[3].pattern: 'd': missing ) for this (, at 2" in created.message
    assert "no rule is named 'nothing' at 6" in created.message
    assert await get(stub, good) == good


async def test_every_fault_of_a_set_is_named_at_once(stub: Stub) -> None:
    bad = [rule("a", "x" * 1001), regex("b", "ab(c")]
    good = await create(stub, "good")

    created = await refused(create(stub, " ", *bad, expression="a AND nothing"))
    update = KeywordSet(keyword_set_id=good.keyword_set_id, name=" ", rules=bad)
    updated = await refused(stub.UpdateKeywordSet(UpdateKeywordSetRequest(keyword_set=update)))

    faults = {"name", "rules[0].pattern", "rules[1].pattern"}
    assert updated.fields == {f"keyword_set.{field}" for field in faults}
    assert created.fields == updated.fields | {"keyword_set.expression"}


async def test_ten_thousand_rules_are_kept_listed_and_looked_for(stub: Stub) -> None:
    rules = [rule(f"rule {n:05}", f"pattern {n}", category="c" * 50) for n in range(10_000)]
    made = await create(stub, "large", *rules)

    listed = await stub.ListKeywordSets(ListKeywordSetsRequest())
    scanned = await stub.ScanText(
        ScanTextRequest(
            texts=[ScannedText(text="a pattern 9999 b")],
            keywords=KeywordChoice(keyword_set_ids=[made.keyword_set_id]),
        )
    )
    another = await refused(create(stub, "larger", *rules, rule("one more")))

    assert list((await get(stub, made)).rules) == rules
    assert (made.rule_count, made.version) == (10_000, 1)
    [shown] = listed.keyword_sets
    assert (shown.name, shown.rule_count, list(shown.rules)) == ("large", 10_000, [])
    assert [hits.rule for hits in scanned.texts[0].rule_hits] == [
        f"rule {n:05}" for n in (9, 99, 999, 9999)
    ]
    assert another.fields == {"keyword_set.rules"}


async def test_a_set_larger_than_an_answer_is_refused(stub: Stub) -> None:
    rules = [rule(f"{n:05}" + "ä" * 90, str(n), category="ö" * 100) for n in range(5000)]

    refusal = await refused(create(stub, "wide", *rules))

    assert refusal.fields == {"keyword_set.rules"}


async def test_lists_of_large_sets_fit_into_answers(stub: Stub) -> None:
    for number in range(4):
        names = [f"{n:02}" + "é" * 90 for n in range(52)]
        expression = " OR ".join(names)
        description = "é" * 2000
        made = KeywordSet(
            name=f"set {number}",
            description=description,
            rules=[rule(name, name[:5]) for name in names],
            expression=expression,
        )
        await stub.CreateKeywordSet(CreateKeywordSetRequest(keyword_set=made))

    answer = await stub.ListKeywordSets(ListKeywordSetsRequest())

    assert [each.rule_count for each in answer.keyword_sets] == [52] * 4
    assert answer.keyword_sets[0].expression == expression
    assert not answer.next_page_token


# Changing rules.


async def test_rules_are_added_replaced_and_removed(stub: Stub) -> None:
    made = await create(stub, "one", rule("a"), rule("b"), rule("c"), expression="a OR c")

    changed = await set_rules(
        stub, made, rules=[rule("d"), rule("a", "new")], removed_rules=["b"], etag=made.etag
    )
    tried = await set_rules(stub, made, rules=[rule("e")], validate_only=True)
    stale = await refused(set_rules(stub, made, rules=[rule("e")], etag=made.etag))

    assert [(it.name, it.pattern) for it in changed.rules] == [("a", "new"), ("c", "c"), ("d", "d")]
    assert (changed.name, changed.expression, changed.version) == ("one", "a OR c", 2)
    assert tried.rule_count == 4
    assert (stale.reason, stale.metadata["etag"]) == ("ETAG_MISMATCH", '"2"')
    assert await get(stub, made) == changed
    same = await set_rules(stub, made, rules=[rule("d")])
    assert same == changed


async def test_a_bad_change_of_rules_names_what_was_given(stub: Stub) -> None:
    made = await create(stub, "one", rule("a"), rule("b"), expression="a AND b")

    async def told(**fields: Any) -> Refusal:
        return await refused(set_rules(stub, made, **fields))

    broken = await told(rules=[rule("x"), regex("y", "(")])
    twice = await told(rules=[rule("x"), rule("x", "z"), rule("b")], removed_rules=["b"])
    spoken_of = await told(removed_rules=["b"])
    like_another = await told(rules=[rule("a", "b")])
    too_many = await told(rules=[rule(f"r{number}") for number in range(9_999)])
    missing = await told(removed_rules=["z"])
    nowhere = await refused(
        stub.SetKeywordRules(SetKeywordRulesRequest(keyword_set_id=str(uuid4())))
    )

    assert broken.fields == {"rules[1].pattern"}
    assert twice.fields == {"rules[1].name", "rules[2].name"}
    assert spoken_of.fields == {"removed_rules"}
    assert like_another.fields == too_many.fields == {"rules"}
    assert (missing.code, missing.reason) == ("NOT_FOUND", "RESOURCE_NOT_FOUND")
    assert missing.metadata == {"resource": "keyword_rule", "id": "z"}
    assert nowhere.metadata["resource"] == "keyword_set"
    assert await get(stub, made) == made


async def test_changes_of_rules_at_once_are_all_kept(stub: Stub) -> None:
    made = await create(stub, "one")
    numbers = range(6)

    await asyncio.gather(*(set_rules(stub, made, rules=[rule(f"r{n}")]) for n in numbers))

    kept = await get(stub, made)
    assert {it.name for it in kept.rules} == {f"r{n}" for n in numbers}
    assert kept.version == 7


# Versions.


async def test_campaigns_look_for_the_version_that_they_took(stub: Stub, store: Store) -> None:
    made = await create(stub, "one", rule("a", "alpha"))
    await set_rules(stub, made, rules=[rule("a", "beta")])
    library = KeywordLibrary(store.keyword_sets)
    choice = KeywordChoice(keyword_set_ids=[made.keyword_set_id], keywords=["gamma"])

    async def finds(version: int, text: str) -> bool:
        taken = KeywordSetVersion(keyword_set_id=made.keyword_set_id, version=version)
        keywords = await library.of_versions(choice, [taken])
        assert keywords is await library.of_versions(choice, [taken])
        return keywords.matches(keywords.scan(text))

    assert await finds(1, "alpha")
    assert not await finds(1, "beta")
    assert await finds(2, "beta")
    present = await library.of_choice(choice)
    assert present.matches(present.scan("beta"))
    await stub.DeleteKeywordSet(DeleteKeywordSetRequest(keyword_set_id=made.keyword_set_id))
    fresh = KeywordLibrary(store.keyword_sets)
    taken = KeywordSetVersion(keyword_set_id=made.keyword_set_id, version=1)
    assert {it.name for it in (await fresh.of_versions(choice, [taken])).rules} == {"a", "gamma"}
    with pytest.raises(ResourceNotFound):
        await fresh.of_choice(choice)
    with pytest.raises(InvalidFields):
        await fresh.of_versions(choice, [])
    assert (await store.keyword_sets.version(UUID(made.keyword_set_id), 2)).name == "one"


# Documents.


async def test_sets_are_carried_elsewhere_in_a_document(stub: Stub) -> None:
    given = [
        rule("a", "ä \u2028 b", case_sensitive=True, category="c", context_characters=0),
        regex("b", r"\bx\d+"),
    ]
    one = await create(stub, "one", *given, expression="a OR b")
    two = await create(stub, "two")
    document = (await stub.ExportKeywordSets(ExportKeywordSetsRequest())).document
    for each in (one, two):
        await stub.DeleteKeywordSet(DeleteKeywordSetRequest(keyword_set_id=each.keyword_set_id))

    answer = await stub.ImportKeywordSets(ImportKeywordSetsRequest(document=document))

    [first, second] = answer.keyword_sets
    assert (list(first.rules), first.expression) == (given, "a OR b")
    assert (second.name, second.rule_count) == ("two", 0)
    again = await stub.ExportKeywordSets(ExportKeywordSetsRequest())
    assert again.document == document
    replaced = await stub.ImportKeywordSets(
        ImportKeywordSetsRequest(document=document, replace=True)
    )
    # They are so already.
    assert (replaced.replaced_count, replaced.keyword_sets[0].version) == (0, 1)
    await set_rules(stub, first, rules=[rule("c")])
    replaced = await stub.ImportKeywordSets(
        ImportKeywordSetsRequest(document=document, replace=True)
    )
    assert (replaced.replaced_count, replaced.keyword_sets[0].version) == (1, 3)
    assert list(replaced.keyword_sets[0].rules) == given


async def test_the_largest_set_fits_into_a_document(stub: Stub) -> None:
    rules = [
        rule(f"rule {n:05} {'n' * 40}", f"pattern {n}", category="c" * 60) for n in range(10_000)
    ]
    made = await create(stub, "large", *rules)

    document = (await stub.ExportKeywordSets(ExportKeywordSetsRequest())).document
    answer = await stub.ImportKeywordSets(ImportKeywordSetsRequest(document=document, replace=True))

    assert list(answer.keyword_sets[0].rules) == rules
    assert answer.keyword_sets[0].keyword_set_id == made.keyword_set_id


async def test_every_fault_of_a_document_is_named(stub: Stub) -> None:
    sets = [
        {"name": "a", "rules": [{"name": "x", "pattern": "y"}, {"name": "z", "pattern": 1}]},
        {"name": "b", "rules": [{"name": "x", "pattern": "(", "kind": "KEYWORD_KIND_REGEX"}]},
        {"name": "c", "rules": [{"name": "x", "pattern": "y"}], "expression": "q"},
        {"name": "d", "rule_count": 1},
    ]
    document = json.dumps({"format": "domainflow.keyword-sets.v1", "keyword_sets": sets})

    refusal = await refused(stub.ImportKeywordSets(ImportKeywordSetsRequest(document=document)))

    assert {field.removeprefix("document.keyword_sets") for field in refusal.fields} == {
        "[0].rules[1].pattern",
        "[1].rules[0].pattern",
        "[2].expression",
        "[3].rule_count",
    }


# Looking.


async def scan(stub: Stub, *texts: ScannedText, **choice: Any) -> list[TextHits]:
    request = ScanTextRequest(texts=texts, keywords=KeywordChoice(**choice))
    return list((await stub.ScanText(request)).texts)


async def test_texts_are_looked_at_as_they_are_shown(stub: Stub) -> None:
    made = await create(stub, "one", rule("a", "alpha", category="greek"), rule("b", "beta"))
    html = "<title>Beta &amp; co</title><p>al<b>pha</b><script>alpha</script><p>alpha"

    plain, page, none = await scan(
        stub,
        ScannedText(text="Alpha alpha", title="no alpha"),
        ScannedText(text=html, title="alpha", is_html=True),
        ScannedText(text="gamma"),
        keyword_set_ids=[made.keyword_set_id],
        expression="a AND b",
    )

    [hits] = plain.rule_hits
    assert (hits.rule, hits.category, hits.hit_count, hits.title_hit_count) == ("a", "greek", 2, 1)
    assert [(it.in_title, it.start, it.hit) for it in hits.snippets] == [
        (True, 3, "alpha"),
        (False, 0, "Alpha"),
        (False, 6, "alpha"),
    ]
    assert [(it.rule, it.hit_count, it.title_hit_count) for it in page.rule_hits] == [
        ("a", 2, 0),
        ("b", 0, 1),
    ]
    assert [it.keyword_match for it in (plain, page, none)] == [False, True, False]
    assert not none.rule_hits
    assert all(it.hits_complete for it in (plain, page, none))


async def test_a_bad_question_is_refused_by_field(stub: Stub) -> None:
    text = ScannedText(text="x")

    nothing = await refused(scan(stub, text))
    broken = await refused(scan(stub, text, rules=[regex("a", "(")], expression="a"))
    large = await refused(scan(stub, *[ScannedText(text="x" * (700 * 1024))] * 3, keywords=["a"]))
    gone = await refused(scan(stub, text, keyword_set_ids=[str(uuid4())]))

    sets = [await create(stub, name, rule("x"), rule("a")) for name in ("one", "two")]
    ids = [each.keyword_set_id for each in sets]
    twice = await refused(scan(stub, text, keyword_set_ids=ids[1:], rules=[rule("a", "b")]))

    assert twice.fields == {"keywords.rules[0].name"}
    assert "'a': has the name of 'a', keywords.keyword_set_ids[0]" in twice.message
    assert nothing.fields == {"keywords"}
    assert broken.fields == {"keywords.rules[0].pattern"}
    assert large.fields == {"texts"}
    assert gone.metadata["resource"] == "keyword_set"


async def test_answers_to_texts_full_of_hits_fit_into_a_message(stub: Stub) -> None:
    words = [f"w{n:03}" for n in range(1000)]
    text = ScannedText(text=" ".join(words))

    answer = await scan(stub, *[text] * 60, keywords=words)

    assert [len(it.rule_hits) for it in answer] == [1000] * 60
    assert answer[0].rule_hits[0].snippets
    assert not answer[-1].rule_hits[0].snippets
    refusal = await refused(
        scan(
            stub,
            *[text] * 100,
            rules=[KeywordRule(name=f"{word}{'n' * 90}", pattern=word) for word in words],
        )
    )
    assert len(refusal.fields) == 1
