"""Check every byte of an index folder: `python -m retrievers.check_index FOLDER`.

Opening an index checks size and hash of its files too, but reads only sampled blocks of files above 64 MiB. `--record`
writes the hashes to the manifest of an index that has none, because it was built by an earlier version.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from retrievers.index.manifest import check_index, read_manifest, record_files
from retrievers.program import ends_in_one_line


@dataclass(frozen=True)
class Args:
    """Options of the check."""

    index: tyro.conf.Positional[Path]
    """An index folder."""
    record: bool = False
    """Record the files as they are now, instead of checking them."""


def main(args: Args) -> None:
    """Check or record an index."""
    manifest = read_manifest(args.index)
    if args.record:
        record_files(args.index)
    else:
        check_index(args.index, manifest, whole=True)
    print(f"{args.index}: {len(read_manifest(args.index)['files'])} files {'recorded' if args.record else 'intact'}")


if __name__ == "__main__":
    with ends_in_one_line(OSError):
        main(tyro.cli(Args, description=__doc__))
