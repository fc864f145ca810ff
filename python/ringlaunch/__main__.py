"""`python -m ringlaunch run script.py`: an unchanged program whose Triton kernels go through ringlaunch.

The program sees what it would see without: its name is `__main__`, sys.argv, sys.path and exit codes are its own, and
what it raises is shown as of itself.
"""

from __future__ import annotations

import atexit
import builtins
import importlib.util
import os
import pkgutil
import runpy
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import CodeType, ModuleType, TracebackType
from typing import Any, NoReturn

import ringlaunch as rl

_USAGE = "usage: python -m ringlaunch run [--mode MODE] [--report] script.py [ARGUMENT ...]"
_HELP = f"""{_USAGE}
       python -m ringlaunch run [--mode MODE] [--report] -m MODULE [ARGUMENT ...]
       python -m ringlaunch --version

Runs a Python program, unchanged, with every Triton kernel of it going through ringlaunch.

  --mode daemon   kernels run in the daemon, on ringlaunch's buffers
  --mode inline   kernels are launched in the program itself, on tensors, on the current stream
                  (also named embedded: in `with ringlaunch.region():` a thread of the program launches them;
                  without --mode each call goes where its arguments are)
  --report        when the program ends, prints to standard error how often each kernel was launched through
                  ringlaunch, and how many of its calls asked Triton's own code (the first of each kind do)
  -m MODULE       runs a module, as python -m does
  --help          this text

Processes that the program starts are not affected. The exit code is the program's; 2: it could not be begun."""


def _refuse(text: str) -> NoReturn:
    print(f"python -m ringlaunch: {text}", file=sys.stderr)
    raise SystemExit(2)


def _main(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_HELP, file=sys.stdout if arguments else sys.stderr)
        raise SystemExit(0 if arguments else 2)
    if arguments[0] == "--version":
        print(f"ringlaunch {rl.__version__}")
        return
    if arguments[0] != "run":
        _refuse(f"expected run, --help or --version, found {arguments[0]!r}\n{_USAGE}")
    mode, is_module, with_report, rest = None, False, False, arguments[1:]
    while rest and rest[0].startswith("-"):
        option, *rest = rest
        if option in ("-h", "--help"):
            print(_HELP)
            return
        if option == "-m":
            is_module = True
            break
        if option == "--report":
            with_report = True
        elif option == "--mode" and rest:
            mode, *rest = rest
        elif option.startswith("--mode="):
            mode = option.partition("=")[2]
        else:
            _refuse(f"{option}: no such option, or nothing behind it\n{_USAGE}")
    if not rest:
        _refuse(f"expected a script or -m MODULE, found nothing\n{_USAGE}")
    try:
        rl.install(mode)
    except rl.Error as error:
        _refuse(str(error))
    if with_report:
        from ringlaunch._triton_install import report

        atexit.register(lambda: print(report(), file=sys.stderr))
    sys.argv = rest
    _execute(*(_module if is_module else _script)(rest[0]))


# What is to be run: its code, and what its module is to know of itself.
Program = tuple[Callable[[], CodeType], dict[str, Any]]


def _script(path: str) -> Program:
    if not os.path.exists(path):
        _refuse(f"can't open file {os.path.abspath(path)!r}: there is none")
    importer = pkgutil.get_importer(path)
    if importer is not None:  # a folder, or an archive
        _begin_path(path)
        spec = importer.find_spec("__main__")
        if spec is None:
            _refuse(f"{path}: expected a module __main__ in it, found none")
        return _of_spec(spec, path)
    _begin_path(os.path.dirname(os.path.realpath(path)))
    with open(path, "rb") as file:
        source = file.read()
    file_name = os.path.abspath(path)
    known = {"__file__": file_name, "__cached__": None, "__loader__": SourceFileLoader("__main__", file_name)}
    return lambda: compile(source, file_name, "exec"), known


def _begin_path(folder: str) -> None:
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = folder


def _module(name: str) -> Program:
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{name}.__main__")
    except (ModuleNotFoundError, ValueError) as error:
        _refuse(f"-m {name}: {error}")
    if spec is None:
        _refuse(f"-m {name}: no such module, or a package without a module __main__")
    sys.argv[0] = spec.origin or name
    return _of_spec(spec, name)


def _of_spec(spec: ModuleSpec, name: str) -> Program:
    get_code = getattr(spec.loader, "get_code", None)
    code: CodeType | None = get_code(spec.name) if get_code is not None else None
    if code is None:
        _refuse(f"{name}: there is no Python code of it")
    known = {"__file__": spec.origin, "__spec__": spec, "__package__": spec.parent, "__loader__": spec.loader}
    known["__cached__"] = spec.cached
    return lambda: code, known


def _execute(code: Callable[[], CodeType], known: dict[str, Any]) -> None:
    """Runs the program as `__main__`. What it raises goes on, and is shown without what is ringlaunch's."""
    module = ModuleType("__main__")
    module.__dict__.update({"__builtins__": builtins, "__spec__": None, **known})
    if "__annotations__" in globals():  # in a __main__ of this version of Python
        module.__annotations__ = {}
    sys.modules["__main__"] = module
    try:
        exec(code(), module.__dict__)
    except SystemExit:
        raise
    except BaseException:
        show = sys.excepthook

        def hook(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> None:
            trace = _program_part(trace)
            show(kind, value.with_traceback(trace), trace)

        sys.excepthook = hook
        raise


def _program_part(trace: TracebackType | None) -> TracebackType | None:
    """A traceback from the program's first line on."""
    while trace is not None and trace.tb_frame.f_code.co_filename in (__file__, runpy.__file__, "<frozen runpy>"):
        trace = trace.tb_next
    return trace


if __name__ == "__main__":
    _main(sys.argv[1:])
