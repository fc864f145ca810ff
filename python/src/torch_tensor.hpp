// A tensor of torch, read through the C functions that torch keeps for compiled models
// (torch/csrc/inductor/aoti_torch/c/shim.h): a sixth of the instructions of its DLPack exchange API, which
// takes the interpreter lock that the caller has.
//
// They want the at::Tensor, which stands right behind the head of the Python object: its `_cdata` says what
// that at::Tensor holds, so one object tells whether it does. A torch that has it elsewhere, as older ones,
// or none of the functions, is read by the exchange API.
#pragma once

#include <Python.h>

#include <array>
#include <cstddef>
#include <cstdint>

namespace ringlaunch::python::triton {

struct TensorView {
    std::uint64_t address = 0;
    std::uint8_t element = 0;  // as of BufferObject; 0: one that Triton does not know
    int device = kUnknown;     // number of its CUDA device

    static constexpr int kUnknown = -1;  // only the driver can say whether a kernel may use the address
};

// torch's functions; each answers 0, or another number where the tensor has no such thing.
struct TorchFunctions {
    int (*data)(void* tensor, void** out) = nullptr;
    int (*dtype)(void* tensor, std::int32_t* out) = nullptr;
    int (*device_type)(void* tensor, std::int32_t* out) = nullptr;
    int (*device_index)(void* tensor, std::int32_t* out) = nullptr;
    std::int32_t cuda = -1;                    // that device type
    std::array<std::uint8_t, 128> elements{};  // by dtype
};
extern TorchFunctions torch_functions;

// Reads an object of a type that has_torch_tensor(). False: it has no memory of its own, or elements that
// Triton does not know; no Python error is set. Runs no Python code.
inline bool read_torch(PyObject* object, TensorView& out) noexcept {
    const TorchFunctions& torch = torch_functions;
    void* const tensor = object + 1;
    std::int32_t dtype = 0, device_type = 0, device = 0;
    void* data = nullptr;
    if (torch.dtype(tensor, &dtype) != 0 || static_cast<std::uint32_t>(dtype) >= torch.elements.size() ||
        torch.elements[static_cast<std::size_t>(dtype)] == 0 ||
        torch.device_type(tensor, &device_type) != 0 || torch.device_index(tensor, &device) != 0 ||
        torch.data(tensor, &data) != 0) [[unlikely]]
        return false;
    out.address = reinterpret_cast<std::uint64_t>(data);
    out.element = torch.elements[static_cast<std::size_t>(dtype)];
    out.device = device_type == torch.cuda ? device : TensorView::kUnknown;
    return true;
}

// What a tensor is, in torch's numbers.
struct TorchKind {
    std::int32_t dtype = 0, device_type = 0, device = 0;
};
inline bool torch_kind(PyObject* object, TorchKind& out) noexcept {
    const TorchFunctions& torch = torch_functions;
    void* const tensor = object + 1;
    return torch.dtype(tensor, &out.dtype) == 0 && torch.device_type(tensor, &out.device_type) == 0 &&
           torch.device_index(tensor, &out.device) == 0;
}
// read_torch() of a tensor that is of this kind. False: it is of another.
[[gnu::always_inline]] inline bool read_torch_as(PyObject* object, const TorchKind& kind,
                                                 std::uint64_t& address) noexcept {
    const TorchFunctions& torch = torch_functions;
    void* const tensor = object + 1;
    std::int32_t dtype = 0, device_type = 0, device = 0;
    void* data = nullptr;
    if (torch.dtype(tensor, &dtype) != 0 || dtype != kind.dtype ||
        torch.device_type(tensor, &device_type) != 0 || device_type != kind.device_type ||
        torch.device_index(tensor, &device) != 0 || device != kind.device || torch.data(tensor, &data) != 0)
        [[unlikely]]
        return false;
    address = reinterpret_cast<std::uint64_t>(data);
    return true;
}

// Has the object its at::Tensor where read_torch() looks for it? `cdata`: what stands as `_cdata` in its
// type. May run Python code, but sets no error.
bool has_torch_tensor(PyObject* object, PyObject* cdata);

}  // namespace ringlaunch::python::triton
