// Maps of tensors (CUtensorMap), through which kernels read tensors by blocks: what one is made of, and those
// that a daemon has made for a client, which are kept.
//
// Only the first launch that needs a map asks the daemon for it. A map says an address and a layout and
// nothing else, so it is right for whatever stands at that address, and for every executor, since buffers
// keep their addresses: it never has to be made anew.
#pragma once

#include <Python.h>

#include <cstddef>
#include <cstdint>
#include <ringlaunch/ringlaunch.hpp>
#include <string>
#include <unordered_map>

namespace ringlaunch::python {
struct BufferObject;
}

namespace ringlaunch::python::triton {

// How a kernel reads a tensor, but for where the tensor is and how large.
struct TensorMapKind {
    std::uint32_t rank = 0;
    int swizzle = 0, element_bytes = 0, element_type = 0;  // as CUDA numbers them
    std::uint32_t block[TensorLayout::kMaxRank] = {};      // outermost first
    bool nan = false;                                      // is read outside of the tensor
    bool tf32 = false;                                     // elements are rounded to that
    bool small_mended = false;  // a mistake of drivers up to 13.1 in maps of small tensors is mended
};

// `of`: address, shape and strides in elements, outermost first.
TensorLayout layout_of(const TensorMapKind& kind, const std::uint64_t* of) noexcept;

// All that goes into a map of a buffer's memory. `room`: what the buffer has from the address on, within
// which the daemon has found the tensor.
struct MapKey {
    std::uint64_t address = 0, room = 0;
    TensorLayout layout;
    bool operator==(const MapKey& other) const noexcept;
};

// Of one client. Guarded by the interpreter lock.
class KeptMaps {
  public:
    static constexpr std::size_t kMost = 4096;  // then all go

    const TensorMap* find(const MapKey& key) const noexcept;
    void keep(const MapKey& key, const TensorMap& map);
    std::size_t size() const noexcept { return maps_.size(); }
    std::uint64_t asked = 0;  // requests that were answered

  private:
    struct Hash {
        std::size_t operator()(const MapKey& key) const noexcept;
    };
    std::unordered_map<MapKey, TensorMap, Hash> maps_;
};

// A map that is kept, or else the daemon's answer, for which the interpreter lock is let go of. `what` begins
// an error. False: a Python error is set.
bool find_or_ask(const BufferObject* buffer, const MapKey& key, const std::string& what, TensorMap& out);

}  // namespace ringlaunch::python::triton
