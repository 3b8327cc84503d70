"""Stop strings across the borders of tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gollm.inference.stopping import StopStrings


def ended(text: str, strings: list[str]) -> tuple[str, bool]:
    """The definition: the text ends at the first place where a string is complete, before the longest that is."""
    for end in range(1, len(text) + 1):
        complete = [len(string) for string in strings if text[:end].endswith(string)]
        if complete:
            return text[: end - max(complete)], True
    return text, False


def pushed(pieces: list[str], strings: list[str]) -> tuple[str, bool, list[str]]:
    stop, shown = StopStrings(strings), []
    for piece in pieces:
        text, stopped = stop.push(piece)
        shown.append(text)
        if stopped:
            return "".join(shown), True, shown
    return "".join(shown) + stop.finish(), False, shown


@given(st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=3), st.lists(st.text("abc", max_size=4)))
def test_pieces_do_not_change_where_a_text_ends(strings: list[str], pieces: list[str]) -> None:
    text, stopped, shown = pushed(pieces, strings)
    assert (text, stopped) == ended("".join(pieces), strings)
    for i in range(1, len(shown) + 1 - stopped):  # what may begin a stop string is held back, and no more
        so_far = "".join(pieces[:i])
        begins = [n for string in strings for n in range(1, len(string)) if so_far.endswith(string[:n])]
        assert "".join(shown[:i]) == so_far[: len(so_far) - max(begins, default=0)]


def test_text_is_held_back_only_while_it_may_begin_a_stop_string() -> None:
    stop = StopStrings(["\n\nUser:", "###"])
    assert [stop.push(piece)[0] for piece in ("Hello", " #", "# x", "\n", "\nUse", " it")] == [
        "Hello", " ", "## x", "", "", "\n\nUse it",
    ]  # fmt: skip
    assert stop.push("## no")[0] == "## no"
    assert (stop.push("\n"), stop.finish()) == (("", False), "\n")


@pytest.mark.parametrize("string", ["a" * 100_000 + "b", "ab" * 50_000 + "c"])
def test_a_long_stop_string_takes_linear_time(string: str) -> None:
    stop = StopStrings([string])
    for _ in range(2000):
        stop.push(string[:100])
    assert stop.push(string)[1]
