"""NumPy, imported when it is first used: importing it takes longer than all of this package.

Modules of this package say `from ringlaunch._numpy import np`.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

__all__ = ["np"]

if TYPE_CHECKING:
    import numpy as np
else:

    class _NumPy(ModuleType):
        """Has what numpy has, once it was asked for."""

        def __getattr__(self, name: str) -> Any:
            import numpy

            found = getattr(numpy, name)
            setattr(self, name, found)
            return found

    np = _NumPy("numpy")
