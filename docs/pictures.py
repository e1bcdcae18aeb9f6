"""Make the pictures of the terminal in docs/images, from real runs: `python docs/pictures.py`.

Takes some three minutes on two cores, and the SmolLM2 pair, which it fetches if need be. Each command runs with a
pseudo-terminal as its standard output; what it writes there is drawn by rich as SVG. Progress goes to standard error,
which is no terminal here.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fcntl import ioctl
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from wanspec.triton.client import WanspecClient

IMAGES = Path(__file__).parent / "images"
WIDTH = 100
WANSPEC = (sys.executable, "-c", "from wanspec.cli import main; main()")
PACED = ("--pair", "smollm2", "--pace-ms", "100,30,30")
TIMEOUT_S = 240.0
LIVE = re.compile(r"(?:\x1b\[1A|\x1b\[2K)+")
"""Before each frame of a live view but the first; the last one is drawn."""
NO_STYLE = re.compile(r"\x1b\[\?[\d;]*[a-zA-Z]|\r")
"""Of a terminal's line editing: nothing to draw."""
PATHS = {f"{Path(sys.prefix).parent}/": "", str(Path.home()): "~"}
"""Where this machine has what `wanspec doctor` finds is nobody's business."""
WEB_FONTS = re.compile(r"@font-face \{\{.*?\}\}\s*", re.S)
"""The site fetches nothing from the network."""


@dataclass(frozen=True)
class Typed:
    """What is typed once the command has been silent for a while."""

    text: str
    silence_s: float = 3.0


def main() -> None:
    """Make all pictures."""
    draw("doctor", ["doctor"])
    draw("demo", ["demo", *PACED, "--max-tokens", "48"])
    with endpoint() as url:
        subprocess.run([*WANSPEC, "generate", "Hello.", "--url", url], check=True, stdout=subprocess.DEVNULL)  # warm
        draw("generate", ["generate", "Name three rivers.", "--explain", "--max-tokens", "24", "--url", url])
        typed = [Typed("Name a river in Africa.\n"), Typed("/policy local k=2\n"), Typed("And one in Asia?\n")]
        with asking(url):
            draw("tail", ["tail", "--count", "12", "--url", url])
        draw("chat", ["chat", "--max-tokens", "40", "--url", url], [*typed, Typed("/exit\n")])


def draw(name: str, arguments: Sequence[str], typed: Sequence[Typed] = ()) -> None:
    """Run a command, and draw what it shows."""
    shown = run(arguments, typed)
    plain = [each for each in arguments if not re.fullmatch(r"--url|[\d.]+:\d+", each)]
    called = " ".join(["wanspec", *(f'"{each}"' if " " in each else each for each in plain)])
    console = Console(record=True, width=WIDTH, file=open(os.devnull, "w"))  # noqa: SIM115  # for the process's life
    console.print(Text.from_ansi(shown), soft_wrap=True)
    svg = console.export_svg(title=called, code_format=WEB_FONTS.sub("", CONSOLE_SVG_FORMAT), unique_id=name)
    (IMAGES / f"{name}.svg").write_text(svg + "\n", encoding="utf-8")


def run(arguments: Sequence[str], typed: Sequence[Typed] = ()) -> str:
    """What a command writes to its terminal.

    Raises:
        RuntimeError: it failed, or took too long.
    """
    ours, its = pty.openpty()
    ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 50, WIDTH, 0, 0))
    environment = os.environ | {"TERM": "xterm-256color", "COLORTERM": ""}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen(
        [*WANSPEC, *arguments], stdin=its, stdout=its, stderr=subprocess.PIPE, env=environment, text=True
    )
    os.close(its)
    waiting, data, heard = list(typed), b"", time.monotonic()
    deadline = heard + TIMEOUT_S
    while time.monotonic() < deadline:
        readable, _, _ = select.select([ours], [], [], 0.2)
        if readable:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the command has ended
                break
            data, heard = data + piece, time.monotonic()
        elif waiting and time.monotonic() - heard > waiting[0].silence_s:
            os.write(ours, waiting.pop(0).text.encode())
            heard = time.monotonic()
    process.kill() if process.poll() is None and time.monotonic() >= deadline else process.wait(TIMEOUT_S)
    if process.returncode != 0:
        assert process.stderr is not None
        raise RuntimeError(f"{arguments}: exit code {process.returncode}: {process.stderr.read()}")
    text = LIVE.split(NO_STYLE.sub("", data.decode()))[-1]
    for path, short in PATHS.items():
        text = text.replace(path, short)
    return text


@contextlib.contextmanager
def asking(url: str) -> Iterator[None]:
    """Three requests that last for a while."""
    client = WanspecClient(url)
    running = [
        client.ask("Tell me a long story.", chat=True, max_tokens=400, min_tokens=390, policy=policy)
        for policy in ("adaptive", "wanspec", "local")
    ]
    try:
        time.sleep(4.0)
        yield
    finally:
        for each in running:
            each.cancel()


@contextlib.contextmanager
def endpoint() -> Iterator[str]:
    """Two regions of SmolLM2; yields the endpoint's address."""
    command = [*WANSPEC, "up", *PACED, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["grpc"]
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


if __name__ == "__main__":
    main()
