// The end of a Triton call that launches in this program itself.
#include "triton_inline.hpp"

#include "errors.hpp"
#include "small_int.hpp"

namespace ringlaunch::python::triton {

namespace {

// As far as it is needed here; github.com/dmlc/dlpack, include/dlpack/dlpack.h, since version 1.3.
struct ExchangeApi {
    struct {
        struct {
            std::uint32_t major, minor;
        } version;
        ExchangeApi* previous;
    } header;
    void* allocator;
    void* tensor_from_object;
    void* tensor_to_object;
    void* borrowed_tensor_from_object;
    int (*current_work_stream)(int device_type, std::int32_t device, void** out);
};
constexpr int kDeviceCuda = 2;

const ExchangeApi* api = nullptr;
PyObject* function = nullptr;  // function(device) -> int
PyObject* name_cuda_stream = nullptr;

bool handle_of(PyObject* number, std::uint64_t& out) {
    if (std::int64_t value = 0; small_int(number, value)) {
        out = static_cast<std::uint64_t>(value);
        return true;
    }
    out = PyLong_AsUnsignedLongLong(number);
    return PyErr_Occurred() == nullptr;
}

}  // namespace

bool current_stream(int device, std::uint64_t& out) {
    if (api != nullptr) [[likely]] {
        void* stream = nullptr;
        if (api->current_work_stream(kDeviceCuda, device, &stream) == 0) [[likely]] {
            out = reinterpret_cast<std::uint64_t>(stream);
            return true;
        }
        if (PyErr_Occurred() == nullptr) set_named_error("DriverError", "asking for the current CUDA stream");
        return false;
    }
    PyObject* number = PyLong_FromLong(device);
    PyObject* answered = number == nullptr ? nullptr : PyObject_CallOneArg(function, number);
    Py_XDECREF(number);
    const bool well = answered != nullptr && PyLong_Check(answered) && handle_of(answered, out);
    if (!well && PyErr_Occurred() == nullptr)
        set_named_error("ParamTypeError", "the current CUDA stream: expected an integer, found " +
                                              short_repr(answered) + " (" + type_name(answered) + ")");
    Py_XDECREF(answered);
    return well;
}

bool named_stream(const std::string& kernel, PyObject* stream, std::uint64_t& out) {
    PyObject* handle = PyLong_Check(stream) ? Py_NewRef(stream) : PyObject_GetAttr(stream, name_cuda_stream);
    const bool well = handle != nullptr && PyLong_Check(handle) && handle_of(handle, out);
    Py_XDECREF(handle);
    if (well) return true;
    PyErr_Clear();
    set_named_error("ParamTypeError", "kernel '" + kernel +
                                          "', stream: expected a torch.cuda.Stream or a CUDA stream's handle "
                                          "(an integer), found " +
                                          short_repr(stream) + " (" + type_name(stream) + ")");
    return false;
}

bool launch_inline(InlineKernel& kernel, const std::string& name, const Dim3& grid, const std::byte* params,
                   std::uint64_t stream) {
    InlineKernel::Turn turn = kernel.begin(stream);
    PyThreadState* const state = PyEval_SaveThread();
    kernel.issue(turn, grid, params, stream);
    PyEval_RestoreThread(state);
    kernel.end(turn);
    if (turn.result == 0) [[likely]]
        return true;
    return refused_inline(name, grid, turn.result);
}

bool refused_inline(const std::string& name, const Dim3& grid, int result, const std::string& more) {
    set_named_error("DriverError", "launching kernel '" + name + "' with a grid of (" +
                                       std::to_string(grid.x) + ", " + std::to_string(grid.y) + ", " +
                                       std::to_string(grid.z) + "): " + inline_error_text(result) + more);
    return false;
}

PyObject* set_streams(PyObject*, PyObject* args) {
    PyObject *capsule = nullptr, *asked = nullptr;
    if (!PyArg_ParseTuple(args, "OO", &capsule, &asked)) return nullptr;
    const ExchangeApi* found = nullptr;
    if (capsule != Py_None) {
        found = static_cast<const ExchangeApi*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
        if (found == nullptr) return nullptr;
        if (found->header.version.major != 1 || found->current_work_stream == nullptr) found = nullptr;
    }
    if (found == nullptr && !PyCallable_Check(asked))
        return PyErr_Format(PyExc_TypeError, "expected a function");
    if (name_cuda_stream == nullptr) name_cuda_stream = PyUnicode_InternFromString("cuda_stream");
    if (name_cuda_stream == nullptr) return nullptr;
    api = found;
    Py_XSETREF(function, Py_NewRef(asked));
    return PyBool_FromLong(found != nullptr);
}

}  // namespace ringlaunch::python::triton
