from services.query.recent import MAX_AGE, Recent


def test_what_was_used_least_lately_is_forgotten_first() -> None:
    recent = Recent[int](2)
    recent.keep("a", 1)
    recent.keep("b", 2)
    assert recent.get("a") == 1
    recent.keep("c", 3)
    assert [recent.get(key) for key in "abc"] == [1, None, 3]


def test_nothing_is_kept_for_long_however_often_it_is_used() -> None:
    now = [100.0]
    recent = Recent[int](2, clock=lambda: now[0])
    recent.keep("a", 1)
    now[0] += MAX_AGE
    assert recent.get("a") == 1
    now[0] += 0.001
    assert recent.get("a") is None
    recent.keep("a", 2)
    assert recent.get("a") == 2
