"""``wanspec models``: list, fetch and check the models that have a name."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click
from rich.text import Text

from wanspec.cli.command import JSON_OPTION, JsonErrors
from wanspec.cli.progress import ModelProgress
from wanspec.cli.render import make_console
from wanspec.cli.tables import table
from wanspec.models import CATALOG, PAIRS, CatalogEntry, ProgressCallback, cached_folder, is_ready
from wanspec.models import resolve as resolve_model
from wanspec.models import verify as verify_model


@click.group()
def models() -> None:
    """List, fetch and check models.

    Everywhere a model is asked for, a name from this list, a Hugging Face folder or a hub id (org/name) will do.
    """


@models.command("list", cls=JsonErrors)
@JSON_OPTION
def list_models(as_json: bool) -> None:
    """Show every model that has a name, and whether it is ready.

    \b
    Examples:
      wanspec models list
      wanspec models list --json
    """
    if as_json:
        click.echo(json.dumps([_describe(known) for known in CATALOG.values()], indent=2))
        return
    view = table("name!", "role!", "size#", "download#", "ready!", "use")
    for known in CATALOG.values():
        ready = Text("yes", "green") if is_ready(known.name) else Text("no: pull", "yellow")
        size = "target's" if known.base else f"{known.download / 1e6:.0f} MB" if known.download else "none"
        view.add_row(known.name, known.role, f"{known.parameters / 1e6:.1f} M", size, ready, known.purpose)
    console = make_console()
    console.print(view)
    pairs = ", ".join(f"{name} ({target} + {draft})" for name, (target, draft) in PAIRS.items())
    console.print(f"Pairs: {pairs}.")


@models.command(cls=JsonErrors)
@click.argument("name")
@click.option("--force", is_flag=True, help="Fetch and convert again what is there already.")
@JSON_OPTION
def pull(name: str, force: bool, as_json: bool) -> None:
    """Fetch and convert NAME (a model, a pair, or a hub id), so that later commands start at once.

    \b
    Examples:
      wanspec models pull smollm2                 both models of the pair
      wanspec models pull smollm2-135m-instruct
      wanspec models pull HuggingFaceTB/SmolLM2-360M-Instruct
    """
    names = PAIRS.get(name, (name,))
    folders = _with_progress(
        lambda on_progress: {each: str(resolve_model(each, on_progress, force=force)) for each in names}
    )
    _report(folders, as_json, "ready")


@models.command(cls=JsonErrors, done="every file is as it was made")
@click.argument("names", nargs=-1)
@JSON_OPTION
def verify(names: tuple[str, ...], as_json: bool) -> None:
    """Hash every file of NAMES again (by default of every model that is ready) and compare.

    \b
    Examples:
      wanspec models verify
      wanspec models verify smollm2
    """
    wanted = [each for name in names for each in PAIRS.get(name, (name,))] or [n for n in CATALOG if is_ready(n)]
    folders = _with_progress(lambda on_progress: {each: str(verify_model(each, on_progress)) for each in wanted})
    _report(folders, as_json, "unchanged")


def _describe(known: CatalogEntry) -> dict[str, Any]:
    return {
        "name": known.name,
        "role": known.role,
        "parameters": known.parameters,
        "licence": known.licence,
        "origin": known.origin,
        "purpose": known.purpose,
        "download_bytes": known.download,
        "disk_bytes": known.disk,
        "ready": is_ready(known.name),
        "folder": str(cached_folder(known.name)),
    }


def _with_progress(work: Callable[[ProgressCallback], dict[str, str]]) -> dict[str, str]:
    with ModelProgress() as progress:
        return work(progress)


def _report(folders: dict[str, str], as_json: bool, state: str) -> None:
    if as_json:
        click.echo(json.dumps(folders, indent=2))
        return
    for name, folder in folders.items():
        click.echo(f"{name}: {state}, {folder}")
