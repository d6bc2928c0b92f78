"""The command line of the benchmarks, and how they time, print and start processes."""

import os
import runpy
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import report
from benchmarks.__main__ import MODULES, benchmarks
from benchmarks.common.command import Benchmark, main, read
from benchmarks.common.process import ProcessFailed, in_new_process
from benchmarks.common.tables import Table
from benchmarks.common.timing import interleave, repeat

ROOT = Path(__file__).parents[1] / "benchmarks"
NOT_LISTED = {"__main__", "gpu.__main__", "gpu.rival_process"}  # modules with a main that are no benchmarks


def modules_with_a_main():
    paths = sorted(path for path in ROOT.rglob("*.py") if 'if __name__ == "__main__"' in path.read_text())
    return [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]


@pytest.fixture
def nothing_runs(monkeypatch):
    """Fails the test if anything is fitted, encoded, written or started."""

    def forbidden(*args, **options):
        pytest.fail("a benchmark ran")

    benchmarks()  # imports all modules before the functions are replaced
    for name in ("random.default_rng", "random.RandomState", "load", "save", "linalg.qr", "linalg.eigh"):
        monkeypatch.setattr(f"numpy.{name}", forbidden)
    for name in ("subprocess.Popen", "subprocess.run", "multiprocessing.process.BaseProcess.start"):
        monkeypatch.setattr(name, forbidden)
    monkeypatch.setattr(Path, "mkdir", forbidden)
    monkeypatch.setattr(Path, "write_text", forbidden)


def test_every_module_with_a_main_is_listed():
    assert set(modules_with_a_main()) - NOT_LISTED == set(MODULES) - {"gpu.runner"}


@pytest.mark.parametrize("module", modules_with_a_main())
def test_help_of_a_module_runs_nothing(module, nothing_runs, monkeypatch, capsys):
    name = f"benchmarks.{module}"
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(name, run_name="__main__")
    assert not ended.value.code
    assert "usage: " in capsys.readouterr().out


@pytest.mark.parametrize("name", [benchmark.name for benchmark in benchmarks()])
def test_help_of_a_benchmark_says_what_it_takes(name, nothing_runs, capsys):
    with pytest.raises(SystemExit) as ended:
        main(benchmarks(), [name, "--help"])
    assert not ended.value.code
    shown = capsys.readouterr().out
    assert f"usage: python -m benchmarks {name} " in shown
    for words in ("\nTakes: ", "\nNeeds: ", "--smoke"):
        assert words in shown


def test_values_of_smoke_are_options():
    for benchmark in benchmarks():
        known = {action.dest for action in benchmark.parser()._actions}
        assert set(benchmark.smoke) <= known, benchmark.name


def example(name, ran, why_not=""):
    return Benchmark(
        name,
        f"the {name} one",
        takes="no time",
        run=lambda args: ran.append((name, args.size)),
        options=lambda parser: parser.add_argument("--size", type=int, default=100),
        smoke={"size": 1},
        why_not=lambda: why_not,
    )


def test_benchmarks_are_run_by_name(capsys):
    ran = []
    three = [example("first", ran), example("second", ran), example("third", ran, why_not="it needs a moon")]
    assert main(three, []) == 0
    assert "second  the second one" in capsys.readouterr().out
    assert not ran
    assert main(three, ["other"]) == 2
    assert "'other'" in capsys.readouterr().out
    main(three, ["first", "--size", "7"])
    main(three, ["second", "first", "--smoke"])
    main(three, ["all", "--smoke", "--size", "2"])
    main(three, ["--size", "3"], default="second")
    assert ran == [("first", 7), ("second", 1), ("first", 1), ("first", 2), ("second", 2), ("second", 3)]
    assert "skipped: it needs a moon" in capsys.readouterr().out


def test_a_benchmark_without_its_data_does_not_stop_those_after_it(capsys):
    ran = []
    missing = Benchmark("missing", "stops", takes="no time", run=lambda args: sys.exit("no file"))
    assert main([missing, example("after", ran)], ["all"]) == 0
    assert ran == [("after", 100)]
    assert "skipped: no file" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no file"):
        main([missing], ["missing"])


@pytest.mark.parametrize("path", sorted((ROOT / "results").glob("*.jsonl")), ids=lambda path: path.stem)
def test_committed_results_have_tables(path):
    results = read(path)
    lines = report.markdown(results).splitlines()
    assert len(lines) > len({str(result.get("figure", result.get("problem"))) for result in results})
    columns = [line.replace("\\|", "").count("|") for line in lines if line.startswith("|")]
    assert len(columns) > 2


def test_tables():
    table = Table("name", "rows:,", "s:.2f")
    assert table.text([("a|b", 1000, 0.5), ("c", None)]) == (
        "| name | rows | s |\n| --- | --- | --- |\n| a\\|b | 1,000 | 0.50 |\n| c | - |  |"
    )


def test_repeated_calls():
    calls = []
    timing = repeat(lambda: calls.append(1) or len(calls), repeats=3)
    assert (len(calls), len(timing.seconds), timing.result, timing.peak) == (4, 3, 4, None)
    assert timing.least <= timing.median <= max(timing.seconds)
    assert len(repeat(lambda: None, repeats=1, warm_up=False, total=1e9, most=5).seconds) == 5


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system does not report peak memory")
def test_peak_memory_of_a_call():
    timing = repeat(lambda: np.ones(4_000_000).sum(), repeats=2, memory=True)
    assert 16e6 < timing.peak < 64e6


def test_interleaved_calls():
    order = []
    timings = interleave({"a": lambda: order.append("a") or 1, "b": lambda: order.append("b") or 2}, 2)
    assert order == ["a", "b"] * 3
    assert {name: (len(timing.seconds), timing.result) for name, timing in timings.items()} == {
        "a": (2, 1),
        "b": (2, 2),
    }


def test_a_function_in_a_new_process():
    assert in_new_process(divmod, 7, 2) == (3, 1)
    assert in_new_process(os.getpid) != os.getpid()
    with pytest.raises(ProcessFailed, match="ZeroDivisionError") as failed:
        in_new_process(divmod, 1, 0)
    assert failed.value.signal is None
    with pytest.raises(ProcessFailed, match="killed by SIGALRM") as failed:
        in_new_process(signal.raise_signal, signal.SIGALRM)
    assert failed.value.signal == signal.SIGALRM
    with pytest.raises(ProcessFailed, match="status 3"):
        in_new_process(os._exit, 3)
