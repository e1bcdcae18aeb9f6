"""The group of all commands. Imports each of them: ``wanspec.cli.main`` does so only once Ctrl-C is taken care of."""

from __future__ import annotations

import click

from build_engines.command import build_engines
from wanspec import __version__
from wanspec.cli import (
    advise,
    bench,
    calibrate,
    chat,
    completion,
    config,
    conformance,
    control,
    demo,
    doctor,
    generate,
    models,
    record,
    relay,
    report,
    repository,
    reproduce,
    serve_openai,
    simulate,
    tail,
    up,
)
from wanspec.cli.command import write_exit_codes
from wanspec.cli.exit_codes import meanings


class Commands(click.Group):
    """The group; its help ends with the exit codes of all commands."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands, each with the whole first sentence of its help."""
        named = [(name, self.commands[name].get_short_help_str(limit=200)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(named)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Add the exit codes."""
        super().format_epilog(ctx, formatter)
        write_exit_codes(formatter, dict(meanings()))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="wanspec")
def cli() -> None:
    """Speculative decoding across the WAN: the target in one region, the draft in another.

    \b
    Start here:
      wanspec doctor              is everything there?
      wanspec demo                two regions, two prompts, what the split saved
      wanspec up                  two regions until Ctrl-C
      wanspec generate "Why is the sky blue?"
      wanspec chat                a conversation, each token marked by who proposed it
      wanspec report log.jsonl    where the time went, as one HTML file
      wanspec bench               policies side by side on real servers
      wanspec control             what the endpoint does now; switches that need no restart
      wanspec serve-openai        the same for OpenAI's clients, beside `wanspec up`
      wanspec tail                watch it: tokens/s, acceptance, round trips, savings
      wanspec config show         every default, in a file or the environment
      wanspec advise --rtt 30     would a worker pay here? By simulation

    \b
    Two machines, and TensorRT-LLM:
      wanspec build-engines --list    recipes of engine pairs
      wanspec render --help           a region's repository and the command that serves it
    """


for command in (
    up.up,
    generate.generate,
    chat.chat,
    control.control,
    tail.tail,
    demo.demo,
    doctor.doctor,
    models.models,
    calibrate.calibrate,
    conformance.conformance,
    simulate.simulate,
    reproduce.reproduce,
    advise.advise_command,
    record.record,
    report.report,
    bench.bench,
    serve_openai.serve_openai,
    config.config,
    completion.completion,
    build_engines,
    repository.render,
    relay.relay,
):
    cli.add_command(command)
