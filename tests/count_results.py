"""Counts the tests of JUnit files: "passed failed skipped", then a line for each failure and each skip.

    python3 tests/count_results.py FILE...

A file that is missing counts as one failure: its runner died.
"""

from __future__ import annotations

import sys
from xml.etree import ElementTree


def count(path: str) -> tuple[int, int, int, list[str]]:
    try:
        cases = list(ElementTree.parse(path).getroot().iter("testcase"))
    except (OSError, ElementTree.ParseError) as error:
        return 0, 1, 0, [f"failed: the runner left no results: {error}"]
    passed = failed = skipped = 0
    lines = []
    for case in cases:
        name = "::".join(filter(None, (case.get("classname"), case.get("name"))))
        skip = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            failed += 1
            lines.append(f"failed: {name}")
        elif skip is not None or case.get("status") in ("notrun", "disabled"):
            skipped += 1
            lines.append(f"skipped: {name}: {skip.get('message') if skip is not None else case.get('status')}")
        else:
            passed += 1
    return passed, failed, skipped, lines


def main() -> int:
    counts = [count(path) for path in sys.argv[1:]]
    print(*(sum(column) for column in list(zip(*counts, strict=True))[:3]))
    for entry in counts:
        print(*entry[3], sep="\n", end="\n" if entry[3] else "")
    return 0


if __name__ == "__main__":
    sys.exit(main())
