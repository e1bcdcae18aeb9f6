"""Every exception of the package. Messages name the field, what was given, the limit, and what to do."""

from __future__ import annotations


class WanspecError(Exception):
    """Base of all errors raised on purpose."""


class InvalidRequestError(WanspecError, ValueError):
    """A request that cannot be served as asked. ``field`` names the offending input."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class ConfigError(WanspecError, ValueError):
    """A setting that cannot work. ``field`` names it."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class ProtocolError(WanspecError):
    """A message of a peer that does not follow the protocol."""


class EngineError(WanspecError):
    """An engine failed or answered nonsense."""


class RequestCancelledError(EngineError):
    """The client of a request has gone, or no longer wants its answer."""


class RequestStoppedError(RequestCancelledError):
    """A request was ended by another one that asked for it by its id."""


class ModelError(WanspecError):
    """A model folder or package that cannot be used."""


class ServerError(WanspecError):
    """A Triton process that did not start, died, or could not be reached."""


class UnavailableError(ServerError):
    """A server that takes no request now, or is not there: trying again later may help."""


class BusyError(UnavailableError):
    """A server with as many requests as it takes: trying again a moment later will help.

    The message begins with :attr:`CODE`, by which it is known on the other side of a stream that carries text alone.
    """

    CODE = "busy"

    def __init__(self, problem: str) -> None:
        super().__init__(f"{self.CODE}: {problem}")


class DeadlineError(ServerError):
    """No answer, or not all of it, within the time allowed."""
