"""Drill: one model measured in parts by real launchers, joined in every order, beside one process that did it all.

usage: cluster.py QUANTFIT DATA [--only slurm,mpi,kubernetes] [--keep]

Slurm: a controller, a node and an authentication service of its own in a temporary folder (Debian's slurmctld, slurmd and
munge; as root), and scripts/cluster/slurm-quantize.sh as it is. Open MPI: mpirun -n 4 (openmpi-bin). Kubernetes: the
variable that an indexed Job sets. What must be equal: every measured number, the recipe and, for Slurm, the bytes of the
written model. What is not installed is said and left out.
"""
import argparse
import itertools
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

BPW = "4.2"
OPTIONS = ["--error-feedback", "off", "--effort", "fast", "--formats", "Q3_K,Q4_K,Q5_K,Q8_0"]
SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "scripts" / "cluster" / "slurm-quantize.sh"


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Slurm:
    """A cluster of this machine alone, for as long as the object is used in `with`."""

    def __init__(self, top, cpus):
        self.top, self.processes = top / "slurm", []
        for name in ("state", "spool", "munge"):
            (self.top / name).mkdir(parents=True)
        controller, node = free_ports(2)
        host = socket.gethostname().split(".")[0]
        munge = self.top / "munge" / "socket"
        (self.top / "slurm.conf").write_text(f"""
ClusterName=drill
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={munge}
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
StateSaveLocation={self.top}/state
SlurmdSpoolDir={self.top}/spool
SlurmctldPidFile={self.top}/slurmctld.pid
SlurmdPidFile={self.top}/slurmd.pid
SlurmctldLogFile={self.top}/slurmctld.log
SlurmdLogFile={self.top}/slurmd.log
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
""")
        self.environment = dict(os.environ, SLURM_CONF=str(self.top / "slurm.conf"))

    def __enter__(self):
        folder = self.top / "munge"
        (folder / "key").write_bytes(os.urandom(128))
        (folder / "key").chmod(0o400)
        folder.chmod(0o755)
        self.start("munged", "--foreground", "--force", f"--socket={folder}/socket", f"--key-file={folder}/key",
                   f"--pid-file={folder}/pid", f"--seed-file={folder}/seed", f"--log-file={folder}/log")
        self.wait(lambda: (folder / "socket").exists(), "munged")
        self.start("slurmctld", "-D", "-c")
        self.wait(lambda: "UP" in self.run("scontrol", "ping"), "slurmctld")
        self.start("slurmd", "-D", "-c")
        self.wait(lambda: "idle" in self.run("sinfo", "--noheader", "--format=%T"), "slurmd")
        return self

    def start(self, program, *options):
        log = open(self.top / f"{program}.out", "w", encoding="utf-8")
        self.processes.append(subprocess.Popen(["/usr/sbin/" + program, *options], env=self.environment, stdout=log,
                                               stderr=log))

    def run(self, *command):
        return subprocess.run(command, env=self.environment, capture_output=True, text=True).stdout

    def wait(self, ready, what, seconds=60):
        end = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > end:
                sys.exit(f"{what} does not answer; its log is in {self.top}")
            time.sleep(0.2)

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.terminate()
            process.wait()


class Drill:
    def __init__(self, options):
        self.quantfit = str(pathlib.Path(options.quantfit).resolve())
        data = pathlib.Path(options.data).resolve()
        self.model, self.importance = data / "tale-dense-F16.gguf", data / "tale-dense.imatrix.gguf"
        self.top = pathlib.Path(tempfile.mkdtemp(prefix="quantfit-cluster-"))
        self.wrong = []

    def run(self, *words, environment=None):
        done = subprocess.run([self.quantfit, *map(str, words)], capture_output=True, text=True,
                              env=dict(os.environ, **(environment or {})))
        if done.returncode != 0:
            sys.exit(f"{words}: {done.stderr}")
        return done.stdout

    def measure(self, state, *options):
        return ["measure", self.model, "--imatrix", self.importance, *OPTIONS, "--state", state, *options]

    def rows(self, state):
        """What was measured, without what depends on the machine."""
        content = json.loads(self.run("state", "export", state))
        return {(json.dumps(run["parameters"], sort_keys=True), row["tensor"], form["format"]):
                (row["rows_sampled"], form["nmse"], form["standard_error"], form["bias_share"])
                for run in content["runs"] for row in run["measurements"] for form in row["formats"]}

    def recipe(self, state):
        answer = self.run("plan", self.model, "--imatrix", self.importance, *OPTIONS, "--objective", "prior", "--state", state,
                          "--target-bpw", BPW, "--json")
        return json.loads(answer)["answers"][0]["tensors"]

    def prepare(self):
        self.run(*self.measure(self.top / "whole.qfstate"))
        self.expected = self.rows(self.top / "whole.qfstate")
        self.expected_recipe = self.recipe(self.top / "whole.qfstate")

    def check(self, name, parts, seconds):
        orders = list(itertools.permutations(parts))
        counts = [len(self.rows(part)) for part in parts]
        for number, order in enumerate(orders):
            merged = self.top / f"{name}-{number}.qfstate"
            self.run("state", "merge", merged, *order)
            if self.rows(merged) != self.expected:
                self.wrong.append(f"{name}: other rows in the order {[part.name for part in order]}")
        if self.recipe(self.top / f"{name}-0.qfstate") != self.expected_recipe:
            self.wrong.append(f"{name}: another recipe")
        print(f"{name}: {len(parts)} parts of {counts} values in {seconds:.1f} s, {len(orders)} orders of joining, "
              f"{len(self.expected)} values", flush=True)

    def mpi(self):
        begin = time.monotonic()
        words = " ".join(map(str, self.measure(f"{self.top}/mpi-part-$OMPI_COMM_WORLD_RANK.qfstate", "--shard", "auto",
                                               "--threads", "1")))
        done = subprocess.run(["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "4", "sh", "-c",
                               f"exec {self.quantfit} {words}"], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(done.stderr)
        self.check("mpi", sorted(self.top.glob("mpi-part-*.qfstate")), time.monotonic() - begin)

    def kubernetes(self):
        begin = time.monotonic()
        parts = []
        for index in range(3):
            parts.append(self.top / f"kubernetes-part-{index}.qfstate")
            self.run(*self.measure(parts[-1], "--shard", "auto/3"), environment={"JOB_COMPLETION_INDEX": str(index)})
        self.check("kubernetes", parts, time.monotonic() - begin)

    def slurm(self):
        written = self.top / "out" / "model.gguf"
        written.parent.mkdir()
        with Slurm(self.top, 4) as cluster:
            begin = time.monotonic()
            cluster.environment.update(QUANTFIT=self.quantfit, CPUS="1", QUANTFIT_OPTIONS=" ".join(OPTIONS),
                                       QUANTFIT_WRITE_OPTIONS="--objective prior")
            submitted = subprocess.run([SCRIPT, self.model, self.importance, written, BPW, "4"], env=cluster.environment,
                                       capture_output=True, text=True)
            if submitted.returncode != 0:
                sys.exit(submitted.stderr)
            print("slurm:", submitted.stdout.strip(), flush=True)
            cluster.wait(lambda: not cluster.run("squeue", "--noheader").strip(), "the job", 1800)
            seconds = time.monotonic() - begin
        if not written.exists():
            logs = "".join(log.read_text() for log in written.parent.glob("*.log"))
            sys.exit(f"slurm: nothing was written: {logs}")
        self.check("slurm", sorted(written.parent.glob("*.part-*.qfstate")), seconds)
        if self.rows(pathlib.Path(f"{written}.qfstate")) != self.expected:
            self.wrong.append("slurm: other rows in what its last job joined")
        alone = self.top / "alone.gguf"
        self.run("quantize", self.model, "--imatrix", self.importance, *OPTIONS, "--objective", "prior", "--state",
                 self.top / "whole.qfstate", "--target-bpw", BPW, "-o", alone)
        if alone.read_bytes() != written.read_bytes():
            self.wrong.append("slurm: other bytes of the model")


NEEDS = {"slurm": "/usr/sbin/slurmctld", "mpi": "mpirun", "kubernetes": "sh"}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("quantfit")
    parser.add_argument("data")
    parser.add_argument("--only", default=",".join(NEEDS))
    parser.add_argument("--keep", action="store_true", help="leave the folder, with all logs")
    options = parser.parse_args()
    drill = Drill(options)
    drill.prepare()
    for name in options.only.split(","):
        if shutil.which(NEEDS[name]):
            getattr(drill, name)()
        else:
            print(f"{name}: {NEEDS[name]} is not installed: left out")
    for wrong in drill.wrong:
        print(wrong, file=sys.stderr)
    print(f"{len(drill.wrong)} wrong outcomes")
    if options.keep or drill.wrong:
        print(drill.top)
    else:
        shutil.rmtree(drill.top)
    sys.exit(1 if drill.wrong else 0)


if __name__ == "__main__":
    main()
