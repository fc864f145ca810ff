// Whether a kernel, or a tuner, runs as its type does: Triton's `kernel[grid](...)` is `kernel.run(...)`, and
// a program may put another `run` into the object, or into the type.
#pragma once

#include <Python.h>

#include <cstdint>

namespace ringlaunch::python::triton {

// Another number after each change; 0: there is none, and the dictionary has to be looked at.
inline std::uint64_t version_of([[maybe_unused]] PyObject* dict) noexcept {
#if PY_VERSION_HEX < 0x030C0000
    return reinterpret_cast<PyDictObject*>(dict)->ma_version_tag;
#else
    return 0;
#endif
}

class OwnRun {
  public:
    // `dict`: of an object of `type`. `usual`: what stands as `run` in the type where nobody has put another.
    bool is_usual(PyTypeObject* type, PyObject* dict, PyObject* usual) noexcept {
        if (type->tp_version_tag == type_seen_ && version_of(dict) == dict_seen_) [[likely]]
            return true;
        return look(type, dict, usual);
    }

    // The same of an object whose type nobody changes.
    bool is_usual_of(PyObject* object, PyObject* dict, PyObject* usual) noexcept {
        if (version_of(dict) == dict_seen_) [[likely]]
            return true;
        return look(Py_TYPE(object), dict, usual);
    }

  private:
    static constexpr unsigned kNever = ~0U;

    bool look(PyTypeObject* type, PyObject* dict, PyObject* usual) noexcept;

    unsigned type_seen_ = kNever;  // as its version
    std::uint64_t dict_seen_ = ~std::uint64_t{0};
};

// What stands as `run` in a type, borrowed; null: nothing.
PyObject* usual_run(PyTypeObject* type) noexcept;

// `object[grid]` as Triton has it: the call of whatever is the object's `run`.
PyObject* subscript_of_run(PyObject* object, PyObject* grid);

// triton_subscript_of_run(function): that, of Triton.
PyObject* set_subscript_of_run(PyObject*, PyObject* function);

// False: a Python error is set.
bool intern_run();

}  // namespace ringlaunch::python::triton
