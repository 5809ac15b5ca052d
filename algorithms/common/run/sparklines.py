"""Drawing helpers of the progress panel: sparklines, bars split by amounts, and text that flows into lines."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from rich.text import Text

BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int) -> str:
    """At most `width` blocks, scaled from 0 to the highest value; each is the mean of a section of the values.

    Values below 0 are drawn as 0; non-finite values are left out.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite or width < 1:
        return ""
    means = [float(part.mean()) for part in np.array_split(np.array(finite), min(width, len(finite)))]
    top = max(means)
    heights = [max(0.0, mean) / top if top > 0 else 0.0 for mean in means]
    return "".join(BLOCKS[round(height * (len(BLOCKS) - 1))] for height in heights)


def split(cells: int, amounts: Sequence[float]) -> list[int]:
    """Split `cells` in proportion to the amounts (at least 0): the sum is exact, each part is off by at most a cell."""
    ends = np.cumsum(amounts)
    if cells < 1 or not ends[-1] > 0:
        return [0] * len(amounts)
    places = np.rint(ends / ends[-1] * cells).astype(int)
    return [int(cells) for cells in np.diff(places, prepend=0)]


def flow(parts: Sequence[Text], width: int) -> list[Text]:
    """Arrange the parts in order, three columns apart, in as few lines of `width` columns as possible."""
    lines: list[Text] = []
    for part in parts:
        if lines and lines[-1].cell_len + 3 + part.cell_len <= width:
            lines[-1].append("   ").append_text(part)
        else:
            lines.append(part.copy())
    return lines
