"""Time and memory of every phase of a job with the measured objective, in multiples of a forward pass over the same tokens.

usage: phases.py BUILD_FOLDER [--weights 1e9] [--tokens 4096] [--context 512] [--threads 1,2] [--bpw 4.5] [--rounds 1]
       [--folder DIR] [--model FILE.gguf] [--ceiling]

Generates a model (or takes one), draws token numbers, and runs the program once per phase on a state file that grows, so
that every run does one phase more than the one before. CPU time is the program's own, so other work on the machine does not
count in it; wall time is for idle machines. "ready" is how many threads ran or waited for a core, on average over the run: on
an idle machine that is how many cores were busy, and on a busy one how many would have been. A phase without a pass through the model (sampling, writing) is related to the
same forward pass. Factors of second moments are made for the few rows that its run samples: they take the same time whatever the
number of tokens. With --rounds N all of it is done N times, the numbers of threads in turn, and each phase's shortest wall time
counts: on a shared machine one time can be half again the next of the same work. --ceiling runs each phase of the first number of
threads a second time, in as many processes at once as the last number has threads: what the machine gives to work that shares nothing.
"""
import argparse
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time


def ready_times(process):
    """Nanoseconds that each thread of a process ran or waited for a core."""
    times = {}
    for thread in pathlib.Path(f"/proc/{process}/task").glob("*"):
        try:
            ran, waited, _ = (thread / "schedstat").read_text().split()
            times[thread.name] = int(ran) + int(waited)
        except (OSError, ValueError):
            pass  # it has ended
    return times


class Run:
    """One run of the program; its standard error is told when it fails."""

    def __init__(self, command):
        started = time.monotonic()
        with tempfile.TemporaryFile() as told:
            child = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=told)
            times = {}  # by thread
            while True:
                ended, status, used = os.wait4(child.pid, os.WNOHANG)
                if ended:
                    break
                times.update(ready_times(child.pid))
                time.sleep(0.02)
            child.returncode = os.waitstatus_to_exitcode(status)
            if child.returncode != 0:
                told.seek(0)
                sys.exit(f"{' '.join(map(str, command))}\n{told.read().decode()}")
        self.wall = time.monotonic() - started
        self.ready = sum(times.values()) / 1e9 / self.wall
        self.cpu = used.ru_utime + used.ru_stime
        self.memory = used.ru_maxrss * 1024


def wall_of(commands):
    """Seconds that commands take which run at the same time."""
    started = time.monotonic()
    children = [subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                for command in commands]
    if any(child.wait() != 0 for child in children):
        sys.exit(f"{' '.join(map(str, commands[0]))}: failed beside another of its kind")
    return time.monotonic() - started


def phases(quantfit, model, options, threads, folder):
    """(name, command) of each phase, to be run one after the other; the forward pass first."""
    ids = folder / "ids.txt"
    draw = random.Random(1)
    told = json.loads(subprocess.run([quantfit, "inspect", model, "--json"], check=True, capture_output=True).stdout)
    vocabulary = next(tensor["dims"][1] for tensor in told["tensors"] if tensor["name"] == "token_embd.weight")
    ids.write_text(" ".join(str(draw.randrange(vocabulary)) for _ in range(options.tokens)))
    text = ["--token-ids", ids, "--context", options.context]
    common = ["--threads", threads, "-q"]
    state = folder / "model.qfstate"
    job = [model, *text, "--state", state, *common]
    fed = [*job, "--error-feedback", "on", "--gradient-tokens", options.tokens]
    few = ["--formats", "Q8_0", "--sample-precision", "0.5", "--target-bpw", "14"]
    target = ["--target-bpw", options.bpw]
    yield "forward pass, with logits of half of the tokens", [quantfit, "evaluate", model, *text, *common]
    yield "importance matrix alone", [quantfit, "calibrate", model, *text, "-o", folder / "alone.gguf", *common]
    yield ("one pass for importance and moments, and factors",
           [quantfit, "plan", *fed, "--objective", "prior", *few])
    yield "gradients", [quantfit, "plan", *fed, "--objective", "measured", *few]
    yield "sampling with error feedback, allocation", [quantfit, "plan", *fed, *target]
    yield "allocation again, and writing", [quantfit, "quantize", *fed, *target, "-o", folder / "out.gguf"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("--weights", type=float, default=1e9)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--bpw", default="4.5")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--folder", type=pathlib.Path)
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--ceiling", action="store_true")
    options = parser.parse_args()
    top = pathlib.Path(tempfile.mkdtemp(prefix="quantfit-phases-", dir=options.folder))
    try:
        model = options.model
        if model is None:
            subprocess.run([options.build / "benchmarks" / "engine", "speed", "--weights", str(options.weights), "--folder", top,
                            "--tokens", "64", "--window", "64", "--rounds", "1", "--no-client"],
                           check=True, stdout=subprocess.DEVNULL)
            model = max(top.glob("*.gguf"), key=lambda path: path.stat().st_size)
        runs = {}  # by phase, by number of threads
        numbers = options.threads.split(",")
        apart = {}  # by phase: wall times of processes that run beside each other
        for turn in range(options.rounds):
            for threads in numbers:
                folder = top / f"threads-{threads}"
                folder.mkdir()
                copies = []
                if options.ceiling and threads == numbers[0]:
                    copies = [top / f"copy-{i}" for i in range(int(numbers[-1]) // int(numbers[0]))]
                for copy in copies:
                    copy.mkdir()
                print(f"\n{threads} threads, {options.tokens} tokens, {model.stat().st_size / 2**30:.2f} GiB, round {turn + 1} of {options.rounds}")
                print(f"{'phase':50} {'CPU s':>8} {'wall s':>8} {'passes':>7} {'ready':>6} {'MiB':>7}", flush=True)
                forward = None
                quantfit = options.build / "cli" / "quantfit"
                beside = [phases(quantfit, model, options, threads, copy) for copy in copies]
                for name, command in phases(quantfit, model, options, threads, folder):
                    run = Run(command)
                    forward = forward or run
                    print(f"{name:50} {run.cpu:8.1f} {run.wall:8.1f} {run.cpu / forward.cpu:7.2f} {run.ready:6.2f} {run.memory / 2**20:7.0f}", flush=True)
                    runs.setdefault(name, {}).setdefault(threads, []).append(run)
                    if copies:
                        apart.setdefault(name, []).append(wall_of([next(one)[1] for one in beside]))
                for one in [folder, *copies]:
                    shutil.rmtree(one)
        if len(numbers) > 1:
            print(f"\n{numbers[0]} over {numbers[-1]} threads, the shortest of {options.rounds} each: wall time, what it would be on an "
                  f"idle machine (by ready and CPU time){', and of processes beside each other' if apart else ''}")
            for name, by_threads in runs.items():
                first, last = (min(by_threads[number], key=lambda run: run.wall) for number in (numbers[0], numbers[-1]))
                foreseen = last.ready / first.ready * first.cpu / last.cpu
                most = int(numbers[-1]) // int(numbers[0]) * first.wall / min(apart[name]) if apart else None
                print(f"{name:50} {first.wall / last.wall:8.2f} {foreseen:8.2f}" + (f" {most:8.2f}" if apart else ""))
    finally:
        shutil.rmtree(top, ignore_errors=True)


if __name__ == "__main__":
    main()
