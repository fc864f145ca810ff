// The types and functions of ringlaunch._core for Triton kernels.
#include <Python.h>

#include <utility>

#include "handles.hpp"
#include "triton_descriptor.hpp"
#include "triton_inline.hpp"
#include "triton_inline_load.hpp"
#include "triton_install.hpp"
#include "triton_kernel.hpp"
#include "triton_key.hpp"
#include "triton_mode.hpp"
#include "triton_names.hpp"
#include "triton_own_run.hpp"
#include "triton_region.hpp"
#include "triton_settings.hpp"
#include "triton_slow.hpp"
#include "triton_subscript.hpp"
#include "triton_tensor.hpp"
#include "triton_tuned.hpp"
#include "triton_variant.hpp"

namespace ringlaunch::python {

namespace triton {

namespace {

PyMethodDef functions[] = {
    {"triton_types", set_types, METH_VARARGS, nullptr},
    {"triton_watch", watch, METH_O, nullptr},
    {"triton_default_mode", set_default_mode, METH_O, nullptr},
    {"triton_torch_has_gpu", set_torch_has_gpu, METH_O, nullptr},
    {"triton_tensors", set_tensors, METH_VARARGS, nullptr},
    {"triton_descriptor", set_descriptor, METH_VARARGS, nullptr},
    {"triton_subscript", set_subscript, METH_VARARGS, nullptr},
    {"triton_subscript_of_run", set_subscript_of_run, METH_O, nullptr},
    {"triton_streams", set_streams, METH_VARARGS, nullptr},
    {"triton_inline_load", load_inline, METH_NOARGS, nullptr},
    {"triton_inline_device", current_device, METH_NOARGS, nullptr},
    {"triton_inline_function", load_function, METH_VARARGS, nullptr},
    {"triton_inline_context", inline_context, METH_NOARGS, nullptr},
    {"triton_inline_variant", make_inline_variant, METH_VARARGS, nullptr},
    {"triton_inline_most", set_inline_most, METH_O, nullptr},
    {"triton_region_enter", region_enter, METH_NOARGS, nullptr},
    {"triton_region_leave", region_leave, METH_NOARGS, nullptr},
    {"triton_region_flush", region_flush, METH_NOARGS, nullptr},
    {"triton_region_pause", region_pause, METH_NOARGS, nullptr},
    {"triton_region_resume", region_resume, METH_NOARGS, nullptr},
    {"triton_region_stop", region_stop, METH_NOARGS, nullptr},
    {"triton_region_counts", region_counts, METH_NOARGS, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace

}  // namespace triton

bool add_triton_types(PyObject* module) {
    using namespace triton;
    if (!intern_names()) return false;
    for (auto [type, spec] :
         {std::pair{&kernel_base_type, &kernel_spec}, std::pair{&grid_type, &grid_spec},
          std::pair{&variant_type, &variant_spec}, std::pair{&pending_type, &pending_spec}}) {
        *type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(spec));
        if (*type == nullptr || PyModule_AddType(module, *type) != 0) return false;
    }
    return add_tuned_types(module) && PyModule_AddFunctions(module, functions) == 0;
}

}  // namespace ringlaunch::python
