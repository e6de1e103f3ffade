from __future__ import annotations

from bench.peers.proc import Stat, family, parse_kilobytes, parse_stat

# As Linux 6 wrote it, of a program whose name is chosen to mislead; 123 ticks in user mode, 45 in the kernel.
STAT = (
    "27694 (a) R (b) S 27280 27280 11663 0 -1 4194304 101 0 1 0 123 45 9 8 20 0 1 0 2233854 3133440 415 "
    "18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0"
)
STATUS = "Name:\tpython\nVmPeak:\t  200000 kB\nVmRSS:\t   63488 kB\nRssAnon:\t   40000 kB\n"


def test_a_name_may_hold_brackets_and_blanks():
    assert parse_stat(STAT) == Stat(pid=27694, parent=27280, session=11663, ticks=168, started=2233854)


def test_memory_is_read_in_bytes():
    assert parse_kilobytes(STATUS, "VmRSS") == 63488 * 1024
    assert parse_kilobytes(STATUS, "VmSwap") == 0
    assert parse_kilobytes("", "Pss") == 0


def stat(pid: int, parent: int, session: int) -> Stat:
    return Stat(pid, parent, session, 0, 0)


def test_a_server_is_its_descendants_its_session_and_what_bears_its_mark():
    everyone = [
        stat(1, 0, 1),
        stat(10, 1, 10),  # started
        stat(11, 10, 10),  # its child
        stat(12, 11, 12),  # a grandchild, in a session of its own
        stat(13, 1, 10),  # left by its parent, in the session
        stat(14, 1, 14),  # left by its parent, with a session, marked
        stat(15, 14, 14),  # child of that one
        stat(20, 1, 20),  # somebody else's
        stat(21, 20, 20),
    ]
    assert family(10, everyone, tagged=[14]) == {10, 11, 12, 13, 14, 15}
    assert family(10, [*reversed(everyone)], tagged=[14]) == {10, 11, 12, 13, 14, 15}
    assert family(10, everyone) == {10, 11, 12, 13}
