"""llama.cpp dies, hangs and takes memory in a process of its own; this one goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from changed import changed_file
from runner import assert_refused, run, started
from tiny import sample_text

from lieq_edge.errors import InputError
from lieq_edge.gguf.header import read_header
from lieq_edge.llama import child
from lieq_edge.llama.engine import Engine
from lieq_edge.llama.vocabulary import Vocabulary
from lieq_edge.system.child import _START

MakeGguf = Callable[..., Path]

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and forks of POSIX")


def vocabulary_size(path: Path) -> int:
    return len(read_header(path).get("tokenizer.ggml.tokens"))


def all_user_defined(path: Path, source: Path) -> Path:
    """A file on which llama.cpp takes for ever to cut a long text."""
    return changed_file(path, source, {"tokenizer.ggml.token_type": [4] * vocabulary_size(source)})


@pytest.mark.parametrize(
    ("options", "changes", "words"),
    [
        (
            {"tokenizer": "sentencepiece"},
            {"tokenizer.ggml.model": "bert"},
            ("SIGABRT", "llama-vocab.cpp", "fatal error"),
        ),
        ({}, {"llama.block_count": 0}, ("SIGABRT", "GGML_ASSERT", "n_layer")),
        ({}, {"llama.block_count": 10**9}, ("SIGABRT", "GGML_ASSERT", "n_layer")),
        ({}, {"llama.expert_count": 8}, ("SIGABRT", "GGML_ASSERT", "n_expert")),
        ({}, {"llama.attention.layer_norm_rms_epsilon": float("nan")}, ("SIGABRT", "GGML_ASSERT(eps >= 0")),
        ({}, {"tokenizer.ggml.model": "rwkv"}, ("SIGSEGV",)),
    ],
    ids=["bert", "no block", "too many blocks", "experts", "epsilon", "rwkv"],
)
def test_a_file_that_ends_llama_cpp_is_refused_in_one_sentence(
    options: dict[str, Any],
    changes: dict[str, Any],
    words: tuple[str, ...],
    tmp_path: Path,
    tiny_gguf: MakeGguf,
    capfd: pytest.CaptureFixture[str],
) -> None:
    good = tiny_gguf("llama", **options)
    if changes.get("tokenizer.ggml.model") == "rwkv":
        # llama.cpp walks along a token by recursion.
        texts = ["a" * 120_000, *(f"t{index}" for index in range(vocabulary_size(good) - 1))]
        changes = {**changes, "tokenizer.ggml.tokens": texts}
    bad = changed_file(tmp_path / "bad.gguf", good, changes)
    flags = ("--context", "64", "--chunks", "1", "--threads", "1")
    assert_refused(run("validate", bad, *flags), f"llama.cpp ended on {bad}", *words)
    assert capfd.readouterr() == ("", "")
    assert run("validate", good, *flags).returncode == 0


@pytest.mark.parametrize("changes", [{"tokenizer.ggml.model": "bert"}])
def test_an_export_of_such_a_file_is_refused_too(changes: dict[str, Any], tmp_path: Path, tiny_gguf: MakeGguf) -> None:
    bad = changed_file(tmp_path / "bad.gguf", tiny_gguf("llama", tokenizer="sentencepiece"), changes)
    flags = ("--budget", "4", "--metric", "first", "--calibration", "docs", "--no-validate")
    assert_refused(run("export", bad, *flags, "--out", tmp_path / "out.gguf"), "llama.cpp ended on")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.gguf"]


def test_a_hang_ends_at_the_limit(tmp_path: Path, tiny_gguf: MakeGguf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lieq_edge.llama.limits.TEXT_SECONDS", 1.0)
    monkeypatch.setattr("lieq_edge.llama.limits._TEXT_CHARACTERS", 1e9)
    bad = all_user_defined(tmp_path / "bad.gguf", tiny_gguf("llama"))
    start = time.monotonic()
    assert_refused(run("validate", bad, "--chunks", "1"), f"had not finished with {bad} after 1 s", "fetch or convert")
    assert time.monotonic() - start < 10
    assert Vocabulary(tiny_gguf("llama")).tokenize("The quick")


def test_a_tokenizer_outlives_the_death_of_another_model(tmp_path: Path, tiny_gguf: MakeGguf) -> None:
    path = tmp_path / "good.gguf"
    path.write_bytes(tiny_gguf("llama").read_bytes())
    vocabulary = Vocabulary(path)
    ids = vocabulary.tokenize("The quick brown fox")
    bad = changed_file(tmp_path / "bad.gguf", path, {"llama.block_count": 0})
    with pytest.raises(InputError, match=r"llama\.cpp ended on"):
        Engine(bad, context=32)
    assert vocabulary.tokenize("The quick brown fox") == ids
    assert vocabulary.detokenize(ids) == "The quick brown fox"
    with pytest.raises(InputError, match=r"llama\.cpp ended on"):
        Engine(bad, context=32)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(InputError, match="open the model again"):
        vocabulary.tokenize("The quick brown fox")


def test_an_engine_does_not_outlive_it(tmp_path: Path, tiny_gguf: MakeGguf) -> None:
    bad = changed_file(tmp_path / "bad.gguf", tiny_gguf("llama"), {"llama.block_count": 0})
    with Engine(tiny_gguf("llama"), context=32) as engine:
        with pytest.raises(InputError, match=r"llama\.cpp ended on"):
            Engine(bad, context=32)
        with pytest.raises(InputError, match=r"llama\.cpp ended on .*bad\.gguf"):
            engine.tokenize("The quick")


@posix
def test_a_build_for_another_processor_is_named(tiny_gguf: MakeGguf) -> None:
    worker = child.shared()
    worker.call("peak_bytes", label="memory", seconds=60)
    os.kill(worker._process.pid, signal.SIGILL)
    with pytest.raises(InputError, match=r"does not run on this processor .*GGML_NATIVE=OFF"):
        worker.call("peak_bytes", label="memory", seconds=60)


@posix
def test_a_build_for_another_processor_that_does_not_start_is_named(
    tiny_gguf: MakeGguf, monkeypatch: pytest.MonkeyPatch
) -> None:
    child.shared().kill()
    monkeypatch.setattr("lieq_edge.system.child._START", "import os\nos.kill(os.getpid(), 4)")
    with pytest.raises(InputError, match=r"does not run on this processor .*GGML_NATIVE=OFF"):
        Vocabulary(tiny_gguf("llama"))


def test_memory_has_a_limit(tiny_gguf: MakeGguf, monkeypatch: pytest.MonkeyPatch) -> None:
    child.shared().kill()
    monkeypatch.setattr(child, "most_beside", lambda: 1 << 24)
    with pytest.raises(InputError, match=r"cannot run|memory|ended on"):
        Engine(tiny_gguf("llama"), context=1 << 17)
    monkeypatch.undo()
    with Engine(tiny_gguf("llama"), context=1 << 17) as engine:
        assert engine.n_vocab == 512


def test_memory_is_watched_where_the_system_has_no_limit(
    tmp_path: Path, tiny_gguf: MakeGguf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lieq_edge.system.child._SYSTEM_LIMITS", False)
    vocabulary = Vocabulary(all_user_defined(tmp_path / "bad.gguf", tiny_gguf("llama")))
    # The limit is set on a process that has only begun.
    child.shared().kill()
    monkeypatch.setattr("lieq_edge.system.child._START", f"import time\ntime.sleep(0.5)\n{_START}")
    monkeypatch.setattr(child, "most_beside", lambda: -(1 << 40))
    child.shared().allow_memory(tiny_gguf("llama"))
    with pytest.raises(InputError, match="too much memory"):
        vocabulary.tokenize(sample_text(200_000), parse_special=True)


def test_many_texts_give_the_tokens_of_each(tiny_gguf: MakeGguf) -> None:
    vocabulary = Vocabulary(tiny_gguf("llama"))
    texts = [sample_text(300, seed=seed) for seed in range(5)] + ["", "x" * 70_000, "<|eot_id|>"]
    for special in (False, True):
        rows = vocabulary.tokenize_many(texts, parse_special=special)
        assert rows == [vocabulary.tokenize(text, parse_special=special) for text in texts]
    assert vocabulary.detokenize_many(rows, special=True) == texts
    assert vocabulary.tokenize_many([]) == []


def test_pieces_of_the_logits_are_the_logits(tiny_gguf: MakeGguf, monkeypatch: pytest.MonkeyPatch) -> None:
    # Neither is a divisor of the rows, so that the last piece is a shorter one.
    monkeypatch.setattr("lieq_edge.llama.engine._PIECE", 7 * 512)
    monkeypatch.setattr(child, "SIZE", 4 * 5 * 512)
    with Engine(tiny_gguf("llama"), context=32, parallel=2, threads=1) as engine:
        windows = np.arange(64, dtype=np.int32).reshape(2, 32)
        whole = engine.logits(windows).reshape(-1, 512)
        pieces = list(engine.pieces(2))
        assert [part.stop - part.start for part in pieces] == [7, 7, 7, 7, 2]
        assert np.array_equal(np.concatenate([engine.rows(part).copy() for part in pieces]), whole)


def test_threads_share_one_process(tiny_gguf: MakeGguf) -> None:
    path = tiny_gguf("qwen2")
    windows = np.arange(256, dtype=np.int32).reshape(4, 2, 32) % 500
    with Engine(path, context=32, parallel=2, threads=1) as engine:
        expected = [engine.logits(part) for part in windows]
    results: dict[int, bool] = {}

    def work(index: int) -> None:
        with Engine(path, context=32, parallel=2, threads=1) as engine:
            results[index] = all(np.array_equal(engine.logits(windows[index]), expected[index]) for _ in range(20))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(4), True)


def test_a_llama_cpp_that_does_not_start_is_not_the_fault_of_the_file(
    tiny_gguf: MakeGguf, monkeypatch: pytest.MonkeyPatch
) -> None:
    child.shared().kill()
    monkeypatch.setattr("lieq_edge.system.child._START", "raise ImportError('no such library')")
    with pytest.raises(InputError, match=r"could not be started \(exit code 1: ImportError: no such library\)"):
        Vocabulary(tiny_gguf("llama"))
    monkeypatch.undo()
    assert Vocabulary(tiny_gguf("llama")).n_tokens == 512


def test_dead_workers_leave_no_threads(tiny_gguf: MakeGguf) -> None:
    Vocabulary(tiny_gguf("llama"))
    child.shared().kill()
    before = threading.active_count()
    for _ in range(5):
        Vocabulary(tiny_gguf("llama"))
        child.shared().kill()
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() <= before


def test_the_worker_imports_little() -> None:
    heavy = "{'torch', 'transformers', 'gguf', 'pydantic', 'rich', 'scipy', 'numba'}"
    script = f"import lieq_edge.llama.serve, sys; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_script_without_a_guard_is_not_run_again(tmp_path: Path, tiny_gguf: MakeGguf) -> None:
    script, folder = tmp_path / "script.py", tmp_path / "folder"
    script.write_text(
        "print('once', flush=True)\n"
        "from pathlib import Path\n"
        "from lieq_edge.llama.vocabulary import Vocabulary\n"
        f"print(len(Vocabulary(Path({str(tiny_gguf('llama'))!r})).tokenize('The quick')))\n"
    )
    folder.mkdir()
    # A file of the current folder must not take the place of a module.
    (folder / "numpy.py").write_text("raise SystemExit('the wrong module')\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path if path)}
    command = [sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split()[0] == "once"
    assert len(done.stdout.split()) == 2


@posix
def test_a_forked_process_has_a_worker_of_its_own(tiny_gguf: MakeGguf) -> None:
    vocabulary = Vocabulary(tiny_gguf("llama"))
    ids = vocabulary.tokenize("The quick")
    forked = os.fork()
    if forked == 0:
        # Whatever happens, this process must not go on as a second run of the tests.
        code = 1
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(300)
            code = int(vocabulary.tokenize("The quick") != ids)
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]) == 0
    assert vocabulary.tokenize("The quick") == ids


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signals_act_at_once_while_llama_cpp_hangs(number: signal.Signals, tmp_path: Path, tiny_gguf: MakeGguf) -> None:
    bad = all_user_defined(tmp_path / "bad.gguf", tiny_gguf("llama"))
    program = [sys.executable, "-m", "lieq_edge", "validate", str(bad), "--chunks", "1"]
    with started(program, stderr=subprocess.PIPE) as process:
        worker = _busy_worker(psutil.Process(process.pid))
        start = time.monotonic()
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        worker.wait(timeout=60)
    assert time.monotonic() - start < 5
    assert "Traceback" not in errors
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)


def _busy_worker(program: psutil.Process) -> psutil.Process:
    """The worker of a program, once it has been at work for a while."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(psutil.NoSuchProcess):
            for worker in program.children():
                if worker.cpu_times().user > 2:
                    return worker
        time.sleep(0.05)
    raise AssertionError("no worker came to work")
