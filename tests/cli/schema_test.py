"""Every JSON document that the program prints keeps to its schema in docs/schema.

usage: schema_test.py QUANTFIT DATA_FOLDER SCHEMA_FOLDER
Exit status 77 where python3-jsonschema is not installed.
"""
import json
import pathlib
import re
import subprocess
import sys
import tempfile

try:
    from jsonschema import Draft202012Validator
except ImportError:
    print("skipped: python3-jsonschema is not installed")
    sys.exit(77)

binary, data, schemas = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
validators = {}
for path in schemas.glob("*.schema.json"):
    schema = json.loads(path.read_text())
    Draft202012Validator.check_schema(schema)
    validators[path.name.removesuffix(".schema.json")] = Draft202012Validator(schema)
failures, seen = [], {}


def complain(what, why):
    failures.append(f"{what}: {why}")


def validate(kind, document, what):
    seen[kind] = seen.get(kind, 0) + 1
    for error in validators[kind].iter_errors(document):
        complain(what, f"{'/'.join(map(str, error.absolute_path))}: {error.message}"[:300])


def run(words, status=0, kind=None):
    """Runs the program, validates its document and events, returns the document."""
    result = subprocess.run([binary, *map(str, words)], capture_output=True, text=True, check=False)
    what = " ".join(map(str, words))
    if result.returncode != status:
        complain(what, f"exit status {result.returncode} instead of {status}: {result.stderr[-300:]}")
    try:
        document = json.loads(result.stdout)
    except ValueError as error:
        complain(what, f"no JSON: {error}")
        return {}
    if kind and document.get("kind") != kind:
        complain(what, f"kind {document.get('kind')} instead of {kind}")
    validate(document["kind"], document, what)
    for line in result.stderr.splitlines() if "json" in words else []:
        try:
            validate("progress-event", json.loads(line), f"{what}: {line}")
        except ValueError:
            complain(what, f"no event: {line}")
    return document


with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    model, imatrix = data / "tale-dense-F16.gguf", data / "tale-dense.imatrix.gguf"
    state, common = folder / "s.qfstate", ["--imatrix", imatrix, "--effort", "fast", "--json", "--error-feedback", "off"]
    # Fewer formats are measured first, so that every later command works on the same state file.
    measured = ["--state", state, *common]
    run(["measure", model, *measured, "--formats", "Q4_K,Q5_K", "--progress", "json"], kind="measure")
    run(["measure", model, *measured, "--shard", "1/2"], kind="measure")
    plan = run(["plan", model, *measured, "--target-bpw", "3,4.5", "--progress", "json", "-v"], kind="plan")
    if [answer["target"]["value"] for answer in plan["answers"]] != [3, 4.5]:
        complain("plan", "targets are numbers, in order")
    run(["plan", model, *measured, "--target-bpw", "4.5", "--min-fill", "99.99%"], kind="plan")
    run(["plan", model, *measured, "--target-vram", "8MiB", "--vram-margin", "1MB", "-c", "256", "--ubatch", "16",
         "--target-ram", "600MiB", "--gpu-layers", "2"], kind="plan")
    run(["plan", model, *measured, "--target-vram", "1MiB"], status=3, kind="plan")
    run(["plan", model, *measured, "--preset", "Q4_K_M"], kind="plan")
    run(["plan", model, *measured, "--target-bpw", "0.5,4"], status=3, kind="plan")
    made = run(["quantize", model, *measured, "--target-size", "4MB", "-o", folder / "out.gguf", "--progress", "json"],
               kind="plan")
    if made["answers"][0].get("run_command", [""])[0] != "llama-server":
        complain("quantize", "no command that runs the file")
    run(["quantize", model, *measured, "--target-size", "4MB", "-o", folder / "out.gguf", "--progress", "json"],
        status=2, kind="error")
    run(["frontier", model, *measured, "--points", "20"], kind="frontier")
    run(["inspect", model, "--json"], kind="model")
    run(["inspect", folder / "out.gguf", "--json", "--metadata"], kind="model")
    run(["inspect", folder / "missing.gguf", "--json"], status=1, kind="error")
    run(["diff", model, folder / "out.gguf", "--json"], kind="diff")
    text = data / "eval-books.txt"
    run(["calibrate", model, "--text", text, "--chunks", "1", "--json", "--progress", "json", "-o",
         folder / "i.gguf"], kind="calibrate")
    run(["evaluate", model, folder / "out.gguf", model, "--text", text, "--chunks", "2", "--json"], kind="evaluate")
    run(["tune", model, folder / "out.gguf", "--text", text, "--chunks", "16", "--context", "32", "--steps", "2", "-o",
         folder / "tuned.gguf", "--json", "--progress", "json"], kind="tune")
    run(["quantize", model, *measured, "--target-bpw", "4", "--evaluate", text, "--context", "64", "-o",
         folder / "evaluated.gguf"], kind="plan")
    run(["publish", model, *measured, "--sizes", "Q4_K_M,4bpw", "-o", folder / "hub", "--evaluate", text, "--context",
         "64", "--progress", "json"], kind="publish")
    run(["state", "ls", folder, "--json"], kind="states")
    run(["state", "show", state, "--json"], kind="states")
    run(["state", "prune", state, "--keep-recipes", "1", "--json"], kind="prune")
    run(["state", "merge", folder / "all.qfstate", state, "--json"], kind="merge")
    # What a page is drawn from stands in it as JSON.
    run(["plan", model, *measured, "--target-bpw", "3,4.5", "--report", folder / "r.html"], kind="plan")
    subprocess.run([binary, "report", state, "-q", "-o", folder / "s.html"], check=True)
    for page in ("r.html", "s.html"):
        found = re.search(r'<script id="data" type="application/json">(.*?)</script>', (folder / page).read_text(), re.S)
        validate("report", json.loads(found[1]), page)
    run(["plan", model, "--json"], status=2, kind="error")
    run(["plan", "--nonsense", "--json"], status=2, kind="error")
    run(["plna", "--json"], status=2, kind="error")

    # A validator that accepts everything would prove nothing.
    for kind, wrong in [("plan", {**plan, "answers": []}), ("plan", {**plan, "more": 1}),
                        ("error", {**plan, "kind": "error"})]:
        if validators[kind].is_valid(wrong):
            complain(kind, "its schema accepts what is wrong")

for kind in validators.keys() - seen.keys():
    complain(kind, "no document of this kind was seen")
print(f"{sum(seen.values())} documents and events of {len(seen)} kinds")
sys.exit("\n".join(failures) if failures else 0)
