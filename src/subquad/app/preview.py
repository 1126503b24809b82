"""`python -m subquad.app.preview TABLE`: columns and first rows as JSON, in a process of limited memory and time.

A small compressed file can have any size; the server must not read it itself.
"""

import json
import resource
import subprocess
import sys
from functools import lru_cache

ROWS = 3
MEMORY, SECONDS = 3 * 2**30, 30
"""Bytes of address space, and seconds."""


@lru_cache(maxsize=64)
def preview(table: str, changed: float) -> tuple[list[str], str]:
    """Return the names of the columns of a table that changed at this time, and its first rows as HTML.

    A table that cannot be read, or is too large for a preview, has no columns and a sentence in place of the rows.
    """
    command = [sys.executable, "-m", "subquad.app.preview", table]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        names, rows = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        return [], '<p class="sq-hint">This table has no preview: it is damaged, or too large.</p>'
    return names, rows


def main(table: str) -> None:
    """Print what `preview` returns."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    import pandas as pd

    from subquad.app.views import table_view
    from subquad.bio.data.examples import resolve_table
    from subquad.bio.data.files import read_frame

    frame = read_frame(resolve_table(table))
    rows = f'{table_view(pd.DataFrame(frame.head(ROWS)))}<p class="sq-hint">{len(frame):,} rows</p>'
    print(json.dumps([[*map(str, frame)], rows]))


if __name__ == "__main__":
    main(sys.argv[1])
