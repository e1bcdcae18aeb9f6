"""TLS of the gRPC channels that this side opens: to a worker, and to an endpoint."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from wanspec.errors import ConfigError

CLIENT_FILES = ("client.crt", "client.key", "ca.crt")
"""Files in a folder of certificates: this client's, its key, and of the authority that servers' are signed by."""
SERVER_FILES = ("server.crt", "server.key", "ca.crt")
"""The same of a server, with the authority that clients' are signed by."""
WHY_TIMEOUT_S = 1.0
_MEANINGS = {
    "CERTIFICATE_VERIFY_FAILED": "the server's certificate is not signed by the authority given, or has expired",
    "WRONG_VERSION_NUMBER": "the server speaks no TLS on this port",
    "Hostname Verification Check failed": "the server's certificate is for another name than the one that was dialled",
    "Socket closed": "so ends a server that wants TLS, or that refuses this client's certificate",
}
"""Of what gRPC says where a connection or its handshake fails."""


@dataclass(frozen=True, slots=True)
class Tls:
    """Files in PEM. Read when a channel is opened.

    Attributes:
        ca: the authorities that may have signed the server's certificate.
        certificate, key: what this client shows; both None where the server asks for none.
        names: how errors call the three.
    """

    ca: Path
    certificate: Path | None = None
    key: Path | None = None
    names: tuple[str, str, str] = ("tls_ca", "tls_cert", "tls_key")

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files.

        Raises:
            ConfigError: one cannot be read or is not in PEM, or certificate and key do not belong together.
        """
        ca_name, certificate_name, key_name = self.names
        authorities = _pem(self.ca, ca_name, "CERTIFICATE")
        if self.certificate is None or self.key is None:
            return grpc.ssl_channel_credentials(authorities)
        chain = _pem(self.certificate, certificate_name, "CERTIFICATE")
        key = _pem(self.key, key_name, "PRIVATE KEY")
        try:  # gRPC would only log, and then connect to nobody
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(self.certificate, self.key, password=_no_password)
        except (ssl.SSLError, _EncryptedError) as error:
            problem = getattr(error, "reason", None) or str(error)
            raise ConfigError(key_name, f"{self.key} is not the key of {self.certificate}: {problem}") from error
        return grpc.ssl_channel_credentials(authorities, key, chain)


def tls_of(ca: str, certificate: str, key: str, names: tuple[str, str, str]) -> Tls | None:
    """TLS by the paths of its files, each empty where it is not given; None for plaintext.

    Raises:
        ConfigError: a certificate without key, a key without certificate, or either without authority.
    """
    if not (ca or certificate or key):
        return None
    if bool(certificate) != bool(key):
        raise ConfigError(names[2] if certificate else names[1], "is missing: a certificate and its key go together")
    if not ca:
        raise ConfigError(names[0], "is missing: TLS needs the authority that signed the server's certificate")
    return Tls(Path(ca), Path(certificate) if certificate else None, Path(key) if key else None, names)


def tls_in(folder: Path, names: tuple[str, str, str]) -> Tls:
    """TLS by the files of a folder, named as in ``CLIENT_FILES``."""
    certificate, key, authority = (folder / name for name in CLIENT_FILES)
    return Tls(authority, certificate, key, names)


def check_folder(folder: Path, files: Sequence[str], name: str) -> None:
    """Look for a folder's files; ``name`` is what the error calls it.

    Raises:
        ConfigError: one is not there.
    """
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise ConfigError(name, f"{folder} lacks {', '.join(missing)}")


def open_channel(url: str, options: Sequence[tuple[str, Any]], credentials: grpc.ChannelCredentials | None) -> Any:
    """A gRPC channel to ``host:port``; plaintext without credentials."""
    if credentials is None:
        return grpc.insecure_channel(url, options=list(options))
    return grpc.secure_channel(url, credentials, options=list(options))


def why_not(channel: grpc.Channel) -> str:
    """Ask a channel that did not become ready what it fails at, in gRPC's words and ours; empty if it does not say."""
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    try:
        stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=WHY_TIMEOUT_S)
    except grpc.RpcError as error:
        return "" if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED else explained(str(error.details()))
    return ""


def explained(problem: str) -> str:
    """What gRPC says of a connection that could not be made, and what that means where it is TLS that fails."""
    if "failed to connect" not in problem:
        return problem
    meaning = next((meaning for words, meaning in _MEANINGS.items() if words in problem), "")
    return f"{problem} ({meaning})" if meaning else problem


class _EncryptedError(ValueError):
    """A key with a password, for which OpenSSL would ask at the terminal."""


def _no_password() -> str:
    raise _EncryptedError("it is encrypted; give a key without a password")


def _pem(path: Path, name: str, kind: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(name, f"cannot read {path}: {error.strerror}") from error
    if f"{kind}-----".encode() not in content:
        raise ConfigError(name, f"{path} holds no {kind} in PEM")
    return content
