"""The shape of the code: how long files and functions are, and the ten longest of each."""

import ast
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("gateway", "control_plane", "protos", "firmware_configs")
LONGEST = 10


def main() -> int:
    """Print the figures."""
    files: list[tuple[int, str]] = []
    functions: list[tuple[int, str]] = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if "_pb2" in path.name or path.stat().st_size == 0:
                continue
            text = path.read_text(encoding="utf-8")
            name = str(path.relative_to(ROOT))
            files.append((text.count("\n"), name))
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    lines = (node.end_lineno or node.lineno) - node.lineno + 1
                    functions.append((lines, f"{name}:{node.name}"))
    for what, sizes in (("files", files), ("functions", functions)):
        lengths = sorted(size for size, _ in sizes)
        median = statistics.median(lengths)
        ninth = lengths[len(lengths) * 9 // 10]
        sys.stdout.write(f"{len(sizes)} {what}: median {median:g} lines, nine in ten under {ninth}\n")
        for size, name in sorted(sizes, reverse=True)[:LONGEST]:
            sys.stdout.write(f"{size:>6}  {name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
