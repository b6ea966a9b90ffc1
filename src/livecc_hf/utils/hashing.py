"""Hashes of texts, to compare millions of texts without keeping gigabytes of them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def text_hashes(texts: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return a 64-bit hash of each text, the same in every process.

    Args:
        texts: a column of shape (rows,); null counts as "".

    Returns:
        uint64 of shape (rows,).
    """
    from pandas.util import hash_array

    values = texts.fill_null("").to_numpy(zero_copy_only=False) if isinstance(texts, pa.Array) else None
    if values is None:
        values = texts.fill_null("").to_numpy()
    return hash_array(np.asarray(values, object), categorize=False)
