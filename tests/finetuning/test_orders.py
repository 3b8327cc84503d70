"""The data of the worked example in docs/finetuning.md."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "docs" / "examples" / "orders.py"


def test_held_out_orders_have_other_names_and_cities(tmp_path):
    main = runpy.run_path(str(SCRIPT))["main"]
    for folder in ("one", "two"):
        main(str(tmp_path / folder), 300, 50)
    found = {}
    for part in ("train", "held-out"):
        text = (tmp_path / "one" / f"{part}.jsonl").read_text()
        assert text == (tmp_path / "two" / f"{part}.jsonl").read_text()
        found[part] = [[m["content"] for m in json.loads(line)["messages"]] for line in text.splitlines()]
    names = {}
    for part, orders in found.items():
        pairs = [re.fullmatch(r"#[A-Z]{3}-\w+\*\d+ @(\w+)/(\w+) ![A-Z]{3}", answer).groups() for _, _, answer in orders]
        for pair, (_, question, _) in zip(pairs, orders, strict=True):
            assert all(name in question for name in pair)
        names[part] = {name for pair in pairs for name in pair}
    assert (len(found["train"]), len(found["held-out"])) == (300, 50)
    assert not names["train"] & names["held-out"]
