"""The variants of a Triton kernel: what was compiled, for which arguments, and how often it was launched."""

from __future__ import annotations

import re
import weakref
from typing import TYPE_CHECKING, Any

from ringlaunch._check import refused
from ringlaunch.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ringlaunch import _core
    from ringlaunch._client import Client
    from ringlaunch._triton_load import CallPath


def kinds_text(
    signature: dict[str, Any],
    constant: Callable[[tuple[int, ...]], str],
    attributes: dict[tuple[int, ...], Any],
    all_looked_at: bool = False,
) -> str:
    """What a variant takes, for messages: types, what is compiled in, and what is divisible by 16. `all_looked_at`:
    `attributes` have whatever Triton's specialization has looked at, and found nothing, too. It looks at no bool and
    no float, so that of those there is nothing to say."""

    def marked(kind: str, path: tuple[int, ...]) -> str:
        if attributes.get(path):
            return f"{kind}, a multiple of 16"
        unspecialized = all_looked_at and path not in attributes and re.match(r"\*|[iu](?!1$)\d", kind)
        return f"{kind}, not specialized" if unspecialized else kind

    def walk(kind: Any, path: tuple[int, ...]) -> str:
        if isinstance(kind, tuple):
            return f"({', '.join(walk(part, (*path, i)) for i, part in enumerate(kind))})"
        if kind == "constexpr":
            return constant(path)
        return marked(kind, path)

    return ", ".join(f"{name}: {walk(kind, (i,))}" for i, (name, kind) in enumerate(signature.items()))


class Variant:
    """A Triton kernel compiled for arguments of one kind, and loaded for one client, or in this program.

    Attributes
    ----------
    signature : dict of str to str
        The type of each parameter, in Triton's words: "*fp32", "i32"; "constexpr" for one that was compiled in.
    constants : dict of str to object
        What was compiled in: None, the integer 1, and what is declared tl.constexpr.
    attributes : dict of str to list
        What was assumed of arguments (["tt.divisibility", 16]).
    options : dict
        num_warps, num_stages, num_ctas, maxnreg and the other options that it was compiled with.
    registers : int
        Of a thread.
    shared : int
        Dynamic shared memory of a block, in bytes.
    size : int
        Of its image, in bytes.
    hits : int
        Launches. Inline, those are not counted that Triton makes by itself, but for the first of each kind of call
        (while there are launch hooks, of kinds that only Triton's launcher knows, and of kernels with more than 128
        parameters).
    compile_time : float
        Seconds of its first call: compiling, or reading Triton's cache on disk.
    client : Client or None
        None: launched inline.
    evicted : bool
        Whether it was let go of.
    compiled : triton.compiler.CompiledKernel
        What a launch of it returns.
    """

    __slots__ = ("_core", "_of", "_signature", "client", "compile_time", "evicted")

    def __init__(
        self,
        kernel: CallPath,
        core: _core.TritonVariant,
        client: Client | None,
        signature: dict[str, Any],
        compile_time: float,
    ) -> None:
        self._of = weakref.ref(kernel)
        self._core = core
        self._signature = signature
        self.client = client
        self.compile_time = compile_time
        self.evicted = False

    @property
    def signature(self) -> dict[str, Any]:
        return dict(self._signature)

    @property
    def constants(self) -> dict[str, Any]:
        names = list(self._signature)
        return {
            names[first] + "".join(f"[{i}]" for i in rest): value for (first, *rest), value in self._constants().items()
        }

    def _constants(self) -> dict[tuple[int, ...], Any]:
        """By the place among the parameters, and in tuples."""
        names = list(self._signature)
        return {
            path if isinstance(path, tuple) else (names.index(path),): value
            for path, value in self.compiled.src.constants.items()
        }

    @property
    def attributes(self) -> dict[str, Any]:
        names = list(self._signature)
        found = {}
        for (first, *rest), value in self.compiled.src.attrs.items():
            if value:
                found[names[first] + "".join(f"[{i}]" for i in rest)] = value
        return found

    @property
    def options(self) -> dict[str, Any]:
        metadata = self.compiled.metadata
        names = ("num_warps", "num_stages", "num_ctas", "maxnreg", "launch_pdl", "launch_cooperative_grid", "debug")
        return {name: getattr(metadata, name) for name in names if hasattr(metadata, name)}

    @property
    def registers(self) -> int:
        kernel = self._core.kernel
        return int(self.compiled.n_regs if kernel is None else kernel.registers)

    @property
    def shared(self) -> int:
        return int(self.compiled.metadata.shared)

    @property
    def size(self) -> int:
        return len(self.compiled.asm["cubin"])

    @property
    def hits(self) -> int:
        return self._core.hits

    @property
    def compiled(self) -> Any:
        return self._core.compiled

    def __repr__(self) -> str:
        constants, source = self._constants(), self.compiled.src
        by_triton = hasattr(source, "fn")  # no file has the attributes that nothing was found for
        kinds = kinds_text(self._signature, lambda path: repr(constants.get(path)), source.attrs, by_triton)
        kernel, metadata = self._of(), self.compiled.metadata
        usual = {} if kernel is None else kernel._usual_options(self.compiled)
        options = "".join(
            f", {name}={value!r}"
            for name in usual
            if name != "num_warps" and (value := getattr(metadata, name, usual[name])) != usual[name]
        )
        where = (
            f"inline on device {self._core._device}" if self.client is None else f"session {self.client.daemon.session}"
        )
        return (
            f"<variant ({kinds}), {self.options['num_warps']} warps{options}, {where}, {self.registers} registers, "
            f"{self.shared} bytes of shared memory, {self.hits} launches>"
        )


class KernelCache:
    """The variants of one kernel, of clients that are open. Iterating gives them in the order of their compilation.

    Examples
    --------
    `len(kernel.cache)`, `for variant in kernel.cache: print(variant.signature, variant.hits)`
    """

    __slots__ = ("_kernel",)

    def __init__(self, kernel: CallPath) -> None:
        self._kernel = kernel

    def __iter__(self) -> Iterator[Variant]:
        return iter([each for each in list(self._kernel._variants_held.values()) if not each._core.closed])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def find(self, *args: Any, **kwargs: Any) -> Variant | None:
        """What a call with these arguments would launch, if it was compiled; compiles nothing.

        Parameters
        ----------
        *args, **kwargs
            As of the call, without a grid.

        Returns
        -------
        Variant or None
        """
        return self._kernel._find(args, kwargs)

    def evict(self, variant: Variant) -> None:
        """Lets go of a variant: its next call compiles, or reads Triton's cache on disk, and loads it anew.

        Parameters
        ----------
        variant : Variant
            Of this kernel; one that was let go of already is left alone.

        Raises
        ------
        ParamTypeError
            It is no variant.
        InvalidArgument
            It is another kernel's.
        """
        name = self._kernel.__name__
        if not isinstance(variant, Variant):
            raise refused(f"kernel {name!r}, variant", "one of its cache", variant)
        if variant._of() is not self._kernel:
            raise InvalidArgument(f"kernel {name!r}, variant: expected one of its cache, found another's: {variant!r}")
        if variant.evicted:
            return
        variant.evicted = True
        self._kernel._release(variant)

    def clear(self) -> None:
        """Lets go of all variants."""
        for variant in self:
            self.evict(variant)

    def __repr__(self) -> str:
        return f"<cache of kernel {self._kernel.__name__!r}: {len(self)} variants>"
