"""Reads each C++ source by itself, as a build without CMAKE_UNITY_BUILD does: a missing include shows.

usage: each_source.py COMPILE_COMMANDS.json [JOBS]. Compiles nothing (-fsyntax-only). Prints what the compiler says of
the sources that do not stand by themselves; exit code 0 if all do.
"""

import json
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor


def syntax_only(command: str) -> list[str]:
    words = shlex.split(command)
    at = words.index("-o")
    return [*words[:at], *words[at + 2 :], "-fsyntax-only", "-w"]


def read(entry: dict) -> tuple[int, str]:
    done = subprocess.run(
        syntax_only(entry["command"]), cwd=entry["directory"], capture_output=True, text=True, errors="replace"
    )
    return done.returncode, done.stderr


def main(path: str, jobs: str = str(os.cpu_count())) -> int:
    with open(path) as file:
        entries = json.load(file)
    with ThreadPoolExecutor(int(jobs)) as pool:
        failed = [said for code, said in pool.map(read, entries) if code != 0]
    print("\n".join(failed) + f"{len(entries)} sources, {len(failed)} of them do not stand by themselves")
    return 1 if failed or not entries else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
