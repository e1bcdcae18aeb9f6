"""The token that a controller shows to a worker. Read from a file, so that it is in no argument list or config."""

from __future__ import annotations

from pathlib import Path

from wanspec.errors import ConfigError

MAX_BYTES = 1024


def read_token(file: str) -> str:
    """Read a token; an empty path means none.

    Raises:
        ConfigError: the file cannot be read, is empty, or is larger than ``MAX_BYTES``.
    """
    if not file:
        return ""
    try:
        raw = Path(file).read_bytes()
    except OSError as error:
        raise ConfigError("auth_token_file", f"cannot read {file}: {error.strerror}") from error
    token = raw.decode(errors="replace").strip()
    if not token or len(raw) > MAX_BYTES:
        raise ConfigError("auth_token_file", f"{file} must hold 1 to {MAX_BYTES} bytes, it has {len(raw)}")
    return token
