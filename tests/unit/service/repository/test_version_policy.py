from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from service.repository.version_policy import stand_ins, to_unload, wanted
from service.settings import Settings

_versions = st.sets(st.integers(1, 10**18 - 1), max_size=6)
_few = st.sets(st.integers(1, 6))  # two such sets meet


@given(_versions)
def test_all_serves_all_in_order(versions: set[int]) -> None:
    assert wanted("all", versions) == sorted(versions)


@given(_versions, st.integers(1, 9))
def test_latest_serves_the_newest_n(versions: set[int], n: int) -> None:
    chosen = wanted(f"latest:{n}", versions)
    assert chosen == sorted(chosen)
    assert len(chosen) == min(n, len(versions))
    assert all(left < chosen[0] for left in versions - set(chosen))


@given(_versions, st.sets(st.integers(1, 10**18 - 1), min_size=1, max_size=4))
def test_numbers_serve_those_that_exist(versions: set[int], numbers: set[int]) -> None:
    asked = numbers | set(list(versions)[:2])
    assert wanted(",".join(map(str, asked)), versions) == sorted(versions & asked)


@given(st.text(max_size=8) | st.from_regex(r"latest:\d{1,3}|\d(,\d)*", fullmatch=True), _versions)
def test_any_text_is_a_policy_or_no_setting(policy: str, versions: set[int]) -> None:
    try:
        Settings(versions=policy)
    except ValueError:
        return
    assert set(wanted(policy, versions)) <= versions


@given(ready=_few, asked=_few)
def test_an_old_version_leaves_only_for_one_that_serves(ready: set[int], asked: set[int]) -> None:
    leaving = set(to_unload(ready, asked))
    assert leaving <= ready - asked
    assert not ready or ready - leaving
    if ready & asked:
        assert leaving == ready - asked


@given(ready=_few, on_disk=_few, n=st.integers(1, 4))
def test_of_the_latest_as_many_stay_as_are_wanted(ready: set[int], on_disk: set[int], n: int) -> None:
    policy = f"latest:{n}"
    asked = set(wanted(policy, on_disk))
    staying = ready - set(to_unload(ready, asked, stand_ins(policy, on_disk)))
    assert ready & asked <= staying
    assert len(staying & on_disk) >= min(len(asked), len(ready & on_disk))
    if ready & asked:
        assert len(staying) <= len(asked)
        assert staying <= on_disk, "what is gone from the disk goes"
        stay, go = staying - asked, (ready & on_disk) - staying
        assert not stay or not go or min(stay) > max(go), "the newest stay"
