"""A real service on loopback, for tests and drills: started, asked, killed."""
import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import time

QUICK = {"objective": "prior", "error-feedback": "off", "effort": "fast"}
WAIT = 120  # seconds until a test gives up


class Reply:
    def __init__(self, response):
        self.status = response.status
        self.fields = {name.lower(): value for name, value in response.getheaders()}
        self.body = response.read()

    @property
    def json(self):
        return json.loads(self.body)


class Service:
    """`data`: the folder with the example model. The root is a folder of its own, `models`."""

    def __init__(self, binary, data, *options, folder=None):
        self.binary, self.options = str(binary), [str(option) for option in options]
        self.temporary = tempfile.TemporaryDirectory(prefix="quantfit-service-") if folder is None else None
        self.folder = pathlib.Path(folder or self.temporary.name)
        self.root = self.folder / "models"
        self.process = None
        if not self.root.exists():
            self.root.mkdir(parents=True)
            for name in ("tale-dense-F16.gguf", "tale-dense.imatrix.gguf"):
                (self.root / name).write_bytes((pathlib.Path(data) / name).read_bytes())
        self.port = 0

    def start(self):
        listen = [] if "--listen" in self.options else ["--listen", f"127.0.0.1:{self.port}"]
        root = [] if "--root" in self.options else ["--root", self.root]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen([self.binary, "serve", *root, *listen, *self.options],
                                            stdout=subprocess.PIPE, stderr=log, text=True)
        line = self.process.stdout.readline().strip()
        if not line.startswith("http://"):
            self.process.stdout.close()
            self.process.wait()
            raise RuntimeError("the service did not start: " + (self.folder / "log").read_text()[-600:])
        self.port = int(line.rstrip("/").rsplit(":", 1)[1])
        return self

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(timeout=WAIT)
        self.process.stdout.close()
        return status

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        if self.process and self.process.poll() is None:
            self.kill()
        if self.temporary:
            self.temporary.cleanup()

    def ask(self, method, path, body=None, timeout=WAIT, **fields):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            fields = {name.replace("_", "-"): value for name, value in fields.items()}
            if body is not None:
                fields.setdefault("Content-Type", "application/json")
                body = json.dumps(body) if not isinstance(body, (bytes, str)) else body
            connection.request(method, path, body, fields)
            return Reply(connection.getresponse())
        finally:
            connection.close()

    def get(self, path, **fields):
        return self.ask("GET", path, **fields)

    def api(self, method, path, body=None, **fields):
        return self.ask(method, "/api/v1" + path, body, **fields)

    def raw(self, data, timeout=WAIT):
        """Everything that comes back for these bytes until the service ends the connection or is silent."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            parts = []
            while part := connection.recv(65536):
                parts.append(part)
            return b"".join(parts)

    def options_of(self, **more):
        return {"model": "models/tale-dense-F16.gguf", "imatrix": "models/tale-dense.imatrix.gguf", **QUICK,
                **{name.replace("_", "-"): value for name, value in more.items()}}

    def create(self, command="quantize", key=None, **more):
        fields = {"Idempotency_Key": key} if key else {}
        return self.api("POST", "/jobs", {"command": command, "options": self.options_of(**more)}, **fields)

    def wait(self, job, *statuses, seconds=WAIT):
        end = time.monotonic() + seconds
        while True:
            now = self.api("GET", f"/jobs/{job}").json
            if now["status"] in (statuses or ("done", "failed", "cancelled")):
                return now
            if time.monotonic() > end:
                raise TimeoutError(f"the job is still {now['status']}: {now}")
            time.sleep(0.02)

    def events(self, job, last=None, stop=None):
        """Yields (id or None, name, data) of a stream, to its end or until stop() says so."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT)
        try:
            connection.request("GET", f"/api/v1/jobs/{job}/events",
                               headers={"Last-Event-ID": str(last)} if last is not None else {})
            response = connection.getresponse()
            if response.status != 200:
                return
            event = {}
            for line in response:
                line = line.decode().rstrip("\n")
                if not line and "data" in event:
                    yield event.get("id"), event.get("event"), json.loads(event["data"])
                    event = {}
                    if stop and stop():
                        return
                elif line and not line.startswith(":"):
                    name, _, value = line.partition(": ")
                    event[name] = int(value) if name == "id" else value
        finally:
            connection.close()

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self):
        return int(pathlib.Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
