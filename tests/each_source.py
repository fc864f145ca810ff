"""Reads by itself each C++ source that a build with CMAKE_UNITY_BUILD compiles with others: a missing include shows.

usage: each_source.py COMPILE_COMMANDS.json [JOBS]. Compiles nothing (-fsyntax-only): a source that the build compiles
alone is left to the build. Prints what the compiler says of the sources that do not stand by themselves; exit code 0
if all do.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def compiled_as_one(entry: dict) -> list[str]:
    """The sources that a file made by CMake includes; none if the entry's file is a source itself."""
    file = Path(entry["directory"], entry["file"])
    if file.parent.name != "Unity":
        return []
    return re.findall(r'^#include "(.*)"$', file.read_text(), re.MULTILINE)


def syntax_only(command: str, file: str, source: str) -> list[str]:
    words = [source if word == file else word for word in shlex.split(command)]
    at = words.index("-o")
    return [*words[:at], *words[at + 2 :], "-fsyntax-only", "-w"]


def read(task: tuple[dict, str]) -> tuple[int, str]:
    entry, source = task
    done = subprocess.run(
        syntax_only(entry["command"], entry["file"], source),
        cwd=entry["directory"],
        capture_output=True,
        text=True,
        errors="replace",
    )
    return done.returncode, done.stderr


def main(path: str, jobs: str = str(os.cpu_count())) -> int:
    with open(path) as file:
        entries = json.load(file)
    batches = [(entry, compiled_as_one(entry)) for entry in entries]
    tasks = [(entry, source) for entry, sources in batches if len(sources) > 1 for source in sources]
    with ThreadPoolExecutor(int(jobs)) as pool:
        failed = [said for code, said in pool.map(read, tasks) if code != 0]
    print(
        "\n".join(failed) + f"{len(tasks)} sources, {len(failed)} of them do not stand by themselves;"
        f" {len(entries) - len({id(entry) for entry, _ in tasks})} are compiled alone"
    )
    return 1 if failed or not tasks else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
