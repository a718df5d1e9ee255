"""What is looked at of a message, and how much of it."""

from typing import Any

import pytest

from domainflow.campaign.v1 import campaign_pb2, campaign_service_pb2
from domainflow.query.v1 import stream_pb2
from domainflow.validation.v1 import http_persona_pb2, keyword_pb2, suppression_pb2
from services.chassis.rules import MAX_ELEMENTS, ContractRules

CONTRACT = ContractRules()


def fields_of(message: Any) -> dict[str, str]:
    return {each.field: each.description for each in CONTRACT.look(message)[1]}


def test_a_list_beyond_its_limit_is_named_and_looked_at_up_to_it() -> None:
    request = http_persona_pb2.CreateHttpPersonaRequest()
    request.http_persona.name = "one"
    request.http_persona.settings.body_limit = 2048
    for _ in range(60_000):
        request.http_persona.settings.headers.add()

    seen, violations = CONTRACT.look(request)

    assert [violation.field for violation in violations] == [
        "http_persona.settings.headers",
        *(f"http_persona.settings.headers[{n}].name" for n in range(50)),
    ]
    assert violations[0].description == "has 60,000 elements, at most 50"
    assert len(seen.http_persona.settings.headers) == 50
    assert (seen.http_persona.name, seen.http_persona.settings.body_limit) == ("one", 2048)
    assert len(request.http_persona.settings.headers) == 60_000


def test_a_message_within_its_limits_is_looked_at_itself() -> None:
    request = suppression_pb2.AddSuppressionsRequest()
    for number in range(10_000):
        request.suppressions.add(entry=f"a{number}.example")

    seen, violations = CONTRACT.look(request)

    assert seen is request
    assert violations == []


@pytest.mark.parametrize("bad", [[0], [5_000], [9_999], [0, 5_000, 9_999]])
def test_every_bad_element_of_a_long_list_is_named(bad: list[int]) -> None:
    entries = [f"a{number}.example" for number in range(10_000)]
    for index in bad:
        entries[index] = ""
    request = suppression_pb2.RemoveSuppressionsRequest(entries=entries)

    assert list(fields_of(request)) == [f"entries[{index}]" for index in bad]


@pytest.mark.parametrize("good", [0, 3_000, 6_000, 8_000])
def test_where_too_much_is_wrong_the_rest_is_not_looked_at(good: int) -> None:
    bad = keyword_pb2.KeywordRule(name="n" * 101, category="c" * 101, context_characters=-1)
    request = keyword_pb2.SetKeywordRulesRequest(
        rules=[keyword_pb2.KeywordRule(name="n", pattern="x")] * good + [bad] * (10_000 - good)
    )

    seen, violations = CONTRACT.look(request)

    assert seen is request
    assert 1_000 <= len(violations) <= 16_000
    assert f"rules[{good}].name" in {violation.field for violation in violations}


def test_of_what_is_not_looked_at_is_told_how_much_it_is() -> None:
    request = suppression_pb2.AddSuppressionsRequest()
    for _ in range(10_000):
        request.suppressions.add()

    violations = CONTRACT.violations(request)

    assert len(violations) == 1_001
    assert violations[0].field == "suppressions"
    assert violations[0].description.startswith(
        "has 10,000 elements, of which the first 1,000 were looked at"
    )


def test_maps_have_limits_too() -> None:
    request = campaign_service_pb2.WatchCampaignsRequest(
        resume_revisions={f"{number}": 1 for number in range(50_001)}
    )

    seen, violations = CONTRACT.look(request)

    assert violations[0].field == "resume_revisions"
    assert violations[0].description == "has 50,001 elements, at most 50,000"
    assert len(seen.resume_revisions) == 50_000


def test_a_list_without_a_limit_has_that_of_all() -> None:
    request = stream_pb2.StreamEnrichedRequest()
    request.read_mask.paths.extend(["x"] * (MAX_ELEMENTS + 1))

    assert "read_mask.paths" in fields_of(request)
    assert len(CONTRACT.look(request)[0].read_mask.paths) == MAX_ELEMENTS


def test_lists_in_lists_are_cut_where_they_stand() -> None:
    # No request has any; what is told of campaigns does.
    personas = http_persona_pb2.ListHttpPersonasResponse()
    for _ in range(3):
        persona = personas.http_personas.add(name="n")
        for _ in range(60):
            persona.settings.headers.add(name="A")

    seen, violations = CONTRACT.look(personas)

    assert [violation.field for violation in violations] == [
        f"http_personas[{n}].settings.headers" for n in range(3)
    ]
    assert [len(each.settings.headers) for each in seen.http_personas] == [50] * 3


def test_what_is_cut_is_otherwise_the_same() -> None:
    request = campaign_service_pb2.CreateCampaignRequest(
        configuration=campaign_pb2.CampaignConfiguration(
            generation=campaign_pb2.GenerationConfiguration(
                pattern=campaign_pb2.PatternSource(first_offset=0, tlds=["com"] * 2_000)
            )
        )
    )
    expected = campaign_service_pb2.CreateCampaignRequest()
    expected.CopyFrom(request)
    del expected.configuration.generation.pattern.tlds[1_000:]

    assert CONTRACT.look(request)[0] == expected
