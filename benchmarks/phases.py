"""Time and memory of every phase of a job with the measured objective, in multiples of a forward pass over the same tokens.

usage: phases.py BUILD_FOLDER [--weights 1e9] [--tokens 4096] [--context 512] [--threads 1,2] [--bpw 4.5] [--rounds 1]
       [--folder DIR] [--model FILE.gguf]

Generates a model (or takes one), draws token numbers, and runs the program once per phase on a state file that grows, so
that every run does one phase more than the one before. CPU time is the program's own, so other work on the machine does not
count in it; wall time is for idle machines. "ready" is how many threads ran or waited for a core, on average over the run: on
an idle machine that is how many cores were busy, and on a busy one how many would have been. A phase without a pass through the model (sampling, writing) is related to the
same forward pass. Factors of second moments are made for the few rows that its run samples: they take the same time whatever the
number of tokens. With --rounds N all of it is done N times, the numbers of threads in turn, and each phase's shortest wall time
counts: on a shared machine one time can be half again the next of the same work.
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


def phases(quantfit, model, options, threads, folder):
    """(name, Run) of each phase, one after the other; the forward pass first."""
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
    yield "forward pass, with logits of half of the tokens", Run([quantfit, "evaluate", model, *text, *common])
    yield "importance matrix alone", Run([quantfit, "calibrate", model, *text, "-o", folder / "alone.gguf", *common])
    yield ("one pass for importance and moments, and factors",
           Run([quantfit, "plan", *fed, "--objective", "prior", *few]))
    yield "gradients", Run([quantfit, "plan", *fed, "--objective", "measured", *few])
    yield "sampling with error feedback, allocation", Run([quantfit, "plan", *fed, *target])
    yield "allocation again, and writing", Run([quantfit, "quantize", *fed, *target, "-o", folder / "out.gguf"])


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
        for turn in range(options.rounds):
            for threads in numbers:
                folder = top / f"threads-{threads}"
                folder.mkdir()
                print(f"\n{threads} threads, {options.tokens} tokens, {model.stat().st_size / 2**30:.2f} GiB, round {turn + 1} of {options.rounds}")
                print(f"{'phase':50} {'CPU s':>8} {'wall s':>8} {'passes':>7} {'ready':>6} {'MiB':>7}", flush=True)
                forward = None
                for name, run in phases(options.build / "cli" / "quantfit", model, options, threads, folder):
                    forward = forward or run
                    print(f"{name:50} {run.cpu:8.1f} {run.wall:8.1f} {run.cpu / forward.cpu:7.2f} {run.ready:6.2f} {run.memory / 2**20:7.0f}", flush=True)
                    runs.setdefault(name, {}).setdefault(threads, []).append(run)
                shutil.rmtree(folder)
        if len(numbers) > 1:
            print(f"\n{numbers[0]} over {numbers[-1]} threads, the shortest of {options.rounds} each: wall time, and what it would be on "
                  "an idle machine (by ready and CPU time)")
            for name, by_threads in runs.items():
                first, last = (min(by_threads[number], key=lambda run: run.wall) for number in (numbers[0], numbers[-1]))
                foreseen = last.ready / first.ready * first.cpu / last.cpu
                print(f"{name:50} {first.wall / last.wall:8.2f} {foreseen:8.2f}")
    finally:
        shutil.rmtree(top, ignore_errors=True)


if __name__ == "__main__":
    main()
