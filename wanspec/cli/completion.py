"""``wanspec completion``: the script that makes a shell complete commands, options and their values."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from wanspec.cli.command import JsonErrors

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_WANSPEC_COMPLETE"
"""Of the environment; click reads it where a shell asks for completions."""


@click.command(cls=JsonErrors)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that makes SHELL complete commands, options and their values.

    \b
    Examples:
      source <(wanspec completion bash)                  in ~/.bashrc (bash from 4.4)
      source <(wanspec completion zsh)                   in ~/.zshrc, after compinit
      wanspec completion fish > ~/.config/fish/completions/wanspec.fish
    """
    found = get_completion_class(shell)
    assert found is not None, shell
    root = context.find_root().command
    # Not `source()`: bash's asks an installed bash for its version, and the script may be for another machine.
    made = found(root, {}, "wanspec", VARIABLE)
    click.echo(made.source_template % made.source_vars())
