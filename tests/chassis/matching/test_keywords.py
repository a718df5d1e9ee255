import dataclasses
import re
import sysconfig
import unicodedata
from itertools import islice
from pathlib import Path

import pytest
import re2
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.chassis.matching.folding import IGNORED, clean, fold, joins
from services.chassis.matching.keyword_rules import (
    MAX_CONTEXT,
    MAX_LITERAL,
    MAX_NAME,
    MAX_REGEXES,
    MAX_RULES,
    MOST_PROBLEMS,
    regex_options,
)
from services.chassis.matching.keywords import (
    MAX_MATCHES,
    MAX_OCCURRENCES,
    MAX_PAGE_SNIPPETS,
    MAX_SHOWN,
    MAX_SNIPPETS,
    PageHits,
    Rule,
    RuleKind,
    RulesRefused,
    ad_hoc_rules,
    compile_rules,
    scan,
)

# Letters that grow, shrink, compose, overlap or hide when they are folded.
LETTERS = (
    "aabbsSkKiIeE ßẞ\u0130\u0131é\u0301\u030c\xad\u200b\ufb01f\u212a\u017f\u0390\u03b9\u0308"
    "\u03aa\u03a3\u03c3\u03c2\n\xa0茶т\u1100\u1161\u11a8각_1-\U0001f600"
)
texts = st.text(st.sampled_from(LETTERS), max_size=40)
literals = st.builds(
    Rule,
    name=st.just("n"),
    pattern=st.text(st.sampled_from(LETTERS), min_size=1, max_size=4),
    case_sensitive=st.booleans(),
    whole_word=st.booleans(),
    context=st.integers(0, 5),
)

PIECES = (
    *("kiss", "cab", "abba", "the best", "abc", "cheap", "k", "s", "é", ".", " ", "x", r"\.", "ß"),
    *(r"\b", r"\w", r"\d", r"\s", r"\W", "[ab]", "[^a]", "[[:alpha:]]", r"[\]x]", r"\pL", "^", "$"),
    *(r"\x61", r"\x{62}", "(?i)", r"\QC++\E", "{,3}"),
)
patterns = st.recursive(
    st.sampled_from(PIECES),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map("".join),
        st.lists(inner, min_size=1, max_size=3).map(lambda all_: f"(?:{'|'.join(all_)})"),
        st.builds(
            lambda head, body, times: f"{head}{body}){times}",
            st.sampled_from(["(", "(?:", "(?i:", "(?s:", "(?P<n>"]),
            inner,
            st.sampled_from(["", "*", "+", "?", "{2}", "{1,3}", "{2,}", "+?", "??", "{0,20}"]),
        ),
    ),
    max_leaves=8,
)
WORDS = (
    *("kiss", "KISS", "\u212aiss", "ki\u017fs", "kisskiss", "cab", "cab\u0301", "abba", "the best"),
    *(
        "abc",
        "cheap",
        "bab",
        " ",
        "\n",
        ".",
        "é",
        "e\u0301",
        "ß",
        "x",
        "C++",
        "12",
        "\xad",
        "\u0130",
    ),
    "x{,3}",
)
word_texts = st.lists(st.sampled_from(WORDS), max_size=14).map("".join)


def naive_spans(rule: Rule, text: str) -> list[tuple[int, int]]:
    """Hits of a literal, character by character with its marks."""
    units: list[list[int]] = []
    for place, char in enumerate(text):
        if char in IGNORED:
            continue
        if units and joins(char):
            units[-1][1] = place + 1
        else:
            units.append([place, place + 1])
    folded = [fold(text[start:end]) for start, end in units]
    key, found, first = fold(rule.pattern), [], 0
    while first < len(units):
        last, built = first, ""
        while last < len(units) and len(built) < len(key):
            built += folded[last]
            last += 1
        span = units[first][0], units[last - 1][1]
        if built == key and is_hit(rule, text, *span):
            found.append(span)
            first = last
        else:
            first += 1
    return found


def is_hit(rule: Rule, text: str, start: int, end: int) -> bool:
    if rule.kind is RuleKind.LITERAL and rule.case_sensitive:
        if clean(text[start:end]) != clean(rule.pattern):
            return False
    if not rule.whole_word:
        return True
    before = [char for char in text[:start] if char not in IGNORED][-1:]
    after = [char for char in text[end:] if char not in IGNORED][:1]
    starts_inside = is_of_word(text[start]) and any(map(is_of_word, before))
    return not starts_inside and not (is_of_word(text[end - 1]) and any(map(is_of_word, after)))


def is_of_word(char: str) -> bool:
    if unicodedata.name(char, "").startswith(("CJK", "THAI", "HIRAGANA", "KATAKANA")):
        return False
    return char.isalnum() or char == "_" or unicodedata.category(char)[0] == "M"


def spans_of(hits: PageHits) -> dict[str, list[tuple[int, int]]]:
    return {one.rule.name: [(each.start, each.end) for each in one.snippets] for one in hits.rules}


def numbered(rules: list[Rule]) -> list[Rule]:
    return [dataclasses.replace(rule, name=f"{number}") for number, rule in enumerate(rules)]


@settings(max_examples=700, deadline=None)
@given(st.lists(literals, min_size=1, max_size=5), texts, st.integers(0, 1))
@example([Rule("n", "aa"), Rule("n", "aaa")], "aaaaaaa", 1)
@example([Rule("n", "s"), Rule("n", "ss"), Rule("n", "STRASSE")], "Straße ßß", 0)
@example([Rule("n", "istanbul"), Rule("n", "ISPARTA")], "\u0130STANBUL \u0131sparta", 0)
@example([Rule("n", "e\u0301", case_sensitive=True), Rule("n", "e")], "éEe\u0301e\xad\u0301", 0)
@example([Rule("n", "\u03aa\u0301")], "\u03b9\u0308\u0301 \u0390 \u03aa\u0301", 0)
def test_literals_hit_where_a_naive_search_finds_them(rules: list[Rule], text: str, small: int):
    rules = [
        rule
        for rule in numbered(rules)
        if fold(rule.pattern).strip() and not joins(fold(rule.pattern)[0])
    ]
    compiled = compile_rules(rules, same_patterns=True)
    if small and rules:
        longest = max(len(fold(rule.pattern).encode()) for rule in rules)
        compiled = dataclasses.replace(compiled, _block=longest)

    hits = scan(compiled, text, text[:5], snippets=MAX_SNIPPETS)

    expected = {rule.name: naive_spans(rule, text) for rule in rules}
    in_title = {rule.name: naive_spans(rule, text[:5]) for rule in rules}
    assert {one.rule.name: one.count for one in hits.rules if one.count} == {
        name: len(spans) for name, spans in expected.items() if spans
    }
    assert hits.complete
    for one in hits.rules:
        name, context = one.rule.name, one.rule.context
        assert one.count + one.title_count
        assert one.title_count == len(in_title[name])
        wanted = [(text[:5], True, span) for span in in_title[name]]
        wanted += [(text, False, span) for span in expected[name]]
        shown = zip(wanted, one.snippets, strict=len(wanted) <= MAX_SNIPPETS)
        for (page, title, (start, end)), snippet in shown:
            assert (snippet.start, snippet.end, snippet.in_title) == (start, end, title)
            assert snippet.hit == page[start:end]
            assert snippet.before == page[max(0, start - context) : start]
            assert snippet.after == page[end : end + context]


@settings(max_examples=700, deadline=None)
@given(st.lists(st.tuples(patterns, st.booleans(), st.booleans()), max_size=4), word_texts)
@example([(r"kk\dkk\dcheap", False, False)], "\u212a\u212a1\u212a\u212a1cheap")
@example([(r"\s+cheap(?:er)?", False, False)], "a  \xadCHEAPer cheap")
@example(
    [(r"kiss", False, False), ("(?:the best|abba)+x?", True, True)], "\u212ai\u017fs abbaabbax"
)
def test_regular_expressions_hit_where_re2_finds_them(
    drawn: list[tuple[str, bool, bool]], text: str
):
    rules = []
    for number, (pattern, case_sensitive, whole_word) in enumerate(drawn):
        rule = Rule(str(number), pattern, RuleKind.REGEX, case_sensitive, whole_word)
        try:
            compile_rules([rule])
        except RulesRefused:
            continue
        rules.append(rule)

    hits = scan(compile_rules(rules, same_patterns=True), text, snippets=MAX_SNIPPETS)

    counts, spans = {}, {}
    for rule in rules:
        regex = re2.compile(rule.pattern, regex_options(rule.case_sensitive))
        found = [match.span() for match in regex.finditer(text)]
        found = [span for span in found if span[0] < span[1] and is_hit(rule, text, *span)]
        if found:
            counts[rule.name], spans[rule.name] = len(found), found[:MAX_SNIPPETS]
    assert {one.rule.name: one.count for one in hits.rules} == counts
    assert spans_of(hits) == spans


@pytest.mark.parametrize(
    ("rule", "text", "hits"),
    [
        (Rule("n", "ss"), "Stra\u00dfe", ["\u00df"]),
        (Rule("n", "s"), "Stra\u00dfe", ["S"]),
        (Rule("n", "office"), "O\ufb03CE", ["O\ufb03CE"]),
        (
            Rule("n", "\u03bf\u03b4\u03bf\u03c3"),
            "\u039f\u0394\u039f\u03a3 \u03bf\u03b4\u03bf\u03c2",
            2,
        ),
        (Rule("n", "istanbul"), "\u0130stanbul ISTANBUL \u0131stanbul", 3),
        (Rule("n", "\u0130", case_sensitive=True), "\u0130 I i \u0131", ["\u0130"]),
        (Rule("n", "caf\u00e9"), "CAFE\u0301", ["CAFE\u0301"]),
        (Rule("n", "cafe"), "cafe\u0301 caf\u00e9", 0),
        (Rule("n", "casino"), "ca\u00adsi\u200bno", ["ca\u00adsi\u200bno"]),
        (Rule("n", "for sale"), "for\u00a0sale for\nsale", 2),
        (Rule("n", "cat", whole_word=True), "cat concat cats cat_ cat\u0301 cat.", 2),
        (Rule("n", "C++", whole_word=True), "C++11 C++ XC++", 2),
        (
            Rule("n", "\u0431\u0430\u0440", whole_word=True),
            "\u0431\u0430\u0440 \u0431\u0430\u0440\u0430\u043d",
            1,
        ),
        (Rule("n", "\u8336", whole_word=True), "\u7dd1\u8336\u3092", 1),
        (Rule("n", "caf.", RuleKind.REGEX, whole_word=True), "caf\u00e9 caf\u00e9s", 1),
        (Rule("n", "aa"), "aaaaa", 2),
        (Rule("n", "Web", case_sensitive=True), "web Web WEB", ["Web"]),
        (Rule("n", "stra\u00dfe", RuleKind.REGEX), "STRASSE STRA\u1e9eE", ["STRA\u1e9eE"]),
    ],
)
def test_hits_are_what_a_reader_expects(rule: Rule, text: str, hits: int | list[str]):
    found = scan(compile_rules([rule]), text)

    shown = [snippet.hit for one in found.rules for snippet in one.snippets]
    assert (found.count if isinstance(hits, int) else shown) == hits


def test_snippets_show_the_surroundings_and_title_hits_come_first():
    compiled = compile_rules([Rule("sale", "sale", context=4)])

    found = scan(compiled, "The salesman: for SALE now", "Sale", snippets=2)

    (hits,) = found.rules
    assert (hits.count, hits.title_count, found.count) == (2, 1, 3)
    title, first = hits.snippets
    assert (title.in_title, title.before, title.hit, title.after) == (True, "", "Sale", "")
    assert (first.start, first.before, first.hit, first.after) == (4, "The ", "sale", "sman")
    assert found.names == {"sale"}


def test_pages_with_lone_surrogates_and_zeros_are_scanned():
    compiled = compile_rules([Rule("l", "sale"), Rule("r", r"s[a]le", RuleKind.REGEX)])

    found = scan(compiled, "\ud800 \0 sale \udfff sale")

    assert [hits.count for hits in found.rules] == [2, 2]
    assert [snippet.start for snippet in found.rules[0].snippets] == [4, 11]


def test_a_page_stuffed_with_nested_hits_is_not_read_to_its_end():
    rules = [Rule(f"{size}", "a" * size) for size in range(1, MAX_LITERAL + 1)]
    rules += [Rule("behind", r"needle\d", RuleKind.REGEX), Rule("not found", "needle")]

    found = scan(compile_rules(rules), "a" * 250_000 + " needle7")

    assert not found.complete
    assert {rule.name for rule in rules} - found.names == {"not found"}
    assert sum(len(hits.snippets) for hits in found.rules) == MAX_PAGE_SNIPPETS
    assert found.rules[0].count <= MAX_OCCURRENCES


def test_a_regular_expression_that_matches_everywhere_leaves_others_their_matches():
    every = Rule("every", ".", RuleKind.REGEX)
    digits = Rule("digits", r"\d{3}", RuleKind.REGEX)

    found = scan(compile_rules([every, digits]), "ab 123 " * 10_000)

    assert not found.complete
    assert found.rules[0].count == MAX_MATCHES
    assert found.rules[1].count


def test_long_hits_are_shown_in_part():
    found = scan(compile_rules([Rule("all", "(?s)x.*", RuleKind.REGEX)]), "x" * 5000)

    (snippet,) = found.rules[0].snippets
    assert (snippet.start, snippet.end, len(snippet.hit)) == (0, 5000, MAX_SHOWN)


def test_rules_in_great_number_are_found_in_one_pass():
    rules = [Rule(f"rule {number}", f"word{number:05}x") for number in range(MAX_RULES)]

    found = scan(compile_rules(rules), " ".join(rule.pattern.upper() for rule in rules[::7]))

    assert [hits.rule.name for hits in found.rules] == [rule.name for rule in rules[::7]]


@pytest.mark.parametrize(
    ("pattern", "position", "description"),
    [
        ("a(b", 1, "missing ) for this ("),
        ("(a)(b[)]", 3, "missing ) for this ("),
        ("a)b", 1, "unexpected )"),
        ("é[bc", 1, "missing ]: [bc"),
        ("a*(é*)(*)", 7, "no argument for repetition operator: *"),
        ("a+b**", 3, "bad repetition operator: **"),
        ("ab\\", 2, "trailing \\"),
        ("ax{1001}b", 2, "invalid repetition size: {1001}"),
        ("x(?=a)b", 1, "invalid perl operator: (?="),
        ("(a)\\1", 3, "invalid escape sequence: \\1"),
        ("a[b-a]c", 2, "invalid character class range: b-a"),
        ("a\\p{Foo}c", 1, "invalid character class range: \\p{Foo}"),
        ("a\ud800", 1, "holds half of a surrogate pair"),
        ("\\pL{900}", None, "too large: repeat less"),
        ("(?:a|b*)", None, "matches the empty text, which is everywhere"),
        (r"\b", None, "matches the empty text, which is everywhere"),
        ("(?m)$", None, "matches the empty text, which is everywhere"),
        (r"x|\B", None, "matches the empty text, which is everywhere"),
    ],
)
def test_a_bad_regular_expression_is_refused_with_its_place(
    pattern: str, position: int | None, description: str
):
    rules = [Rule("good", "good"), Rule("bad", pattern, RuleKind.REGEX)]

    with pytest.raises(RulesRefused) as refused:
        compile_rules(rules)

    (problem,) = refused.value.problems
    assert (problem.index, problem.name, problem.field) == (1, "bad", "pattern")
    assert (problem.position, problem.description) == (position, description)


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        (Rule("", "x"), "name"),
        (Rule("two\nlines", "x"), "name"),
        (Rule("two\u2028lines", "x"), "name"),
        (Rule(" x", "x"), "name"),
        (Rule("n" * (MAX_NAME + 1), "x"), "name"),
        (Rule("n", ""), "pattern"),
        (Rule("n", " \xad\n"), "pattern"),
        (Rule("n", "\u0301x"), "pattern"),
        (Rule("n", "x\ud800"), "pattern"),
        (Rule("n", "x" * (MAX_LITERAL + 1)), "pattern"),
        (Rule("n", "", RuleKind.REGEX), "pattern"),
        (Rule("n", "x", category="a\nb"), "category"),
        (Rule("n", "x", weight=-1), "weight"),
        (Rule("n", "x", weight=float("nan")), "weight"),
        (Rule("n", "x", context=MAX_CONTEXT + 1), "context"),
    ],
)
def test_a_bad_field_is_refused_by_its_name(rule: Rule, field: str):
    with pytest.raises(RulesRefused) as refused:
        compile_rules([Rule("good", "good"), rule])

    (problem,) = refused.value.problems
    assert (problem.index, problem.field) == (1, field)


def test_duplicates_are_refused_but_between_sets():
    rules = [Rule("a", "Stra\u00dfe"), Rule("b", "STRASSE"), Rule("a", "other")]

    with pytest.raises(RulesRefused) as refused:
        compile_rules(rules)

    assert [str(problem) for problem in refused.value.problems] == [
        "rule 1 'b', pattern: has the pattern of rule 0",
        "rule 2 'a', name: has the name of rule 0",
    ]
    assert len(compile_rules(rules[:2], same_patterns=True).rules) == 2


def test_too_many_or_too_large_rules_are_refused():
    many = [Rule(str(number), f"x{number}") for number in range(MAX_RULES + 1)]
    regexes = [Rule(str(number), f"x{number}", RuleKind.REGEX) for number in range(MAX_REGEXES + 1)]
    long = [Rule(str(number), f"{number:0200}") for number in range(3000)]
    bad = [Rule(f"{number}", "(", RuleKind.REGEX) for number in range(MOST_PROBLEMS + 1)]

    for rules, problem in ((many, "10,001 rules"), (regexes, "501 regular"), (long, "600,000")):
        with pytest.raises(RulesRefused, match=problem):
            compile_rules(rules)
    with pytest.raises(RulesRefused) as refused:
        compile_rules(bad)
    assert len(refused.value.problems) == MOST_PROBLEMS


def test_plain_words_become_rules():
    words_ = ["Casino", "  online \n poker ", "", "CASINO", "x" * 150, "y" * 150]

    rules = ad_hoc_rules(words_, context=9)

    assert [rule.name for rule in rules[:2]] == ["Casino", "online poker"]
    assert [len(rule.name) for rule in rules[2:]] == [93, 93]
    assert all(rule.context == 9 for rule in rules)
    assert scan(compile_rules(rules), "the CASINOS of online poker").count == 2


def test_pages_that_ship_with_packages_are_scanned():
    plain = ["the", "python", "license", "module", "error", "return", "copyright", "aba", "index"]
    patterns_ = [r"\b\d{4}\b", r"https?://[\w./-]+", r"[\w.]+@[\w.]+", r"(?:see|cf\.?)\s+also"]
    rules = [Rule(word, word) for word in plain]
    rules += [Rule(pattern, pattern, RuleKind.REGEX) for pattern in patterns_]
    compiled = compile_rules(rules)
    folders = Path("/usr/share/doc"), Path(sysconfig.get_paths()["purelib"])
    found = (page for folder in folders for page in sorted(folder.rglob("*.htm*")))
    pages = [page for page in islice(found, 400) if page.is_file()][::4]
    assert pages

    for page in pages:
        text = re.sub(r"<[^>]*>", " ", page.read_bytes()[:250_000].decode("utf-8", "replace"))
        hits = {one.rule.name: one.count for one in scan(compiled, text, page.name).rules}
        for word in plain:
            assert hits.get(word, 0) == fold(text).count(word)
        for pattern in patterns_:
            counted = sum(1 for _ in re2.finditer(pattern, text, regex_options(False)))
            assert hits.get(pattern, 0) == counted
