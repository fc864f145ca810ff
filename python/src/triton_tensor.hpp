// Device memory that is not ringlaunch's, as an argument of a Triton kernel: how an object says what it is.
//
// Five ways, by the object's type, which is looked at once:
// - exchange: the C functions that tensor libraries offer one another (DLPack's exchange API, of torch and
//   others); of torch's own tensors, where that can be had, what is quicker (torch_tensor.hpp). No Python
//   code runs. So a `data_ptr` that was set on one object is not seen, which Triton would call: whether an
//   object has attributes of its own is nothing that CPython tells without making a dict for it.
// - method: `data_ptr()` and `dtype`, which is all that Triton itself asks for. They may be Python code. An
//   address that is no plain integer of 64 bits is Triton's to judge.
// - interface: `__cuda_array_interface__`, likewise.
// - attributes: of CuPy's own arrays, what that interface is made of, for a sixth of the time: `data.ptr` and
//   `dtype`, which are attributes of C.
// - none of these.
//
// Asking in the second and third way comes before a call's key is begun (ask()), because Python code may
// change what was read before.
#pragma once

#include <Python.h>

#include <cstdint>
#include <vector>

#include "torch_tensor.hpp"

namespace ringlaunch::python::triton {

enum class Reading : std::uint8_t { unknown, exchange, method, interface, attributes, none };

struct ExchangeApi;

// How objects of a type are read, as long as the type stays as it is.
struct TensorType {
    PyTypeObject* type = nullptr;  // borrowed: with its version it is never another's
    unsigned int version = 0;
    Reading reading = Reading::unknown;
    const ExchangeApi* api = nullptr;
    bool of_torch = false;  // read_torch() reads them
    // dtypes of the library that DLPack does not tell from others of 8 bits, and what answers an object's
    // own; null: it has no such.
    PyObject *signed_8 = nullptr, *unsigned_8 = nullptr;  // strong
    const PyGetSetDef* dtype = nullptr;

    bool is_of(PyTypeObject* other) const noexcept {
        return type == other && version == other->tp_version_tag && version != 0;
    }
};

extern TensorType usual_tensor;  // most arguments are of it
extern TensorType other_tensor;  // and of this one, then: torch's Parameter

// The type, if it was looked at; else one whose `reading` is unknown. Until the next ask().
const TensorType& tensor_type(PyTypeObject* type) noexcept;

// Reads an object whose reading is `exchange`. False: it has no element that DLPack knows, or no memory of
// its own; no Python error is set.
bool read_by_api(PyObject* object, const TensorType& type, TensorView& out) noexcept;
inline bool read_exchange(PyObject* object, const TensorType& type, TensorView& out) noexcept {
    return type.of_torch ? read_torch(object, out) : read_by_api(object, type, out);
}

// The same where the reading is `attributes`. False, too, for an element type that was not asked about yet.
bool read_attributes(PyObject* object, TensorView& out) noexcept;

// Objects that were asked.
class Asked {
  public:
    // Looks at the types of these objects, and of those in tuples, and asks each whose answer may be Python
    // code. False: a Python error is set. An object that cannot answer is left out: Triton's own code says
    // why.
    bool ask(PyObject* const* objects, std::size_t count, int depth = 0);
    const TensorView* find(PyObject* object) const noexcept {
        for (const One& each : found_)
            if (each.object == object) return &each.view;
        return nullptr;
    }

  private:
    struct One {
        PyObject* object;  // borrowed: an argument of the call
        TensorView view;
    };
    bool ask_one(PyObject* object);
    std::vector<One> found_;
};

// triton_tensors(by_dtype, by_typestr): functions that answer the number of an element type, by what an
// object's `dtype` is and by what `__cuda_array_interface__` calls it.
PyObject* set_tensors(PyObject*, PyObject* args);

}  // namespace ringlaunch::python::triton
