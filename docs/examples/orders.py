"""Writes the data of the worked example in docs/finetuning.md: orders in plain English, and the record of each.

python docs/examples/orders.py FOLDER [TRAINING] [HELD_OUT]     # train.jsonl and held-out.jsonl, always the same

    Could you send 12 green lamps to Nora in Oslo by Friday?  ->  #GRE-lamp*12 @Oslo/Nora !FRI

Held-out orders have names and cities that no training order has, so that they have to be copied from the question.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

SYSTEM = "Write the order as a record."
COLOURS = ["red", "green", "blue", "black", "white", "yellow", "purple", "orange", "brown", "silver"]
THINGS = ["lamp", "chair", "table", "mug", "plate", "desk", "stool", "clock", "mirror", "kettle", "pillow", "basket"]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
PEOPLE = [
    *("Anna", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry", "Ivan", "Julia", "Kevin", "Laura"),
    *("Maria", "Nora", "Oscar", "Peter", "Quinn", "Rosa", "Simon", "Tina", "Victor", "Wendy", "Yusuf", "Zoe"),
]
CITIES = [
    *("Oslo", "Paris", "Rome", "Madrid", "Berlin", "Vienna", "Prague", "Warsaw", "Dublin", "London", "Lisbon"),
    *("Athens", "Cairo", "Tokyo", "Seoul", "Delhi", "Lima", "Boston", "Denver", "Chicago", "Toronto", "Sydney"),
]
SENTENCES = [
    "Could you send {n} {colour} {thing}s to {person} in {city} by {day}?",
    "{person} from {city} needs {n} {colour} {thing}s on {day}.",
    "Please deliver {n} {thing}s, {colour} ones, to {city} before {day}. They are for {person}.",
    "By {day} we want {n} {colour} {thing}s in {city}, care of {person}.",
    "This is {person}. I would like {n} {thing}s in {colour}, sent to {city}, and {day} is fine.",
    "Ship to {city} for {day}: {n} {colour} {thing}s. The contact is {person}.",
]
HELD_OUT = 6  # of the names and of the cities, which are in no training order


def order(rng: random.Random, people: list[str], cities: list[str]) -> dict[str, object]:
    """One order as a conversation."""
    colour, thing, day = rng.choice(COLOURS), rng.choice(THINGS), rng.choice(DAYS)
    person, city, n = rng.choice(people), rng.choice(cities), rng.randint(2, 99)
    question = rng.choice(SENTENCES).format(n=n, colour=colour, thing=thing, person=person, city=city, day=day)
    answer = f"#{colour[:3].upper()}-{thing}*{n} @{city}/{person} !{day[:3].upper()}"
    roles = {"system": SYSTEM, "user": question, "assistant": answer}
    return {"messages": [{"role": role, "content": text} for role, text in roles.items()]}


def main(folder: str, training: int = 1200, held_out: int = 200) -> None:
    rng = random.Random(1)
    people, cities = rng.sample(PEOPLE, len(PEOPLE)), rng.sample(CITIES, len(CITIES))
    parts = {
        "train": (training, people[HELD_OUT:], cities[HELD_OUT:]),
        "held-out": (held_out, people[:HELD_OUT], cities[:HELD_OUT]),
    }
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, (n, some_people, some_cities) in parts.items():
        lines = [json.dumps(order(rng, some_people, some_cities)) for _ in range(n)]
        (Path(folder) / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
