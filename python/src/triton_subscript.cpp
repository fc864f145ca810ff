#include "triton_subscript.hpp"

#include <structmember.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "errors.hpp"
#include "triton_call.hpp"
#include "triton_grid.hpp"
#include "triton_kernel.hpp"

namespace ringlaunch::python::triton {

PyTypeObject* grid_type = nullptr;

namespace {

PyObject* make_grid(PyObject* kernel, PyObject* object, const Dim3& dim, bool plain) {
    auto* made = reinterpret_cast<GridObject*>(grid_type->tp_alloc(grid_type, 0));
    if (made == nullptr) return nullptr;
    made->vectorcall = plain ? grid_call : asking_grid_call;
    made->kernel = Py_NewRef(kernel);
    made->object = Py_NewRef(object);
    made->dim = dim;
    made->plain = plain;
    return reinterpret_cast<PyObject*>(made);
}

int grid_traverse(PyObject* self, visitproc visit, void* arg) {
    const auto* grid = reinterpret_cast<GridObject*>(self);
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(grid->kernel);
    Py_VISIT(grid->object);
    return 0;
}

int grid_clear(PyObject* self) {
    auto* grid = reinterpret_cast<GridObject*>(self);
    if (!grid->plain) Py_SETREF(grid->object, Py_NewRef(Py_None));
    return 0;  // `kernel` is what a call needs: its own references are cleared instead
}

void grid_dealloc(PyObject* self) {
    PyObject_GC_UnTrack(self);
    auto* grid = reinterpret_cast<GridObject*>(self);
    Py_CLEAR(grid->object);
    Py_CLEAR(grid->kernel);
    PyTypeObject* type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

PyMemberDef grid_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(GridObject, vectorcall), READONLY, nullptr},
    {nullptr, 0, 0, 0, nullptr},
};

PyType_Slot grid_slots[] = {
    {Py_tp_doc, const_cast<char*>("A Triton kernel with its grid: calling it launches.")},
    {Py_tp_new, reinterpret_cast<void*>(refuse_new)},
    {Py_tp_dealloc, reinterpret_cast<void*>(grid_dealloc)},
    {Py_tp_traverse, reinterpret_cast<void*>(grid_traverse)},
    {Py_tp_clear, reinterpret_cast<void*>(grid_clear)},
    {Py_tp_call, reinterpret_cast<void*>(PyVectorcall_Call)},
    {Py_tp_members, grid_members},
    {0, nullptr},
};

std::size_t slot_of(const Dim3& dim, Py_ssize_t sides) {
    const std::uint32_t hash = dim.x * 0x9e3779b1u ^ dim.y * 0xc2b2ae3du ^ dim.z * 0x27d4eb2fu ^
                               static_cast<std::uint32_t>(sides) << 16;
    return (hash >> 16) % kCachedGrids;
}

[[gnu::noinline]] PyObject* find_grid(Core& core, PyObject* self, PyObject* key) {
    if (!core.slow) return set_named_error("InternalError", "a Triton kernel that was not bound");
    Dim3 dim{1, 1, 1};
    if (!read_plain_grid(key, dim)) return make_grid(self, key, dim, false);
    GridObject*& cached = core.grids[slot_of(dim, PyTuple_GET_SIZE(key))];
    if (cached != nullptr && cached->dim.x == dim.x && cached->dim.y == dim.y && cached->dim.z == dim.z &&
        PyTuple_GET_SIZE(cached->object) == PyTuple_GET_SIZE(key)) [[likely]] {
        core.last_grid = cached;
        return Py_NewRef(reinterpret_cast<PyObject*>(cached));
    }
    PyObject* made = make_grid(self, key, dim, true);
    if (made == nullptr) return nullptr;
    GridObject* old = std::exchange(cached, reinterpret_cast<GridObject*>(Py_NewRef(made)));
    core.last_grid = cached;
    Py_XDECREF(reinterpret_cast<PyObject*>(old));
    return made;
}

// Whether it is one of the calling code's constants, as most are.
[[gnu::always_inline]] inline bool is_last(const Core& core, PyObject* key) noexcept {
    return core.last_grid != nullptr && core.last_grid->object == key;
}

}  // namespace

PyType_Spec grid_spec = {
    "ringlaunch._core.TritonGrid", sizeof(GridObject), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    grid_slots};

PyObject* grid_of(PyObject* self, PyObject* key) {
    Core& core = *as_kernel(self)->core;
    if (is_last(core, key)) [[likely]]
        return Py_NewRef(reinterpret_cast<PyObject*>(core.last_grid));
    return find_grid(core, self, key);
}

PyObject* kernel_subscript(PyObject* self, PyObject* key) {
    Core& core = *as_kernel(self)->core;
    const auto is_usual = [&] {
        return core.own_run.is_usual_of(self, core.own_dict.get(), core.usual_run.get());
    };
    if (is_last(core, key) && is_usual()) [[likely]]
        return Py_NewRef(reinterpret_cast<PyObject*>(core.last_grid));
    // One that is not bound has no dict.
    if (core.slow && core.of_triton && !is_usual()) return subscript_of_run(self, key);
    return find_grid(core, self, key);
}

}  // namespace ringlaunch::python::triton
