"""Statuses and failures to verdicts."""

import contextlib
import errno
import os
import resource
import shutil
import socket
import struct
import subprocess
import sys

import aiohttp
import pytest

from domainflow.validation.v1.http_pb2 import HttpVerdict
from services.validation.http.failures import MachineExhausted, OutgoingSocket, classify
from services.validation.http.verdict import Verdict, falls_back, nearer, of_status

ALLOWED = frozenset(range(200, 300))


def test_the_verdicts_are_those_of_the_contract():
    contract = {
        name.removeprefix("HTTP_VERDICT_"): number for name, number in HttpVerdict.items() if number
    }

    assert {verdict.name: verdict.value for verdict in Verdict} == contract


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (200, Verdict.OK),
        (204, Verdict.OK),
        (401, Verdict.UNAUTHORIZED),
        (403, Verdict.FORBIDDEN),
        (404, Verdict.NOT_FOUND),
        (410, Verdict.GONE),
        (429, Verdict.RATE_LIMITED),
        (451, Verdict.UNAVAILABLE_FOR_LEGAL_REASONS),
        (500, Verdict.SERVER_ERROR),
        (503, Verdict.SERVER_ERROR),
        (599, Verdict.SERVER_ERROR),
        (300, Verdict.STATUS_NOT_ALLOWED),
        (304, Verdict.STATUS_NOT_ALLOWED),
        (418, Verdict.STATUS_NOT_ALLOWED),
        (999, Verdict.STATUS_NOT_ALLOWED),
    ],
)
def test_a_status_has_its_verdict(status, verdict):
    assert of_status(status, ALLOWED) is verdict


def test_an_allowed_status_is_a_page_whatever_it_means():
    assert of_status(403, frozenset({403})) is Verdict.OK
    assert of_status(200, frozenset({403})) is Verdict.STATUS_NOT_ALLOWED


@pytest.mark.parametrize(
    ("number", "verdict"),
    [
        (errno.ECONNREFUSED, Verdict.CONNECTION_REFUSED),
        (errno.ECONNRESET, Verdict.CONNECTION_RESET),
        (errno.EPIPE, Verdict.CONNECTION_RESET),
        (errno.ETIMEDOUT, Verdict.TIMEOUT),
        (errno.EHOSTUNREACH, Verdict.UNREACHABLE),
        (errno.ENETUNREACH, Verdict.UNREACHABLE),
        (errno.EADDRNOTAVAIL, Verdict.UNREACHABLE),
        (errno.EPERM, Verdict.UNREACHABLE),
        (errno.EPROTO, Verdict.UNREACHABLE),
    ],
)
def test_an_error_of_the_system_has_its_verdict(number, verdict):
    assert classify(OSError(number, "said"))[0] is verdict
    assert classify(aiohttp.ClientOSError(number, "said"))[0] is verdict


def test_of_several_addresses_the_one_that_came_nearest_speaks():
    error = OSError(
        "Multiple exceptions: [Errno 101] Network is unreachable, [Errno 111] Connect call failed"
    )

    assert classify(error)[0] is Verdict.CONNECTION_REFUSED


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS])
def test_what_this_machine_lacks_is_no_verdict(number):
    with pytest.raises(MachineExhausted):
        classify(OSError(number, "said"))


# Of Linux 6.3 and later; not yet in the library.
_IP_LOCAL_PORT_RANGE = 51


def from_port(family, port):
    """A socket that may connect from this port alone."""
    made = OutgoingSocket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.IPPROTO_IP, _IP_LOCAL_PORT_RANGE, struct.pack("I", port << 16 | port))
    return made


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_ports_that_are_used_up_are_the_machines_fault(family, host):
    with socket.create_server((host, 0), family=family) as site:
        place = site.getsockname()[:2]
        # Any port that is free.
        with socket.create_connection(place) as earlier:
            port = earlier.getsockname()[1]
            with (
                from_port(family, port) as late,
                pytest.raises(OSError, match="local port") as caught,
            ):
                late.connect(place)

    assert caught.value.errno == errno.ENOBUFS
    with pytest.raises(MachineExhausted, match="no local port left"):
        classify(caught.value)


def test_an_address_without_a_way_there_is_no_fault_of_the_machine():
    # The loopback has no address that is good for its own link only.
    place = "fe80::1", 9, 0, socket.if_nametoindex("lo")
    with OutgoingSocket(socket.AF_INET6, socket.SOCK_STREAM) as made:
        with pytest.raises(OSError, match=r"unreachable|Cannot assign") as caught:
            made.connect(place)

    assert classify(caught.value)[0] is Verdict.UNREACHABLE


@contextlib.contextmanager
def no_more_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_without_files_to_find_out_with_it_is_the_machines_fault():
    with socket.create_server(("127.0.0.1", 0)) as site:
        place = site.getsockname()
        with socket.create_connection(place) as earlier:
            with from_port(socket.AF_INET, earlier.getsockname()[1]) as late:
                with no_more_files(), pytest.raises(OSError, match="Too many") as caught:
                    late.connect(place)

    with pytest.raises(MachineExhausted):
        classify(caught.value)


# Run in a network of its own. Each line of the output is the verdict about an address of the
# internet, or that the machine is at fault.
_ALONE = """
import socket, subprocess
from services.validation.http.failures import MachineExhausted, OutgoingSocket, classify

def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True)

def ask(address):
    with OutgoingSocket(socket.AF_INET, socket.SOCK_STREAM) as made:
        made.setblocking(False)
        try:
            made.connect((address, 80))
        except BlockingIOError:
            print("on its way")
        except OSError as error:
            try:
                print(classify(error)[0].name)
            except MachineExhausted as problem:
                print("lost" if "lost its network" in str(problem) else problem)

def plug_in():
    ip("link", "add", "cable", "type", "bridge")
    ip("address", "add", "198.18.0.1/24", "dev", "cable")
    ip("link", "set", "cable", "up")
    ip("route", "add", "default", "via", "198.18.0.2")
"""


def alone(script):
    """What the script prints, line by line."""
    tools = [shutil.which(tool) for tool in ("unshare", "ip")]
    command = ["unshare", "--map-root-user", "--net"]
    make = "ip link add cable type bridge"
    if (
        not all(tools)
        or subprocess.run([*command, "sh", "-c", make], capture_output=True).returncode
    ):
        pytest.skip("there can be no network namespaces here")
    run = subprocess.run(
        [*command, sys.executable, "-c", _ALONE + script],
        capture_output=True,
        text=True,
        timeout=30,
        env={"PYTHONPATH": ":".join(path for path in sys.path if path), "PATH": os.environ["PATH"]},
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.split("\n")[:-1]


def test_a_machine_that_loses_its_network_is_at_fault_until_it_is_back():
    said = alone(
        """
plug_in()
ask("8.8.8.8")
ip("route", "delete", "default")
ask("1.1.1.1")
ip("link", "delete", "cable")
ask("1.1.1.1")
ask("8.8.8.8")
plug_in()
ask("1.1.1.1")
"""
    )

    assert said == ["on its way", "lost", "lost", "lost", "on its way"]


def test_a_machine_that_never_had_a_way_to_the_internet_waits_for_none():
    said = alone(
        """
ip("link", "add", "cable", "type", "bridge")
ip("address", "add", "198.18.0.1/24", "dev", "cable")
ip("link", "set", "cable", "up")
ask("198.18.0.7")
ask("1.1.1.1")
"""
    )

    assert said == ["on its way", "UNREACHABLE"]


def test_an_address_that_nobody_has_a_way_to_is_no_fault_of_the_machine():
    said = alone(
        """
plug_in()
ip("route", "add", "unreachable", "1.1.1.0/24")
ip("route", "add", "throw", "9.9.9.0/24")
ask("8.8.8.8")
ask("1.1.1.1")
ask("9.9.9.9")
ip("route", "delete", "default")
ask("1.1.1.1")
"""
    )

    assert said == ["on its way", "UNREACHABLE", "UNREACHABLE", "lost"]


def test_another_scheme_is_tried_after_failures_to_connect_only():
    tried = {verdict for verdict in Verdict if falls_back(verdict)}

    assert Verdict.TLS_HANDSHAKE in tried
    assert tried.isdisjoint(
        {Verdict.OK, Verdict.NOT_FOUND, Verdict.RATE_LIMITED, Verdict.EXCLUDED}
        | {Verdict.ADDRESS_NOT_ALLOWED, Verdict.TLS_CERTIFICATE, Verdict.TOO_MANY_REDIRECTS}
    )


def test_a_server_that_spoke_says_more_than_one_that_did_not():
    assert nearer(Verdict.TLS_HANDSHAKE, Verdict.CONNECTION_REFUSED)
    assert not nearer(Verdict.UNREACHABLE, Verdict.TIMEOUT)
    assert not nearer(Verdict.TIMEOUT, Verdict.TIMEOUT)
