"""Drill: a tuning that is killed or interrupted at random moments, again and again, and goes on to the same bytes.

usage: tunings.py QUANTFIT BASE.gguf FILE.gguf TEXT [--kills 12] [--form whole] [--level codes] [--chunks N] [--context N]
       [--steps N] [--seed N]

Each tuning is stopped up to four times, by SIGKILL or SIGTERM in turn, at moments spread evenly over the time that one takes
alone, and then runs to its end. After every stop: nothing in the folder but checkpoints. At every end: the bytes of the
one left alone, and no checkpoint. Says how many stops left a checkpoint, and how many runs went on from one: --chunks and
--steps should be such that a tuning takes half a minute.
"""
import argparse
import collections
import json
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

CHECKPOINT = re.compile(r"out\.gguf\.tuning(\.layer-[0-9]{5})?")
STOPPED = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 128 + signal.SIGTERM}


class Drill:
    def __init__(self, options):
        self.options, self.random = options, random.Random(options.seed)
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="quantfit-tunings-"))
        self.output = self.folder / "out.gguf"
        self.command = [str(word) for word in [
            options.quantfit, "tune", options.base, options.file, "--text", options.text, "--chunks", options.chunks, "--form",
            options.form, "--level", options.level, "--steps", options.steps, "--context", options.context, "--threads", options.threads, "--json", "-q", "-o", self.output]]
        self.failures, self.met, self.went_on = [], collections.Counter(), []

    def names(self):
        return {path.name for path in self.folder.iterdir()}

    def clear(self):
        for name in self.names():
            (self.folder / name).unlink()

    def stop(self, process, how):
        process.send_signal(how)
        process.wait()
        if process.returncode == 0:
            return False  # it was at its end
        if process.returncode != STOPPED[how]:
            self.failures.append(f"{how.name} ended it with {process.returncode}")
        strange = [name for name in self.names() if not CHECKPOINT.fullmatch(name)]
        if strange:
            self.failures.append(f"{how.name} left {strange}")
        self.met[how.name + (", checkpoint left" if self.names() else ", nothing saved yet")] += 1
        return True

    def tuning(self, stops):
        """One tuning to its end; how often it was stopped."""
        self.clear()
        count = 0
        while True:
            begin = time.monotonic()
            with tempfile.TemporaryFile("w+") as out:
                process = subprocess.Popen(self.command, stdout=out, stderr=subprocess.PIPE, text=True)
                try:
                    process.wait(None if count == stops else self.random.uniform(0, self.seconds))
                except subprocess.TimeoutExpired:
                    if self.stop(process, [signal.SIGKILL, signal.SIGTERM][sum(self.met.values()) % 2]):
                        count += 1
                        process.stderr.close()
                        continue
                errors = process.stderr.read()
                process.stderr.close()
                out.seek(0)
                if process.returncode != 0:
                    self.failures.append(f"ended with {process.returncode}: {errors.strip()[-300:]}")
                    return max(count, 1)
                if count == 0:  # the machine may be less busy than at first
                    self.seconds = min(self.seconds, time.monotonic() - begin)
                else:
                    self.went_on.append(json.load(out)["continued_at"])
                break
        if self.output.read_bytes() != self.expected:
            self.failures.append("other bytes at the end")
        if self.names() != {"out.gguf"}:
            self.failures.append(f"at the end there is {self.names()}")
        return count

    def run(self):
        begin = time.monotonic()
        done = subprocess.run(self.command, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"the tuning left alone fails: {done.stderr}")
        self.seconds, self.expected = time.monotonic() - begin, self.output.read_bytes()
        stops = tunings = 0
        while stops < self.options.kills:
            stops += self.tuning(min(4, self.options.kills - stops))
            tunings += 1
            print(f"{stops} stops, {tunings} tunings", file=sys.stderr, flush=True)
        print(f"form {self.options.form}, level {self.options.level}, {self.seconds:.0f} s when left alone: {stops} stops of "
              f"{tunings} tunings: " + ", ".join(f"{count} {how}" for how, count in self.met.most_common())
              + f"; last runs began after step or layer {', '.join(map(str, self.went_on))}; "
              f"{len(self.failures)} wrong outcomes")
        for failure in self.failures:
            print(failure, file=sys.stderr)
        shutil.rmtree(self.folder, ignore_errors=True)
        sys.exit(1 if self.failures else 0)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("quantfit", type=pathlib.Path)
    parser.add_argument("base", type=pathlib.Path)
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("text", type=pathlib.Path)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--form", default="whole")
    parser.add_argument("--level", default="codes")
    parser.add_argument("--chunks", type=int, default=64)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    Drill(parser.parse_args()).run()


if __name__ == "__main__":
    main()
