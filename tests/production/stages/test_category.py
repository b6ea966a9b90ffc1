"""Categories are kept by name, in any spelling, or by YouTube's number."""

import pyarrow as pa
import pytest

from livecc_hf.production.schemas import CLIP_SCHEMA, VIDEO_SCHEMA
from livecc_hf.production.stages.category import PAPER_CATEGORIES, Category, canonical_category


def table(categories, schema=VIDEO_SCHEMA) -> pa.Table:
    rows = len(categories)
    columns = {"id": [f"v{i}" for i in range(rows)], "category": categories}
    return pa.table({name: columns.get(name, pa.nulls(rows)) for name in schema.names}).cast(schema)


def kept(stage, categories, schema=VIDEO_SCHEMA):
    return stage(table(categories, schema)).kept["category"].to_pylist()


@pytest.mark.parametrize(
    "name", ["Howto & Style", "howto and style", "HOWTO & STYLE", "How-to &amp; Style", "How to & Style", " 26 "]
)
def test_spellings(name):
    assert canonical_category(name) == canonical_category("Howto & Style")


@pytest.mark.parametrize("schema", [VIDEO_SCHEMA, CLIP_SCHEMA])
def test_the_seven_of_the_paper(schema):
    assert kept(Category(), list(PAPER_CATEGORIES), schema) == list(PAPER_CATEGORIES)
    assert kept(Category(), ["26", "17", "27", "2", "28", "20", "25"]) == ["26", "17", "27", "2", "28", "20", "25"]
    result = Category()(table(["Music", None, "", "sports", "10"], schema))
    assert result.kept["id"].to_pylist() == ["v3"] and result.kept.schema == schema
    assert result.dropped["reason"].to_pylist() == ["other_category", "no_category", "no_category", "other_category"]
    assert result.dropped["detail"].to_pylist() == ["Music", None, None, "10"]


def test_own_categories_and_bad_ones():
    assert kept(Category(keep=["Cooking", "10"]), ["cooking", "Music", "Sports"]) == ["cooking", "Music"]
    assert kept(Category(keep="Music"), ["Music", "M"]) == ["Music"]
    assert kept(Category(), []) == []
    for keep in ((), ("Music", "")):
        with pytest.raises(ValueError, match="expected names of categories"):
            Category(keep=keep)
