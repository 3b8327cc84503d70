"""The run folder that a run writes to (gollm.training.run), in a form that survives a crash at any moment."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gollm.errors import TrainingError
from gollm.options import load_file, to_yaml
from gollm.system.files import read_regular, reason, remove_leftovers, replacing
from gollm.training.options import LoopOptions
from gollm.training.run import Run, parsed, resume_command

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class _Taken(Exception):
    """Somebody has a folder of this name already."""


class RunFolder(Run):
    """The folder of one run, locked against a second trainer while it is open; made if it is not there.

    Raises TrainingError where it cannot be written, or is locked."""

    def __init__(self, path: str | Path, *, command: str = "train", new: bool = False) -> None:
        """`command` is the one of gollm that goes on with the run; `new` raises _Taken for a folder that is there."""
        super().__init__(path)
        self._resume_command = resume_command(path, command)
        self._metrics: int | None = None
        try:
            self._made = self._make(new)
            self._lock: int | None = self._locked()
        except (OSError, ValueError) as failure:  # ValueError: a NUL or a lone surrogate in the name
            raise self._unusable(reason(failure) if isinstance(failure, OSError) else str(failure)) from None
        try:
            remove_leftovers(self.path)
        except BaseException:
            self.close()
            raise

    def _unusable(self, why: str) -> TrainingError:
        return TrainingError(f"the run folder {self.name} cannot be written: {why}; choose another with --out")

    @classmethod
    def claim(cls, options: LoopOptions, name: str) -> RunFolder:
        """The folder that the options choose: an interrupted run's, the new one of --out, or the first of runs/NAME-1,
        runs/NAME-2 ... that is free. Nobody else can choose it until it is closed.

        Raises TrainingError where another run has left something: nothing of it is ever overwritten."""
        if options.resume is not None:
            return cls(options.resume, command=options.COMMAND)
        if options.out is None:
            return cls.first_free(name, command=options.COMMAND)
        folder = cls(options.out, command=options.COMMAND)
        try:
            folder._refuse_used()
        except BaseException:
            folder.close()
            raise
        return folder

    @classmethod
    def first_free(cls, name: str, root: str | Path = "runs", *, command: str = "train") -> RunFolder:
        """Makes and locks root/NAME-1, or the first number that is free."""
        for number in itertools.count(1):
            with contextlib.suppress(_Taken):
                return cls(Path(root) / f"{name}-{number}", command=command, new=True)
        raise AssertionError

    def _make(self, new: bool) -> bool:
        """Whether this has made the folder."""
        try:
            self.path.mkdir(parents=True)
        except FileExistsError:
            if new:
                raise _Taken from None
            if not self.path.is_dir():
                raise
            return False
        return True

    def _locked(self) -> int:
        """The descriptor of the lock. Raises TrainingError where another process has it."""
        while True:
            descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                if fcntl is not None:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _same_file(descriptor, self._lock_path):  # else its last owner has just removed it
                    return descriptor
                os.close(descriptor)
            except BlockingIOError:
                os.close(descriptor)
                raise TrainingError(
                    f"another process is training in {self.path}; wait for it, or choose another folder with --out"
                ) from None
            except BaseException:
                os.close(descriptor)
                raise
            self.path.mkdir(parents=True, exist_ok=True)

    def close(self) -> None:
        """Lets others in. A folder that this object has made, and that nothing was written to, goes again."""
        if self._lock is None:
            return
        with contextlib.suppress(OSError):  # somebody else has removed it
            if self._made and os.listdir(self.path) == [self._lock_path.name]:
                self._lock_path.unlink()
                self.path.rmdir()
        for descriptor in (self._metrics, self._lock):
            if descriptor is not None:
                os.close(descriptor)
        self._metrics = self._lock = None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _lock_path(self) -> Path:
        return self.path / ".lock"

    def keep_newest(self, n: int) -> None:
        """Removes all checkpoints but the newest n."""
        for _, path in list(self.checkpoints().items())[:-n]:
            path.unlink(missing_ok=True)

    def _refuse_used(self) -> None:
        files = (self.config_path, self.tokenizer_path, self.metrics_path, self.best_path)
        if any(path.exists() for path in files) or self.checkpoints():
            raise TrainingError(
                f"{self.path} holds a run already; go on with --resume {shlex.quote(str(self.path))}, "
                "or choose another folder with --out"
            )

    def note_checkpoint(self, path: Path) -> None:
        """Remembers that a checkpoint was written, so that its loss is noticed."""
        assert self._lock is not None
        with contextlib.suppress(OSError):
            os.lseek(self._lock, 0, os.SEEK_SET)
            os.truncate(self._lock, os.write(self._lock, f"{path.name}\n".encode()))

    def refuse_lost(self) -> None:
        """For a run without checkpoints: raises TrainingError unless it was killed before it could write its first."""
        assert self._lock is not None
        every = load_file(self.config_path).get("checkpoint_every")
        with contextlib.suppress(FileNotFoundError):
            steps = sum(1 for _ in self.metrics_lines())
            noted = os.fstat(self._lock).st_size > 0
            if noted or (isinstance(every, int) and 0 < every < steps):
                best = " and best.golm" if self.best_path.exists() else ""
                raise TrainingError(
                    f"{self.path} has the metrics of {steps} steps{best}, but the checkpoints (step-*.golm) that "
                    "training goes on from are gone; restore the newest, or start a new run with --out"
                )

    def set_aside(self, damaged: Path) -> Path:
        """Renames a checkpoint that cannot be used, so that neither training nor cleaning up touches it."""
        aside = damaged.with_name(damaged.name + ".damaged")
        damaged.replace(aside)
        return aside

    def write_config(self, values: Mapping[str, Any]) -> None:
        """Writes the options, unless they are there. Raises TrainingError."""
        text = to_yaml(values).encode()
        if not self.config_path.is_file() or read_regular(self.config_path, len(text) + 1) != text:
            with replacing(self.config_path, TrainingError) as file:
                file.write(text)

    def write_files(self, paths: Sequence[Path]) -> None:
        """Lists the files that are read, where there are any. Raises TrainingError."""
        if paths:
            with replacing(self.files_path, TrainingError) as file:
                names = (str(path).replace("\n", "\\n") for path in paths)
                file.writelines(f"{name}\n".encode("utf-8", "backslashreplace") for name in names)

    def start_metrics(self, last_step: int) -> dict[str, Any]:
        """Opens metrics.jsonl for the step after last_step and returns that step's line, {} for step 0. What a killed
        process wrote beyond it, or half a line, is cut off.

        Raises TrainingError where lines are missing."""
        steps, length, values = 0, 0, {}
        try:
            self._metrics = os.open(self.metrics_path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            for line in self.metrics_lines():
                if steps == last_step:
                    break
                steps, length, values = steps + 1, length + len(line), parsed(line)
                if values.get("step") != steps:
                    raise TrainingError(
                        f"line {steps} of {self.metrics_path} is not step {steps}; restore the file, or start a new run"
                    )
            if steps < last_step:
                raise TrainingError(
                    f"{self.metrics_path} ends at step {steps}, before the checkpoint's step {last_step}; "
                    "restore the file, or start a new run"
                )
            os.truncate(self.metrics_path, length)
        except OSError as failure:
            raise TrainingError(f"cannot use {self.metrics_path}: {reason(failure)}") from None
        return values

    def write_metrics(self, values: Mapping[str, Any]) -> None:
        """Appends a step's line. Raises TrainingError for a full disk, and where the folder is gone."""
        assert self._metrics is not None
        if not _same_file(self._metrics, self.metrics_path):
            raise TrainingError(
                f"{self.metrics_path} was removed, replaced or moved while the run was writing to it, so training "
                f"stopped before step {values['step']} was saved; restore the folder and go on with: "
                f"{self._resume_command}, or start a new run"
            )
        line = json.dumps(values, ensure_ascii=False).encode() + b"\n"
        try:
            while line:
                line = line[os.write(self._metrics, line) :]
        except OSError as failure:
            raise self._metrics_failure(failure) from None

    def sync_metrics(self) -> None:
        """What was written reaches the disk: before a checkpoint says that these steps are done."""
        assert self._metrics is not None
        try:
            os.fsync(self._metrics)
        except OSError as failure:
            raise self._metrics_failure(failure) from None

    def _metrics_failure(self, failure: OSError) -> TrainingError:
        return TrainingError(
            f"cannot write {self.metrics_path}: {reason(failure)}. The checkpoints are untouched: "
            f"free some space and go on with: {self._resume_command}"
        )


def _same_file(descriptor: int, path: Path) -> bool:
    """Whether `path` still leads to the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False
