"""The state of ``wanspec chat``: what was said, how answers are decoded, and the commands that change both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wanspec.cli.command import parse_settings
from wanspec.cli.regions import check_policy
from wanspec.core.policies import POLICIES
from wanspec.errors import ConfigError
from wanspec.triton.client import Prompt

COMMANDS: Mapping[str, str] = {
    "/help": "this list",
    "/policy NAME [NAME=VALUE ...]": f"how to decode from now on: {', '.join(POLICIES)}; without NAME: as the endpoint",
    "/system TEXT": "what the model is told before the conversation; without TEXT: nothing",
    "/reset": "forget what was said; system message and policy stay",
    "/exit": "end, as Ctrl-D does",
}
"""What may be typed instead of a message. A message that begins with a slash is typed with a space before it."""


@dataclass
class Conversation:
    """One conversation.

    Attributes:
        templated: whether the model has a chat template; without one it goes on with the text so far.
        inputs: arguments of ``WanspecClient.ask`` for every answer.
        system: what the model is told before; empty for nothing.
        turns: messages and answers.
    """

    templated: bool
    inputs: dict[str, Any]
    system: str = ""
    turns: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.system:
            self._set_system(self.system)

    def prompt(self, message: str) -> Prompt:
        """What is sent for the next message: the messages of the conversation, or its text."""
        if not self.templated:
            return "\n".join([text for turn in self.turns for text in turn] + [message])
        told = [{"role": "system", "content": self.system}] if self.system else []
        for said, answer in self.turns:
            told += [{"role": "user", "content": said}, {"role": "assistant", "content": answer}]
        return [*told, {"role": "user", "content": message}]

    def command(self, line: str) -> str:
        """Carry out a line that begins with a slash, but ``/help`` and ``/exit``; return what to say.

        Raises:
            ConfigError: there is no such command, or it cannot be done.
        """
        name, _, rest = line.partition(" ")
        if name == "/policy":
            return self._set_policy(rest.split())
        if name == "/system":
            return self._set_system(rest.strip())
        if name == "/reset":
            self.turns.clear()
            return "a new conversation"
        names = ", ".join(usage.split()[0] for usage in COMMANDS)
        raise ConfigError(name, f"there is no such command; there are {names}. A space before it makes it a message")

    def _set_policy(self, words: list[str]) -> str:
        name, *settings = words or [""]
        if name and name not in POLICIES:
            raise ConfigError("/policy", f"{name!r} is unknown; there are {', '.join(POLICIES)}")
        wrong = [item for item in settings if "=" not in item.strip("=")]
        if wrong:
            raise ConfigError("/policy", f"{wrong[0]!r} is not NAME=VALUE, such as k=3")
        parameters = parse_settings(tuple(settings))
        if name:
            check_policy(name, parameters)
        self.inputs |= {"policy": name or None, "policy_parameters": parameters}
        return f"policy: {' '.join(words) or 'the endpoint’s own'}"

    def _set_system(self, text: str) -> str:
        if text and not self.templated:
            raise ConfigError("system", "this model has no chat template, so it has no place for it; leave it out")
        self.system = text
        return f"system message: {text or 'none'}"
