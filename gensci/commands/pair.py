"""`gensci data pair`: templates for the rows of a prepared table."""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from gensci.core.errors import UsageError
from gensci.data.structure_table import StructureTable
from gensci.data.template_pairs import make_pairs
from gensci.data.templates import TemplatePool

POOL = "pool.safetensors"


def pair(table: str, pool: str | None = None, num_pairs: int = 2, seed: int = 0) -> int:
    """Find templates for every row of a prepared table of crystals, and write them beside it.

    The pool is kept as `pool.safetensors` beside the table too. A killed run goes on.

    Args:
        table: Folder of the prepared table, for example data/structures/mp-20/train.
        pool: Folders of tables to take templates from, with commas, or one file of a pool; by
            default the table itself.
        num_pairs: Different templates for each row.
        seed: Of the choice among the nearest.
    """
    if num_pairs < 1:
        raise UsageError(f"num_pairs is {num_pairs}", "give 1 or more")
    folder = Path(table)
    StructureTable.load(folder)  # a wrong path is refused before the pool is built
    templates = load_pool(folder, tuple((pool or table).split(",")))
    with tqdm(total=0, unit="row", desc=folder.as_posix()) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        summary = make_pairs(folder, templates, num_pairs, seed, progress)
    print(f"{folder}: {summary['pairs']} pairs, {100 * summary['same']:.1f} % of the same kind, "
          f"{summary['rows_without_template']} of {summary['rows']} rows without")  # fmt: skip
    return 0


def load_pool(folder: Path, sources: tuple[str, ...]) -> TemplatePool:
    """The pool of these sources, from the file beside the table where it holds the same rows."""
    if len(sources) == 1 and sources[0].endswith(".safetensors"):
        return TemplatePool.load(sources[0])
    tables = [StructureTable.load(source) for source in sources]
    rows = StructureTable.concatenate(tables)
    kept = folder / POOL
    if kept.exists():
        known = TemplatePool.load(kept)
        if known.ids == rows.ids:
            return known
    built = TemplatePool.from_table(rows)
    built.save(kept)
    return built
