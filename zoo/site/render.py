"""From templates to files: one environment that escapes everything, and links that work from any depth of folders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from zoo.paths import PACKAGE
from zoo.site.boards import slug
from zoo.site.content import Site
from zoo.table_forms import TableCell

TEMPLATES = PACKAGE / "_data" / "site"
ASSETS = ("style.css", "site.js")
Page = Callable[[str, str, Mapping[str, Any]], None]


@cache
def environment() -> Environment:
    """The templates; an unknown name in one is an error, not an empty place."""
    made = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters["words"] = lambda text: str(text).replace("_", " ")
    made.filters["inline"] = inline
    made.filters["slug"] = slug
    made.filters["tidy"] = lambda text: " ".join(str(text).split())
    return made


def inline(text: Any) -> Markup:
    """Text with `code` and **strong** of the tables' remarks as tags; everything else escaped."""
    shown = str(escape(" ".join(str(text).split())))
    for sign, tag in (("`", "code"), ("**", "strong")):
        parts = shown.split(sign)
        if len(parts) % 2:
            shown = "".join(part if place % 2 == 0 else f"<{tag}>{part}</{tag}>" for place, part in enumerate(parts))
    return Markup(shown)


class Writer:
    """Writes pages below a folder. `pages` are their addresses, in the order of writing."""

    def __init__(self, out: Path, site: Site) -> None:
        self.out, self.site, self.pages = out, site, list[str]()
        self.shared = {"site": site, "featured": site.featured, "known": frozenset(site.registry)}

    def page(self, address: str, template: str, /, **content: Any) -> None:
        """One page from a template; `root` leads back to the folder of the site."""
        root = "../" * address.count("/")
        text = environment().get_template(template).render(self.shared | content | {"root": root, "address": address, "cell": Cells(root)})
        self.file(address, text.encode())

    def file(self, address: str, data: bytes) -> None:
        """One file as it is."""
        path = self.out / address
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.pages.append(address)


class Cells:
    """How a cell of a table is shown: its text as a link to the records behind it."""

    def __init__(self, root: str) -> None:
        self.root = root

    def __call__(self, cell: TableCell, comparison: str, method: str, key: str) -> Markup:
        """The link, or the text alone where no record is behind it."""
        text = escape(cell.text)
        if not cell.records or not cell.text:
            return Markup("{}").format(text)
        where = f"{self.root}records/{comparison}/{method}.html#{key}"
        return Markup('<a class="n" href="{}">{}</a>').format(where, text)
