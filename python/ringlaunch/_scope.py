"""What is used with `with`: waits for its work at the end of the block, and closes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Protocol, Self

    class Closable(Protocol):
        """What a client and a stream have of their own."""

        @property
        def closed(self) -> bool: ...
        def synchronize(self) -> object: ...
        def close(self) -> object: ...


class Scope:
    """A client or a stream as a context manager. A block that raises is not waited for."""

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self: Closable, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and not self.closed:
                self.synchronize()
        finally:
            self.close()
