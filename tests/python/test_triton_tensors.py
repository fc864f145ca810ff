"""Tensors of this process as arguments of Triton kernels: what the call path reads of them, and that its key of them
holds at least as much as Triton's own specialization. Without torch the part of it that needs torch is skipped."""

import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from triton_support import triton

import ringlaunch as rl

tl = pytest.importorskip("triton.language")

from triton.compiler import make_backend  # noqa: E402
from triton.runtime import jit as triton_jit  # noqa: E402

from ringlaunch import _buffer, _triton_tensor  # noqa: E402

TENSOR = 8  # of triton_key.hpp's kinds of leaves


@triton.jit
def plain(a, b):
    pass


@triton.jit(do_not_specialize=["a"], do_not_specialize_on_alignment=["b"])
def unspecialized(a, b):
    pass


@triton.jit
def annotated(a: tl.const, b: tl.pointer_type(tl.float16)):
    pass


KERNELS = {kernel.__name__: kernel for kernel in (plain, unspecialized, annotated)}


class Tensor:
    """All that Triton asks for."""

    def __init__(self, address, dtype="float32"):
        self.address, self.dtype = address, dtype

    def data_ptr(self):
        return self.address


class Wrapped(Tensor):
    data = device = None
    shape = (4,)


class CudaArray:
    def __init__(self, address, typestr="<f4"):
        self.interface = {"shape": (4,), "typestr": typestr, "data": (address, False), "version": 3}

    @property
    def __cuda_array_interface__(self):
        return self.interface


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="torch is not installed: pip install torch")


@pytest.fixture(scope="module")
def wrapped():
    return {name: rl.wrap(kernel, mode="inline") for name, kernel in KERNELS.items()}


@pytest.fixture(scope="module")
def binders():
    backend = make_backend(triton.backends.compiler.GPUTarget("cuda", 90, 32))
    return {
        name: triton_jit.create_function_from_signature(kernel.signature, kernel.params, backend)
        for name, kernel in KERNELS.items()
    }


def read(kernel, *args, **keywords):
    """Key, address of the first argument, device, and which arguments the driver has to be asked about."""
    found = kernel._key(args, keywords)
    if found is None:
        return None
    key, kinds, leaves, device, checks = found
    assert kinds[0] == TENSOR
    return key, int.from_bytes(leaves[:8], "little"), device, checks


def triton_says(binder, *args):
    _, specialization, options = binder(*args)
    return tuple(specialization), tuple(sorted(options.items()))


def test_an_object_with_an_address_is_read_as_triton_reads_it(wrapped):
    kernel = wrapped["plain"]
    key, address, device, checks = read(kernel, Tensor(4096), 0)
    assert (address, device, checks) == (4096, -1, (0,))
    assert read(kernel, Tensor(8192), 0)[0] == key != read(kernel, Tensor(4097), 0)[0]
    assert len({read(kernel, Tensor(4096, name), 0)[0] for name in _buffer._ELEMENT_NAMES}) == len(
        _buffer._ELEMENT_NAMES
    )
    assert read(kernel, Tensor(4096, tl.float32), 0)[0] == read(kernel, Tensor(4096, "fp32"), 0)[0] == key
    assert (
        read(kernel, triton.reinterpret(Wrapped(4096), tl.float8e5), 0)[0]
        == read(kernel, Tensor(4096, "float8_e5m2"), 0)[0]
    )


def test_the_null_pointer_is_nothing_to_ask_the_driver_about(wrapped):
    assert read(wrapped["plain"], Tensor(0), Tensor(16))[1:] == (0, -1, (1,))


def test_tensors_in_tuples_are_read(wrapped):
    kernel = wrapped["plain"]
    found = kernel._key(((Tensor(4096), (CudaArray(4097), 3)), Tensor(16)), {})
    assert found[1] == bytes((TENSOR, TENSOR, 3, TENSOR)) and found[4] == (0, 1, 3)
    assert [int.from_bytes(found[2][at : at + 8], "little") for at in range(0, 32, 8)] == [4096, 4097, 3, 16]


class Memory:
    __slots__ = ("ptr",)

    def __init__(self, ptr):
        self.ptr = ptr


class CupyArray:
    """As CuPy's are: attributes that run no Python code, behind an interface that would."""

    __module__ = "cupy"
    __slots__ = ("asked", "data", "dtype")

    def __init__(self, address, dtype):
        self.data, self.dtype, self.asked = Memory(address), np.dtype(dtype), 0

    @property
    def __cuda_array_interface__(self):
        self.asked += 1
        return {"shape": (4,), "typestr": self.dtype.str, "data": (self.data.ptr, False), "version": 3}


def test_arrays_of_cupy_are_read_without_python_code(wrapped):
    kernel = wrapped["plain"]
    for name in ("float32", "int8", "uint64", "bool"):
        array = CupyArray(4096, name)
        assert read(kernel, array, 0) == read(kernel, CudaArray(4096, np.dtype(name).str), 0) is not None
        array.data = Memory(4098)
        assert read(kernel, array, 0) == read(kernel, CudaArray(4098, np.dtype(name).str), 0)
        assert array.asked == 0
    assert read(kernel, CupyArray(4096, "complex64"), 0) is None
    pair = CupyArray(4096, "float16"), 3
    assert read(kernel, pair, 0) == read(kernel, (CudaArray(4096, "<f2"), 3), 0)


def test_the_cuda_array_interface_is_read(wrapped):
    kernel = wrapped["plain"]
    for name in ("bool", "int8", "uint16", "int64", "float16", "float32", "float64"):
        array = CudaArray(4096, np.dtype(name).str)
        assert read(kernel, array, 0) == read(kernel, Tensor(4096, name), 0)
    for typestr in (">f4", "<c8", "<M8[s]", "nonsense", "<V2"):
        assert read(kernel, CudaArray(4096, typestr), 0) is None


def test_an_array_is_to_triton_what_stands_for_it(wrapped, binders):
    array, pair = CudaArray(4098, "<f2"), (1, (CudaArray(4096), 2))
    standing = _triton_tensor.as_triton_takes(array)
    assert standing.data_ptr() == 4098 and standing.dtype == "float16"
    assert triton_says(binders["plain"], standing, 2) == triton_says(binders["plain"], Tensor(4098, "float16"), 2)
    assert _triton_tensor.as_triton_takes(pair)[1][0].data_ptr() == 4096
    for same in (3, None, (1, 2), Tensor(4), rl):
        assert _triton_tensor.as_triton_takes(same) is same


def test_what_an_object_answers_is_asked_each_time(wrapped):
    tensor = Tensor(4096)
    keys = set()
    for tensor.address, tensor.dtype in ((4096, "float32"), (4097, "float32"), (4097, "float16"), (0, "float16")):
        key, address, *_ = read(wrapped["plain"], tensor, 0)
        assert address == tensor.address
        keys.add(key)
    assert len(keys) == 4


def test_an_object_that_cannot_answer_has_no_key(wrapped):
    class Broken:
        dtype = "float32"

        def data_ptr(self):
            raise RuntimeError("no memory")

    class NoType:
        def data_ptr(self):
            return 4096

    class Array:
        __cuda_array_interface__ = None

    kernel = wrapped["plain"]
    for value in (Broken(), NoType(), Array(), Tensor("text"), Tensor(4096, "complex64"), Tensor(4096, []), object()):
        assert read(kernel, value, 0) is None


@pytest.mark.parametrize("address", [2**64, 2**64 + 4096, -1, -4096, 2**70, np.int64(4096), True, 4096.0])
def test_an_address_that_is_no_integer_of_64_bits_is_for_triton_to_judge(wrapped, address):
    kernel = wrapped["plain"]
    assert read(kernel, Tensor(address), 0) is None
    assert kernel._key(((Tensor(address), 1), 0), {}) is None
    if not isinstance(address, np.int64 | bool):  # integers, where the object is one that Triton does not know
        assert read(kernel, CudaArray(address), 0) is read(kernel, CupyArray(address, "float32"), 0) is None


def test_addresses_of_64_bits_are_read(wrapped):
    kernel = wrapped["plain"]
    for address in (2**63, 2**64 - 16, 2**64 - 1):
        for made in (Tensor, CudaArray, lambda address: CupyArray(address, "float32")):
            assert read(kernel, made(address), 0)[1] == address
    assert read(kernel, CudaArray(np.int64(4096)), 0)[1] == 4096


def test_an_interrupt_while_an_object_is_asked_is_an_interrupt(wrapped):
    class Slow(Tensor):
        def data_ptr(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read(wrapped["plain"], Slow(4096), 0)


def test_a_type_that_changes_is_looked_at_again(wrapped):
    class Changing:
        dtype = "float32"

    kernel, value = wrapped["plain"], Changing()
    assert read(kernel, value, 0) is None
    Changing.data_ptr = lambda self: 4096
    assert read(kernel, value, 0)[1] == 4096
    Changing.data_ptr = lambda self: 8192
    assert read(kernel, value, 0)[1] == 8192
    del Changing.data_ptr
    assert read(kernel, value, 0) is None


def test_many_types_replace_each_other(wrapped):
    types = [type(f"Tensor{i}", (Tensor,), {}) for i in range(40)]
    for _ in range(2):
        for i, each in enumerate(types):
            assert read(wrapped["plain"], each(16 * i), 0)[1] == 16 * i


def test_the_daemon_reads_none(null):
    with null.connect() as client:
        kernel = rl.wrap(plain, mode="daemon")
        assert kernel._key((Tensor(4096), 0), {}) is None
        assert kernel._key((client.zeros(4), 0), {}) is not None


def test_a_kernel_without_a_mode_reads_both(null):
    with null.connect() as client:
        kernel = rl.wrap(plain)
        assert read(kernel, Tensor(4096), 0)[1] == 4096
        assert kernel._key((client.zeros(4), 0), {})[1][:1] != bytes((TENSOR,))
        with pytest.raises(rl.ParamTypeError, match=r"parameter 'a'.*Tensor.*client.array"):
            kernel[(1,)](Tensor(4096), client.zeros(4))


# ---- torch ----


def test_torchs_types_are_those_of_buffers(torch, wrapped):
    kernel = wrapped["plain"]
    for name in _buffer._ELEMENT_NAMES:
        tensor = torch.zeros(8, dtype=getattr(torch, name))
        key, address, device, checks = read(kernel, tensor, 0)
        assert address == tensor.data_ptr() and (device, checks) == (-1, (0,))
        assert key == read(kernel, Tensor(address, name), 0)[0]


def test_torchs_views_are_read_where_they_begin(torch, wrapped):
    whole = torch.zeros(64)
    parts = [whole[1:], whole[4:], whole[64:], whole[5], whole.view(8, 8)[3, 2:], whole[::2], whole.expand(2, 64)]
    parts += [torch.zeros(()), torch.empty(0), torch.zeros(8, requires_grad=True), torch.nn.Parameter(whole[3:])]
    for part in parts:
        key, address, _, checks = read(wrapped["plain"], part, 0)
        assert address == part.data_ptr() and checks == ((0,) if address else ())
        assert key == read(wrapped["plain"], Tensor(address), 0)[0]


def torch_tensors(torch):
    """Tensors of every kind that torch has, each with what it is called."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch._subclasses.functional_tensor import FunctionalTensor, FunctionalTensorMode

    class Plain(torch.Tensor):
        pass

    class Elsewhere(torch.Tensor):
        def data_ptr(self):
            return 48

    class Typed(torch.Tensor):
        @property
        def dtype(self):
            return torch.float16

    class Watching(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            if function is torch.Tensor.data_ptr:
                return 80
            return super().__torch_function__(function, types, args, kwargs or {})

    class OfParameter(torch.nn.Parameter):
        pass

    class Dispatching(torch.Tensor):
        @staticmethod
        def __new__(cls, inner):
            return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

        @classmethod
        def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
            raise AssertionError("nothing is computed here")

    whole = torch.zeros(64)
    found = {"whole": whole, "meta": torch.empty(8, device="meta"), "part": whole[1:], "empty": torch.empty(0)}
    found["zero-dimensional"] = torch.zeros((), dtype=torch.bfloat16)
    for name in sorted({str(each) for each in vars(torch).values() if isinstance(each, torch.dtype)}):
        try:
            found[name] = torch.empty(8, dtype=getattr(torch, name.split(".")[-1]))
        except Exception:
            continue  # torch has no such tensors
    for kind in (Plain, Elsewhere, Typed, Watching):
        found[kind.__name__] = torch.zeros(8).as_subclass(kind)
    found["OfParameter"], found["Parameter"] = OfParameter(whole[2:]), torch.nn.Parameter(whole)
    found["Buffer"] = torch.nn.Buffer(whole) if hasattr(torch.nn, "Buffer") else whole
    found["Dispatching"] = Dispatching(whole)
    found["negated"], found["conjugated"] = torch._neg_view(whole), torch.zeros(4, dtype=torch.complex64).conj()
    found["sparse"], found["functional"] = whole.view(8, 8).to_sparse(), torch._to_functional_tensor(torch.zeros(8))
    found["cow"] = torch._lazy_clone(whole)
    found["nested"] = torch.nested.nested_tensor([torch.zeros(3)])
    with FakeTensorMode():
        found["fake"] = torch.empty(8)
    with FunctionalTensorMode():
        found["functional, in Python"] = FunctionalTensor.to_functional(torch.zeros(8))
    return found


def test_every_kind_of_tensor_is_to_the_key_what_it_is_to_triton(torch, wrapped, binders):
    """Each that has a key has one that Triton's specialization agrees with; what Triton refuses has none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensors = torch_tensors(torch)
        for name, tensor in tensors.items():
            for kernel, of in wrapped.items():
                try:
                    said = triton_says(binders[kernel], tensor, 0)
                    address = tensor.data_ptr()
                except Exception:
                    assert of._key((tensor, 0), {}) is None, f"{kernel}({name}), which Triton refuses"
                    continue
                if (found := of._key((tensor, 0), {})) is None:
                    continue
                assert int.from_bytes(found[2][:8], "little") == address, f"{kernel}({name})"
                # The same, as an object of which nothing but Triton's questions is known.
                same = Tensor(address, tensor.dtype)
                assert triton_says(binders[kernel], same, 0) == said
                assert found[0] == of._key((same, 0), {})[0], f"{kernel}({name})"
    usual = ["whole", "part", "empty", "zero-dimensional", "Parameter", "OfParameter", "Plain", "torch.int8", "cow"]
    usual += ["torch.bfloat16", "torch.float8_e4m3fn", "torch.bool", "torch.uint16", "Elsewhere", "Watching", "Typed"]
    for name in usual:
        assert wrapped["plain"]._key((tensors[name], 0), {}) is not None, name


def test_tensors_under_a_transformation_have_no_key(torch, wrapped):
    seen = []

    def look(x):
        seen.append(wrapped["plain"]._key((x, 0), {}))
        return x * 1

    torch.vmap(look)(torch.zeros(3, 4))
    torch.func.grad(lambda x: look(x).sum())(torch.zeros(4))
    assert seen == [None, None]


def test_a_lazy_copy_is_a_copy_once_it_is_read(torch, wrapped):
    whole = torch.zeros(16)
    lazy = torch._lazy_clone(whole)
    _, address, *_ = read(wrapped["plain"], lazy, 0)
    assert address == lazy.data_ptr() != whole.data_ptr()


def test_an_attribute_of_torchs_tensors_that_is_replaced_is_heeded(torch, wrapped, monkeypatch):
    kernel, tensor = wrapped["plain"], torch.zeros(8)
    assert read(kernel, tensor, 0)[1] == tensor.data_ptr()
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "data_ptr", lambda self: 32)
        assert read(kernel, tensor, 0)[1] == 32
    assert read(kernel, tensor, 0)[1] == tensor.data_ptr()


def test_tensors_are_found_again_by_their_library_where_it_offers_its_functions_by_number(torch, wrapped):
    import ctypes

    address = ctypes.pythonapi.PyCapsule_GetPointer
    address.restype, address.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    number = address(torch.Tensor.__dlpack_c_exchange_api__, b"dlpack_exchange_api")

    older = type("Older", (torch.Tensor,), {"__c_dlpack_exchange_api__": number, "__dlpack_c_exchange_api__": None})
    tensor = torch.zeros(8).as_subclass(older)
    assert read(wrapped["plain"], tensor, 0)[1] == tensor.data_ptr()


def compare(torch, kernel, binder, weaken=lambda key: key):
    """Calls at random; those of one key are one to Triton. Gives how many keys there were."""
    whole = {
        name: torch.zeros(256, dtype=torch.uint8).view(getattr(torch, name)) for name in _buffer._ELEMENT_NAMES[1:]
    }
    whole["bool"] = torch.zeros(256, dtype=torch.bool)

    class Own(torch.Tensor):
        pass

    class Elsewhere(torch.Tensor):
        def data_ptr(self):
            return super().data_ptr() + 1

    kinds = [lambda x: x, torch.nn.Parameter, lambda x: x.as_subclass(Own), lambda x: x.as_subclass(Elsewhere)]
    kinds += [lambda x: Tensor(x.data_ptr(), x.dtype), lambda x: (x, x.view(-1)[:0]), lambda x: (x, (1, x))]
    kinds.append(lambda x: CudaArray(x.data_ptr(), np.dtype(str(x.dtype).split(".")[-1]).str))

    @st.composite
    def tensors(draw):
        dtype = draw(st.sampled_from(sorted(whole)))
        tensor = whole[dtype]
        begin = draw(st.integers(0, len(tensor) - 1))
        tensor = tensor[begin : begin + draw(st.integers(0, 2))]
        if len(tensor) and draw(st.booleans()):
            tensor = tensor[0]
        kind = draw(st.sampled_from(kinds))
        if kind is kinds[-1] and dtype not in np.sctypeDict:
            return tensor
        if kind is torch.nn.Parameter:
            return kind(tensor, requires_grad=False)
        return kind(tensor)

    values = st.one_of(tensors(), st.sampled_from([None, 1, 16, 4096, 2.0, True]))
    seen = {}

    @settings(max_examples=800, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(values, values, st.sampled_from([{}, {"num_warps": 8}]))
    def check(a, b, keywords):
        args = tuple(map(_triton_tensor.as_triton_takes, (a, b)))
        try:
            _, specialization, options = binder(*args, **keywords)
        except Exception:
            assert kernel._key((a, b), keywords) is None
            return
        key = kernel._key((a, b), keywords)
        assert key is not None
        said = (specialization, sorted(options.items()))
        assert seen.setdefault(weaken(key[0]), said) == said, f"{(a, b)} has the key of others"

    check()
    return len(seen)


@pytest.mark.parametrize("name", KERNELS)
def test_random_tensors_of_one_key_are_one_to_triton(name, torch, wrapped, binders):
    assert compare(torch, wrapped[name], binders[name]) > 100


@pytest.mark.parametrize("bit", [0, 1, 2, 3])
def test_a_key_that_holds_less_of_tensors_would_be_found(bit, torch, wrapped, binders):
    with pytest.raises(AssertionError, match="has the key of others"):  # alignment, and parts of the type
        compare(torch, wrapped["plain"], binders["plain"], lambda key: bytes(byte & ~(1 << bit) for byte in key))


def test_reading_a_tensor_leaks_nothing(torch, wrapped):
    import sys

    kernel, tensor = wrapped["plain"], torch.zeros(8, dtype=torch.int8)
    read(kernel, tensor, 0)
    before = sys.getrefcount(tensor), sys.getrefcount(torch.int8), sys.getrefcount(torch.Tensor)
    for _ in range(100):
        read(kernel, tensor, 0)
    assert (sys.getrefcount(tensor), sys.getrefcount(torch.int8), sys.getrefcount(torch.Tensor)) == before


DESCRIPTOR = 9  # of triton_key.hpp's kinds of leaves


def test_descriptors_of_one_key_are_one_to_triton_and_their_leaves_are_what_a_launch_passes(torch, wrapped, binders):
    descriptor = pytest.importorskip("triton.tools.tensor_descriptor").TensorDescriptor
    kernel, seen = wrapped["plain"], {}
    for dtype in (torch.float32, torch.float16, torch.int8):
        for block in ([16], [16, 32], [32, 16]):
            for shape in ([64], [64, 32], [48, 80]):
                if len(shape) != len(block):
                    continue
                for padding in ("zero", "nan") if dtype.is_floating_point else ("zero",):
                    base = torch.zeros(*(2 * side for side in shape), dtype=dtype)
                    strides = list(base.stride())
                    given = descriptor(base, shape, strides, block, padding)
                    key, kinds, leaves, _, checks = kernel._key((given, 16), {})
                    words = [int.from_bytes(leaves[i : i + 8], "little") for i in range(0, len(leaves), 8)]
                    assert words == [base.data_ptr(), *shape, *strides, 16]
                    assert kinds[0] == DESCRIPTOR and checks == (0,)  # a tensor of the host: the driver is asked
                    said = (triton_says(binders["plain"], given, 16), padding)
                    assert seen.setdefault(key, said) == said
    assert len(seen) == 3 * 3 + 2 * 3  # elements and blocks, and paddings of floating numbers


def test_what_is_no_plain_descriptor_has_no_key(torch, wrapped):
    descriptor = pytest.importorskip("triton.tools.tensor_descriptor").TensorDescriptor

    class Own(descriptor):
        pass

    base = torch.zeros(64, 64)

    def made(kind=descriptor, **changes):
        one = kind(base, [64, 64], [64, 1], [16, 16])
        for name, value in changes.items():
            setattr(one, name, value)
        return one

    kernel = wrapped["plain"]
    assert kernel._key((made(), 0), {}) is not None
    assert kernel._key((made(base=Tensor(4096)), 0), {}) is not None  # of what has data_ptr() alone
    for other in (
        made(Own),
        made(base=None),
        made(shape=[64]),
        made(shape=[2**31, 64]),
        made(shape=[64.0, 64]),
        made(strides=[2**64, 1]),
        made(block_shape="ab"),
        made(padding=3),
        made(shape=[1] * 6, strides=[1] * 6, block_shape=[1] * 6),
    ):
        assert kernel._key((other, 0), {}) is None


def with_other_functions(torch, borrow):
    """A type of torch's tensors whose exchange API asks `borrow` what a tensor is."""
    import ctypes

    class Api(ctypes.Structure):
        _fields_ = [("version", ctypes.c_uint32 * 2), ("pointers", ctypes.c_void_p * 4), ("borrow", ctypes.c_void_p)]
        _fields_ += [("stream", ctypes.c_void_p)]

    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    api = Api.from_buffer_copy(
        Api.from_address(pointer(torch.Tensor.__dlpack_c_exchange_api__, b"dlpack_exchange_api"))
    )
    function = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_void_p)
    theirs = function(api.borrow)
    ours = function(lambda tensor, out: borrow(theirs, tensor, out))
    api.borrow = ctypes.cast(ours, ctypes.c_void_p)
    made = type("Tensor", (torch.Tensor,), {"__module__": "torch", "__c_dlpack_exchange_api__": ctypes.addressof(api)})
    made.__dlpack_c_exchange_api__ = None
    made.kept = api, ours
    return made


def test_torchs_tensors_are_read_by_its_own_functions_where_these_say_the_same(torch, wrapped):
    import ctypes

    asked = []

    def borrow(theirs, tensor, out):
        asked.append(tensor)
        return theirs(tensor, out)

    def borrow_another(theirs, tensor, out):
        answer = borrow(theirs, tensor, out)
        ctypes.c_uint64.from_address(out).value += 64  # its address
        return answer

    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 11):
        pytest.skip("this torch has its tensors elsewhere")
    kernel, tensors = wrapped["plain"], [torch.zeros(8), torch.zeros(8, dtype=torch.int8), torch.zeros(9)[1:]]
    kind = with_other_functions(torch, borrow)
    for i, tensor in enumerate(tensors):
        assert read(kernel, tensor.as_subclass(kind), 0) == read(kernel, tensor, 0)
        assert len(asked) == 1, i  # when its type was looked at
    other = with_other_functions(torch, borrow_another)
    for tensor in tensors:
        before = len(asked)
        assert read(kernel, tensor.as_subclass(other), 0)[1] == tensor.data_ptr() + 64
        assert len(asked) > before


def test_what_a_tensor_is_now_counts(torch, wrapped):
    kernel, tensor = wrapped["plain"], torch.zeros(8)
    for change in (
        lambda: tensor.resize_(1 << 16),
        lambda: setattr(tensor, "data", torch.zeros(8, dtype=torch.float16)),
        lambda: tensor.set_(torch.zeros(8, dtype=torch.float16)[3:]),
        lambda: tensor.untyped_storage().resize_(0),
    ):
        change()
        key, address, *_ = read(kernel, tensor, 0)
        assert address == tensor.data_ptr()
        assert key == read(kernel, Tensor(address, str(tensor.dtype).removeprefix("torch.")), 0)[0]
