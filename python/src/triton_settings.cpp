#include "triton_settings.hpp"

#include <cstddef>
#include <cstdint>
#include <vector>

#include "ref.hpp"
#include "triton_key.hpp"

namespace ringlaunch::python::triton {

Watched watched;

namespace {

std::vector<Ref> refs_of(PyObject* tuple, bool (*takes)(PyObject*)) {
    std::vector<Ref> out;
    for (Py_ssize_t i = 0; tuple != nullptr && i < PyTuple_GET_SIZE(tuple); ++i)
        if (takes(PyTuple_GET_ITEM(tuple, i))) out.push_back(Ref::borrowed(PyTuple_GET_ITEM(tuple, i)));
    return out;
}

bool watches(const Core& core, PyObject* caches) {
    const std::size_t count = caches == nullptr ? 0 : static_cast<std::size_t>(PyTuple_GET_SIZE(caches));
    for (std::size_t i = 0; i < count && count + 1 == core.watched.size(); ++i)
        if (core.watched[i + 1].get() != PyTuple_GET_ITEM(caches, static_cast<Py_ssize_t>(i))) return false;
    return count + 1 == core.watched.size();
}

}  // namespace

PyObject* watch(PyObject*, PyObject* dict) {
    if (!PyDict_Check(dict)) return PyErr_Format(PyExc_TypeError, "expected a dict");
    if (!watched.add(dict)) {
        if (PyErr_Occurred() == nullptr) PyErr_SetString(PyExc_RuntimeError, "no dictionary can be watched");
        return nullptr;
    }
    Py_RETURN_NONE;
}

bool watch_own(Core& core, PyObject* caches) {
    std::vector<Ref> dicts = refs_of(caches, [](PyObject* each) { return PyDict_Check(each) != 0; });
    dicts.insert(dicts.begin(), Ref::borrowed(core.own_dict.get()));
    core.watched.swap(dicts);
    for (const Ref& dict : core.watched)
        if (!watched.add_own(dict.get())) return false;
    return true;
}

[[gnu::noinline]] bool refresh_settings(Core& core, PyObject* kernel) {
    constexpr int kTries = 8;
    for (int tries = 0;; ++tries) {
        const std::uint64_t state = watched.state(core.watched);
        Ref read(PyObject_CallOneArg(core.refresh.get(), kernel));
        if (!read) return false;
        unsigned long long settings = 0;
        int slow = 0;
        PyObject *hooks = nullptr, *caches = nullptr;
        if (!PyArg_ParseTuple(read.get(), "KpO!|O!", &settings, &slow, &PyTuple_Type, &hooks, &PyTuple_Type,
                              &caches))
            return false;
        // What was read has to be younger than what is looked at.
        if (!watches(core, caches) && tries < kTries) {
            if (!watch_own(core, caches) && PyErr_Occurred() != nullptr) return false;
            continue;
        }
        std::vector<Ref> lists = refs_of(hooks, [](PyObject* each) { return PyList_Check(each) != 0; });
        core.hooks.swap(lists);
        core.repeat = nullptr;
        core.repeat_in = core.repeat_after;
        core.settings = settings;
        core.always_slow = slow != 0 || core.params.size() > kMaxParams;
        core.settings_state = state;
        return true;
    }
}

}  // namespace ringlaunch::python::triton
