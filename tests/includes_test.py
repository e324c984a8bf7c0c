"""No folder includes what it must not know: ALLOWED says what each may include beside itself.

The build links in the same direction, but a header without code of its own would slip through it.
"""
import pathlib
import re
import sys

ALLOWED = {
    "core": [],
    "kernels": ["core"],
    "state": ["core"],
    "optimizer/parallel": ["core"],
    "optimizer/allocation": ["core"],
    "optimizer/llama_cpp": ["core"],
    "optimizer/engine": ["core", "kernels"],
    "optimizer/calibration": ["core", "kernels", "optimizer/engine", "optimizer/parallel"],
    "optimizer/tuning": ["core", "kernels", "optimizer/engine", "optimizer/parallel", "optimizer/calibration"],
    "optimizer/measurement": ["core", "kernels", "state", "optimizer/llama_cpp", "optimizer/parallel"],
    "optimizer/planning": ["core", "kernels", "state", "optimizer/allocation", "optimizer/llama_cpp",
                           "optimizer/measurement"],
    "optimizer/output": ["core", "kernels", "optimizer/llama_cpp", "optimizer/measurement", "optimizer/parallel"],
    "optimizer/job": ["core", "kernels", "state", "optimizer/allocation", "optimizer/llama_cpp",
                      "optimizer/measurement", "optimizer/planning", "optimizer/output", "optimizer/calibration",
                      "optimizer/tuning", "optimizer/engine"],
    "cli": ["core", "kernels", "state", "optimizer"],
}


def inside(path, folder):
    return path == folder or path.startswith(folder + "/")


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    wrong, read = [], 0
    for top in ("core", "kernels", "state", "optimizer", "cli"):
        for path in sorted((root / top).rglob("*")):
            if path.suffix not in (".h", ".cpp"):
                continue
            name = path.relative_to(root).as_posix()
            folders = [folder for folder in ALLOWED if inside(name, folder)]
            if not folders:
                wrong.append(f"{name}: in no folder of this test's table")
                continue
            home = max(folders, key=len)
            read += 1
            for number, line in enumerate(path.read_text().splitlines(), 1):
                found = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
                if found and not any(inside(found[1], folder) for folder in [home, *ALLOWED[home]]):
                    wrong.append(f"{name}:{number}: {home} must not know {found[1]}")
    if read == 0:
        wrong.append("no source was read")
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
