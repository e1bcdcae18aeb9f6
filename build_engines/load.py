"""Reads recipes: those of this package by name, others from files."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from build_engines.recipe import Recipe
from wanspec.config.explain import problems
from wanspec.config.problems import InvalidConfigError, Place
from wanspec.config.yaml_file import read_yaml
from wanspec.errors import ConfigError

RECIPES = Path(__file__).parent / "recipes"


def shipped() -> list[str]:
    """Names of the recipes in this package."""
    return sorted(file.stem for file in RECIPES.glob("*.yaml"))


def find(name: str) -> Path:
    """The file of a recipe, given by its name or as a path.

    Raises:
        ConfigError: there is none.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return path
    if name not in shipped():
        raise ConfigError("recipe", f"{name!r} is no file.yaml and not one of {', '.join(shipped())}")
    return RECIPES / f"{name}.yaml"


def load(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        InvalidConfigError: with everything that is wrong and where.
    """
    values, places = read_yaml(path)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise InvalidConfigError(problems(error, Recipe, places, Place(str(path)), "a recipe")) from None
