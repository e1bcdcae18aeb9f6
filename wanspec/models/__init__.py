"""Models by name: where they come from, what they are, and whether two of them fit together."""

from wanspec.models.cache import cache_dir
from wanspec.models.catalog import CATALOG, DEFAULT_PAIR, PAIRS, CatalogEntry, entry
from wanspec.models.fingerprint import Fingerprint, check_pair, fingerprint
from wanspec.models.locate import cached_folder, is_ready, resolve, verify
from wanspec.models.progress import ProgressCallback

__all__ = [
    "CATALOG",
    "DEFAULT_PAIR",
    "PAIRS",
    "CatalogEntry",
    "Fingerprint",
    "ProgressCallback",
    "cache_dir",
    "cached_folder",
    "check_pair",
    "entry",
    "fingerprint",
    "is_ready",
    "resolve",
    "verify",
]
