"""Which proxy is next, and which are left out."""

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.chassis.secrets import Secret
from services.validation.http.proxies import make
from services.validation.http.proxy_pool import (
    Health,
    HealthRules,
    Member,
    Pool,
    Result,
    Strategy,
    check_members,
    check_rules,
)

RULES = HealthRules(failures=3, successes=2, first_delay=30, max_delay=100)


def member(name, **fields):
    return Member(name, make("http", f"{name}.example", 3128), **fields)


def pool_of(members, strategy=Strategy.ROUND_ROBIN, seed=1, rules=RULES):
    if isinstance(members, str):
        members = [member(name) for name in members]
    return Pool(members, strategy=strategy, random=random.Random(seed).random, rules=rules)


def use(pool, result, now=0.0):
    """One request from begin to end: who carried it, and the changes it made."""
    chosen = pool.choose(now)
    if chosen is None:
        return None, []
    carried, begun = chosen
    ended = pool.give_back(carried, result, now)
    return carried.member.proxy_id, [
        (each.before, each.after) for each in (begun, ended) if each is not None
    ]


def picks(pool, count, now=0.0):
    return [use(pool, Result.WORKED, now)[0] for _ in range(count)]


def health(pool):
    return {each.proxy_id: each.health for each in pool.conditions()}


# Strategies -----------------------------------------------------------------------------------


@given(st.integers(1, 8), st.integers(0, 99), st.integers(0, 50))
def test_a_rotation_gives_everyone_the_same_in_any_row_of_turns(size, seed, offset):
    pool = pool_of("abcdefgh"[:size], seed=seed)
    picks(pool, offset)

    assert set(Counter(picks(pool, size * 3)).values()) == {3}


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.integers(0, 99), st.integers(0, 60))
def test_weights_are_kept_exactly_in_any_row_of_their_sum(weights, seed, offset):
    members = [member("abcdef"[index], weight=weight) for index, weight in enumerate(weights)]
    pool = pool_of(members, Strategy.WEIGHTED, seed)
    picks(pool, offset)

    counts = Counter(picks(pool, sum(weights)))

    assert [counts[each.proxy_id] for each in members] == weights


def test_weights_are_spread_and_not_bunched():
    members = [member("a", weight=30), member("b", weight=10), member("c", weight=20)]

    carried = "".join(picks(pool_of(members, Strategy.WEIGHTED), 120))

    assert "aaa" not in carried
    assert "bb" not in carried
    assert "cc" not in carried


@given(st.integers(1, 6), st.integers(0, 99), st.lists(st.integers(0, 100), max_size=60))
def test_least_used_never_lets_requests_under_way_differ_by_more_than_one(size, seed, ends):
    pool = pool_of("abcdef"[:size], Strategy.LEAST_USED, seed)
    for _ in ends:
        pool.choose(0)
        loads = [each.counters.in_flight_count for each in pool.conditions()]
        assert max(loads) - min(loads) <= 1


def test_least_used_chooses_whoever_is_done_first():
    pool = pool_of("abc", Strategy.LEAST_USED)
    uses = [pool.choose(0)[0] for _ in range(6)]

    pool.give_back(uses[4], Result.WORKED, 0)

    assert pool.choose(0)[0].member == uses[4].member


def test_who_comes_back_does_not_get_every_request():
    pool = pool_of("ab", Strategy.LEAST_USED)
    picks(pool, 100)
    pool.replace([member("a"), member("b"), member("c")])

    assert set(Counter(picks(pool, 30)).values()) == {10}


def test_random_is_fair_and_follows_its_seed():
    one, same, other = (picks(pool_of("abcd", Strategy.RANDOM, seed), 4_000) for seed in (7, 7, 8))

    assert one == same != other
    assert all(900 < count < 1_100 for count in Counter(one).values())


def test_processes_begin_a_rotation_with_different_ones():
    begins = {pool_of("abcd", seed=seed).choose(0)[0].member.proxy_id for seed in range(40)}

    assert begins == set("abcd")


@pytest.mark.parametrize("strategy", Strategy)
def test_members_that_are_not_active_are_not_used(strategy):
    pool = pool_of([member("a"), member("b", is_active=False)], strategy)

    assert set(picks(pool, 20)) == {"a"}
    assert health(pool) == {"a": Health.UP, "b": Health.UP}


@pytest.mark.parametrize("strategy", Strategy)
@pytest.mark.parametrize("members", [[], [member("a", is_active=False)]])
def test_a_pool_without_active_members_gives_none(strategy, members):
    pool = pool_of(members, strategy)

    assert pool.choose(0) is None
    assert pool.wait(0) is None


# Health ---------------------------------------------------------------------------------------


def test_failures_in_a_row_take_a_proxy_out():
    pool = pool_of("a")

    changes = [use(pool, Result.FAILED)[1] for _ in range(3)]

    assert changes == [[], [], [(Health.UP, Health.DOWN)]]
    assert pool.choose(29.9) is None
    assert pool.wait(10) == 20


@pytest.mark.parametrize("strategy", Strategy)
def test_the_others_carry_on(strategy):
    pool = pool_of("ab", strategy)
    while health(pool)["a"] is not Health.DOWN:
        chosen, _ = pool.choose(0)
        failed = chosen.member.proxy_id == "a"
        pool.give_back(chosen, Result.FAILED if failed else Result.WORKED, 0)

    assert set(picks(pool, 10)) == {"b"}


def test_a_success_between_them_forgives_failures():
    pool = pool_of("a")
    results = [Result.FAILED, Result.FAILED, Result.WORKED] * 5

    assert not any(use(pool, result)[1] for result in results)


def test_sites_that_fail_say_nothing_of_the_proxy():
    pool = pool_of("a")
    for result in [Result.FAILED, Result.FAILED, *[Result.UNKNOWN] * 50]:
        assert use(pool, result)[1] == []

    assert use(pool, Result.FAILED)[1] == [(Health.UP, Health.DOWN)]


def test_trials_one_at_a_time_bring_a_proxy_back():
    pool = pool_of("a")
    for _ in range(3):
        use(pool, Result.FAILED)

    trial, change = pool.choose(30)
    assert (change.before, change.after) == (Health.DOWN, Health.ON_TRIAL)
    assert pool.choose(30) is None
    assert pool.wait(30) is None
    assert pool.give_back(trial, Result.WORKED, 31) is None
    assert use(pool, Result.WORKED, 31)[1] == [(Health.ON_TRIAL, Health.UP)]
    assert pool.wait(31) == 0


def test_a_failed_trial_doubles_the_delay_up_to_the_limit():
    pool = pool_of("a")
    for _ in range(3):
        use(pool, Result.FAILED)
    now, delays = 0.0, []
    for _ in range(4):
        delays.append(pool.wait(now))
        now += delays[-1]
        use(pool, Result.FAILED, now)

    assert delays == [30, 60, 100, 100]


@pytest.mark.parametrize(("held", "delay"), [(50, 60), (101, 30)])
def test_who_goes_out_soon_after_coming_back_waits_longer(held, delay):
    pool = pool_of("a")
    for now in (0, 0, 0, 30, 30):
        use(pool, Result.FAILED if now == 0 else Result.WORKED, now)
    assert health(pool)["a"] is Health.UP

    for _ in range(3):
        use(pool, Result.FAILED, 30 + held)

    assert pool.wait(30 + held) == delay


def test_late_results_of_before_change_nothing():
    pool = pool_of("a")
    early = [pool.choose(0)[0] for _ in range(6)]
    for each in early[:3]:
        pool.give_back(each, Result.FAILED, 0)
    trial, _ = pool.choose(30)

    assert pool.give_back(early[3], Result.FAILED, 30) is None
    assert pool.give_back(early[4], Result.WORKED, 30) is None
    assert pool.give_back(trial, Result.WORKED, 30) is None
    assert pool.give_back(early[5], Result.WORKED, 30) is None
    assert health(pool)["a"] is Health.ON_TRIAL


def test_a_use_is_given_back_once():
    pool = pool_of("a")
    chosen, _ = pool.choose(0)
    pool.give_back(chosen, Result.WORKED, 0)

    with pytest.raises(ValueError, match="not under way"):
        pool.give_back(chosen, Result.WORKED, 0)


def test_members_that_stay_keep_what_is_known_of_them():
    pool = pool_of("ab")
    while "a" in health(pool) and health(pool)["a"] is Health.UP:
        use(pool, Result.FAILED)

    pool.replace([member("a", weight=5), member("c")])

    assert health(pool) == {"a": Health.DOWN, "c": Health.UP}


def test_a_new_password_is_a_new_beginning():
    pool = pool_of("a")
    for _ in range(3):
        use(pool, Result.FAILED)
    changed = member("a")

    pool.replace([replace(changed, proxy=replace(changed.proxy, password=Secret("new")))])

    assert health(pool) == {"a": Health.UP}


def test_results_of_members_that_left_change_nothing():
    pool = pool_of("a")
    uses = [pool.choose(0)[0] for _ in range(3)]
    pool.replace([member("b")])

    assert [pool.give_back(each, Result.FAILED, 0) for each in uses] == [None] * 3


steps = st.lists(
    st.tuples(
        st.sampled_from(["choose", "choose", "end", "wait"]),
        st.sampled_from(Result),
        st.integers(0, 50),
    ),
    max_size=150,
)


@settings(max_examples=200)
@given(steps, st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.sampled_from(Strategy))
def test_health_never_flaps(steps, failures, successes, size, strategy):
    rules = HealthRules(failures=failures, successes=successes, first_delay=10, max_delay=40)
    pool = pool_of("abc"[:size], strategy, rules=rules)
    now = 0.0
    # Uses under way with how often their proxy had changed when they began.
    under_way = []
    # By proxy: changes so far, results since the last one of uses since then, and when it went out.
    epochs, heard, out_since = Counter(), {}, {}

    def note(change):
        if change is None:
            return
        epochs[change.proxy_id] += 1
        results = heard.pop(change.proxy_id, [])
        if change.after is Health.UP:
            assert change.before is Health.ON_TRIAL
            assert results == [Result.WORKED] * successes
        elif change.after is Health.DOWN:
            needed = failures if change.before is Health.UP else 1
            assert results[-needed:] == [Result.FAILED] * needed
            out_since[change.proxy_id] = now
        else:
            assert change.before is Health.DOWN
            assert now - out_since[change.proxy_id] >= rules.first_delay

    for step, result, number in steps:
        if step == "wait":
            now += number
        elif step == "choose":
            chosen = pool.choose(now)
            assert chosen or Health.UP not in health(pool).values()
            if chosen:
                note(chosen[1])
                under_way.append((chosen[0], epochs[chosen[0].member.proxy_id]))
        elif under_way:
            use, epoch = under_way.pop(number % len(under_way))
            proxy_id = use.member.proxy_id
            if epoch == epochs[proxy_id] and result is not Result.UNKNOWN:
                heard.setdefault(proxy_id, []).append(result)
            note(pool.give_back(use, result, now))
        for proxy_id, state in health(pool).items():
            now_using = [
                use
                for use, epoch in under_way
                if use.member.proxy_id == proxy_id and epoch == epochs[proxy_id]
            ]
            assert state is Health.UP or len(now_using) <= 1
    for each in pool.conditions():
        counters = each.counters
        assert counters.use_count == (
            counters.in_flight_count
            + counters.worked_count
            + counters.failed_count
            + counters.unknown_count
        )
    assert sum(each.counters.in_flight_count for each in pool.conditions()) == len(under_way)


# Configuration --------------------------------------------------------------------------------


def test_the_default_rules_are_within_their_ranges():
    assert list(check_rules(HealthRules(), "health")) == []


@pytest.mark.parametrize(
    ("rules", "fields"),
    [
        (HealthRules(0, 101, 0.5, 1), ["failures", "successes", "first_delay"]),
        (HealthRules(first_delay=60, max_delay=59), ["max_delay"]),
        (HealthRules(first_delay=float("nan")), ["first_delay"]),
        (HealthRules(max_delay=float("inf")), ["max_delay"]),
    ],
)
def test_every_bad_rule_is_named(rules, fields):
    assert [each.field for each in check_rules(rules, "health")] == [
        f"health.{name}" for name in fields
    ]


def test_every_bad_member_is_named():
    members = [member("a", weight=0), member("b"), member("a", weight=1_001)]

    assert [each.field for each in check_members(members, "members")] == [
        "members[0].weight",
        "members[2].weight",
        "members[2].proxy_id",
    ]
    assert "members" in {each.field for each in check_members([member("a")] * 1_001, "members")}


def test_who_failed_a_request_is_not_chosen_for_it_again():
    for strategy in Strategy:
        pool = Pool([member("a"), member("b")], strategy=strategy, random=lambda: 0.0)

        assert [pool.choose(0, {"a"})[0].member.proxy_id for _ in range(3)] == ["b"] * 3
        assert pool.choose(0, {"a", "b"}) is None
        assert sum(each.counters.use_count for each in pool.conditions()) == 3
