"""Attack gpuica for some minutes; every failure is printed with the seed that repeats it.

    python -m tests.attack [--minutes 10] [--only WORD ...] [--list]
    python -m tests.attack --attack files.headers --seed 1234 [--rounds 1]     # repeat a round

Each attack has its turn in a process of its own, so that a crash or a hang is a failure like any other.
"""

import argparse
import itertools
import os
import signal
import subprocess
import sys
import time

from . import attacks, fail, run_round

TURN = 20.0  # seconds of an attack's turn
PATIENCE = 180.0  # seconds without the end of a round that count as a hang


def turn(name, seed, seconds, rounds):
    """Rounds of one attack in this process; the number that failed."""
    failed, end = 0, time.monotonic() + seconds
    for number in itertools.count():
        if number and (time.monotonic() > end or (rounds and number >= rounds)):
            return failed
        print(seed + number, flush=True)  # the parent knows by it where a crash was
        if report := run_round(name, seed + number):
            fail(name, seed + number, report)
            failed += 1


def child(name, seed, seconds):
    """(rounds, failures) of a turn in a process of its own."""
    command = [sys.executable, "-m", "tests.attack", "--attack", name, "--seed", str(seed), "--seconds", str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        seeds, _ = process.communicate(timeout=seconds + PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        seeds, _ = process.communicate()
        fail(name, (seeds.split() or [seed])[-1], "The round did not end.")
        return len(seeds.split()), 1
    if process.returncode < 0:
        fail(name, (seeds.split() or [seed])[-1], f"The process was ended by signal {-process.returncode}.")
        return len(seeds.split()), 1
    return len(seeds.split()), process.returncode


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--only", nargs="*", default=[], help="attacks whose names hold one of these words")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--attack", help="run this one in this process")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0)
    args = parser.parse_args()
    if args.attack:
        return min(100, turn(args.attack, args.seed or 0, args.seconds, args.rounds))
    names = [name for name in attacks() if not args.only or any(word in name for word in args.only)]
    if args.list or not names:
        print("\n".join(names) or "no attack of such a name")
        return not names
    end, seed = time.monotonic() + 60 * args.minutes, args.seed if args.seed is not None else time.time_ns() % 2**32
    totals = {name: [0, 0] for name in names}
    for name in itertools.cycle(names):
        left = end - time.monotonic()
        if left <= 0:
            break
        rounds, failures = child(name, seed, min(TURN, max(1.0, left), 60 * args.minutes / len(names)))
        totals[name][0] += rounds
        totals[name][1] += failures
        seed += 1_000_000
    for name, (rounds, failures) in totals.items():
        print(f"{name:40} {rounds:8} rounds {failures:6} failed")
    return any(failures for _, failures in totals.values())


if __name__ == "__main__":
    sys.exit(main())
