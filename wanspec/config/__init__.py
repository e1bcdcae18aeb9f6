"""The configuration: one typed YAML file with overrides from the environment. ``docs/configuration.md``."""

from wanspec.config.load import Loaded, load

__all__ = ["Loaded", "load"]
