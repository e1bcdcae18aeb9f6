"""Models by name: where they come from, what they are, and whether two of them fit together."""

from wanspec.models.cache import cache_dir
from wanspec.models.catalog import CATALOG, PAIRS, CatalogEntry, entry
from wanspec.models.progress import ProgressCallback
from wanspec.models.resolve import cached_folder, is_ready, resolve, verify

__all__ = [
    "CATALOG",
    "PAIRS",
    "CatalogEntry",
    "ProgressCallback",
    "cache_dir",
    "cached_folder",
    "entry",
    "is_ready",
    "resolve",
    "verify",
]
