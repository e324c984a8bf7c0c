"""Drill: a job in several files is killed at random moments, again and again, and each time goes on from there.

usage: kills.py QUANTFIT DATA [--kills 300] [--seed N]

Measures by the prior of roles and writes a model in six files. A killed job is started again, and killed again, until it
ends; then the next one begins. After every kill: no file of a name that is not known, no set of files through whose first
one others are missing, the state file is sound, and what a kill found measured is never measured again (the time it was
saved at stays). At the end of every job: the bytes of one that was never disturbed, nothing else in the folder. Says how
many kills came while measuring, while writing and between the names of files.
"""
import argparse
import collections
import pathlib
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time

KNOWN = re.compile(r"model\.qfstate(-wal|-shm|-journal)?|out-[0-9]{5}-of-[0-9]{5}\.gguf")


class Drill:
    def __init__(self, options):
        self.options, self.random = options, random.Random(options.seed)
        self.top = pathlib.Path(tempfile.mkdtemp(prefix="quantfit-kills-"))
        self.folder = self.top / "job"
        data = pathlib.Path(options.data).resolve()
        self.command = [str(pathlib.Path(options.quantfit).resolve()), "quantize", str(data / "tale-dense-F16.gguf"), "--imatrix",
                        str(data / "tale-dense.imatrix.gguf"), "--objective", "prior", "--error-feedback", "off", "--effort",
                        "fast", "--formats", "Q3_K,Q4_K,Q6_K", "--threads", "2", "--target-bpw", "4.5", "--split-max-tensors",
                        "12", "--state", "model.qfstate", "-o", "out.gguf", "-q"]
        self.failures, self.met = [], collections.Counter()

    def complain(self, what):
        self.failures.append(what)

    def fresh(self):
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()

    def outputs(self):
        return {path.name: path.read_bytes() for path in sorted(self.folder.glob("out*.gguf"))}

    def saved(self):
        """When each tensor was saved, from a copy: looking must not change what a kill has left."""
        if not (self.folder / "model.qfstate").exists():
            return {}
        copy = self.top / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        for path in self.folder.glob("model.qfstate*"):
            shutil.copy(path, copy)
        database = sqlite3.connect(copy / "model.qfstate")
        try:
            return dict(database.execute("SELECT name, saved FROM measurement JOIN tensor USING (tensor_id)"))
        except sqlite3.OperationalError:
            return {}  # killed before there were tables
        finally:
            database.close()

    def whole(self):
        begin = time.monotonic()
        done = subprocess.run(self.command, cwd=self.folder, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"the undisturbed job fails: {done.stderr}")
        return time.monotonic() - begin

    def prepare(self):
        self.fresh()
        self.seconds = self.whole()
        self.expected, self.tensors = self.outputs(), len(self.saved())
        if len(self.expected) < 3:
            sys.exit("the undisturbed job writes fewer files than it should")

    def check_killed(self, before):
        saved = self.saved()
        for tensor, when in before.items():
            if saved.get(tensor) != when:
                self.complain(f"{tensor} was measured again")
        strange = [path.name for path in self.folder.iterdir() if not KNOWN.fullmatch(path.name)]
        if strange:
            self.complain(f"a kill left {strange}")
        there = self.outputs()
        for name, data in there.items():
            if data != self.expected.get(name):
                self.complain(f"a kill left {name} with other bytes")
        if there and set(there) != set(self.expected) and next(iter(self.expected)) in there:
            self.complain(f"a kill left a first file without {sorted(set(self.expected) - set(there))}")
        self.met["between names" if there else "writing" if len(saved) == self.tensors else "measuring"] += 1
        return saved

    def job(self, kills):
        """One job to its end. Kills it at most `kills` times; returns how often."""
        self.fresh()
        saved, count = {}, 0
        while True:
            for name in self.outputs():  # named before the end: in the way of the next run, as for any user
                (self.folder / name).unlink()
            process = subprocess.Popen(self.command, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            limit = None if count == kills else self.random.uniform(0, self.seconds)
            try:
                process.wait(limit)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            errors = process.stderr.read()
            process.stderr.close()
            if process.returncode == 0:
                break
            if process.returncode != -signal.SIGKILL:
                self.complain(f"ended with {process.returncode}: {errors.strip()[-300:]}")
                return max(count, 1)
            count += 1
            saved = self.check_killed(saved)
        again = self.saved()
        if any(again.get(tensor) != when for tensor, when in saved.items()):
            self.complain("the last run measured again what was known")
        if self.outputs() != self.expected:
            self.complain("other bytes at the end")
        if (left := {path.name for path in self.folder.iterdir()} - set(self.expected)) != {"model.qfstate"}:
            self.complain(f"at the end there is {left}")
        return count

    def run(self):
        self.prepare()
        kills = jobs = 0
        while kills < self.options.kills:
            kills += self.job(min(4, self.options.kills - kills))
            jobs += 1
        print(f"{kills} kills of {jobs} jobs in {len(self.expected)} files, {self.tensors} tensors measured: "
              + ", ".join(f"{count} {when}" for when, count in self.met.most_common())
              + f"; {len(self.failures)} wrong outcomes")
        for failure in self.failures:
            print(failure, file=sys.stderr)
        shutil.rmtree(self.top, ignore_errors=True)
        sys.exit(1 if self.failures else 0)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("quantfit")
    parser.add_argument("data")
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    Drill(parser.parse_args()).run()


if __name__ == "__main__":
    main()
