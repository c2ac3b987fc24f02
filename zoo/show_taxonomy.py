"""The taxonomy's matrix for a terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from zoo.taxonomy import AXES, Matrix

SIGNS = {"open": "open", "refused": "×", "none": "·"}


def matrix_table(matrix: Matrix) -> Table:
    """Counts of methods; `open` for a legal cell without any, × where every composition is refused, · where no term has both coordinates."""
    rows, columns = matrix.rows
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, highlight=False)
    made.add_column(f"{rows} \\ {columns}", no_wrap=True)
    for name in AXES[columns]:
        made.add_column(name.replace("_", " "), justify="right")
    for row in AXES[rows]:
        cells = (matrix.cells[row, column] for column in AXES[columns])
        made.add_row(row, *(Text(str(len(cell.methods)) if cell.methods else SIGNS[cell.state]) for cell in cells))
    return made


def open_cells(matrix: Matrix) -> str:
    """One line for each open cell, with a composition that is legal there; and how the signs are read."""
    found = {key: cell for key, cell in matrix.cells.items() if cell.state == "open"}
    lines = [f"  {' × '.join(key)}: {cell.composition}" for key, cell in found.items()]
    head = f"{len(found)} cells are open: legal, and no method of the registry is there" + (", for example by" if found else "")
    signs = "a method counts once in each cell that one of its terms is in; × every composition is refused; · no kind of term has both"
    return "\n".join([f"{matrix.tuples} different tuples of all five coordinates; {signs}", head, *lines])
