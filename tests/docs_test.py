"""Every command in README.md and docs/ works: blocks marked `sh` and commands in README's tables, on the example models.

usage: docs_test.py QUANTFIT ROOT MODELS_FOLDER
Each document gets a fresh folder with files of the names that documents use. Where no output is shown, encoders run at fast
effort and gradients are taken from little text, which changes nothing but time. Blocks of scripts/ are left to those who start from a fresh clone.
"""
import os
import pathlib
import re
import subprocess
import sys
import tempfile

binary, root, models = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2]).resolve(), pathlib.Path(sys.argv[3])
data = root / "tests" / "data"
NAMES = {"model-F16.gguf": data / "tale-dense-F16.gguf", "M.gguf": data / "tale-dense-F16.gguf",
         "imatrix.gguf": data / "tale-dense.imatrix.gguf", "I.gguf": data / "tale-dense.imatrix.gguf"}
MOE = {"moe-F16.gguf": models / "tale-moe-F16.gguf", "moe.imatrix.gguf": models / "tale-moe.imatrix.gguf"}
# Files that the table of README.md takes for granted.
GIVEN = {"a.gguf": "M.gguf", "b.gguf": "M.gguf"}
SLOW = ("quantize", "plan", "frontier", "publish")


def blocks_of(path):
    text = path.read_text()
    # What follows a block as `text` is its output: every line of it must be printed.
    blocks = [(block, shown) for block, shown in re.findall(r"```sh\n(.*?)```(?:\n\n```text\n(.*?)```)?", text, re.S)
              if "scripts/" not in block]
    if path.name == "README.md" and path.parent == root:
        for row in re.findall(r"^\|.*\|$", text, re.M):
            for command in re.findall(r"`(quantfit [^`]+)`", row):
                # Every row stands alone: what another one made is in nobody's way.
                made = re.search(r" -o (\S+)", command)
                blocks.append(((f"rm -rf {made[1]}\n" if made else "") + command, ""))
    return blocks


def main():
    documents = [root / "README.md", *sorted((root / "docs").rglob("*.md"))]
    failures, ran = [], 0
    for document in documents:
        blocks = blocks_of(document)
        if not blocks or document.name == "reference.md":
            continue
        needs_moe = any("moe-F16" in block for block, _ in blocks)
        if needs_moe and not MOE["moe-F16.gguf"].exists():
            print(f"{document.relative_to(root)}: skipped, {MOE['moe-F16.gguf']} is not here")
            continue
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            for name, target in {**NAMES, **(MOE if needs_moe else {})}.items():
                (folder / name).symlink_to(target.resolve())
            text = (data / "eval-books.txt").read_text()
            (folder / "calibration.txt").write_text(text[:20000])
            (folder / "T.txt").write_text(text[:6000])
            (folder / "held-out.txt").write_text(text[-8000:])
            for name, source in GIVEN.items():
                (folder / name).symlink_to(NAMES[source].resolve())
            tools = folder / "bin"
            tools.mkdir()
            wrapper = tools / "quantfit"
            # Outputs are shown as people get them.
            quick = "" if any(shown for _, shown in blocks) else "--effort fast --error-feedback off "
            tokens = "" if not quick else "--gradient-tokens 512 "
            wrapper.write_text("#!/bin/sh\ncommand=$1; shift\ncase $command in\n"
                               "tune) set -- --steps 2 -q \"$@\";;\n"
                               f"measure) set -- {quick}-q \"$@\";;\n"
                               f"{'|'.join(SLOW)}) set -- {quick}{tokens}-q \"$@\";;\nesac\n"
                               f"exec {binary} \"$command\" \"$@\"\n")
            wrapper.chmod(0o755)
            environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
            for block, shown in blocks:
                ran += 1
                result = subprocess.run(["bash", "-e", "-o", "pipefail", "-c", block], cwd=folder, env=environment,
                                        capture_output=True, text=True, check=False)
                if result.returncode != 0:
                    failures.append(f"{document.relative_to(root)}: status {result.returncode}\n{block}\n{result.stderr[-600:]}")
                printed = set(result.stdout.splitlines())
                # Times differ from run to run.
                missing = [line for line in shown.splitlines() if line != "..." and " ms" not in line and line not in printed]
                if missing:
                    failures.append(f"{document.relative_to(root)}: not printed any more:\n" + "\n".join(missing))
    print(f"{ran} blocks of {len(documents)} documents")
    if ran < 15:
        failures.append("hardly any command was found: does this test read the documents?")
    sys.exit("\n\n".join(failures) if failures else 0)


if __name__ == "__main__":
    main()
