"""gollm generate --prompts: many prompts from a file, their texts as JSON lines, in the prompts' order.

An output file can be gone on with: it grows by whole lines, and what an interruption left of the last one is cut off.
Each line has the prompt, the number of its line, the other fields of that line, where the prompts are JSON lines, and,
as "run", a digest of the model and the options, so that a rerun with other prompts or options is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from gollm.cli.completions import to_json
from gollm.errors import DataError, GenerationError, GollmError
from gollm.system.files import open_regular, reason
from gollm.system.plain_text import standard_input, text_chunks
from gollm.system.strict_json import parse_object, shorten

if TYPE_CHECKING:
    from gollm.cli.sampling_flags import ModelFlags
    from gollm.inference.engine import Engine, Stream
    from gollm.inference.sampling import Sampling
    from gollm.language_model import LanguageModel

_BEGIN = b'{"prompt": "'  # of each line
_OURS = ("line", "text", "logprobs", "choices", "finish_reason", "error", "run")  # fields of an output line
SECONDS = 10.0  # between two reports of how far it is, where standard error is no terminal
AHEAD = 128  # requests that wait in the engine: twice a batch


Prompt = dict[str, Any]  # "prompt", "line", and what else its line of JSON has


def generate_all(flags: ModelFlags, prompt_file: Path, output_file: Path | None, sampling: Sampling) -> int:
    """The exit status: 1 where a prompt could not be continued, which its line says."""
    from tqdm import tqdm

    from gollm.inference.engine import Engine

    prompts = read_prompts(prompt_file)
    model, draft = flags.load(), flags.load_draft()
    run = _digest(flags, sampling)
    output, n_done = (None, 0) if output_file is None else _opened(output_file, prompts, run)
    n_failed, reported = 0, time.monotonic()
    try:
        with (
            Engine(model, draft=draft) as engine,
            tqdm(total=len(prompts), initial=n_done, unit=" prompts", disable=None) as bar,
        ):
            for n, line in enumerate(_lines(model, engine, prompts[n_done:], sampling), n_done + 1):
                n_failed += "error" in line
                _write(output, {**line, "run": run} if output else line, output_file)
                bar.update()
                if output and bar.disable and time.monotonic() - reported >= SECONDS:
                    reported = time.monotonic()
                    print(f"{n} of {len(prompts)} prompts", file=sys.stderr, flush=True)
    finally:
        if output:
            with contextlib.suppress(OSError):  # what a full disk left in its buffer: _write has said so
                output.close()
    if n_failed:
        print(
            f'gollm: {n_failed} of {len(prompts)} prompts could not be continued; their lines say why as "error"',
            file=sys.stderr,
        )
    return 1 if n_failed else 0


def _lines(model: LanguageModel, engine: Engine, prompts: list[Prompt], sampling: Sampling) -> Iterator[dict[str, Any]]:
    waiting: deque[tuple[Prompt, Stream | GollmError]] = deque()
    left = iter(prompts)
    while True:
        while len(waiting) < AHEAD and (prompt := next(left, None)) is not None:
            try:
                waiting.append((prompt, engine.submit(prompt["prompt"], sampling)))
            except GollmError as error:
                waiting.append((prompt, error))
        if not waiting:
            return
        prompt, stream = waiting.popleft()
        try:
            if isinstance(stream, GollmError):
                raise stream
            found = stream.result()
            yield {**prompt, **to_json(model, found), "finish_reason": found.finish_reason}
        except GollmError as error:
            yield {**prompt, "error": str(error)}


def read_prompts(path: Path) -> list[Prompt]:
    """One a line; of JSON lines the field "prompt", and the others as they are. Empty lines are none. Raises
    DataError."""
    name = "standard input" if str(path) == "-" else str(path)
    try:
        stream = standard_input(DataError) if str(path) == "-" else open_regular(path, buffering=-1)
        with stream:
            lines = "".join(text_chunks(stream, name, DataError)).split("\n")
    except OSError as failure:
        raise DataError(f"cannot read {name}: {reason(failure)}") from None
    read = _fields if path.suffix in (".jsonl", ".ndjson") else lambda line, i, _: {"prompt": line, "line": i}
    prompts = [read(line.removesuffix("\r"), i, f"{name}, line {i}") for i, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise DataError(f"{name} has no prompts; write one a line")
    return prompts


def _fields(line: str, number: int, where: str) -> Prompt:
    found = parse_object(line.encode(), where, DataError)
    prompt = found.pop("prompt", None)
    if not isinstance(prompt, str):
        raise DataError(f'{where}: the field "prompt" is {shorten(prompt)}; it must be text')
    for name in found.keys() & set(_OURS):
        raise DataError(f'{where}: the field "{name}" is one of the output, too; give it another name')
    return {"prompt": prompt, "line": number, **found}


# --- the output file -------------------------------------------------------------------------------------------------


def _digest(flags: ModelFlags, sampling: Sampling) -> str:
    """Of what decides about the texts; of the model's file its name and size."""
    model = flags.model.resolve()
    size = model.stat().st_size if model.is_file() else 0
    said = [str(model), size, str(flags.tokenizer), flags.context, flags.rope_scaling, repr(sampling)]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def _opened(path: Path, prompts: list[Prompt], digest: str) -> tuple[BinaryIO, int]:
    """The file to append to, and how many of the prompts are done. Raises GenerationError."""
    n_done = end = 0
    try:
        if os.path.lexists(path):
            with open_regular(path, buffering=-1) as done:
                n_done, end = _checked(done, path, prompts, digest)
        file = open(path, "ab")  # noqa: SIM115
        file.truncate(end)
    except OSError as failure:
        raise GenerationError(f"cannot write {path}: {reason(failure)}; write to another file") from None
    return file, n_done


def _checked(file: BinaryIO, path: Path, prompts: list[Prompt], digest: str) -> tuple[int, int]:
    """How many whole lines there are, and where they end."""
    n_done = end = 0
    for line in file:
        where = f"{path}, line {n_done + 1}"
        if line[: len(_BEGIN)] != _BEGIN[: len(line)]:
            raise GenerationError(f"{where} is of another kind of file; write to another file")
        if not line.endswith(b"\n"):
            break
        found = parse_object(line, where, GenerationError)
        if "run" not in found:
            raise GenerationError(f"{where} is of another kind of file; write to another file")
        if n_done >= len(prompts) or any(found.get(name) != value for name, value in prompts[n_done].items()):
            raise GenerationError(f"{where} has another prompt than --prompts has there; write to another file")
        if found["run"] != digest:
            raise GenerationError(
                f"{where} was made with another model or other options; give the same again, or write to another file"
            )
        n_done, end = n_done + 1, end + len(line)
    return n_done, end


def _write(output: BinaryIO | None, line: dict[str, Any], path: Path | None) -> None:
    text = json.dumps(line, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # a prompt with half of a surrogate pair, which its line calls an error
        text = json.dumps(line)
    if output is None:
        print(text, flush=True)
        return
    try:
        output.write(text.encode() + b"\n")
        output.flush()
        os.fsync(output.fileno())
    except OSError as failure:
        raise GenerationError(f"cannot write {path}: {reason(failure)}; what is there can be gone on with") from None
