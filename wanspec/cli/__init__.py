"""The command line: ``wanspec up``, ``generate``, ``demo``, ``doctor``, ``models``."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import click

from wanspec import __version__
from wanspec.cli import conformance, demo, doctor, generate, models, up
from wanspec.errors import WanspecError

EXIT_FAILED = 1
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_TERMINATED = 128 + signal.SIGTERM


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="wanspec")
def cli() -> None:
    """Speculative decoding across the WAN: the target in one region, the draft in another.

    \b
    Start here:
      wanspec doctor              is everything there?
      wanspec demo                two regions, two prompts, what the split saved
      wanspec up                  two regions until Ctrl-C
      wanspec generate "Why is the sky blue?"

    \b
    Exit codes:
      0    done
      1    it failed; the message says what to do
      2    the command line is wrong
      130  Ctrl-C, 143 SIGTERM: what was started is stopped and removed
    """


for command in (up.up, generate.generate, demo.demo, doctor.doctor, models.models, conformance.conformance):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line of this process and exit with its code."""
    # Without this, SIGTERM would skip every `with` and leave the clean-up to the watchdogs.
    signal.signal(signal.SIGTERM, _terminate)
    try:
        cli.main(args=None if arguments is None else list(arguments), prog_name="wanspec", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except WanspecError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(EXIT_FAILED)
    except BrokenPipeError:
        # The reader of our output has gone (`| head`): nothing is left to say, not even at the interpreter's end.
        sys.stderr.close()
        sys.exit(EXIT_FAILED)
    sys.exit(0)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(EXIT_TERMINATED)
