"""``wanspec record``: a real pair's text and drafts, for the simulator."""

from __future__ import annotations

import json
from pathlib import Path

import click

from wanspec.cli.command import JSON_OPTION, JsonErrors
from wanspec.cli.progress import Display, ModelProgress
from wanspec.cli.simulation_options import progress
from wanspec.errors import ConfigError
from wanspec.models import PAIRS, check_pair, resolve
from wanspec.prompts import RECORDED
from wanspec.simulation.catalogue import read_lines
from wanspec.simulation.traces import TracePair, write_trace

_AT_ONCE = 8


@click.command(cls=JsonErrors)
@click.argument("out", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--pair", type=click.Choice(list(PAIRS)), default="small", show_default=True)
@click.option("--target", help="A model by name, folder or hub id, instead of the pair's.")
@click.option("--draft", help="The same for the draft.")
@click.option("--prompts", type=click.Path(path_type=Path), help="One a line; ours if not given.")
@click.option("--count", default=24, show_default=True, type=click.IntRange(1), help="Most prompts to record.")
@click.option("--tokens", default=100, show_default=True, type=click.IntRange(1), help="After each prompt.")
@click.option(
    "--branches",
    default=12,
    show_default=True,
    type=click.IntRange(0),
    help="Contexts one token off the text, at each of its tokens.",
)
@click.option("--dtype", default="float32", show_default=True, type=click.Choice(["float32", "float64", "bfloat16"]))
@click.option("--device", default="cpu", show_default=True, help="As PyTorch names it.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1), help="Of PyTorch.")
@JSON_OPTION
def record(
    out: Path,
    pair: str,
    target: str | None,
    draft: str | None,
    prompts: Path | None,
    count: int,
    tokens: int,
    branches: int,
    dtype: str,
    device: str,
    threads: int,
    as_json: bool,
) -> None:
    """Record a pair into OUT: the target's text for some prompts, what the draft says along it and beside it.

    `wanspec simulate --source trace:OUT` and `wanspec advise --source trace:OUT` then decide by the real pair.

    \b
    Examples:
      wanspec record small.trace.gz
      wanspec record smollm2.trace.gz --pair smollm2 --count 8
      wanspec record small.trace.gz --json
    """
    texts = [line for line in read_lines(prompts) if line.strip()] if prompts is not None else list(RECORDED)
    if not texts:
        raise ConfigError("prompts", f"{prompts} holds no prompt")
    names = (target or PAIRS[pair][0], draft or PAIRS[pair][1])
    with ModelProgress() as shown:
        folders = [resolve(name, shown) for name in names]
    check_pair(*folders)

    with Display() as display:
        display.show("model", "loading target and draft")
        from wanspec.engines.torch_model import TorchModel
        from wanspec.simulation.recording import Width
        from wanspec.simulation.recording import record as record_texts
        from wanspec.triton.text import TextCodec

        writer, drafter = (TorchModel.load(folder, dtype=dtype, device=device, threads=threads) for folder in folders)
    text = TextCodec(folders[0])
    ids = [text.encode(prompt, chat=text.has_chat_template) for prompt in texts[:count]]
    found = []
    with progress(len(ids) * tokens, "recording", "tokens") as tell:
        for start in range(0, len(ids), _AT_ONCE):
            found += record_texts(
                writer, drafter, ids[start : start + _AT_ONCE], tokens, Width(branches=branches), tell
            )
    described = {"target": names[0], "draft": names[1], "dtype": dtype}
    recorded = TracePair(tuple(found), writer.vocab_size, described)
    write_trace(out, recorded)
    if as_json:
        told = {"file": str(out), "texts": len(found), "tokens": tokens, "match_rate": recorded.match_rate, **described}
        click.echo(json.dumps(told))
        return
    click.echo(f"{len(found)} texts of {tokens} tokens; the draft's first choice is right at {recorded.match_rate:.0%}")
