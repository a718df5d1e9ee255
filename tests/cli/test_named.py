"""Commands about personas of HTTP, keyword sets, profiles and pools of proxies, as a script meets
them."""

import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from typer.testing import CliRunner, Result

from domainflow.campaign.v1 import (
    campaign_pb2,
    campaign_service_pb2,
    campaign_service_pb2_grpc,
)
from domainflow.validation.v1 import (
    http_pb2,
    http_persona_pb2,
    http_settings_pb2,
    keyword_pb2,
    lead_pb2,
    proxy_pb2,
    scoring_pb2,
    validation_service_pb2_grpc,
)
from domainflow.validation.v1 import validation_service_pb2 as pb
from services.cli.__main__ import app
from services.cli.connection import _repeatable
from services.cli.kinds import HTTP_PERSONAS, KEYWORD_SETS, PROXY_POOLS, SCORING_PROFILES
from services.cli.named import Kind

ID = "01890000-0000-7000-8000-000000000001"
OTHER = ID[:-1] + "2"
GROUPS = {
    "http-persona": HTTP_PERSONAS,
    "keywords": KEYWORD_SETS,
    "profiles": SCORING_PROFILES,
    "proxy-pool": PROXY_POOLS,
}
SETTINGS = http_settings_pb2.HttpSettings(schemes=["http"], body_limit=2048)
RULES = [keyword_pb2.KeywordRule(name="shop", pattern="shop", category="trade")]
CONTENT: dict[str, dict[str, Any]] = {
    "http-persona": {"settings": SETTINGS},
    "keywords": {"rules": RULES, "expression": "NOT shop"},
    "profiles": {
        "settings": scoring_pb2.ScoringSettings(weights=scoring_pb2.ScoringWeights(non_parked=1))
    },
    "proxy-pool": {"proxy_ids": [ID, OTHER], "strategy": proxy_pb2.PROXY_STRATEGY_RANDOM},
}
DOCUMENTS = ["http-persona", "keywords"]


class Validation(validation_service_pb2_grpc.ValidationServiceServicer):
    """Two things of each kind on two pages; remembers every request but lists."""

    def __init__(self) -> None:
        self.requests: list[Any] = []

    def answer(self, kind: Kind, name: str, content: dict[str, Any], request: Any) -> Any:
        """What an RPC of a kind answers."""
        thing = kind.new(name="fast", description="d", etag='"3"', **content)
        setattr(thing, kind.id_field, ID)
        verb = name.removesuffix(kind.verbs).removesuffix(kind.verb)
        if verb == "List":
            other = kind.new(name="a")
            setattr(other, kind.id_field, OTHER)
            first = not request.page_token
            token = "next" if first else ""
            values = {kind.fields: [other if first else thing], "next_page_token": token}
            return getattr(kind.messages, f"{name}Response")(**values)
        if verb != "Get":
            self.requests.append(request)
        made = getattr(kind.messages, f"{name}Response")
        if verb in ("Get", "Create"):
            return made(**{kind.field: thing})
        if verb == "Update":
            return made(**{kind.field: getattr(request, kind.field)})
        if verb == "Export":
            return made(document='{"format": "x"}')
        if verb == "Import":
            return made(**{kind.fields: [thing], "replaced_count": 1})
        return made()

    def TestHttpPersona(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        http = http_pb2.HttpResult(verdict=http_pb2.HTTP_VERDICT_GONE)
        tested = [http_persona_pb2.TestedPage(name=name, http=http) for name in request.names]
        return http_persona_pb2.TestHttpPersonaResponse(tested_pages=tested)

    def SetKeywordRules(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        stored = keyword_pb2.KeywordSet(name="fast", rule_count=2, version=4)
        return keyword_pb2.SetKeywordRulesResponse(keyword_set=stored)

    def ScanText(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        found = [keyword_pb2.TextHits(keyword_match="shop" in text.text) for text in request.texts]
        return keyword_pb2.ScanTextResponse(texts=found)

    def ExtractKeywords(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        return pb.ExtractKeywordsResponse(pages=[pb.ExtractedPage(url=u) for u in request.urls])

    def ExplainScore(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        breakdown = scoring_pb2.ScoreBreakdown(score=0.5)
        return scoring_pb2.ExplainScoreResponse(name="a.com", breakdown=breakdown)


def _method(kind: Kind, name: str, content: dict[str, Any]) -> Any:
    return lambda self, request, context: self.answer(kind, name, content, request)


for _group, _kind in GROUPS.items():
    for _verb in ("Get", "Create", "Update", "Delete"):
        _name = f"{_verb}{_kind.verb}"
        setattr(Validation, _name, _method(_kind, _name, CONTENT[_group]))
    for _verb in ("List", *(("Export", "Import") if _group in DOCUMENTS else ())):
        _name = f"{_verb}{_kind.verbs}"
        setattr(Validation, _name, _method(_kind, _name, CONTENT[_group]))


@pytest.fixture
def validation() -> Validation:
    return Validation()


def run(serve: Any, validation: Validation, *arguments: str, input: str = "") -> Result:
    address = serve(validation=validation)
    return CliRunner().invoke(app(), [*arguments, "--server", address], input=input)


@pytest.mark.parametrize("group", GROUPS)
def test_every_page_of_a_kind_is_listed(serve: Any, validation: Validation, group: str) -> None:
    result = run(serve, validation, group, "list")

    assert [json.loads(line)["name"] for line in result.stdout.splitlines()] == ["a", "fast"]


@pytest.mark.parametrize("group", GROUPS)
def test_what_is_written_can_be_read_back(serve: Any, validation: Validation, group: str) -> None:
    written = run(serve, validation, group, "get", "fast", "--content").stdout
    result = run(serve, validation, group, "create", "--name", "new", "--file", "-", input=written)

    assert (result.exit_code, result.stdout) == (0, f"{ID}\n"), result.stderr
    (request,) = validation.requests
    kind = GROUPS[group]
    assert getattr(request, kind.field) == kind.new(name="new", **CONTENT[group])
    assert request.request_id


@pytest.mark.parametrize("group", GROUPS)
def test_what_an_update_does_not_give_stays(serve: Any, validation: Validation, group: str) -> None:
    result = run(serve, validation, group, "update", "fast", "--name", "faster")

    assert result.exit_code == 0, result.stderr
    kind = GROUPS[group]
    changed = getattr(validation.requests[0], kind.field)
    expected = kind.new(name="faster", description="d", etag='"3"', **CONTENT[group])
    setattr(expected, kind.id_field, ID)
    assert changed == expected


@pytest.mark.parametrize("group", GROUPS)
def test_a_thing_is_deleted_by_name_and_one_that_is_not_there_is_named(
    serve: Any, validation: Validation, group: str
) -> None:
    result = run(serve, validation, group, "delete", "fast")
    absent = run(serve, validation, group, "delete", "slow")

    assert (result.exit_code, result.stderr) == (0, "deleted\n")
    (request,) = validation.requests
    assert getattr(request, GROUPS[group].id_field) == ID
    assert absent.exit_code == 1
    assert f"no {GROUPS[group].noun} is called 'slow'" in absent.stderr


@pytest.mark.parametrize("group", DOCUMENTS)
def test_documents_go_out_and_in(serve: Any, validation: Validation, group: str) -> None:
    out = run(serve, validation, group, "export", "fast")
    into = run(serve, validation, group, "import", "-", "--replace", input=out.stdout)

    assert json.loads(out.stdout) == {"format": "x"}
    exported, imported = validation.requests
    assert list(getattr(exported, f"{GROUPS[group].id_field}s")) == [ID]
    assert imported.replace
    assert f"imported: 1 {GROUPS[group].noun}, 1 replaced" in into.stderr


def test_changes_that_carry_no_request_id_are_sent_once() -> None:
    repeated = {method["method"] for method in _repeatable()}

    assert {"ListProxies", "CreateKeywordSet", "ExplainScore", "TestProxies"} <= repeated
    assert not repeated & {
        *("UpdateHttpPersona", "DeleteKeywordSet", "ImportProxies", "SetKeywordRules"),
        *("AddSuppressions", "BulkDeleteProxies", "UpdateDnsPersona", "ImportDnsPersonas"),
    }


# Spreadsheets put a mark at the beginning of what they write.
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_set_is_made_of_words_and_of_rules_in_csv(
    serve: Any, validation: Validation, tmp_path: Path, encoding: str
) -> None:
    (tmp_path / "words").write_text("Web  shop\n\nbasket\nbasket\n", encoding=encoding)
    (tmp_path / "rules.csv").write_text(
        "name,pattern,kind,category,whole_word,context_characters\n"
        'sale,"sale|offers?",regex,trade,no,20\n'
        "tea,tea,,,yes,\n",
        encoding=encoding,
    )
    files = ("--words", str(tmp_path / "words"), "--csv", str(tmp_path / "rules.csv"))

    result = run(serve, validation, "keywords", "create", "--name", "n", *files)

    assert result.exit_code == 0, result.stderr
    assert list(validation.requests[0].keyword_set.rules) == [
        keyword_pb2.KeywordRule(name="Web shop", pattern="Web shop"),
        keyword_pb2.KeywordRule(name="basket", pattern="basket"),
        keyword_pb2.KeywordRule(
            name="sale", pattern="sale|offers?", kind=2, category="trade", context_characters=20
        ),
        keyword_pb2.KeywordRule(name="tea", pattern="tea", kind=1, whole_word=True),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name,patern\na,b\n", "unknown columns patern"),
        ("name\na\n", "no column pattern"),
        ("pattern,kind\na,\nb,glob\n", "line 3: kind 'glob'"),
        ("pattern,whole_word\na,perhaps\n", "line 2: whole_word 'perhaps'"),
        ("pattern,context_characters\na,many\n", "line 2: invalid literal"),
        ("pattern\na,b\n", "line 2: more fields"),
    ],
)
def test_what_is_wrong_with_a_csv_is_named_by_its_line(
    serve: Any, validation: Validation, text: str, said: str
) -> None:
    result = run(serve, validation, "keywords", "create", "--name", "n", "--csv", "-", input=text)

    assert result.exit_code == 2
    assert said in result.stderr
    assert not validation.requests


def test_rules_are_added_and_removed(serve: Any, validation: Validation) -> None:
    arguments = ("keywords", "rules", "fast", "--words", "-", "--remove", "old")

    result = run(serve, validation, *arguments, input="new\n")

    assert result.stderr == "fast has 2 rules, version 4\n"
    (request,) = validation.requests
    assert request.keyword_set_id == ID
    assert [rule.name for rule in request.rules] == ["new"]
    assert list(request.removed_rules) == ["old"]


@pytest.mark.parametrize(("text", "code"), [("a shop", 0), ("a church", 1)])
def test_files_are_scanned_for_words_and_stored_sets(
    serve: Any, validation: Validation, tmp_path: Path, text: str, code: int
) -> None:
    page = tmp_path / "page.html"
    page.write_text(text)
    looked_for = ("--keyword", "shop", "--keyword-set", "fast", "--expression", "shop")

    result = run(serve, validation, "keywords", "scan", str(page), *looked_for)

    assert result.exit_code == code, result.stderr
    (request,) = validation.requests
    assert (request.texts[0].text, request.texts[0].is_html) == (text, True)
    assert request.keywords == keyword_pb2.KeywordChoice(
        keywords=["shop"], keyword_set_ids=[ID], expression="shop"
    )


def test_pages_are_extracted_by_persona_and_profile(serve: Any, validation: Validation) -> None:
    url = "https://a.com/"
    stored = ("--http-persona", "fast", "--profile", "fast")

    result = run(serve, validation, "keywords", "extract", url, "--keyword", "shop", *stored)

    assert json.loads(result.stdout)["url"] == url
    assert validation.requests == [
        pb.ExtractKeywordsRequest(
            urls=[url],
            keywords=keyword_pb2.KeywordChoice(keywords=["shop"]),
            http_persona_id=ID,
            scoring_profile_id=ID,
        )
    ]


def test_a_persona_is_tried_on_names(serve: Any, validation: Validation) -> None:
    result = run(serve, validation, "http-persona", "test", "a.com", "--persona", "fast")

    assert json.loads(result.stdout)["testedPages"][0]["name"] == "a.com"
    assert validation.requests == [
        http_persona_pb2.TestHttpPersonaRequest(names=["a.com"], http_persona_id=ID)
    ]


def test_a_score_is_explained_by_another_profile(serve: Any, validation: Validation) -> None:
    result = run(serve, validation, "explain", ID, "7", "--profile", "fast")

    assert json.loads(result.stdout)["breakdown"]["score"] == 0.5
    assert validation.requests == [
        scoring_pb2.ExplainScoreRequest(campaign_id=ID, position=7, scoring_profile_id=ID)
    ]


class Campaigns(campaign_service_pb2_grpc.CampaignServiceServicer):
    """Takes campaigns; remembers every request."""

    def __init__(self) -> None:
        self.requests: list[Any] = []

    def CreateCampaign(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        campaign = campaign_pb2.Campaign(campaign_id=ID)
        return campaign_service_pb2.CreateCampaignResponse(campaign=campaign)

    def ConfigurePhase(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        campaign = campaign_pb2.Campaign(campaign_id=ID)
        return campaign_service_pb2.ConfigurePhaseResponse(campaign=campaign)


CREATE = ("create", "--name", "n", "--pattern", "PREFIX", "--prefix-length", "1", "--constant", "x",
          "--tld", ".com", "--no-start")  # fmt: skip
HTTP = ("--http-persona", "fast", "--keyword", "shop", "--keyword-set", "fast")


def campaign(serve: Any, campaigns: Campaigns, *arguments: str, input: str = "") -> Result:
    address = serve(campaigns=campaigns, validation=Validation())
    return CliRunner().invoke(app(), ["campaign", *arguments, "--server", address], input=input)


def test_a_campaign_goes_as_far_as_leads_by_one_command(serve: Any) -> None:
    campaigns = Campaigns()
    options = (*HTTP, "--profile", "fast", "--match-score", "0.5")

    result = campaign(serve, campaigns, *CREATE, "--through", "leads", *options)

    assert (result.exit_code, result.stdout) == (0, f"{ID}\n"), result.stderr
    made = campaigns.requests[0].configuration
    assert made.HasField("dns")
    assert made.http == campaign_pb2.HttpConfiguration(
        http_persona_id=ID,
        keywords=keyword_pb2.KeywordChoice(keywords=["shop"], keyword_set_ids=[ID]),
    )
    assert made.analysis == campaign_pb2.AnalysisConfiguration(scoring_profile_id=ID)
    assert made.lead.thresholds == lead_pb2.LeadThresholds(match_score=0.5)


@pytest.mark.parametrize(
    ("through", "parts"),
    [
        ("generation", ["generation"]),
        ("dns", ["generation", "dns"]),
        ("http", ["generation", "dns", "http"]),
        ("analysis", ["generation", "dns", "http", "analysis"]),
        ("leads", ["generation", "dns", "http", "analysis", "lead"]),
    ],
)
def test_every_phase_on_the_way_has_its_part(serve: Any, through: str, parts: list[str]) -> None:
    campaigns = Campaigns()

    result = campaign(serve, campaigns, *CREATE, "--through", through)

    assert result.exit_code == 0, result.stderr
    made = campaigns.requests[0].configuration
    assert [field.name for field, _ in made.ListFields()] == parts


@pytest.mark.parametrize(
    "options",
    [
        ["--keyword", "shop"],
        ["--through", "http", "--profile", "fast"],
        ["--through", "analysis", "--match-score", "0.5"],
        ["--through", "http", "--no-dns"],
        ["--through", "http", "--http-persona", "fast", "--http-settings", "-"],
        ["--through", "leads", "--profile", "fast", "--scoring", "-"],
    ],
    ids=" ".join,
)
def test_options_that_do_not_go_together_create_nothing(serve: Any, options: list[str]) -> None:
    campaigns = Campaigns()

    result = campaign(serve, campaigns, *CREATE, *options)

    assert (result.exit_code, result.stdout) == (2, "")
    assert campaigns.requests == []


@pytest.mark.parametrize(
    ("phase", "options", "text", "expected"),
    [
        ("http", ["--keyword", "shop"], "", {"http": {"keywords": {"keywords": ["shop"]}}}),
        ("http", ["--file", "-"], '{"chunk_size": 200}', {"http": {"chunkSize": 200}}),
        ("analysis", ["--profile", "fast"], "", {"analysis": {"scoringProfileId": ID}}),
        ("analysis", [], "", {"analysis": {}}),
        (
            "leads",
            ["--thresholds", "-", "--match-score", "0.5"],
            '{"structure_optional": true}',
            {"lead": {"thresholds": {"structureOptional": True, "matchScore": 0.5}}},
        ),
    ],
)
def test_a_phase_is_configured_by_its_options_alone(
    serve: Any, phase: str, options: list[str], text: str, expected: dict[str, Any]
) -> None:
    campaigns = Campaigns()

    result = campaign(serve, campaigns, "configure", ID, phase, *options, input=text)

    assert result.exit_code == 0, result.stderr
    assert MessageToDict(campaigns.requests[0].configuration) == expected


@pytest.mark.parametrize(
    ("phase", "options"),
    [
        ("dns", ["--keyword", "shop"]),
        ("http", ["--match-score", "0.5"]),
        ("analysis", ["--profile", "fast", "--file", "-"]),
        ("generation", []),
    ],
)
def test_options_of_another_phase_configure_nothing(
    serve: Any, phase: str, options: list[str]
) -> None:
    campaigns = Campaigns()

    result = campaign(serve, campaigns, "configure", ID, phase, *options)

    assert result.exit_code == 2
    assert campaigns.requests == []
