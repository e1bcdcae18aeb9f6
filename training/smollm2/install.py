"""Put trained layers into the package, and their hash into the catalog.

    python -m training.smollm2.install --layers layers

The cached draft is named by that hash, so the next use assembles a new one.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from safetensors import safe_open

from wanspec.models import catalog
from wanspec.models.cache import file_sha256

NAME = "smollm2-draft/layers.safetensors"


def shapes(path: Path) -> dict[str, tuple[str, list[int]]]:
    """Return type and shape of every tensor in a safetensors file."""
    with safe_open(path, framework="np") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        return {name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()}


def install(layers: Path, weights: Path, catalog_file: Path) -> str:
    """Copy ``layers`` over the bundled file and replace its hash in the catalog's source; return the new hash.

    Raises ValueError if the tensors differ in name, type or shape, or the catalog does not hold the old hash once.
    """
    bundled, trained = weights / NAME, layers / "layers.safetensors"
    if shapes(bundled) != shapes(trained):
        raise ValueError(f"{trained} has other tensors than {bundled}: names, types and shapes must stay")
    old, new, source = file_sha256(bundled), file_sha256(trained), catalog_file.read_text()
    size = f"{bundled.stat().st_size:_}"
    if source.count(old) != 1 or source.count(size) != 1:
        raise ValueError(f"{catalog_file} does not name {bundled} with its hash and size exactly once")
    shutil.copyfile(trained, bundled)
    catalog_file.write_text(source.replace(old, new).replace(size, f"{bundled.stat().st_size:_}"))
    return new


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=Path, required=True, help="folder that `train` wrote")
    print(install(parser.parse_args().layers, catalog.WEIGHTS, Path(catalog.__file__)))


if __name__ == "__main__":
    main()
