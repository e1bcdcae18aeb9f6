"""The command line: ``wanspec up``, ``generate``, ``chat``, ``demo``, ``doctor`` and more: `wanspec --help`.

This module imports next to nothing, so that :func:`main` is reached, and Ctrl-C handled, before the commands load.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from wanspec.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from click import Group


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line of this process and exit with its code."""
    # Without this, SIGTERM would skip every `with` and leave the clean-up to the watchdogs.
    signal.signal(signal.SIGTERM, _terminate)
    cli = _load()

    import click

    from wanspec.errors import WanspecError

    try:
        cli.main(args=None if arguments is None else list(arguments), prog_name="wanspec", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        # All is stopped, or left to the watchdogs: another Ctrl-C has only the interpreter's end to interrupt.
        signal.signal(signal.SIGINT, _quit)
        click.echo("interrupted", err=True)
        sys.exit(ExitCode.INTERRUPTED)
    except WanspecError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(ExitCode.FAILED)
    except BrokenPipeError:
        # The reader of our output has gone (`| head`): nothing is left to say, not even at the interpreter's end.
        sys.stderr.close()
        sys.exit(ExitCode.FAILED)
    sys.exit(ExitCode.DONE)


def _load() -> Group:
    """Import the commands. Ctrl-C meanwhile ends the process: nothing is started, and libraries swallow exceptions."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # and not where a shell made its background jobs ignore it
        signal.signal(signal.SIGINT, _quit)
    try:
        from wanspec.cli.group import cli
    finally:
        signal.signal(signal.SIGINT, before)
    return cli


def _quit(number: int, frame: FrameType | None) -> NoReturn:
    os._exit(ExitCode.INTERRUPTED)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(ExitCode.TERMINATED)
