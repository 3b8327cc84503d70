"""Records of JSON Lines, JSON arrays and CSV, each with its line."""

from __future__ import annotations

import pytest

from gollm.data.records import read_records
from gollm.errors import DataError

ONE, TWO = {"text": "a,\n b", "n": "1"}, {"text": "c", "n": "2"}


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        ("x.jsonl", '{"text": "a,\\n b", "n": "1"}\n\n{"text": "c", "n": "2"}\n', (1, 3)),
        ("x.json", '[{"text": "a,\\n b", "n": "1"},\n\n {"text": "c", "n": "2"}\n]\n', (1, 3)),
        ("x.csv", 'text,n\n"a,\n b",1\nc,2\n', (2, 4)),
        ("x.tsv", 'text\tn\n"a,\n b"\t1\nc\t2\n', (2, 4)),
    ],
)
def test_the_same_records(tmp_path, name, text, lines):
    path = tmp_path / name
    path.write_text(text)
    found = read_records(path)
    assert [record.values for record in found] == [ONE, TWO]
    assert [record.where for record in found] == [f"{path}, line {line}" for line in lines]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.jsonl", '{"a": 1}\n{"a": \n', "x.jsonl, line 2 is not JSON"),
        ("x.jsonl", '{"a": 1}\n3\n', "x.jsonl, line 2 is a JSON int instead of an object"),
        ("x.jsonl", "\n", "has no records"),
        ("x.json", '[{"a": 1}\n{"a": 2}]', "x.json, line 2 is not JSON"),
        ("x.json", '[{"a": 1},\n', "x.json, line 2 is not JSON"),
        ("x.json", '[{"a": 1}] 3', "'3' stands behind the JSON array"),
        ("x.csv", "a,b\n1\n", "x.csv, line 2 has 1 values, and the first line has 2 names"),
        ("x.csv", 'a,b\n1,"2\n', "is not CSV"),
        ("x.jsonl", '{"id": 7}\n{"id": 8}\n{"id": 7}\n', "x.jsonl, line 3 has the id 7, as "),
    ],
)
def test_mistakes(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataError) as error:
        read_records(path)
    assert message in str(error.value)
