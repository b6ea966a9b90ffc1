"""Tables of clips for tests of stages that look at them."""

import pyarrow as pa

from livecc_hf.production.schemas import CLIP_SCHEMA


def clips(*rows) -> pa.Table:
    """Return clips of (video, start_s, end_s), with all other columns null."""
    columns = {
        "id": [f"v#{i}" for i in range(len(rows))],
        "video": [str(row[0]) for row in rows],
        "start_s": [row[1] for row in rows],
        "end_s": [row[2] for row in rows],
    }
    return pa.table({name: columns.get(name, [None] * len(rows)) for name in CLIP_SCHEMA.names}, schema=CLIP_SCHEMA)
