"""`python -m ringlaunch run`: the program is as it is without, but for its Triton kernels."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest
from triton_support import triton

WATCHDOG_S = 100


@pytest.fixture
def run(tmp_path):
    """Runs `python -m ringlaunch` in a folder of its own."""

    def run(*arguments, prefix=("-m", "ringlaunch"), **more):
        environment = {**os.environ, **more.pop("env", {})}
        return subprocess.run(
            [sys.executable, *prefix, *arguments],
            capture_output=True, text=True, timeout=WATCHDOG_S, cwd=tmp_path, env=environment, **more,
        )  # fmt: skip

    return run


@pytest.fixture
def write(tmp_path):
    def write(name, source):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source))
        return name

    return write


# What a program can see of how it was started.
WHAT_IT_SEES = """
    import sys, __main__, pickle
    class Thing: pass
    print(sys.argv, __name__, __main__.__dict__ is globals(), __file__, __package__, __spec__ and __spec__.name)
    print(sys.path[0], type(pickle.loads(pickle.dumps(Thing()))) is Thing, sys.modules["__main__"].__doc__)
    print(sorted(globals()), __builtins__.__name__)
    print(type(__loader__).__name__, __loader__.name if __spec__ is None else __loader__ is __spec__.loader, __cached__)
    print(__loader__.get_data(__file__)[:9] if hasattr(__loader__, "get_data") else None)
"""


def test_a_script_sees_what_it_sees_without(run, write):
    script = write("folder/program.py", WHAT_IT_SEES)
    plain = run("-x", "--mode", "none", "run", prefix=(script,))
    ours = run("run", "--mode", "daemon", script, "-x", "--mode", "none", "run")
    assert ours.returncode == plain.returncode == 0, ours.stderr
    assert ours.stdout == plain.stdout and "program.py" in ours.stdout
    assert ours.stderr == plain.stderr == ""


def test_a_module_sees_what_it_sees_without(run, write):
    write("package/__init__.py", "print('the package')")
    write("package/part.py", WHAT_IT_SEES)
    write("package/__main__.py", WHAT_IT_SEES)
    for name in ("package.part", "package"):
        plain = run("a", "-m", prefix=("-m", name))
        ours = run("run", "-m", name, "a", "-m")
        assert ours.returncode == 0, ours.stderr
        assert ours.stdout == plain.stdout and "the package" in ours.stdout


def test_a_folder_and_an_archive_are_run(run, write, tmp_path):
    import zipfile

    write("program/__main__.py", "import other, sys; print(other.WORD, sys.argv)")
    write("program/other.py", "WORD = 'hello'")
    with zipfile.ZipFile(tmp_path / "program.zip", "w") as archive:
        for name in ("__main__.py", "other.py"):
            archive.write(tmp_path / "program" / name, name)
    for name in ("program", "program.zip"):
        done = run("run", name, "x")
        assert done.stdout == f"hello ['{name}', 'x']\n", done.stderr
    write("nothing/other.py", "")
    done = run("run", "nothing")
    assert done.returncode == 2 and "expected a module __main__" in done.stderr


@pytest.mark.parametrize(
    "source",
    [
        "raise SystemExit(7)",
        "raise SystemExit('said, and 1')",
        "raise SystemExit",
        "import os; os._exit(9)",
        "raise ValueError('text')",
        "def f():\n    return 1 / 0\ndef g():\n    f()\ng()",
        "try:\n    {}['a']\nexcept KeyError as error:\n    raise RuntimeError('because') from error",
        "def f(:\n    pass",
        "import nothing_of_this_name",
        "import sys\nsys.excepthook = lambda kind, value, trace: print(kind, value, trace.tb_lineno)\n1 / 0",
        "import atexit\natexit.register(print, 'last')\nraise Exception",
        "import warnings\nwarnings.warn('look')",
        "exec('1 / 0')",
    ],
)
def test_how_a_program_ends_is_its_own(run, write, source):
    script = write("program.py", source)
    plain, ours = run(prefix=(script,)), run("run", script)
    assert ours.returncode == plain.returncode
    assert ours.stdout == plain.stdout
    assert ours.stderr == plain.stderr


def test_an_interrupted_program_is_interrupted(run, write):
    script = write("program.py", "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nprint('on')")
    plain, ours = run(prefix=(script,)), run("run", script)
    assert ours.returncode == plain.returncode == -signal.SIGINT
    assert ours.stdout == "" and ours.stderr.splitlines()[-1] == plain.stderr.splitlines()[-1] == "KeyboardInterrupt"
    assert "ringlaunch" not in ours.stderr


def test_standard_input_is_the_programs(run, write):
    done = run("run", write("program.py", "print(input()[::-1])"), input="abc\n")
    assert done.stdout == "cba\n"


KERNELS = """
    import sys
    import triton
    import triton.language as tl
    import ringlaunch as rl  # for buffers; a program with tensors needs none of it

    @triton.jit
    def fill(x, value):
        tl.store(x, value)

    client = rl.connect(sys.argv[1], start=False)
    x = client.zeros(4)
    for _ in range(3):
        fill[(1,)](x, 2.0)
    print(type(fill).__module__, client.default_stream.status.published)
"""


@pytest.mark.parametrize("arguments", [(), ("--mode", "daemon"), ("--mode=daemon",)])
def test_the_kernels_of_a_program_go_through_ringlaunch(run, write, null, arguments):
    script = write("program.py", KERNELS)
    done = run("run", *arguments, script, null.socket)
    assert done.returncode == 0, done.stderr
    module, published = done.stdout.split()
    assert module == triton.runtime.jit.__name__ and int(published) >= 3


def test_a_report_says_what_was_launched(run, write, null):
    script = write("program.py", KERNELS)
    done = run("run", "--report", "--mode", "daemon", script, null.socket)
    heads, *rows = (line.split() for line in done.stderr.splitlines())
    assert heads[:2] == ["kernel", "launches"] and rows == [["__main__.fill", "3", "1", "1"]]
    closing = f"""{KERNELS}
    client.close()
    with rl.connect(sys.argv[1], start=False) as client:
        fill[(1,)](client.zeros(4), 1.0)
"""
    done = run("run", "--report", write("closing.py", closing), null.socket)
    assert done.stderr.splitlines()[1].split() == ["__main__.fill", "4", "2", "2"]
    done = run("run", "--report", write("nothing.py", "raise SystemExit(3)"))
    assert done.returncode == 3 and done.stderr == "ringlaunch: no Triton kernel was called\n"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("run",), "expected a script or -m MODULE, found nothing"),
        (("run", "-m"), "found nothing"),
        (("run", "--mode", "ring", "program.py"), "mode: expected 'daemon', 'inline' or 'embedded', found 'ring'"),
        (("run", "--mode"), "--mode: no such option, or nothing behind it"),
        (("run", "--fast", "program.py"), "--fast: no such option"),
        (("run", "nothing.py"), "can't open file"),
        (("run", "-m", "no.such.module"), "-m no.such.module: No module named 'no'"),
        (("run", "-m", "nosuchmodule"), "no such module"),
        (("run", "-m", "package"), "no such module, or a package without"),
        (("walk",), "expected run, --help or --version, found 'walk'"),
        ((), "usage: python -m ringlaunch run"),
    ],
)
def test_what_cannot_be_begun_is_said(run, write, arguments, text):
    write("program.py", "print('begun')")
    write("package/__init__.py", "")
    done = run(*arguments)
    assert done.returncode == 2 and text in done.stderr and done.stdout == ""
    assert "Traceback" not in done.stderr


def test_it_says_what_it_does(run):
    for arguments in (("--help",), ("-h",), ("help",), ("run", "--help")):
        done = run(*arguments)
        assert done.returncode == 0 and "--mode daemon" in done.stdout and done.stderr == ""
    assert run("--version").stdout.startswith("ringlaunch ")
