"""TLS between a link, or a client, and a gRPC server of the test's own: who gets in, and what the others are told."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner
from tritonclient.grpc import service_pb2_grpc

from tests.certificates import SCRIPT, make_certificates
from tests.unit.network.test_link import Echo, Listener
from wanspec.cli.group import cli
from wanspec.conformance import connect
from wanspec.errors import ConfigError, ServerError
from wanspec.network import link
from wanspec.network.link import LinkClient, LinkTarget
from wanspec.network.tls import CLIENT_FILES, SERVER_FILES, Tls, check_folder, explained, tls_in, tls_of
from wanspec.triton.client import WanspecClient

NAMES = ("tls_ca", "tls_cert", "tls_key")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder / "theirs", "controller=controller")
    return make_certificates(folder / "ours", "worker=worker.example,10.0.0.2", "controller=controller")


@pytest.fixture(scope="module")
def mine(certificates: Path) -> Tls:
    return tls_in(certificates / "controller", NAMES)


@pytest.fixture(scope="module")
def theirs(certificates: Path) -> Tls:
    """Of another authority."""
    return tls_in(certificates.parent / "theirs" / "controller", NAMES)


@pytest.fixture(scope="module")
def ports(certificates: Path) -> Iterator[tuple[int, int, int]]:
    """With mutual TLS, plaintext, and with mutual TLS on 127.0.0.2."""
    certificate, key, authority = ((certificates / "worker" / name).read_bytes() for name in SERVER_FILES)
    server = grpc.server(ThreadPoolExecutor(8))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Echo(), server)
    credentials = grpc.ssl_server_credentials([(key, certificate)], authority, require_client_auth=True)
    numbers = server.add_secure_port("127.0.0.1:0", credentials), server.add_insecure_port("127.0.0.1:0")
    elsewhere = server.add_secure_port("127.0.0.2:0", credentials)
    server.start()
    yield (*numbers, elsewhere)
    server.stop(None)


@pytest.fixture(autouse=True)
def started(ports: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "CONNECT_TIMEOUT_S", 0.3)


def said_of(url: str, tls: Tls | None) -> str | bytes:
    """What a link is told: the frame that it sent, or why it is down."""
    listener = Listener()
    client = LinkClient(LinkTarget(url, credentials=tls.credentials() if tls else None), listener)
    client.connect()
    said = listener.next()
    if said == "connected":
        client.send(b"frame", opening=True)
        said = listener.next()
    connection = client.close()
    if connection is not None:
        connection.join(5.0)
    return said


def test_the_script_names_what_it_is_asked_to(certificates: Path) -> None:
    def shown(file: str, extension: str) -> str:
        command = ["openssl", "x509", "-in", certificates / "worker" / file, "-noout", "-ext", extension]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout

    names = shown("server.crt", "subjectAltName")
    for name in ("DNS:localhost", "IP Address:127.0.0.1", "DNS:worker.example", "IP Address:10.0.0.2"):
        assert name in names
    assert "TLS Web Server Authentication" in shown("server.crt", "extendedKeyUsage")
    assert "TLS Web Client Authentication" in shown("client.crt", "extendedKeyUsage")
    assert (certificates / "worker" / "server.key").stat().st_mode & 0o077 == 0
    check_folder(certificates / "worker", (*SERVER_FILES, *CLIENT_FILES), "tls")
    assert subprocess.run([SCRIPT, certificates, "worker"], capture_output=True, timeout=10).returncode == 2


def test_a_link_with_certificates_of_both_ends(ports: tuple[int, int, int], mine: Tls) -> None:
    assert said_of(f"127.0.0.1:{ports[0]}", mine) == b"frame"


@pytest.mark.parametrize(
    ("who", "reason"),
    [
        ("plaintext", "so ends a server that wants TLS, or that refuses this client's certificate"),
        ("no certificate", "so ends a server that wants TLS, or that refuses this client's certificate"),
        ("certificate of others", "so ends a server that wants TLS, or that refuses this client's certificate"),
        ("authority of others", "the server's certificate is not signed by the authority given, or has expired"),
        ("TLS to plaintext", "the server speaks no TLS on this port"),
        ("nobody there", "Connection refused"),
    ],
)
def test_who_does_not_get_in_is_told_why(
    ports: tuple[int, int, int], mine: Tls, theirs: Tls, who: str, reason: str
) -> None:
    tls = {
        "plaintext": None,
        "no certificate": Tls(mine.ca),
        "certificate of others": replace(theirs, ca=mine.ca),
        "authority of others": replace(mine, ca=theirs.ca),
    }.get(who, mine)
    port = {"TLS to plaintext": ports[1], "nobody there": 1}.get(who, ports[0])
    said = said_of(f"127.0.0.1:{port}", tls)
    assert isinstance(said, str)
    assert said.startswith(f"down: 127.0.0.1:{port} did not answer within 0.3 s: ")
    assert reason in said


def test_a_name_that_the_certificate_has_not(ports: tuple[int, int, int], mine: Tls) -> None:
    said = said_of(f"127.0.0.2:{ports[2]}", mine)
    assert "the server's certificate is for another name than the one that was dialled" in str(said)


def test_clients(ports: tuple[int, int, int], mine: Tls, theirs: Tls) -> None:
    url = f"127.0.0.1:{ports[0]}"
    # The server of the test knows no such method: the answer came through TLS.
    with pytest.raises(ServerError, match="not implemented"):
        WanspecClient(url, tls=mine).parameters()
    with pytest.raises(ServerError, match="not implemented"):
        connect("grpc", url, "wanspec", tls=mine)
    with pytest.raises(ServerError, match="is not signed by the authority given"):
        WanspecClient(url, tls=replace(mine, ca=theirs.ca)).parameters()
    with pytest.raises(ServerError, match="a server that wants TLS"):
        WanspecClient(url).parameters()


def test_the_commands_say_what_is_missing(ports: tuple[int, int, int], mine: Tls) -> None:
    def said(*more: object) -> str:
        return CliRunner().invoke(cli, ["control", "--url", f"127.0.0.1:{ports[0]}", *map(str, more)]).output

    files = ("--tls-ca", mine.ca, "--tls-cert", mine.certificate, "--tls-key", mine.key)
    assert "It speaks TLS: give --tls-ca" in said()
    assert "not implemented" in said(*files)
    assert "--tls-key: is missing: a certificate and its key go together" in said(*files[:4])
    assert "--tls-ca: is missing: TLS needs the authority" in said(*files[2:])
    assert "--tls-ca: cannot read nowhere: No such file or directory" in said("--tls-ca", "nowhere")
    advice = CliRunner().invoke(cli, ["advise", *map(str, files)])
    assert "--tls-ca, --tls-cert and --tls-key go with --url" in advice.output


def test_a_connection_that_was_made_and_broke_is_no_matter_of_tls() -> None:
    assert explained("Socket closed") == "Socket closed"
    assert explained("failed to connect to all addresses; last error: Socket closed").endswith("certificate)")


def test_plaintext_without_files() -> None:
    assert tls_of("", "", "", NAMES) is None


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"ca": "nowhere"}, "tls_ca: cannot read .*nowhere: No such file"),
        ({"ca": "client.key"}, "tls_ca: .*client.key holds no CERTIFICATE in PEM"),
        ({"certificate": "folder"}, "tls_cert: cannot read .*folder: Is a directory"),
        ({"key": "ca.crt"}, "tls_key: .*ca.crt holds no PRIVATE KEY in PEM"),
        ({"key": "server.key"}, "tls_key: .*server.key is not the key of .*client.crt: KEY_VALUES_MISMATCH"),
        ({"key": "locked.key"}, "tls_key: .*locked.key is not the key of .*it is encrypted"),
    ],
)
def test_files_that_cannot_be_used(certificates: Path, mine: Tls, change: dict[str, str], problem: str) -> None:
    folder = certificates / "controller"
    (folder / "folder").mkdir(exist_ok=True)
    locked = folder / "locked.key"
    if not locked.exists():
        command = ["openssl", "ec", "-aes128", "-passout", "pass:x", "-in", folder / "client.key", "-out", locked]
        subprocess.run(command, check=True, capture_output=True, timeout=10)
    with pytest.raises(ConfigError, match=problem):
        replace(mine, **{name: folder / file for name, file in change.items()}).credentials()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_key_that_may_not_be_read(tmp_path: Path, mine: Tls) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"")
    key.chmod(0)
    with pytest.raises(ConfigError, match=r"tls_key: cannot read .*: Permission denied"):
        replace(mine, key=key).credentials()
