"""``wanspec build-engines``."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wanspec.cli.command import JSON_OPTION, JsonErrors
from wanspec.cli.progress import ModelProgress
from wanspec.cli.render import make_console
from wanspec.cli.tables import table

if TYPE_CHECKING:
    from rich.console import Console

    from build_engines.plan import Plan
    from build_engines.run import Outcome

UNTESTED = (
    "Not run on a GPU by this project: the commands follow TensorRT-LLM's sources, and are tested with stand-ins."
)

NOT_LOCAL = (
    "local_draft is false: no engine of the draft is built. "
    "A worker that drafts by TensorRT-LLM needs one: --only draft."
)


@click.command("build-engines", cls=JsonErrors)
@click.argument("recipe", required=False)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("engines"),
    show_default=True,
    help="Folder for engines, checkpoints, logs and fetched models.",
)
@click.option("--plan", "plan_only", is_flag=True, help="Print every command and the estimate; run nothing.")
@click.option("--only", type=click.Choice(("target", "draft")), help="Build one of the two; draft: for a worker.")
@click.option(
    "--examples",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("/app/examples"),
    show_default=True,
    help="TensorRT-LLM's examples.",
)
@click.option("--python", default="python3", show_default=True, help="Interpreter that has tensorrt_llm.")
@click.option("--again", is_flag=True, help="Do every step anew.")
@click.option(
    "--step-timeout-h", type=click.FloatRange(0, min_open=True), default=12.0, show_default=True, help="Of each step."
)
@click.option("--list", "list_recipes", is_flag=True, help="Print the recipes that come with the package.")
@JSON_OPTION
def build_engines(recipe: str | None, **options: Any) -> None:
    """Build a target and a draft engine for TensorRT-LLM 1.2 from RECIPE, a name or a YAML file.

    Not run on a GPU by this project. Run it in the image that will serve the engines. The pair is checked (tokenizer,
    special tokens), and the memory estimated, before anything is converted. A build that was interrupted goes on where
    it stopped; what has not changed is not done again.

    \b
    Examples:
      wanspec build-engines --list
      wanspec build-engines llama-3.1-8b-3.2-1b --plan
      wanspec build-engines llama-3.1-8b-3.2-1b --output /engines
      wanspec build-engines ./my-recipe.yaml --output /engines --only draft
      wanspec build-engines qwen2.5-7b-0.5b --plan --json    for `wanspec render` and programs
    """
    # Here, since pydantic and the models' modules take long to import for those who ask for --help.
    from build_engines.load import find, load, shipped

    if options["list_recipes"]:
        names = {name: load(find(name)).description for name in shipped()}
        click.echo(json.dumps(names, indent=2) if options["as_json"] else _listed(names))
        return
    if recipe is None:
        raise click.UsageError("give a RECIPE: a name (--list) or a YAML file")
    console = make_console(stderr=options["as_json"])
    plan, notes = _plan(load(find(recipe)), options)
    if options["plan_only"]:
        _show_plan(console, plan, notes, options["as_json"])
        return
    _build(console, plan, options)


def _plan(recipe: Any, options: dict[str, Any]) -> tuple[Plan, list[str]]:
    """Plan by what the models' own files say where both are here, else by the recipe's shapes."""
    from build_engines import pair
    from build_engines.plan import ROLES, Layout, make_plan, recipe_shapes, roles_of

    layout = Layout(options["output"].absolute(), options["examples"], options["python"])
    roles = roles_of(recipe, options["only"])
    folders = {role: layout.model(role, recipe.section(role)) for role in ROLES}
    notes = [] if "draft" in roles or options["only"] else [NOT_LOCAL]
    if all((folder / "config.json").is_file() for folder in folders.values()):
        checked = pair.check(recipe, *folders.values())
        return make_plan(recipe, layout, checked.shapes, roles), [*checked.notes, *notes]
    for role in (*roles, "draft"):
        _check_there(role, recipe.section(role).model, folders[role])
    if "target" in roles:
        notes.append("the pair is checked once both models are here; the estimate is of the recipe's shapes")
    else:
        notes.append("the target is not fetched: whether the draft fits it is checked where both are")
    return make_plan(recipe, layout, recipe_shapes(recipe), roles), notes


def _check_there(role: str, model: str, folder: Path) -> None:
    from wanspec.errors import ConfigError
    from wanspec.models.locate import is_hub_id

    if not is_hub_id(model) and not folder.is_dir():
        raise ConfigError(f"{role}.model", f"{model!r} is no folder and no hub id (org/name)")


def _build(console: Console, plan: Plan, options: dict[str, Any]) -> None:
    from build_engines import machine
    from build_engines.plan import make_plan
    from build_engines.run import Builder

    versions = machine.check(plan)
    console.print(UNTESTED, style="yellow")
    with ModelProgress(make_console(stderr=True)) as progress:
        builder = Builder(
            plan,
            versions,
            on_progress=progress,
            step_deadline_s=options["step_timeout_h"] * 3600,
            again=options["again"],
        )
        outcomes = []
        for outcome in builder.run(lambda checked: make_plan(plan.recipe, plan.layout, checked.shapes, plan.roles)):
            outcomes.append(outcome)
            console.print(_told(outcome), soft_wrap=True, markup=False)
    for note in builder.notes:
        console.print(f"note: {note}", soft_wrap=True)
    if options["as_json"]:
        click.echo(json.dumps(_as_plain(plan, outcomes), indent=2))
        return
    console.print(f"Engines in {plan.layout.output}. Next: `wanspec render --help`.", soft_wrap=True)


def _told(outcome: Outcome) -> str:
    what = "unchanged" if outcome.skipped else f"done in {outcome.seconds:.0f} s"
    return f"{outcome.step.name}: {what}" + (f", log {outcome.log}" if outcome.log else "")


def _as_plain(plan: Plan, outcomes: list[Outcome]) -> dict[str, Any]:
    return {
        "output": str(plan.layout.output),
        "steps": [
            {"name": each.step.name, "skipped": each.skipped, "seconds": round(each.seconds, 1)} for each in outcomes
        ],
    }


def _show_plan(console: Console, plan: Plan, notes: list[str], as_json: bool) -> None:
    from build_engines.plan import as_plain

    if as_json:
        click.echo(json.dumps({**as_plain(plan), "notes": notes}, indent=2))
        return
    for number, step in enumerate(plan.steps, 1):
        click.echo(f"# {number}. {step.name}: {step.title}, about {step.size / 1e9:.1f} GB")
        click.echo(shlex.join(step.argv) if step.argv else f"#    into {step.result}")
    click.echo()
    console.print(_memory_table(plan))
    for note in [*notes, UNTESTED]:
        console.print(f"note: {note}", soft_wrap=True)


def _memory_table(plan: Plan) -> Any:
    from build_engines.memory import CUDA_BYTES

    view = table("GiB a GPU!", "weights#", "activations#", "CUDA#", "KV#", "KV tokens#", "of free#")
    shares = plan.engines.kv_fractions()
    for role, each in plan.estimates.items():
        engine = plan.engines.target if role == "target" else plan.engines.draft
        cache = engine.kv_tokens * each.kv_per_token
        sizes = (each.weights, each.activations, CUDA_BYTES, cache)
        share = f"{shares[role]:g}" if role in shares else "alone"
        view.add_row(role, *(f"{size / (1 << 30):.1f}" for size in sizes), str(engine.kv_tokens), share)
    return view


def _listed(names: dict[str, str]) -> str:
    width = max(map(len, names))
    return "\n".join(f"{name:{width}}  {description}" for name, description in names.items())
