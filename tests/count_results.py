"""Counts the tests of JUnit files: "passed failed skipped", then a line for each failure and each skip.

    python3 tests/count_results.py [--output] FILE...

A file that is missing counts as one failure: its runner died. With --output there is no count and no skip, but after
the names of the tests that failed what each of them printed, the middle of it left out where it is long.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from xml.etree import ElementTree

# Of what a test printed: the beginning says what it was about, the end how it ended.
FIRST_LINES = 30
LAST_LINES = 50
LINE_LENGTH = 400
TESTS_WITH_OUTPUT = 20


@dataclass
class Failure:
    name: str
    output: list[str]


@dataclass
class Results:
    passed: int = 0
    failures: list[Failure] = field(default_factory=list)
    skips: list[str] = field(default_factory=list)

    def read(self, path: str) -> None:
        try:
            cases = list(ElementTree.parse(path).getroot().iter("testcase"))
        except (OSError, ElementTree.ParseError) as error:
            self.failures.append(Failure(f"the runner left no results: {error}", []))
            return
        for case in cases:
            name = "::".join(filter(None, (case.get("classname"), case.get("name"))))
            skip = case.find("skipped")
            if case.find("failure") is not None or case.find("error") is not None:
                kinds = ("failure", "error", "system-out", "system-err")
                texts = [node.text for kind in kinds for node in case.iter(kind) if node.text]
                self.failures.append(Failure(name, "\n".join(texts).strip().splitlines()))
            elif skip is not None or case.get("status") in ("notrun", "disabled"):
                self.skips.append(f"{name}: {skip.get('message') if skip is not None else case.get('status')}")
            else:
                self.passed += 1


def shortened(lines: list[str]) -> list[str]:
    left_out = len(lines) - FIRST_LINES - LAST_LINES
    if left_out > 1:
        lines = [*lines[:FIRST_LINES], f"[{left_out} lines left out]", *lines[-LAST_LINES:]]
    return [line[:LINE_LENGTH] for line in lines]


def main() -> int:
    with_output = "--output" in sys.argv[1:]
    results = Results()
    for path in sys.argv[1:]:
        if path != "--output":
            results.read(path)
    if not with_output:
        print(results.passed, len(results.failures), len(results.skips))
    for failure in results.failures:
        print(f"failed: {failure.name}")
    if not with_output:
        for skip in results.skips:
            print(f"skipped: {skip}")
        return 0
    for number, failure in enumerate(results.failures):
        if number == TESTS_WITH_OUTPUT:
            print(f"\n[the output of {len(results.failures) - number} more left out]")
            break
        if failure.output:
            print(f"\n---- {failure.name}", *shortened(failure.output), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
