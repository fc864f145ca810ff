"""Launch kernels at the cost of writing a cache line: through a ring, by a daemon that owns the device.

>>> import numpy as np
>>> import ringlaunch as rl
>>> client = rl.connect()                       # the running daemon; starts a private one if there is none
>>> module = client.compile('''
... #include <ringlaunch/kernel.h>
... extern "C" __global__ void scale(float* x, float factor, int n) {
...     int i = blockIdx.x * blockDim.x + threadIdx.x;
...     if (i < n) x[i] *= factor;
... }
... RINGLAUNCH_EXPORT(scale)
... ''')
>>> x = client.array(np.arange(4, dtype=np.float32))
>>> module["scale"][1, 256](x, 2.0, x.size)     # grid, block; returns as soon as the record stands in the ring
>>> x.numpy()                                   # waits for the work enqueued so far
array([0., 2., 4., 6.], dtype=float32)
>>> client.close()
"""

from ringlaunch import errors
from ringlaunch._buffer import Buffer
from ringlaunch._client import Client, DaemonInfo, connect
from ringlaunch._core import Launcher, __version__
from ringlaunch._graph import Graph, GraphLaunch
from ringlaunch._hints import (
    bfloat16,
    float8e4nv,
    float8e5,
    float16,
    float32,
    float64,
    int1,
    int8,
    int16,
    int32,
    int64,
    tensor,
    uint8,
    uint16,
    uint32,
    uint64,
)
from ringlaunch._jit import install, jit, load, uninstall, wrap
from ringlaunch._module import Kernel, KernelAttributes, Module, Param
from ringlaunch._region import Region, region
from ringlaunch._stream import Event, Stream, StreamStatus
from ringlaunch._triton_descriptor import TensorDescriptor
from ringlaunch.errors import (
    BadImage,
    Closed,
    CompileError,
    DaemonLost,
    DriverError,
    Error,
    ExecutorLost,
    InternalError,
    InvalidArgument,
    KernelFault,
    LimitReached,
    NotFound,
    OutOfMemory,
    OutOfRange,
    ParamTypeError,
    PermissionDenied,
    ProtocolError,
    Quarantined,
    RecordRefused,
    RingFull,
    StreamStopped,
    Timeout,
    Unsupported,
    VersionMismatch,
)

__all__ = [
    "BadImage",
    "Buffer",
    "Client",
    "Closed",
    "CompileError",
    "DaemonInfo",
    "DaemonLost",
    "DriverError",
    "Error",
    "Event",
    "ExecutorLost",
    "Graph",
    "GraphLaunch",
    "InternalError",
    "InvalidArgument",
    "Kernel",
    "KernelAttributes",
    "KernelFault",
    "Launcher",
    "LimitReached",
    "Module",
    "NotFound",
    "OutOfMemory",
    "OutOfRange",
    "Param",
    "ParamTypeError",
    "PermissionDenied",
    "ProtocolError",
    "Quarantined",
    "RecordRefused",
    "Region",
    "RingFull",
    "Stream",
    "StreamStatus",
    "StreamStopped",
    "TensorDescriptor",
    "Timeout",
    "Unsupported",
    "VersionMismatch",
    "__version__",
    "bfloat16",
    "connect",
    "errors",
    "float8e4nv",
    "float8e5",
    "float16",
    "float32",
    "float64",
    "install",
    "int1",
    "int8",
    "int16",
    "int32",
    "int64",
    "jit",
    "load",
    "region",
    "tensor",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "uninstall",
    "wrap",
]
