// Whether something changed that Triton reads at each call: its settings, the environment, a kernel's
// attributes and caches.
//
// All of it stands in dictionaries. Asking each of them for each name at each call would cost more than the
// launch, so they are watched.
#pragma once

#include <Python.h>

#include <cstdint>
#include <vector>

#include "ref.hpp"
#include "triton_kernel.hpp"

namespace ringlaunch::python::triton {

#if PY_VERSION_HEX < 0x030C0000

class Watched {
  public:
    // Kept for good.
    bool add(PyObject* dict) {
        dicts_.push_back(reinterpret_cast<PyDictObject*>(Py_NewRef(dict)));
        return true;
    }
    // Another number after each change: a dictionary's version only ever grows.
    // `own`: of a kernel.
    template <class Refs>
    std::uint64_t state(const Refs& own) const noexcept {
        std::uint64_t sum = 0;
        const auto add = [&sum](const PyDictObject* dict) {
            sum += dict->ma_version_tag;
            asm("" : "+r"(sum));  // they are few: vectors of them cost more than they save
        };
        for (const auto& dict : own) add(reinterpret_cast<const PyDictObject*>(dict.get()));
        for (const PyDictObject* dict : dicts_) add(dict);
        return sum;
    }
    bool add_own(PyObject*) { return true; }

  private:
    std::vector<PyDictObject*> dicts_;
};

#else

class Watched {
  public:
    bool add(PyObject* dict) {
        if (watcher_ < 0) watcher_ = PyDict_AddWatcher(changed);
        return watcher_ >= 0 && PyDict_Watch(watcher_, dict) == 0 && Py_NewRef(dict) != nullptr;
    }
    bool add_own(PyObject* own) { return watcher_ >= 0 && PyDict_Watch(watcher_, own) == 0; }
    template <class Refs>
    std::uint64_t state(const Refs&) const noexcept {
        return changes_;
    }

  private:
    static int changed(PyDict_WatchEvent, PyObject*, PyObject*, PyObject*) {
        ++changes_;
        return 0;
    }
    static inline std::uint64_t changes_ = 1;
    int watcher_ = -1;
};

#endif

extern Watched watched;

// triton_watch(dict): every kernel reads its settings again once this has changed.
PyObject* watch(PyObject*, PyObject* dict);

// Which dictionaries a kernel looks at. False: an error may be set.
bool watch_own(Core& core, PyObject* caches);

// Reads Triton's settings again. False: a Python error is set.
bool refresh_settings(Core& core, PyObject* kernel);

inline bool hooked(const Core& core) {
    for (const Ref& list : core.hooks)
        if (PyList_GET_SIZE(list.get()) != 0) return true;
    return false;
}

}  // namespace ringlaunch::python::triton
