"""The service over real sockets: jobs from beginning to end, paths, hosts, limits, ranges, streams, kill -9, tokens.

usage: service_test.py QUANTFIT DATA_FOLDER
"""
import hashlib
import json
import pathlib
import shutil
import socket
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from service import Service  # noqa: E402

BINARY, DATA = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve()
TOKEN = "0123456789abcdef-test"


class One(unittest.TestCase):
    """Tests that share one service."""

    @classmethod
    def setUpClass(cls):
        cls.service = Service(BINARY, DATA).start()

    @classmethod
    def tearDownClass(cls):
        cls.service.__exit__()

    def problem(self, reply, status, kind):
        self.assertEqual(reply.status, status, reply.body)
        self.assertEqual(reply.fields["content-type"], "application/problem+json")
        self.assertEqual(reply.json["type"], "urn:quantfit:" + kind)
        self.assertEqual(reply.json["status"], status)
        self.assertTrue(reply.json["detail"])


class Page(One):
    def test_page_and_policy(self):
        page = self.service.get("/")
        self.assertEqual(page.status, 200)
        self.assertIn("default-src 'none'", page.fields["content-security-policy"])
        self.assertNotIn("unsafe", page.fields["content-security-policy"])
        self.assertEqual(page.fields["x-content-type-options"], "nosniff")
        self.assertEqual(self.service.get("/", If_None_Match=page.fields["etag"]).status, 304)
        head = self.service.ask("HEAD", "/")
        self.assertEqual((head.status, head.body), (200, b""))
        self.assertEqual(head.fields["content-length"], str(len(page.body)))

    def test_health_version_metrics(self):
        self.assertEqual(self.service.api("GET", "/health").json, {"status": "ok"})
        self.assertEqual(self.service.api("GET", "/version").json["roots"], [{"name": "models", "writable": True}])
        self.assertIn(b"quantfit_jobs{status=\"queued\"} 0", self.service.api("GET", "/metrics").body)

    def test_methods_and_addresses(self):
        self.problem(self.service.api("GET", "/nothing"), 404, "not-found")
        wrong = self.service.api("DELETE", "/models")
        self.problem(wrong, 405, "method-not-allowed")
        self.assertEqual(wrong.fields["allow"], "GET")
        self.problem(self.service.api("POST", "/plan", b"{}", Content_Type="text/plain"), 415, "unsupported-media-type")
        self.problem(self.service.api("GET", "/jobs?x=1"), 400, "invalid-argument")


class Sources(One):
    def test_hosts(self):
        for host in ("evil.example", "evil.example:80", "127.0.0.1:1", "127.0.0.1.evil.example", "10.0.0.1"):
            self.problem(self.service.api("GET", "/version", Host=host), 403, "forbidden")
        for host in (f"127.0.0.1:{self.service.port}", f"LOCALHOST:{self.service.port}", f"[::1]:{self.service.port}"):
            self.assertEqual(self.service.api("GET", "/version", Host=host).status, 200, host)
        for request in (b"GET /api/v1/health HTTP/1.1\r\n\r\n",
                        b"GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n"):
            self.assertTrue(self.service.raw(request).startswith(b"HTTP/1.1 400 "))

    def test_origins(self):
        here = f"http://127.0.0.1:{self.service.port}"
        self.assertEqual(self.service.api("GET", "/version", Origin=here).status, 200)
        for origin in ("http://evil.example", "null", "http://127.0.0.1:1", here + ".evil.example"):
            self.problem(self.service.api("POST", "/jobs", {}, Origin=origin), 403, "forbidden")
        self.problem(self.service.api("POST", "/jobs", {}, Sec_Fetch_Site="cross-site"), 403, "forbidden")


class Paths(One):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        root, outside = cls.service.root, cls.service.folder / "outside"
        outside.mkdir()
        (outside / "secret.gguf").write_bytes((root / "tale-dense-F16.gguf").read_bytes())
        (root / "out.gguf").symlink_to(outside / "secret.gguf")
        (root / "up.gguf").symlink_to("../outside/secret.gguf")
        (root / "folder").symlink_to(outside)
        (root / "inside.gguf").symlink_to("tale-dense-F16.gguf")
        (root / ".hidden.gguf").write_bytes(b"GGUF")
        (root / "pipe").mkdir()

    def inspect(self, file):
        return self.service.api("GET", "/models/inspect?file=" + file)

    def test_tricks(self):
        self.assertEqual(self.inspect("models/tale-dense-F16.gguf").status, 200)
        for file in ("models/../outside/secret.gguf", "models/%2e%2e/outside/secret.gguf", "models/..%2foutside%2fsecret.gguf",
                     "models/%252e%252e/outside/secret.gguf", "models/tale-dense-F16.gguf%00", "models//tale-dense-F16.gguf",
                     "models/./tale-dense-F16.gguf", "/etc/passwd", "models/.hidden.gguf", "models/%ff.gguf", "models/%0a",
                     "models/out.gguf", "models/up.gguf", "models/folder/secret.gguf", "models", "models/", "models/pipe",
                     "models\\tale-dense-F16.gguf", "other/x.gguf", "models/" + "a/" * 3000 + "x", "%", "models/%e", ""):
            reply = self.inspect(file)
            self.assertIn(reply.status, (400, 404), file)
            self.assertNotIn(str(self.service.folder).encode(), reply.body)

    def test_links_that_stay_inside(self):
        self.assertEqual(self.inspect("models/inside.gguf").status, 200)

    def test_lists_show_what_may_be_opened(self):
        files = [file["file"] for file in self.service.api("GET", "/files").json["files"]]
        self.assertIn("models/inside.gguf", files)
        for hidden in ("out.gguf", "up.gguf", "folder", ".hidden", "secret", ".quantfit"):
            self.assertFalse([file for file in files if hidden in file], hidden)
        self.assertEqual([model["file"] for model in self.service.api("GET", "/models").json["models"]],
                         ["models/inside.gguf", "models/tale-dense-F16.gguf"])

    def test_paths_of_addresses(self):
        for path in ("/../etc/passwd", "/..%2fetc", "/%2e%2e/x", "//", "/api/v1/", "/api/v1/jobs/%2e%2e", "/a%00b"):
            self.assertIn(self.service.get(path).status, (400, 404), path)


class Limits(One):
    def test_long_headers_and_bodies(self):
        long = b"GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 40_000 + b"\r\n\r\n"
        self.assertTrue(self.service.raw(long).startswith(b"HTTP/1.1 431 "))
        self.problem(self.service.api("POST", "/jobs", b" " * 300_000), 413, "too-large")
        chunk = b"POST /api/v1/jobs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + \
            (b"ffff\r\n" + b"a" * 0xffff + b"\r\n") * 8
        self.assertTrue(self.service.raw(chunk).startswith(b"HTTP/1.1 413 "))
        for nonsense in (b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"\r\n" * 100, b"GET / HTTP/9.9\r\n\r\n"):
            answer = self.service.raw(nonsense)
            self.assertTrue(not answer or answer.startswith(b"HTTP/1.1 400 "), answer[:80])
        self.assertEqual(self.service.api("GET", "/health").status, 200)

    def test_slow_requests(self):
        with Service(BINARY, DATA, "--request-seconds", "1") as hasty:
            for slow in (b"GET /api/v1/health HTTP/1.1\r\nX: ",
                         b"POST /api/v1/jobs HTTP/1.1\r\nHost: localhost:%d\r\nContent-Length: 10\r\n\r\n{" % hasty.port):
                with socket.create_connection(("127.0.0.1", hasty.port), timeout=30) as connection:
                    connection.sendall(slow)
                    header, _, body = b"".join(iter(lambda: connection.recv(4096), b"")).partition(b"\r\n\r\n")
                self.assertTrue(header.startswith(b"HTTP/1.1 408 "), header)
                self.assertIn(b"Connection: close", header)
                self.assertEqual(json.loads(body)["type"], "urn:quantfit:too-slow")
            self.assertEqual(hasty.api("GET", "/health").status, 200)

    def test_bodies_without_meaning(self):
        for body in (b"", b"{", b"[]", b"\xff\xfe", b"{\"command\":1,\"options\":{}}", b"{\"command\":\"serve\",\"options\":{}}",
                     b"[" * 100_000, b"{\"command\":\"quantize\",\"options\":[]}"):
            self.problem(self.service.api("POST", "/jobs", body), 400, "invalid-argument")
        for more in ({"nothing": 1}, {"json": True}, {"output": "../x"}, {"output": "a/b"}, {"log-file": "models/x"},
                     {"target-bpw": "x"}, {"target-bpw": "4", "target-size": "1GB"}, {"tensor-type": "("}, {}):
            self.problem(self.service.create(**more), 400, "invalid-argument")
        meant = self.service.create(target_bqw="4")
        self.assertIn("target-bpw", meant.json["detail"])

    def test_connections(self):
        with Service(BINARY, DATA, "--max-connections", "3") as small:
            held = [socket.create_connection(("127.0.0.1", small.port)) for _ in range(3)]
            for connection in held:  # one answered request each: they are counted now
                connection.sendall(b"GET /api/v1/health HTTP/1.1\r\nHost: localhost:%d\r\n\r\n" % small.port)
                self.assertTrue(connection.recv(4096).startswith(b"HTTP/1.1 200 "))
            self.assertEqual(small.api("GET", "/health").status, 503)
            for connection in held:
                connection.close()


class Jobs(One):
    def test_from_beginning_to_end(self):
        created = self.service.create(target_bpw="4.5", key="one")
        self.assertEqual(created.status, 201)
        job = created.json["id"]
        self.assertEqual(created.fields["location"], f"/api/v1/jobs/{job}")
        self.assertEqual(self.service.create(target_bpw="4.5", key="one").json["id"], job)
        self.assertEqual(self.service.create(target_bpw="4.5", key="one").status, 200)
        self.problem(self.service.create(target_bpw="5", key="one"), 422, "key-reused")

        events = list(self.service.events(job))
        names = [name for _, name, _ in events]
        self.assertEqual(names[0], "job")
        for name in ("phase", "saved", "phase_end", "end"):
            self.assertIn(name, names)
        numbers = [number for number, _, _ in events if number is not None]
        self.assertEqual(numbers, sorted(set(numbers)))
        self.assertEqual(events[-1][1:2], ("job",))
        self.assertEqual(events[-1][2]["status"], "done")

        # The past, from the middle: without gaps but for old progress.
        middle = numbers[len(numbers) // 2]
        wanted = [number for number, name, _ in events if number and number > middle and name != "progress"]
        again = [number for number, name, _ in self.service.events(job, last=middle) if number and name != "progress"]
        self.assertEqual(again, wanted)
        self.assertEqual(self.service.api("GET", f"/jobs/{job}/events", Last_Event_ID=str(numbers[-1])).status, 204)

        done = self.service.wait(job)
        self.assertEqual(done["exit_status"], 0)
        results = {result["name"]: result for result in done["results"]}
        self.assertEqual(sorted(results), ["answer.json", "recipe.txt", "report.html", "tale-dense-F16-4.5bpw.gguf"])
        answer = self.service.get(results["answer.json"]["href"]).json
        self.assertEqual(answer["kind"], "plan")
        self.assertEqual(answer["answers"][0]["output"], results["tale-dense-F16-4.5bpw.gguf"]["file"])
        self.assertIn("sandbox", self.service.get(results["report.html"]["href"]).fields["content-security-policy"])
        self.assertTrue(self.service.get(results["recipe.txt"]["href"]).body)
        file = results["tale-dense-F16-4.5bpw.gguf"]
        more = self.service.create(target_bpw="4.5", reuse=[file["file"]], override_kv=["general.name=str:other"])
        self.assertEqual(more.status, 201, more.body)
        self.assertEqual(self.service.wait(more.json["id"])["exit_status"], 0)
        self.problem(self.service.create(target_bpw="4.5", cache="models"), 400, "invalid-argument")
        self.problem(self.service.create(target_bpw="4.5", reuse=["/etc/passwd"]), 404, "not-found")
        self.ranges(file)
        self.at_once(answer)
        self.deleted(job)

    def ranges(self, result):
        href = result["href"]
        whole = self.service.get(href)
        self.assertEqual((whole.status, len(whole.body)), (200, result["bytes"]))
        self.assertEqual(whole.body, (self.service.folder / result["file"]).read_bytes())
        part = self.service.get(href, Range="bytes=100-199")
        self.assertEqual((part.status, part.body), (206, whole.body[100:200]))
        self.assertEqual(part.fields["content-range"], f"bytes 100-199/{result['bytes']}")
        self.assertEqual(self.service.get(href, Range="bytes=-10").body, whole.body[-10:])
        rest = self.service.get(href, Range="bytes=1000-", If_Range=part.fields["etag"])
        self.assertEqual(whole.body[:1000] + rest.body, whole.body)
        self.assertEqual(self.service.get(href, Range="bytes=1000-", If_Range='"other"').status, 200)
        outside = self.service.get(href, Range=f"bytes={result['bytes']}-")
        self.problem(outside, 416, "range-not-satisfiable")
        self.assertEqual(outside.fields["content-range"], f"bytes */{result['bytes']}")
        for odd in ("bytes=1-2,4-5", "bytes=x", "lines=1-2", "bytes=5-1"):
            self.assertEqual(self.service.get(href, Range=odd).status, 200)
        self.assertEqual(self.service.get(href, If_None_Match=whole.fields["etag"]).status, 304)
        folder = href.rsplit("/", 1)[0]
        for name in ("..%2f..%2ftale-dense-F16.gguf", "%2e%2e", "nothing", "tale-dense-F16-4.5bpw.gguf%00"):
            self.assertIn(self.service.get(f"{folder}/{name}").status, (400, 404))

    def as_on_the_command_line(self, **target):
        """The reply is the document of the command line, to the last digit; how long a search took is its own."""
        options = self.service.options_of(**target)
        words = [word for name, value in options.items() if name != "model"
                 for one in (value if isinstance(value, list) else [value]) for word in (f"--{name}", str(one))]
        state = self.service.root / "copy.qfstate"
        shutil.copy(self.service.root / "tale-dense-F16.qfstate", state)
        ran = subprocess.run([BINARY, "plan", options["model"], *words, "--state", state, "--json"], capture_output=True,
                             cwd=self.service.folder)
        reply = self.service.api("POST", "/plan", options)
        self.assertEqual(reply.status, 200, reply.body)
        documents = [reply.json, json.loads(ran.stdout)]
        line = documents[0].pop("command_line")
        again = subprocess.run(line.replace("quantfit", str(BINARY), 1).replace("models/tale-dense-F16.qfstate", str(state)),
                               shell=True, capture_output=True, cwd=self.service.folder)
        documents.append(json.loads(again.stdout))
        for document in documents:
            for one in document["answers"]:
                one.get("allocation", {}).pop("seconds", None)
        self.assertEqual(json.dumps(documents[0]), json.dumps(documents[1]))
        self.assertEqual(documents[1], documents[2])
        state.unlink()

    def at_once(self, answer):
        """Plans and frontiers from the state file that the job left."""
        plan = self.service.api("POST", "/plan", self.service.options_of(target_bpw="4.5"))
        self.assertEqual(plan.status, 200, plan.body)
        same = ("bpw", "file_bytes", "predicted_error", "formats", "static_recipes", "quality")
        for key in same:
            self.assertEqual(plan.json["answers"][0][key], answer["answers"][0][key], key)
        # (Where a target is out of reach the command line measures nothing, and knows less.)
        for target in ({"target_bpw": "4.5"}, {"target_bpw": "3.7"}, {"target_bpw": ["3.5", "4", "5.25"]}, {"target_size": "3MB"},
                       {"target_vram": "8GiB", "ctx_size": 256}, {"target_vram": "8GiB", "ctx_size": 256, "target_ram": "8GiB", "gpu_layers": 1},
                       {"target_bpw": "4.2", "min_fill": "0.9999"}, {"preset": "Q4_K_M"}):
            with self.subTest(target):
                self.as_on_the_command_line(**target)
        low = self.service.api("POST", "/plan", self.service.options_of(target_bpw="0.5"))
        self.assertEqual((low.status, low.json["answers"][0]["feasible"]), (200, False))
        mixture = self.service.api("POST", "/plan", self.service.options_of(preset="Q4_K_M"))
        self.assertEqual(mixture.json["answers"][0]["target"]["recipe"], "Q4_K_M")
        curve = self.service.api("POST", "/frontier", self.service.options_of(points=50))
        self.assertEqual(curve.json["kind"], "frontier")
        self.assertGreater(len(curve.json["curve"]), 40)
        other = {**self.service.options_of(target_bpw="4.5"), "effort": "max"}
        self.problem(self.service.api("POST", "/plan", other), 409, "not-measured")

    def test_other_commands(self):
        """A file is made, tuned and measured; a folder for a hub; an importance matrix: each as on the command line."""
        text = self.service.root / "text.txt"
        text.write_text((DATA / "eval-books.txt").read_text()[:12000])
        few = {"text": ["models/text.txt"], "context": 64, "chunks": 2}
        base = "models/tale-dense-F16.gguf"

        def done(command, options):
            created = self.service.api("POST", "/jobs", {"command": command, "options": options})
            self.assertEqual(created.status, 201, created.body)
            job = self.service.wait(created.json["id"])
            self.assertEqual(job["status"], "done", job)
            answer = next(result for result in job["results"] if result["kind"] == "answer")
            return job, {result["name"]: result for result in job["results"]}, self.service.get(answer["href"]).json

        made = self.service.wait(self.service.create(target_bpw="3").json["id"])
        file = next(result["file"] for result in made["results"] if result["kind"] == "model")
        job, results, tuned = done("tune", {"original": base, "quantized": file, "level": "norms", "steps": 2,
                                            "text": ["models/text.txt"], "context": 64})
        self.assertNotIn("state", job)
        self.assertEqual(tuned["kind"], "tune")
        self.assertEqual(tuned["file_bytes"], results["tale-dense-F16-3bpw-tuned.gguf"]["bytes"])
        job, results, evaluated = done("evaluate", {"base": base, "files": [file], "state": "models/tale-dense-F16.qfstate", **few})
        self.assertEqual([one["file"] for one in evaluated["files"]], [file])
        self.assertEqual(list(results), ["answer.json"])
        job, results, _ = done("calibrate", {"model": base, **few})
        self.assertEqual(results["tale-dense-F16.imatrix.gguf"]["kind"], "imatrix")
        job, results, published = done("publish", {key: value for key, value in
                                                   self.service.options_of(sizes=["Q4_K_M", "3.5bpw"]).items()})
        self.assertEqual(published["kind"], "publish")
        for name in ("tale-dense-Q4_K_M.gguf", "tale-dense-3.50bpw.gguf", "README.md", "SHA256SUMS"):
            self.assertIn(name, results)
        inner = [result for name, result in results.items() if "/" in name]
        self.assertTrue(inner)
        for result in inner:
            self.assertEqual(len(self.service.get(result["href"]).body), result["bytes"], result)
        for bad in ({"command": "publish", "options": {**self.service.options_of(sizes="Q4_K_M"), "output": "x"}},
                    {"command": "evaluate", "options": {"base": base}}, {"command": "tune", "options": {"original": base}},
                    {"command": "state", "options": {}}):
            self.problem(self.service.api("POST", "/jobs", bad), 400, "invalid-argument")
        self.problem(self.service.api("POST", "/jobs", {"command": "tune", "options": {"original": base, "quantized": "models/../x"}}),
                     400, "invalid-argument")

    def deleted(self, job):
        folder = self.service.root / "results" / job
        self.assertTrue(folder.exists())
        self.assertEqual(self.service.api("DELETE", f"/jobs/{job}").status, 204)
        self.assertFalse(folder.exists())
        self.problem(self.service.api("GET", f"/jobs/{job}"), 404, "not-found")
        self.problem(self.service.api("DELETE", f"/jobs/{job}"), 404, "not-found")

    def test_not_measured(self):
        fresh = {**self.service.options_of(target_bpw="4"), "state": "models/fresh.qfstate"}
        self.problem(self.service.api("POST", "/plan", fresh), 409, "not-measured")
        self.assertFalse((self.service.root / "fresh.qfstate").exists())

    def test_failure_says_why(self):
        job = self.service.create(target_bpw="0.5", key="too small").json["id"]
        failed = self.service.wait(job)
        self.assertEqual((failed["status"], failed["exit_status"]), ("failed", 3))
        self.assertEqual(failed["problem"]["type"], "urn:quantfit:infeasible")
        self.assertIn("0.5 bpw", failed["problem"]["detail"])


class Queue(unittest.TestCase):
    """Cancelling, going on, and kill -9."""

    SLOW = {"effort": "max", "sample-precision": 0.005}

    def test_cancel_and_retry(self):
        with Service(BINARY, DATA) as service:
            first = service.create(target_bpw="4", **self.SLOW).json["id"]
            second = service.create(target_bpw="5", **self.SLOW).json
            self.assertEqual((second["status"], second["position"]), ("queued", 1))
            service.wait(first, "running")
            self.assertEqual(service.api("DELETE", f"/jobs/{first}").status, 409)
            for _, name, _ in service.events(first):  # something is measured
                if name == "saved":
                    break
            self.assertEqual(service.api("POST", f"/jobs/{first}/cancel").status, 200)
            stopped = service.wait(first)
            self.assertEqual(stopped["status"], "cancelled")
            self.assertEqual(list((service.root / "results" / first).iterdir()), [])
            self.assertEqual(service.api("POST", f"/jobs/{second['id']}/cancel").status, 200)
            service.wait(second["id"], "cancelled")
            self.assertEqual(service.api("POST", f"/jobs/{first}/cancel").status, 409)
            self.assertIn(service.api("POST", f"/jobs/{first}/retry").json["status"], ("queued", "running"))
            service.wait(first, "running")
            service.api("POST", f"/jobs/{first}/cancel")
            self.assertEqual(service.wait(first)["attempts"], 2)
            self.assertEqual(service.stop(), 0)

    def test_kill(self):
        """Three jobs, killed several times: all are done in the end, to the bytes of a run that nobody disturbed."""
        targets = ("4", "4.5", "5")
        with Service(BINARY, DATA) as quiet:
            wanted = [self.digest(quiet, quiet.create(target_bpw=target).json["id"]) for target in targets]
        with Service(BINARY, DATA) as service:
            jobs = [service.create(target_bpw=target).json["id"] for target in targets]
            for kills in range(3):
                seen = 0
                for _, name, _ in service.events(jobs[kills]):
                    seen += name == "saved"
                    if seen > 3 * kills:
                        break
                service.kill()
                service.start()
            last = list(service.events(jobs[-1]))[-1]  # of a job that was queued when the service began
            self.assertEqual((last[1], last[2]["status"]), ("job", "done"))
            self.assertEqual([self.digest(service, job) for job in jobs], wanted)
            self.assertEqual([job["id"] for job in service.api("GET", "/jobs").json["jobs"]], jobs[::-1])
            self.assertEqual([path for path in service.root.rglob("*.quantfit") if path.name != ".quantfit"], [])

    def digest(self, service, job):
        done = service.wait(job)
        self.assertEqual(done["status"], "done", done)
        model = next(result for result in done["results"] if result["kind"] == "model")
        return hashlib.sha256(service.get(model["href"]).body).hexdigest()

    def test_one_service_in_a_folder(self):
        with Service(BINARY, DATA) as service:
            other = Service(BINARY, DATA, folder=service.folder)
            with self.assertRaisesRegex(RuntimeError, "another service"):
                other.start()


class Access(unittest.TestCase):
    def test_tokens(self):
        with Service(BINARY, DATA) as service:
            service.stop()
            tokens = service.folder / "tokens"
            tokens.write_text(f"# who may ask\n{TOKEN}\n")
            service.options += ["--token-file", str(tokens)]
            service.start()
            self.assertEqual(service.api("GET", "/health").status, 200)
            self.assertEqual(service.get("/").status, 200)
            for fields in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"},
                           {"Cookie": "quantfit=1"}):
                refused = service.api("GET", "/jobs", **fields)
                self.assertEqual(refused.status, 401)
                self.assertIn("Bearer", refused.fields["www-authenticate"])
            mine = {"Authorization": f"Bearer {TOKEN}"}
            self.assertEqual(service.api("GET", "/jobs", **mine).status, 200)
            self.assertEqual(service.api("POST", "/session").status, 401)
            session = service.api("POST", "/session", **mine)
            cookie = session.fields["set-cookie"]
            self.assertTrue("HttpOnly" in cookie and "SameSite=Strict" in cookie)
            kept = {"Cookie": cookie.split(";")[0]}
            self.assertEqual(service.api("GET", "/jobs", **kept).status, 200)
            self.assertEqual(service.api("DELETE", "/session", **kept).status, 204)
            self.assertEqual(service.api("GET", "/jobs", **kept).status, 401)
            self.assertNotIn(TOKEN, (service.folder / "log").read_text())

    def test_other_addresses_need_tokens(self):
        with self.assertRaisesRegex(RuntimeError, "--token-file"):
            Service(BINARY, DATA, "--listen", "0.0.0.0:0").start()

    def test_read_only_root(self):
        with Service(BINARY, DATA) as service:
            service.stop()
            other = service.folder / "work"
            other.mkdir()
            service.options = ["--root", f"{service.root}:ro", "--root", str(other)]
            service.start()
            before = sorted(service.root.iterdir())
            done = service.wait(service.create(target_bpw="4.5").json["id"])
            self.assertEqual(done["status"], "done", done)
            self.assertTrue(done["state"].startswith("work/states/"))
            self.assertEqual(sorted(service.root.iterdir()), before)
            refused = service.create(target_bpw="4.5", state="models/x.qfstate")
            self.assertEqual(refused.status, 403)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
