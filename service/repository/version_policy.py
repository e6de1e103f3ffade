"""Which of a model's versions are served. Pure.

Three policies, as Triton has them: the newest n, all, or the numbers given.
"""

from __future__ import annotations

from collections.abc import Iterable


def to_unload(ready: Iterable[int], wanted: Iterable[int], stand_ins: Iterable[int] = ()) -> list[int]:
    """Return the READY versions to unload, ascending.

    An unwanted version leaves only when a wanted one is READY: if the new one fails, the old one goes on serving. Of
    those that may stand in, as many stay as wanted ones are not READY.

    Args:
        ready: What serves.
        wanted: What is to serve.
        stand_ins: Which of the others may serve in place of a wanted one, the first to stay first.

    >>> to_unload(ready=[1, 2], wanted=[2])
    [1]
    >>> to_unload(ready=[1], wanted=[2])
    []
    >>> to_unload(ready=[1, 2, 3], wanted=[3, 4], stand_ins=[2, 1])
    [1]
    """
    serving, asked = set(ready), set(wanted)
    if not serving & asked:
        return []
    stay = [version for version in stand_ins if version in serving][: len(asked - serving)]
    return sorted(serving - asked - set(stay))


def wanted(policy: str, versions: Iterable[int]) -> list[int]:
    """Return the versions to serve, ascending.

    Args:
        policy: ``"latest:N"``, ``"all"`` or numbers such as ``"1,3"``.
        versions: What is on disk.

    >>> wanted("latest:2", [1, 2, 10])
    [2, 10]
    """
    found = sorted(versions)
    if policy == "all":
        return found
    if policy.startswith("latest:"):
        return found[-int(policy.removeprefix("latest:")) :]
    chosen = set(map(int, policy.split(",")))
    return [version for version in found if version in chosen]


def absent(policy: str, versions: Iterable[int]) -> list[int]:
    """Return the versions that a policy names and that are not on disk, ascending.

    >>> absent("1,3,7", [3])
    [1, 7]
    >>> absent("latest:2", [3])
    []
    """
    numbers = policy.split(",")
    named = {int(number) for number in numbers} if all(map(str.isdecimal, numbers)) else set()
    return sorted(named - set(versions))


def stand_ins(policy: str, versions: Iterable[int]) -> list[int]:
    """Return the versions to try if not all wanted ones can be served, the newest first.

    For ``latest:N`` these are the older ones. A running server keeps the old version when the new one fails, and a
    server that is started then must do the same.

    >>> stand_ins("latest:1", [1, 2, 3])
    [2, 1]
    >>> stand_ins("3", [1, 2, 3])
    []
    """
    if not policy.startswith("latest:"):
        return []
    found = set(versions)
    return sorted(found - set(wanted(policy, found)), reverse=True)
