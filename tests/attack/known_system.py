"""Known attacks: what the machine and other processes do meanwhile."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from attack import faults, models, outputs, together
from attack.harness import Case, Place, Run
from attack.listed import DONE, known, lazily

# 1. A file that is cut or has holes, and exit code 0.
for lost in (0, 1, 100, 1000, 2000, 4000, 4096, 4700, 9000):
    known(
        f"file-limit-{lost}",
        lazily("file size limit", lambda lost=lost: faults.limit_case("file", len(models.written()) - lost)),
    )
known("disk-full", faults.disk_case("out", 65536))


def _freed_disk() -> Case:
    """Another program fills the disk while one tensor is written, and frees it."""

    def body(place: Place) -> int:
        import sys

        from lieq_edge.system import checked

        disk = place.root / "disk"
        disk.mkdir()
        faults.mount_tmpfs(disk, 1 << 20)
        own, count = checked.CheckedFile.write, [0]

        def write(self: Any, content: Any) -> int:
            count[0] += 1
            if count[0] in (8, 20):
                with (disk / "fill").open("wb", buffering=0) as file:
                    try:
                        while True:
                            file.write(bytes(4096))
                    except OSError:
                        pass
            size = own(self, content)
            if count[0] in (10, 22):
                (disk / "fill").unlink(missing_ok=True)
            return size

        checked.CheckedFile.write, checked._BUFFER = write, 4096  # type: ignore[method-assign]
        pid = os.fork()
        if pid == 0:
            sys.argv = ["lieq-edge", *faults.EXPORT[:-1], str(disk / "out.gguf")]
            from lieq_edge.__main__ import main

            main()
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        out = disk / "out.gguf"
        assert out.exists() == (code == 0)
        assert code != 0 or out.read_bytes() == models.written()
        return code

    def prepare(place: Place) -> list[Run]:
        faults.disk_case("out", 4096).prepare(place)  # refuses where nothing can be mounted
        return [Run(body=body)]

    return Case("a disk that is full for a moment", prepare)


known("disk-full-for-a-moment", _freed_disk())

# 2. Weights that change meanwhile.
for stage in (1, 2, 3, 4):
    known(f"weights-swapped-{stage}", faults.swapped_case(stage))

# 3. Threads of one process.
known("threads", together.threads_case(3))


def _umask() -> Case:
    """Files of another thread must never be writable by everybody."""

    def body(place: Place) -> int:
        import sys
        import threading

        wrong, ended = [0], threading.Event()

        def make() -> None:
            os.umask(0o077)
            while not ended.is_set():
                os.close(os.open(place.root / "probe", os.O_CREAT | os.O_WRONLY, 0o666))
                wrong[0] += (place.root / "probe").stat().st_mode & 0o077 != 0
                os.unlink(place.root / "probe")

        thread = threading.Thread(target=make)
        thread.start()
        import lieq_edge

        (place.work / "model").exists()
        settings = lieq_edge.Settings(budget="3")
        for i in range(30):
            plan = lieq_edge.plan_saved(lieq_edge.load_json(lieq_edge.Diagnostics, models.saved()), settings)
            lieq_edge.save_json(plan, place.work / f"plan{i}.json")
        ended.set()
        thread.join()
        sys.stderr.write(f"{wrong[0]} files were open to others\n")
        return int(wrong[0] > 0)

    made = frozenset(f"plan{i}.json" for i in range(30))
    return Case("the umask of other threads", lambda place: [Run(body=body, codes=DONE)], outputs=made)


known("umask", _umask())

# 5. Outputs.
for place_name in (
    "link",
    "link to nothing",
    "link to itself",
    "link to stdout",
    "pipe",
    "device",
    "appears meanwhile",
    "no such user",
):
    for force in (False, True):
        suffix = "-force" if force else ""
        known(f"{place_name.replace(' ', '-')}{suffix}", outputs.place_case(place_name, "export", force=force))

# 6. Containers that share a folder but not their process ids.


def _namespaces() -> Case:
    """Two exports to one output in two namespaces of process ids."""

    def run(place: Place) -> int:
        import ctypes
        import sys

        if ctypes.CDLL(None, use_errno=True).unshare(0x20000000) != 0:  # children get a new namespace
            return 0
        pid = os.fork()
        if pid == 0:
            sys.argv = ["lieq-edge", *together.export("out.gguf", "--force")]
            from lieq_edge.__main__ import main

            main()
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def prepare(place: Place) -> list[Run]:
        (place.work / "model").symlink_to(models.directory("llama"))
        return [Run(body=run, codes=DONE), Run(body=run, codes=DONE)]

    return Case("two namespaces of process ids", prepare, together=True)


known("namespaces", _namespaces())


# 7. Ctrl-C comes late.


def _interrupted(number: int, seconds: float) -> Case:
    """The program itself, from its start on; it ends within a second of computing."""

    def body(place: Place) -> int:
        import subprocess
        import sys

        words = [sys.executable, "-m", "lieq_edge", *together.export("out.gguf")]
        with subprocess.Popen(
            words, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        ) as process:
            deadline = time.monotonic() + 60
            while _cpu(process.pid) < seconds and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            before, start = _cpu(process.pid), time.monotonic()
            process.send_signal(number)
            taken = 0.0
            while process.poll() is None:
                taken = max(taken, _cpu(process.pid) - before)
                time.sleep(0.01)
            assert process.stderr is not None
            said = process.stderr.read()
            print(
                f"{taken:.1f} s of computing, {time.monotonic() - start:.1f} s",
                said.decode()[-300:],
                process.returncode,
            )
            assert process.returncode in (0, 128 + number)
            assert process.returncode == 0 or b"Interrupted.\n" in said
            assert taken < 1.3
        return 0

    def prepare(place: Place) -> list[Run]:
        (place.work / "model").symlink_to(models.directory("llama"))
        return [Run(body=body, codes=DONE, cpu=60.0)]

    return Case(f"{signal.Signals(number).name} after {seconds} s of computing", prepare)


def _cpu(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


for seconds in (0.3, 1.0, 2.0, 3.5):
    known(f"sigint-{seconds}", _interrupted(signal.SIGINT, seconds))
known("sigterm-2.0", _interrupted(signal.SIGTERM, 2.0))

# 10. A cache where others can write.


def _planted(way: str) -> Case:
    """Links in the cache that lead elsewhere."""

    def prepare(place: Place) -> list[Run]:
        (place.work / "model").symlink_to(models.directory("llama"))
        elsewhere = place.work / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / ".x.tmp").write_text("precious")
        if way == "entries":
            (place.cache / "entries").symlink_to(elsewhere)
        elif way == "runs":
            (place.cache / "runs").symlink_to(elsewhere)
        else:
            os.chmod(place.cache, 0o777)
        return [Run(faults.EXPORT), Run(("cache", "clear"))]

    return Case(f"cache: {way}", prepare)


for way in ("entries", "runs", "writable"):
    known(f"planted-{way}", _planted(way))


# 11. Left behind.
for number in (signal.SIGTERM, signal.SIGKILL):
    for moment, count in (("call", 1), ("call", 3), ("write", 5)):
        module = {"call": "lieq_edge.system.child:Child", "write": "lieq_edge.system.checked:CheckedFile"}[moment]
        known(
            f"{signal.Signals(number).name.lower()}-{moment}-{count}", faults.signal_case(number, module, moment, count)
        )
