from __future__ import annotations

import random
import socket
import subprocess
import sys

import pytest

from wanspec.errors import ServerError
from wanspec.network import ports


def test_reserved_ports_differ_and_can_be_bound() -> None:
    with ports.reserve_ports(3) as first, ports.reserve_ports(3) as second:
        assert len({*first, *second}) == 6
        for port in first:
            socket.create_server(("127.0.0.1", port)).close()


def test_port_in_use_is_not_free() -> None:
    with ports.reserve_ports(1) as (port,):
        assert ports.is_free(port)
        with socket.create_server(("127.0.0.1", port)):
            assert not ports.is_free(port)


def two_free_ports() -> range:
    """Neighbours, out of the range that is chosen from: another test run may look for some at the same time."""
    while True:
        first = random.SystemRandom().randrange(12_000, 19_000)
        with ports.reserve_ports(2, [first, first + 1]) as found:
            if found == [first, first + 1]:
                return range(first, first + 2)


def test_another_process_gets_other_ports_until_the_holder_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = two_free_ports()
    first, second = pair
    monkeypatch.setattr(ports, "PORT_RANGE", pair)
    script = (
        f"from wanspec.network import ports; ports.PORT_RANGE = range({first}, {second})\n"
        "held = ports.reserve_ports(1); print(*held.ports, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert int(other.stdout.readline()) == first
        with ports.reserve_ports(1) as mine:
            assert mine == [second]
        with pytest.raises(ServerError, match=f"2 free ports wanted between {first} and {second + 1}"):
            ports.reserve_ports(2)
        other.kill()
    with ports.reserve_ports(2) as both:
        assert sorted(both) == [first, second]


def test_release_twice() -> None:
    reservation = ports.reserve_ports(1)
    reservation.release()
    reservation.release()


def test_preferred_ports_are_taken_where_they_can_be_had() -> None:
    with ports.reserve_ports(3) as free:
        pass
    with ports.reserve_ports(3, [free[0], None, free[2]]) as mine:
        assert (mine[0], mine[2]) == (free[0], free[2])
        assert mine[1] in ports.PORT_RANGE
        with socket.create_server(("127.0.0.1", free[1])), ports.reserve_ports(2, [free[0], free[1]]) as other:
            assert not {*other} & {*mine, free[1]}, "one is reserved, the other in use"
