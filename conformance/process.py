"""One worker process seen from outside: started, asked, watched for time and memory, and buried."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depthwise.conformance import targets
from depthwise.conformance.results import CRASH, TIMEOUT, printable

_FAULT = "fault:"
_START_SECONDS = 180.0  # importing a framework on a busy machine


_LOGGED = re.compile(r"[IWE]\d{4} |WARNING: All log messages").match


class WorkerLostError(Exception):
    """The worker is gone.

    Attributes:
      outcome: "CRASH" or "TIMEOUT".
      detail: how it ended, with the last line it wrote to standard error.
    """

    def __init__(self, outcome: str, detail: str) -> None:
        super().__init__(f"{outcome}: {detail}")
        self.outcome, self.detail = outcome, detail


class TargetUnavailableError(Exception):
    """The target can't be had in this environment: it isn't installed, or its import fails."""


@dataclass(frozen=True)
class Limits:
    """What a worker may use.

    Attributes:
      seconds: for one request.
      memory: resident bytes, beyond which the worker is ended (watched where /proc exists).
    """

    seconds: float = 120.0
    memory: int = 16 * 2**30


class Worker:
    """A running worker of one target.

    Args:
      target: see `targets.resolve`.
      limits: time and memory of each request.

    Raises:
      TargetUnavailableError: the target can't be had here.
      WorkerLostError: the process ends before it is ready.
    """

    def __init__(self, target: str, limits: Limits) -> None:
        if missing := targets.missing(target):
            raise TargetUnavailableError(f"{', '.join(missing)} not installed")
        self.target, self.limits = target, limits
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker, see close
        self._process = subprocess.Popen(
            [sys.executable, "-m", "depthwise.conformance.worker", target],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ, **targets.environment(target)},
            start_new_session=True,  # or Ctrl-C would end it too, and look like a crash
        )
        assert self._process.stdin and self._process.stdout
        self._requests, self._answers = self._process.stdin, self._process.stdout.fileno()
        self._unread = b""
        try:
            hello = self._read(_START_SECONDS)
            if "cannot" in hello:
                raise TargetUnavailableError(str(hello["cannot"]))
        except BaseException:
            self.close()
            raise
        self.devices: list[str] = hello["hello"]["devices"]
        self.versions: dict[str, str] = hello["hello"]["versions"]

    def switch(self, target: str) -> None:
        """Serves another target from now on, in the same process: only for targets that leave it as it is.

        Raises:
          WorkerLostError: the process ends, as where the target can't be had.
        """
        self._send({"target": target})
        self._read(_START_SECONDS)
        self.target = target

    def ask(self, case: str, checks: tuple[str, ...], separately: bool) -> Iterator[dict[str, Any]]:
        """The worker's messages about a case, as they come: see `worker`.

        Raises:
          WorkerLostError: the process ended, or was ended for using too much.
        """
        begun = time.monotonic()
        self._send({"case": case, "checks": checks, "separately": separately})
        while not (message := self._read(self.limits.seconds, begun)).get("end"):
            yield message

    def close(self) -> None:
        """Ends the process."""
        if self._process.poll() is None:
            self._kill()
        self._process.wait()
        self._requests.close()
        if self._process.stdout:
            self._process.stdout.close()
        self._stderr.close()

    def _send(self, request: dict[str, Any]) -> None:
        try:
            self._requests.write(json.dumps(request).encode() + b"\n")
            self._requests.flush()
        except BrokenPipeError:
            raise self._lost() from None

    def _read(self, seconds: float, since: float | None = None) -> dict[str, Any]:
        """The next message, if it comes within so many seconds since a time, or now."""
        deadline = (time.monotonic() if since is None else since) + seconds
        ended = False
        while b"\n" not in self._unread:
            left = deadline - time.monotonic()
            if left <= 0:
                self._kill()
                raise WorkerLostError(TIMEOUT, f"no answer within {seconds:g} s")
            ready, _, _ = select.select([self._answers], [], [], 0.0 if ended else min(left, 0.5))
            if not ready:
                if ended:  # and what it has started holds the pipe open
                    raise self._lost()
                ended = self._process.poll() is not None
                if _resident(self._process.pid) > self.limits.memory:
                    self._kill()
                    raise WorkerLostError(CRASH, f"used more than {self.limits.memory / 2**30:g} GiB of memory")
                continue
            chunk = os.read(self._answers, 1 << 16)
            if not chunk:
                raise self._lost()
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def _kill(self) -> None:
        """Ends the process, and what it has started: it leads a session."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _lost(self) -> WorkerLostError:
        code = self._process.wait()
        self._kill()  # what is left of the session
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        self._stderr.seek(0)
        lines = [line for line in self._stderr.read().decode(errors="replace").splitlines() if line.strip()]
        # A failed check of TensorFlow's is what ended the process; the stack follows it. What it logs has nothing to do
        # with that.
        said = [line for line in lines if "Check failed" in line] or [line for line in lines if not _LOGGED(line)]
        return WorkerLostError(CRASH, f"{how}: {printable(said[-1])[-300:]}" if said else how)


class Workers:
    """Where workers come from and go back to.

    A target has processes of its own. The planted faults share theirs, since they are ours and leave them as they are:
    starting TensorFlow takes longer than catching most of them.
    """

    def __init__(self) -> None:
        self._idle: deque[Worker] = deque()

    def take(self, target: str, limits: Limits) -> Worker:
        """A worker that serves the target."""
        if target.startswith(_FAULT):
            while self._idle:
                worker = self._idle.pop()  # a deque, since several threads take and give back
                try:
                    worker.switch(target)
                    return worker
                except WorkerLostError:
                    worker.close()
        return Worker(target, limits)

    def give_back(self, worker: Worker) -> None:
        """Keeps the worker for another fault, or ends it."""
        if worker.target.startswith(_FAULT):
            self._idle.append(worker)
        else:
            worker.close()

    def close(self) -> None:
        """Ends the workers that are kept."""
        while self._idle:
            self._idle.pop().close()


def _resident(pid: int) -> int:
    """Resident bytes of a process, 0 where the system doesn't tell."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0
