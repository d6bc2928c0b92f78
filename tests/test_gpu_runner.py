"""`benchmarks.gpu` and the plugin of the GPU tests save results even if a process is killed or crashes."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.gpu import runner
from benchmarks.gpu.runner import Line, Results, lines_of_output
from gpuica.device import why_no_gpu

from .conftest import leftover

ROOT = Path(__file__).parents[1]


def test_timeout_kills_command_and_its_child_processes(tmp_path):
    script = (
        "import subprocess, sys, time; print('begun', flush=True);"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], stdout=sys.stdout);"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    start = time.monotonic()
    first, pid, status = lines_of_output([sys.executable, "-c", script], seconds=3)
    assert time.monotonic() - start < 30  # even though the grandchild keeps the pipe open
    assert (first, status) == ("begun\n", -9)
    for _ in range(100):
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return
        if "Z" in Path(f"/proc/{int(pid)}/stat").read_text().rpartition(")")[2].split()[0]:
            return  # a zombie: it has ended but has not been reaped
        time.sleep(0.05)
    pytest.fail("the grandchild is still running")


def test_lines_of_output_yields_lines_and_exit_status():
    lines = lines_of_output([sys.executable, "-c", "import sys; print(1); print(2, file=sys.stderr); sys.exit(3)"], 60)
    assert sorted(map(str, lines)) == ["1\n", "2\n", "3"]


def test_result_is_written_immediately(tmp_path, capsys):
    path = tmp_path / "results" / "gpu.jsonl"
    results = Results(path, {"commit": "abc"})
    results.add({"figure": "copy", "value": 2.0, "unit": "GB/s", "ceiling": "copy", "rate": 2e9})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"commit": "abc"}, results.all[0]]
    assert "copy" in capsys.readouterr().out
    assert results.ceilings() == {"copy": 2e9}


@pytest.mark.skipif(not why_no_gpu(), reason="this machine has a GPU")
@pytest.mark.parametrize("options", [[], ["--tests"]])
def test_missing_gpu_is_reported_in_one_line(options, tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(tmp_path), *options]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stdout.startswith("benchmarks.gpu needs a GPU: ")
    assert len(run.stdout.splitlines()) == 1
    assert not run.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("workers", [[], ["-n", "1"]])
def test_failures_are_written_before_crash(tmp_path, workers):
    tests = "import os\ndef test_wrong():\n    assert 1 + 1 == 3\ndef test_fatal():\n    os._exit(1)\n"
    (tmp_path / "test_two.py").write_text(tests)
    failures = tmp_path / "failures.txt"
    plugin = ["-p", "tests.failures_plugin", "--failures-to", str(failures)]
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, str(tmp_path), *plugin, *workers]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)})
    text = failures.read_text()
    assert "test_two.py::test_wrong (call)" in text
    assert "assert (1 + 1) == 3" in text
    assert ("test_fatal" in text) == bool(workers)  # without workers, the crash ends the process that writes


def test_leftover_ignores_pytest_timeout_timer():
    before, waiting = set(threading.enumerate()), [threading.Timer(60, print), threading.Timer(60, print)]
    waiting[0].name = "pytest_timeout tests/test_one.py::test_one"
    for timer in waiting:
        timer.start()
    try:
        assert leftover(before) == {waiting[1]}
    finally:
        for timer in waiting:
            timer.cancel()
            timer.join()


def test_only_selected_figures_are_measured():
    command = [sys.executable, "-m", "benchmarks.gpu", "--smoke", "--only", "atoms", "decor"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    figures = run.stdout.partition("written to None\n")[2].splitlines()
    assert [figure.split()[0] for figure in figures] == ["decorrelation,", "atom"]


def lines(*names):
    return [Line(name, 1, lambda bench, left: []) for name in names]


ARGS = SimpleNamespace(scale=1.0, fake=False)


@pytest.mark.parametrize("ending", [0, -9])  # exit status after an exception and after being killed
def test_lines_after_failure_are_measured_in_new_process(monkeypatch, ending):
    requested = []

    def outputs(command, seconds):
        names = command[command.index("--line") + 1 : command.index("--seconds")]
        requested.append(names)
        for name in names:
            yield f"{runner.BEGUN}{name}\n"
            if name == "bad":
                yield ending
                return
            yield runner.RESULT + json.dumps({"figure": name, "value": 1.0}) + "\n"
        yield 0

    monkeypatch.setattr(runner, "lines_of_output", outputs)
    results = Results(None, {})
    runner.measure(results, lines("a", "bad", "b", "c"), ARGS, time.monotonic() + 600)
    assert requested == [["a", "bad", "b", "c"], ["b", "c"]]
    assert [result["figure"] for result in results.all] == ["a", *(["bad"] if ending else []), "b", "c"]


def test_lines_are_skipped_after_time_limit(monkeypatch):
    monkeypatch.setattr(runner, "lines_of_output", lambda command, seconds: pytest.fail("no time is left"))
    results = Results(None, {})
    runner.measure(results, lines("a", "b"), ARGS, time.monotonic() + runner.STARTING)
    assert ["skipped" in result["note"] for result in results.all] == [True, True]


def test_process_stops_after_failed_line(capfd):
    def fails(bench, left):
        yield {"figure": "before", "ceiling": "copy", "rate": 2.0}
        raise RuntimeError("illegal address")

    known = {}
    bench = SimpleNamespace(learn=known.update, tidy=lambda: None)
    runner.run_lines([Line("bad", 1, fails), *lines("after")], bench, 60)
    printed = capfd.readouterr().out
    assert "RuntimeError: illegal address" in printed
    assert known["rate"] == 2.0
    assert "after" not in printed
