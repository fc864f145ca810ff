"""`ringlaunch.jit`, `wrap`, `install`, `load`: what they need, Triton above all, is imported when they are used."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from ringlaunch.errors import Unsupported

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from ringlaunch._client import Client
    from ringlaunch._triton_saved import SavedHeuristicKernel, SavedKernel, SavedTunedKernel


def wrap(kernel: Any, client: Client | None = None, mode: str | None = None) -> Any:
    """A Triton kernel whose launches go through ringlaunch.

    It is called as before, `kernel[grid](*args, **kwargs)`, and answers Triton's CompiledKernel. Where it runs is its
    mode:

    - "daemon": on buffers of a client, in that client's daemon. A launch returns once its record stands in the ring.
      Compiling is Triton's own, in this process, for the daemon's GPU; this process needs none, and makes no CUDA
      context. Besides what Triton takes (`num_warps`, `num_stages`, `num_ctas`, `maxnreg`, ...) a call takes `stream=`,
      a `Stream` of the client; without it, the default stream. Pointers are a `Buffer`, None or an address; a tensor of
      this process's own device memory is refused, since the daemon does not see it.
    - "inline": on tensors of this process, on torch's current stream, by the calling thread; needs a GPU here, and no
      daemon. `stream=` is a `torch.cuda.Stream` or a CUDA stream's handle.
    - "embedded": the same, and within `with ringlaunch.region():` by a thread of this process, as all inline calls are
      there; see `region`. Outside of one there is no difference.

    Without a mode each call goes where its arguments are: into the daemon where one is a `Buffer` or a `Stream`, inline
    where one is a tensor. Where none is either, inline if torch has been imported and has a GPU, and else into the
    daemon.

    Parameters
    ----------
    kernel : triton.JITFunction, triton.runtime.Autotuner or triton.runtime.Heuristics
        Unchanged by this. A kernel of an Autotuner is tuned anew, by launches of its mode.
    client : Client, optional
        Where calls go that name neither a buffer nor a stream. Without it: the only client that is open. A kernel with
        a client is of mode "daemon".
    mode : str, optional
        "daemon", "inline" or "embedded".

    Returns
    -------
    object
        Of the same kind as `kernel`: other kernels, and Triton's decorators, take it. That of a JITFunction has
        `cache`, its compiled variants.

    Raises
    ------
    ParamTypeError
        No kernel of Triton.
    InvalidArgument
        No such mode; a client, and a mode that has none.
    Unsupported
        Triton is not installed; a kernel of Gluon, or of another type that has a `run`, or other parts of a
        call, of its own.

    Examples
    --------
    ::

        @rl.wrap
        @triton.autotune(configs=[...], key=["n"])
        @triton.jit
        def kernel(x, n, BLOCK: tl.constexpr): ...
    """
    return _triton().wrap(kernel, client, mode)


def jit(fn: Any = None, *, client: Client | None = None, mode: str | None = None, **options: Any) -> Any:
    """A Triton kernel whose launches go through ringlaunch: `wrap` of `triton.jit`.

    Parameters
    ----------
    fn : function
        As of `triton.jit`.
    client : Client, optional
    mode : str, optional
        As of `wrap`.
    options
        Of `triton.jit`: do_not_specialize, debug, noinline, repr, launch_metadata, ...

    Returns
    -------
    triton.JITFunction
        Or, without `fn`, a decorator.

    Raises
    ------
    ParamTypeError
        No function: a kernel that there is is for `wrap`.
    InvalidArgument
        As of `wrap`.
    Unsupported
        Triton is not installed.

    Examples
    --------
    ::

        @rl.jit
        def scale(x, factor, n, BLOCK: tl.constexpr):
            i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
            tl.store(x + i, tl.load(x + i, i < n) * factor, i < n)

        scale[(triton.cdiv(x.size, 1024),)](x, 2.0, x.size, BLOCK=1024)
    """
    module = _triton()
    if fn is None:
        return lambda fn: module.jit_and_wrap(fn, client, mode, options)
    return module.jit_and_wrap(fn, client, mode, options)


def install(mode: str | None = None, client: Client | None = None) -> None:
    """Makes every Triton kernel of the program launch through ringlaunch, until `uninstall`.

    The program stays as it is: `kernel[grid](...)`, `kernel.run(...)` and `kernel.warmup(...)` of all functions of
    `triton.jit`, decorated before or after this, here or in a library, alone or under `triton.autotune` and
    `triton.heuristics`. A kernel that `wrap` was given a mode or client for keeps it. What ringlaunch has no launch for
    (kernels of Gluon, kernels under TRITON_INTERPRET, what torch.compile makes of kernels) goes Triton's way. A `run`
    that the program puts into a kernel, a tuner or their types after this is called, as by Triton.

    `python -m ringlaunch run script.py` does it for a script.

    Parameters
    ----------
    mode : str, optional
    client : Client, optional
        As of `wrap`. Installing again changes them.

    Raises
    ------
    ParamTypeError, InvalidArgument
        As of `wrap`.
    Unsupported
        Triton is not installed.

    Examples
    --------
    ::

        import ringlaunch as rl
        rl.install()
    """
    _installer().install(mode, client)


def uninstall() -> None:
    """Takes `install` back: Triton's kernels launch as Triton does. Does nothing where nothing is installed."""
    if "ringlaunch._triton_install" in sys.modules:
        _installer().uninstall()


def _installer() -> Any:
    _triton()
    from ringlaunch import _triton_install

    return _triton_install


def load(
    path: str | os.PathLike[str],
    client: Client | None = None,
    mode: str | None = None,
    heuristics: dict[str, Callable[[dict[str, Any]], Any]] | None = None,
) -> SavedKernel | SavedTunedKernel | SavedHeuristicKernel:
    """A Triton kernel that was saved with `kernel.save(path)`: launching it needs no Triton.

    It is called as the kernel was, `kernel[grid](*args, **kwargs)`, with its defaults, keywords, options and `stream=`,
    at the same cost. A call launches that variant of the file which was compiled for such arguments; what the file
    does not hold is refused, with what was asked for and what there is.

    Parameters
    ----------
    path : str or path
        Of the file.
    client : Client, optional
        Where calls go that name neither a buffer nor a stream. Without it: the only client that is open.
    mode : str, optional
        As of `wrap`. An inline call is on torch's or CuPy's current stream.
    heuristics : dict of str to function, optional
        Of a kernel of `triton.heuristics`: its functions, which no file holds, by parameter. A parameter without one is
        given by each call.

    Returns
    -------
    SavedKernel, SavedTunedKernel or SavedHeuristicKernel
        The second of a kernel that was tuned: it launches what was found best then.

    Raises
    ------
    BadImage
        No such file of ringlaunch's, or a damaged one.
    Unsupported
        A file of a newer format; nothing in it is for the GPU of `client`.
    OSError

    Examples
    --------
    ::

        scale = rl.load("scale.rlt")
        scale[((x.size + 1023) // 1024,)](x, 2.0, x.size, BLOCK=1024)
    """
    from ringlaunch import _triton_saved  # imported when it is used: most programs have no such files

    return _triton_saved.load(path, client, mode, heuristics)


def _triton() -> Any:
    try:
        from ringlaunch import _triton as module
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        raise Unsupported("Triton kernels need Triton, which is not installed: pip install triton") from None
    return module
