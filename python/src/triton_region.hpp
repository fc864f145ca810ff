// Regions: where inline launches are handed to a thread of this program, which issues them.
//
// A region belongs to the thread that is in it; there is one at a time, and what another thread calls a
// region meanwhile is none. Launches go straight onto the stream that they would be on without it, so all
// that has to be waited for, before anything else is put there, is that they are issued. Everything here is
// guarded by the interpreter lock, which is let go of where something is waited for.
#pragma once

#include <Python.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "inline_kernel.hpp"

namespace ringlaunch::python::triton {

// How deep a thread is in regions within regions; 0: there is none. So a program that has none pays one
// comparison.
inline std::size_t region_depth = 0;

bool in_region_of_this_thread() noexcept;
// Is the calling thread in the region?
inline bool in_region() noexcept {
    return region_depth != 0 && in_region_of_this_thread();
}

struct RegionLaunch {
    InlineKernel& kernel;
    const std::string& name;
    const Dim3& grid;  // with clusters
    std::span<const std::byte> params;
    std::uint64_t context, stream;
    std::span<PyObject* const> holds;  // what it needs until it is issued; borrowed
};
// Hands a launch of the thread in the region over, or makes it where a region cannot, and lets go of what
// launches were given that are issued by now, where that is due. May run Python code. False: a Python error
// is set, perhaps of a launch before.
bool launch_in_region(const RegionLaunch& launch);

// Before anything else is put on a stream: waits until what the region holds is issued. False: a Python error
// is set, of a launch of this thread. May run Python code.
bool issue_region();

// The kernel is about to go.
void forget_in_region(InlineKernel& kernel);

// The functions triton_region_*.
PyObject* region_enter(PyObject*, PyObject*);
PyObject* region_leave(PyObject*, PyObject*);
PyObject* region_flush(PyObject*, PyObject*);
PyObject* region_pause(PyObject*, PyObject*);
PyObject* region_resume(PyObject*, PyObject*);
PyObject* region_stop(PyObject*, PyObject*);
PyObject* region_counts(PyObject*, PyObject*);

}  // namespace ringlaunch::python::triton
