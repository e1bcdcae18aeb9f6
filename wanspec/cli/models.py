"""``wanspec models``: list, fetch and check the models that have a name."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from wanspec.cli.progress import ModelProgress
from wanspec.errors import WanspecError
from wanspec.models import CATALOG, PAIRS, CatalogEntry, ProgressCallback, cached_folder, is_ready
from wanspec.models import resolve as resolve_model
from wanspec.models import verify as verify_model

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


@click.group()
def models() -> None:
    """List, fetch and check models.

    Everywhere a model is asked for, a name from this list, a Hugging Face folder or a hub id (org/name) will do.
    """


@models.command("list")
@_JSON
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
    table = Table(box=SIMPLE_HEAD)
    for title in ("name", "role", "size", "download", "ready", "use"):
        table.add_column(title, no_wrap=title != "use", justify="right" if title in ("size", "download") else "left")
    for known in CATALOG.values():
        ready = "[green]yes[/]" if is_ready(known.name) else "[yellow]no: pull[/]"
        size = "target's" if known.base else f"{known.download / 1e6:.0f} MB" if known.download else "none"
        table.add_row(known.name, known.role, f"{known.parameters / 1e6:.1f} M", size, ready, known.purpose)
    console = Console()
    console.print(table)
    pairs = ", ".join(f"{name} ({target} + {draft})" for name, (target, draft) in PAIRS.items())
    console.print(f"Pairs: {pairs}.", highlight=False)


@models.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="Fetch and convert again what is there already.")
@_JSON
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
        lambda on_progress: {each: str(resolve_model(each, on_progress, force=force)) for each in names}, as_json
    )
    _report(folders, as_json, "ready")


@models.command()
@click.argument("names", nargs=-1)
@_JSON
def verify(names: tuple[str, ...], as_json: bool) -> None:
    """Hash every file of NAMES again (by default of every model that is ready) and compare.

    \b
    Examples:
      wanspec models verify
      wanspec models verify smollm2
    """
    wanted = [each for name in names for each in PAIRS.get(name, (name,))] or [n for n in CATALOG if is_ready(n)]
    folders = _with_progress(
        lambda on_progress: {each: str(verify_model(each, on_progress)) for each in wanted}, as_json
    )
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


def _with_progress(work: Callable[[ProgressCallback], dict[str, str]], as_json: bool) -> dict[str, str]:
    try:
        with ModelProgress() as progress:
            return work(progress)
    except WanspecError as error:
        if as_json:
            click.echo(json.dumps({"error": str(error)}))
            sys.exit(1)
        raise click.ClickException(str(error)) from error


def _report(folders: dict[str, str], as_json: bool, state: str) -> None:
    if as_json:
        click.echo(json.dumps(folders, indent=2))
        return
    for name, folder in folders.items():
        click.echo(f"{name}: {state}, {folder}")
