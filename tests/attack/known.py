"""Attacks that once succeeded, by name: a tester's list of what must not come back."""

from __future__ import annotations

import json
import os
import signal
import struct
import time
from pathlib import Path
from typing import Any

from attack import directories, faults, gguf_files, models, outputs, requests, terminal, together
from attack.harness import Case, Ended, Place, Run

REFUSED, DONE = frozenset({2}), frozenset({0})
SHORT = {"wall": 25.0}

KNOWN: dict[str, Case] = {}


def known(name: str, case: Case) -> None:
    """Add an attack to the list."""
    assert name not in KNOWN
    KNOWN[name] = case


def _saved(change: Any) -> bytes:
    document = json.loads(models.saved().read_bytes()) if models.saved().exists() else {"tensors": [{}], "blocks": [{}]}
    change(document)
    return json.dumps(document).encode()


def _lazy(name: str, make: Any) -> Case:
    """A case whose content is made only when it is tried."""

    def prepare(place: Place) -> list[Run]:
        inner = make()
        case.check = inner.check
        case.together = inner.together
        runs: list[Run] = inner.prepare(place)
        return runs

    case = Case(name, prepare)
    return case


# 1. A file that is cut or has holes, and exit code 0.
for lost in (0, 1, 100, 1000, 2000, 4000, 4096, 4700, 9000):
    known(f"file-limit-{lost}", _lazy("file size limit", lambda lost=lost: faults.limit_case("file", len(models.written()) - lost)))
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

# 4. llama.cpp ends its process.
PREFIX = "tokenizer.ggml."
known("tokenizer-bert-export", _lazy("bert", lambda: gguf_files.value_case({f"{PREFIX}model": "bert"}, gguf_files.EXPORT, model="pieces")))
known("tokenizer-bert-validate", _lazy("bert", lambda: gguf_files.value_case({f"{PREFIX}model": "bert"}, gguf_files.VALIDATE, model="pieces")))


def _long_token(model: str, arguments: tuple[str, ...]) -> Case:
    from lieq_edge.gguf.header import read_header

    tokens = list(read_header(models.gguf("pieces")).get(f"{PREFIX}tokens"))
    changes = {f"{PREFIX}model": model, f"{PREFIX}tokens": [*tokens[:-1], "x" * 120_000]}
    return gguf_files.value_case(changes, arguments, model="pieces")


for kind in ("rwkv", "t5", "plamo2"):
    known(f"long-token-{kind}", _lazy("one token of 120 kB", lambda kind=kind: _long_token(kind, gguf_files.VALIDATE)))
for key, value in (
    *(("block_count", 0), ("block_count", 10**9), ("block_count", 2**32 - 1), ("expert_count", 1), ("expert_count", 8)),
    *(("expert_count", 2**32 - 1), ("expert_used_count", 9), ("expert_used_count", [1, 2])),
    *(("attention.layer_norm_rms_epsilon", float("nan")), ("attention.layer_norm_rms_epsilon", -1.0)),
):
    known(
        f"{key}-{value}",
        _lazy("hyper-parameter", lambda key=key, value=value: gguf_files.value_case({f"llama.{key}": value}, gguf_files.VALIDATE)),
    )

# 5. Outputs.
for place_name in ("link", "link to nothing", "link to itself", "link to stdout", "pipe", "device", "appears meanwhile"):
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
        with subprocess.Popen(words, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}) as process:
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
            print(f"{taken:.1f} s of computing, {time.monotonic() - start:.1f} s", said.decode()[-300:], process.returncode)
            assert process.returncode in (0, 128 + number)
            assert process.returncode == 0 or said.endswith(b"Interrupted.\n")
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

# 8. Tracebacks.
for key in ("general.name", "general.architecture", "tokenizer.ggml.model"):
    for text_name, text in (("markup", "[/x]"), ("escape", "\x1b[2J"), ("bytes", "\udcff")):
        command = ("inspect", "in.gguf")
        known(f"{key}-{text_name}", _lazy("name", lambda key=key, text=text: terminal.value_case(key, text)))
for text_name, text in (("markup", "[/x]"), ("escape", "\x1b[2J"), ("bytes", "\udcff")):
    known(f"tensor-{text_name}", _lazy("tensor", lambda text=text: terminal.tensor_case(f"blk.0.{text}")))
    known(f"output-{text_name}", terminal.path_case(f"out{text}.gguf", "export"))
    known(f"plan-output-{text_name}", terminal.path_case(f"out{text}.json", "plan"))
    known(f"cache-{text_name}", terminal.path_case(f"cache{text}", "cache"))
    known(f"adapter-{text_name}", _lazy("adapter", lambda text=text: directories.adapter_case("of another", {"base_model_name_or_path": text})))
known("saved-name-markup", _lazy("name", lambda: requests.saved_case("model [/x]", _saved(lambda d: d.update(model="[/x]")))))
known("tokens-a-number", _lazy("tokens", lambda: gguf_files.value_case({f"{PREFIX}tokens": 5}, gguf_files.INSPECT)))
known("block-of-5000-digits", _lazy("tensor", lambda: terminal.tensor_case("blk." + "1" * 5000)))
known("wrong-types-as-json", _lazy("types", lambda: gguf_files.value_case({f"{PREFIX}tokens": 5, "general.name": 7, f"{PREFIX}bos_token_id": "x"}, (*gguf_files.INSPECT, "--json"))))
RECIPES = {
    "brackets": "[" * 3000,
    "indents": "\n".join(" " * i + "- " for i in range(1500)),
    "date": "2020-13-45",
    "int": "!!int abc",
    "float": "!!float x",
    "bool": "!!bool x",
    "timestamp": "!!timestamp x",
    "digits": "9" * 5000,
}
for name, text in RECIPES.items():
    known(f"recipe-{name}", requests.recipe_case(name, f"description: x\nbudget: 3\nnotes: {text}\n".encode()))
for name, line in {
    "threads-0": "threads: 0", "threads--1": "threads: -1", "probe-0": "probe_tokens: 0", "probe--5": "probe_tokens: -5",
    "probe-1": "probe_tokens: 1", "seed--1": "seed: -1", "seed-large": f"seed: {2**63}", "ratio-nan": "max_ppl_ratio: .nan",
    "ratio--1": "max_ppl_ratio: -1", "twice": "seed: 1\nseed: 2", "calibration-0": "calibration_tokens: 0",
}.items():  # fmt: skip
    known(f"recipe-{name}", requests.recipe_case(name, f"description: x\nbudget: 3\n{line}\n".encode(), codes=REFUSED))
known("recipe-100000-keys", requests.recipe_case("keys", requests.RECIPE.encode() + b"".join(b"k%d: 1\n" % i for i in range(100_000)), codes=REFUSED))
known("recipe-100000-levels", requests.recipe_case("levels", b"description: x\nbudget: 3\nlevels: [" + b"2, " * 100_000 + b"3]\n", codes=REFUSED))
for threads in (100_000, 2**40):
    known(f"flag-threads-{threads}", requests.flags_case(f"--threads {threads}", ["plan", "saved.json", "--budget", "3", "--threads", str(threads)], codes=REFUSED))


def _library(name: str, statement: str) -> None:
    """A value that the library must refuse with its own error."""

    def body(place: Place) -> int:
        import lieq_edge

        try:
            exec(f"lieq_edge.{statement}", {"lieq_edge": lieq_edge, "model": str(models.directory("llama"))})
        except lieq_edge.InputError:
            return 0
        raise AssertionError("it was not refused")

    known(f"library-{name}", Case(statement, lambda place: [Run(body=body, codes=DONE)]))


for field, wrong in (("rounding", "evil"), ("granularity", "evil"), ("metric", "evil"), ("calibration_tokens", 0), ("threads", 0)):
    _library(f"{field}-{wrong}", f"Settings(budget='3', {field}={wrong!r})")
_library("text-missing", "export_model(model, 'out.gguf', lieq_edge.Settings(budget='3', text='nothing', metric='first', calibration='none'))")

# Pickles, config.json, saved measurements, cache entries, memory.
known("pickle-parameters", directories.pickle_case("of parameters", lambda t: __import__("torch").nn.ParameterDict({k.replace(".", "-"): v for k, v in t.items()}).state_dict() and {k: __import__("torch").nn.Parameter(v) for k, v in t.items()}, codes=DONE))
known("pickle-sparse", directories.pickle_case("sparse", lambda t: {k: v.to_sparse() for k, v in t.items()}))
known("pickle-meta", directories.pickle_case("meta", lambda t: {k: v.to("meta") for k, v in t.items()}))
known("pickle-claims", directories.pickle_case("that claims 10^9 x 64 weights", lambda t: {**t, "model.embed_tokens.weight": __import__("torch").zeros(1).expand(10**9, 64)}, **SHORT))


def _config_export(name: str, key: str, value: Any, codes: frozenset[int] = frozenset({0, 2})) -> Case:
    def prepare(place: Place) -> list[Run]:
        folder = models.copy("llama", place)
        directories.edited("config.json", lambda document: document.update({key: value}))(folder)
        arguments = ("export", "model", *models.MEASURED[:-3], "--no-validate", "--threads", "1", "--out", "out.gguf")
        return [Run(arguments, codes=codes, wall=40.0)]

    return Case(name, prepare)


known("return-dict", _config_export("return_dict is false", "return_dict", False, DONE))
known("num-labels-10000000", _config_export("num_labels", "num_labels", 10**7))
known("num-labels-1000000000", _config_export("num_labels", "num_labels", 10**9))
known("saved-kept-evil", _lazy("kept", lambda: requests.saved_case("kept", _saved(lambda d: d["tensors"][0].update(kept="EVIL")), codes=REFUSED)))


def _many_blocks(document: dict[str, Any]) -> None:
    first = document["blocks"][0]
    tensors = [t for t in document["tensors"] if t["name"].startswith("blk.0.")]
    document["blocks"] = [{**first, "index": i} for i in range(5000)]
    document["tensors"] = [{**t, "name": t["name"].replace("blk.0.", f"blk.{i}.")} for i in range(5000) for t in tensors]


known("saved-5000-blocks", _lazy("blocks", lambda: requests.saved_case("5000 blocks", _saved(_many_blocks), codes=REFUSED)))


def _entry_of_another_shape(way: str) -> Case:
    """An entry whose checksum is right and whose record is another's."""

    def prepare(place: Place) -> list[Run]:
        (place.work / "model").symlink_to(models.directory("llama"))
        models.cached(place)
        entries = sorted(place.cache.glob("entries/**/*.safetensors"))
        assert len(entries) > 1
        contents = [entry.read_bytes() for entry in entries]
        if way == "exchanged":
            for entry, content in zip(entries, [*contents[1:], contents[0]], strict=True):
                entry.write_bytes(content)
        else:
            for entry, content in zip(entries, contents, strict=True):
                entry.write_bytes(_with_record(content))
        return [Run(faults.EXPORT, codes=DONE)]

    return Case(f"cache entries {way}", prepare, check=faults.right_or_nothing)


def _with_record(content: bytes) -> bytes:
    header, data = directories.header_of(content)
    notes = header.get("__metadata__", {})
    return directories.with_header({**header, "__metadata__": {key: "5" for key in notes}}, data)


known("cache-exchanged", _entry_of_another_shape("exchanged"))
known("cache-other-record", _entry_of_another_shape("with another record"))
for size in (5, 20, 60):
    known(f"memory-{size}", _lazy("memory", lambda size=size: faults.limit_case("memory", size << 20)))

# 9. Much time or memory.
def _normalizers(folder: Path) -> None:
    grow = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}
    directories.edited("tokenizer.json", lambda d: d.update(normalizer={"type": "Sequence", "normalizers": [grow] * 9}))(folder)


known("normalizers-that-grow", directories.directory_case("nine normalizers make one letter ten", _normalizers, **SHORT))
known("normalizer-prepends-10MB", directories.directory_case("prepend", directories.edited("tokenizer.json", lambda d: d.update(normalizer={"type": "Prepend", "prepend": "x" * 10**7})), **SHORT))
known("million-tokens", directories.directory_case("a million tokens", directories.edited("tokenizer.json", lambda d: d["model"]["vocab"].update({f"t{i}": 1000 + i for i in range(10**6)})), **SHORT))
known("million-merges", directories.directory_case("a million merges", directories.edited("tokenizer.json", lambda d: d["model"].update(merges=d["model"]["merges"] * 10000)), **SHORT))
known("added-token-10MB", directories.directory_case("an added token of 10 MB", directories.edited("tokenizer.json", lambda d: d["added_tokens"].append({**d["added_tokens"][0], "content": "y" * 10**7, "id": 384})), **SHORT))
known("prefix-1MB", directories.directory_case("continuing_subword_prefix of 1 MB", directories.edited("tokenizer.json", lambda d: d["model"].update(continuing_subword_prefix="#" * 10**6)), **SHORT))
known("adapter-rank-pattern", directories.adapter_case("rank_pattern", {"rank_pattern": {"(a+)+": 2, "(([a-z0-9_.]+)+)+X": 3}}, **SHORT))
known("adapter-alpha-pattern", directories.adapter_case("alpha_pattern", {"alpha_pattern": {"(([a-z0-9_.]+)+)+X": 3}}, **SHORT))
for file in ("model.safetensors", "config.json", "tokenizer.json"):
    known(f"pipe-{file}", directories.directory_case(f"{file} is a pipe", directories.replaced(file, os.mkfifo), **SHORT))
known("pipe-inspect", gguf_files.file_case("a pipe", os.mkfifo, gguf_files.INSPECT, **SHORT))
known("pipe-plan", gguf_files.file_case("a pipe", os.mkfifo, gguf_files.PLAN, **SHORT))


def _pipe_part(place: Place) -> list[Run]:
    paths = gguf_files.split(models.gguf("llama"), place.work, 2)
    paths[1].unlink()
    os.mkfifo(paths[1])
    return [Run(("inspect", paths[0].name), codes=REFUSED, wall=25.0)]


known("pipe-part", Case("a part is a pipe", _pipe_part))


def _pipe_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {"model.norm.weight": "shard.bin"}}')
    os.mkfifo(folder / "shard.bin")


known("pipe-pickle-shard", directories.directory_case("a shard of pickles is a pipe", _pipe_shard, "--allow-pickle", **SHORT))
known("pipe-imatrix", requests.flags_case("--imatrix of a pipe", ["export", "model", "--budget", "4", "--imatrix", "/dev/zero", "--no-parity", "--out", "out.gguf"], codes=REFUSED))
known("pipe-recipe", requests.flags_case("--recipe of a device", ["plan", "saved.json", "--recipe", "/dev/zero"], codes=REFUSED))


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
        module = {"call": "lieq_edge.llama.child:Child", "write": "lieq_edge.system.checked:CheckedFile"}[moment]
        known(f"{signal.Signals(number).name.lower()}-{moment}-{count}", faults.signal_case(number, module, moment, count))

# 12. Indexes that lead out of the folder.


def _outside(absolute: bool, pickled: bool) -> Case:
    def prepare(place: Place) -> list[Run]:
        folder = models.copy("llama", place)
        outside = place.work / "outside"
        outside.mkdir()
        name = "x.bin" if pickled else "x.safetensors"
        index = "pytorch_model.bin.index.json" if pickled else "model.safetensors.index.json"
        source = folder / "model.safetensors"
        names = list(directories.header_of(source.read_bytes())[0])
        if pickled:
            import torch
            from safetensors.torch import load_file

            torch.save(load_file(source), outside / name)
            source.unlink()
        else:
            source.rename(outside / name)
        goal = str(outside / name) if absolute else f"../outside/{name}"
        weights = {key: goal for key in names if key != "__metadata__"}
        (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": weights}))
        return [Run((*directories.PLAN, *(["--allow-pickle"] if pickled else [])), codes=REFUSED)]

    return Case("an index that leads out of the folder", prepare)


for absolute in (False, True):
    for pickled in (False, True):
        known(f"index-{'absolute' if absolute else 'above'}{'-pickle' if pickled else ''}", _outside(absolute, pickled))

# Code in pickles never ran; it stays so.


def _ran(place: Place, ended: list[Ended]) -> str:
    return "the pickle's code ran" if any(place.root.rglob("run-by-a-pickle")) else ""


for allowed in (False, True):
    case_with_code = directories.pickle_case("with code", lambda t: {**t, "x": directories.Touching()}, allowed=allowed, codes=REFUSED)
    case_with_code.check = _ran
    known(f"pickle-code{'-allowed' if allowed else ''}", case_with_code)

# A header that claims more than there is.
known("header-of-2^62-bytes", directories.directory_case("length", lambda folder: (folder / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 62) + b"{}"), codes=REFUSED))
