"""The static site: a function of the registry, the records and the generated tables, byte for byte the same each time."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from zoo.entry import MethodEntry
from zoo.errors import ZooError
from zoo.site.atlas import write_atlas
from zoo.site.content import load_site
from zoo.site.ledger import write_records
from zoo.site.methods import write_methods
from zoo.site.pages import write_comparisons, write_whole
from zoo.site.render import ASSETS, TEMPLATES, Writer

__all__ = ["build_site"]

SIGN = ".zoo-site"  # marks a folder that may be written over


def build_site(registry: Mapping[str, MethodEntry], records: Path, tables: Path, out: Path) -> list[Path]:
    """Write the site below `out`, in place of an earlier one; returns its files.

    Raises ZooError where `out` holds something else than a site, and for records that cannot be read.
    """
    if out.exists() and not (out.is_dir() and ((out / SIGN).exists() or not any(out.iterdir()))):
        raise ZooError(f"{out} holds something else than a site; name another folder with --out, or empty it")
    site = load_site(registry, records, tables)
    shutil.rmtree(out, ignore_errors=True)
    writer = Writer(out, site)
    writer.file(SIGN, b"")
    for name in ASSETS:
        writer.file(name, (TEMPLATES / name).read_bytes())
    pictures = write_comparisons(writer)
    write_methods(writer)
    write_records(writer)
    write_atlas(writer)
    write_whole(writer, pictures)
    return [out / page for page in writer.pages]
