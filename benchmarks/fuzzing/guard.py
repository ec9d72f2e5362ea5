"""What a case may not do, watched by an audit hook, an alarm and a limit of memory."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import sysconfig
from pathlib import Path

# Events of Python's audit hooks (PEP 578) that no reading of a file has a use for.
NEVER = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "os.forkpty",
    "os.startfile",
    "os.putenv",
    "os.unsetenv",
    "os.kill",
    "subprocess.Popen",
    "pty.spawn",
    "socket.connect",
    "socket.bind",
    "socket.getaddrinfo",
    "urllib.Request",
    "ctypes.dlopen",
    "ctypes.call_function",
    "pickle.find_class",
    "code.__new__",
    "function.__new__",
    "marshal.loads",
    "webbrowser.open",
    "builtins.input",
)
WRITES = (
    "os.mkdir",
    "os.rmdir",
    "os.remove",
    "os.rename",
    "os.link",
    "os.symlink",
    "os.chmod",
    "os.chown",
    "os.truncate",
    "os.utime",
    "os.mkfifo",
    "shutil.rmtree",
    "shutil.move",
    "shutil.copyfile",
)
LIBRARIES = tuple(
    {sysconfig.get_path(k) for k in ("stdlib", "platstdlib", "purelib", "platlib")}
) + (str(Path(__file__).resolve().parents[2]), "<frozen", "<attrs", "<string>:hydra")


WAIT = 15  # times as long by the clock, on a machine that is busy


class Hang(BaseException):
    """Not an Exception, so that nothing takes it for a spoilt file."""


class Guard:
    """Notes what a case does beside its task; `seen` is empty for a good one."""

    def __init__(self):
        self.seen: list[str] = []
        self.folders: tuple[str, ...] | None = None
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple) -> None:
        if self.folders is None:
            return
        if event in NEVER:
            if event in ("code.__new__", "marshal.loads") and _importing():
                return
            self.seen.append(f"{event} {_told(args)}")
        elif event in WRITES:
            self._inside(event, args[:1] if "copyfile" not in event else args[1:2])
        elif event == "open":
            path, mode, flags = (*args, None, None)[:3]
            writes = isinstance(flags, int) and flags & (
                os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
            )
            if writes and isinstance(path, (str, bytes)):
                self._inside(f"open {mode}", (path,))
        elif event == "exec":
            name = getattr(args[0], "co_filename", "")
            if not name.startswith(LIBRARIES) and not _importing():
                self.seen.append(f"exec {name}")

    def _inside(self, event: str, paths) -> None:
        for path in paths:
            if isinstance(path, int):
                continue
            full = os.path.realpath(os.fsdecode(path))
            if full != os.devnull and not (full + os.sep).startswith(self.folders):
                self.seen.append(f"{event} {full}")

    @contextlib.contextmanager
    def case(self, folders: tuple[str, ...], seconds: float):
        """Within, only those folders may be written to; Hang after so many seconds."""
        self.seen, self.folders = (
            [],
            tuple(os.path.realpath(folder) + os.sep for folder in folders),
        )
        signal.signal(signal.SIGALRM, _alarm)
        signal.signal(signal.SIGPROF, _alarm)
        # Of the processor, whatever else it has to do; and a wait for nothing.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_REAL, WAIT * seconds)
        try:
            yield self
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            self.folders = None


def _alarm(*_):
    raise Hang


def _importing() -> bool:
    """Whether a module of a library is being imported, lazily, right now."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _told(args) -> str:
    return ascii(args)[:200]


def limit_memory(more: int) -> None:
    """From here on the process may take `more` bytes of addresses beyond its own."""
    if not os.path.exists("/proc/self/statm"):
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + more
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    # Not the hard one, which could not be raised for the next kind in this process.
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))


def out_of_memory(error: BaseException | None) -> bool:
    """Whether memory ran out somewhere below an error, also one that was met."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        words = str(error)
        if isinstance(error, MemoryError) or "not enough memory" in words:
            return True
        if "can't allocate memory" in words or "Cannot allocate memory" in words:
            return True
        error = error.__cause__ or error.__context__
    return False
