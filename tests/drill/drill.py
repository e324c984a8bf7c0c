"""Drills: a whole job whose calls to the system fail one by one, or which is killed, and is then run again.

usage: drill.py QUANTFIT FAIL_CALL.so DATA [--faults N] [--kills N] [--moments N] [--seed N] [--report]
       [--model FILE.gguf --text FILE [--chunks N]] [--tune]

The job makes an importance matrix, second moments and gradients from token numbers, measures, and writes a model in
several files. After each failure: an error that names a file and a reason, or success; no half of an output, nothing that
is not known; and the next run gives the same bytes as one that was never disturbed. --faults and --kills say how many of
each kind of call are tried, spread over all of them; 0: every one. --moments kills that many times at random moments of the
whole job, runs that go on after a kill included; with --model and --text of a model that takes minutes, so that passes go on
from their checkpoints. --tune: the job tunes what it writes, too.
"""
import argparse
import collections
import errno
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

# What calls fail with.
FAULTS = {"write": errno.ENOSPC, "fsync": errno.EIO, "rename": errno.EIO, "ftruncate": errno.EIO, "read": errno.EIO}
REASONS = ("No space left", "Input/output error", "disk I/O error", "disk is full", "cannot be written", "cannot be read",
           "cannot read", "cannot write", "free")
KNOWN = re.compile(r"(model\.qfstate(-wal|-shm|-journal)?"
                   r"|model-[0-9a-f]{16}\.(imatrix|moments|[0-9]+\.gradients)\.gguf(\.pass(\.[0-9]+)?)?"
                   r"|out-[0-9]{5}-of-[0-9]{5}\.gguf"
                   r"|\.out\.untuned-[0-9]{5}-of-[0-9]{5}\.gguf|out\.gguf\.tuning)$")
LEFT_BY_TUNING = re.compile(r".*(untuned|\.tuning)")


class Drill:
    def __init__(self, options):
        self.options = options
        self.top = pathlib.Path(tempfile.mkdtemp(prefix="quantfit-drill-"))
        self.random = random.Random(options.seed)
        self.ids = self.top / "ids.txt"
        self.ids.write_text(" ".join(str(self.random.randrange(40)) for _ in range(700)))
        self.folder = self.top / "job"
        self.messages = collections.Counter()
        self.failures = []
        self.tries = collections.Counter()

    def command(self):
        tune = ["--tune"] if self.options.tune else []
        common = [*tune, "--threads", "2", "--split-max-tensors", "9", "--state", "model.qfstate", "-o", "out.gguf", "-q"]
        if self.options.model:
            chunks = ["--chunks", str(self.options.chunks)] if self.options.chunks else []
            return [self.options.quantfit, "quantize", self.options.model, "--text", self.options.text, *chunks,
                    "--target-bpw", "3", *common]
        return [self.options.quantfit, "quantize", str(pathlib.Path(self.options.data) / "engine" / "llama.gguf"),
                "--token-ids", str(self.ids), "--context", "64", "--gradient-tokens", "128", "--error-feedback", "on",
                "--formats", "Q4_0,Q5_0,Q8_0", "--target-bpw", "10", *common]

    def run(self, call=None, count=None):
        command = self.command()
        environment = dict(os.environ)
        if call:
            environment.update(LD_PRELOAD=self.options.library, FAIL_CALL=call, FAIL_FOLDER=str(self.folder))
        if count:
            environment["FAIL_COUNT"] = str(count)
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True,
                              timeout=self.options.timeout)

    def fresh(self):
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()

    def outputs(self):
        return {path.name: path.read_bytes() for path in sorted(self.folder.glob("out*.gguf"))}

    def prepare(self):
        self.fresh()
        started = time.monotonic()
        done = self.run()
        self.seconds = time.monotonic() - started
        if done.returncode != 0:
            sys.exit("the undisturbed job fails: " + done.stderr)
        self.expected = self.outputs()
        if len(self.expected) < 3:
            sys.exit("the undisturbed job writes fewer files than it should")

    def number_of(self, kind):
        self.fresh()
        count = self.top / "count"
        self.run(f"{kind}:0:5", count)
        return int(count.read_text())

    def complain(self, what, done):
        self.failures.append(f"{what}: {done.stderr.strip()[-400:]}")

    def check(self, what, done, killed):
        """What must hold after a disturbed run, and after the next one."""
        there = self.outputs()
        if there and there != self.expected:
            complete = set(there) == set(self.expected)
            first = next(iter(self.expected))
            # Killed between the names of files: the first, through which the others are found, comes last.
            if not killed or complete or first in there:
                self.complain(f"{what} left {sorted(there)}", done)
        strange = [path.name for path in self.folder.iterdir() if not KNOWN.match(path.name)]
        if strange:
            self.complain(f"{what} left {strange}", done)
        if not killed:
            if done.returncode == 0:
                if there != self.expected:
                    self.complain(f"{what} succeeded with other bytes", done)
            else:
                text = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ""
                self.messages[re.sub(r"[0-9a-f]{16}", "TEXT", text)] += 1
                if done.returncode != 1 or not text.startswith("error: ") or not any(r in text for r in REASONS):
                    self.complain(f"{what} ended with {done.returncode}", done)
        # The next run: what was named before the end stands in its way, as for any user.
        for name in there:
            (self.folder / name).unlink()
        again = self.run()
        left = [path.name for path in self.folder.iterdir() if LEFT_BY_TUNING.match(path.name)]
        if again.returncode != 0 or self.outputs() != self.expected or left:
            self.complain(f"after {what} the next run is not as it should be {left or ''}", again)

    def numbers(self, kind, most):
        total = self.number_of(kind)
        if most == 0 or most >= total:
            return range(1, total + 1)
        return sorted({1, total, *(self.random.randint(1, total) for _ in range(most - 2))})

    def faults(self, most):
        for kind, error in FAULTS.items():
            for number in self.numbers(kind, most):
                self.fresh()
                self.check(f"{kind} {number} failing", self.run(f"{kind}:{number}:{error}"), killed=False)
                self.tries["faults"] += 1

    def kills(self, most):
        """Just before calls that change something, and at random moments."""
        for kind in ("write", "fsync", "rename", "ftruncate"):
            for number in self.numbers(kind, most):
                self.fresh()
                done = self.run(f"{kind}:{number}:kill")
                if done.returncode != -signal.SIGKILL:
                    self.complain(f"{kind} {number} did not come", done)
                self.check(f"kill at {kind} {number}", done, killed=True)
                self.tries["kills"] += 1

    def moments(self, count):
        """At random moments of the whole job, from its first call to its last, and again in runs that go on."""
        self.fresh()
        continued = 0
        for number in range(1, count + 1):
            wait = self.random.uniform(0, 1.05 * self.seconds)
            process = subprocess.Popen(self.command(), cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                       text=True)
            try:
                _, told = process.communicate(timeout=wait)
                done = subprocess.CompletedProcess(process.args, process.returncode, "", told)
                if done.returncode != 0 or self.outputs() != self.expected:
                    self.complain(f"after kill {number - 1} the run that goes on is not as it should be", done)
                self.fresh()
                self.tries["whole"] += 1
                continue
            except subprocess.TimeoutExpired:
                process.kill()
                _, told = process.communicate()
            self.tries["kills"] += 1
            self.tries["moments"] += 1
            if any(self.folder.glob("*.pass")):
                self.tries["checkpoints"] += 1
            if any(self.folder.glob("*.tuning")):
                self.tries["tunings"] += 1
            # Half of them are killed once more before they end.
            if self.random.random() < 0.5 and not self.outputs():
                continued += 1
                continue
            self.check(f"kill {number} after {wait:.1f} s", subprocess.CompletedProcess(process.args, -9, "", told), killed=True)
            self.fresh()
        if any(self.folder.iterdir()):
            self.check("the last kill", subprocess.CompletedProcess([], -9, "", ""), killed=True)
        print(f"{self.tries['moments']} kills at random moments of {self.seconds:.1f} s, {continued} of them followed by another; "
              f"{self.tries['checkpoints']} left a checkpoint of a pass, {self.tries['tunings']} one of a tuning")

    def finish(self):
        if self.options.report:
            for message, count in self.messages.most_common():
                print(f"{count:5} {message}")
        print(f"{self.tries['faults']} calls failed, {self.tries['kills']} kills, {len(self.failures)} wrong outcomes")
        for failure in self.failures:
            print(failure, file=sys.stderr)
        shutil.rmtree(self.top, ignore_errors=True)
        sys.exit(1 if self.failures else 0)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("quantfit")
    parser.add_argument("library")
    parser.add_argument("data")
    parser.add_argument("--faults", type=int, default=0)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--moments", type=int, default=0)
    parser.add_argument("--model", default="")
    parser.add_argument("--text", default="")
    parser.add_argument("--chunks", type=int, default=0)
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--timeout", type=float, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    if bool(options.model) != bool(options.text):
        parser.error("--model and --text come together")
    for name in ("quantfit", "library", "data", "model", "text"):
        if getattr(options, name):
            setattr(options, name, str(pathlib.Path(getattr(options, name)).resolve()))
    drill = Drill(options)
    drill.prepare()
    if not options.model:
        drill.faults(drill.options.faults)
        drill.kills(drill.options.kills)
    drill.moments(options.moments)
    drill.finish()


if __name__ == "__main__":
    main()
