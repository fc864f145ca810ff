// Tensor descriptors that a program makes (triton.tools.tensor_descriptor.TensorDescriptor, or ringlaunch's),
// as arguments: what they are made of, and the map of a tensor in the form that the hardware reads, which a
// kernel is given.
#pragma once

#include <Python.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "inline_kernel.hpp"
#include "triton_key.hpp"
#include "triton_maps.hpp"

namespace ringlaunch::python::triton {

// Of Triton's own type or ringlaunch's, not one derived from it.
bool is_descriptor(PyObject* object) noexcept;
bool is_tritons_descriptor(PyObject* object) noexcept;

// New; null, without an error: it has none.
PyObject* base_of(PyObject* descriptor);

// A number of a list or tuple. False: it is none, or not a plain integer.
bool read_side(PyObject* list, std::size_t i, long long& out) noexcept;

// What a descriptor holds. No Python code runs: they are plain attributes.
class DescriptorParts {
  public:
    explicit DescriptorParts(PyObject* descriptor);
    ~DescriptorParts();
    DescriptorParts(const DescriptorParts&) = delete;
    DescriptorParts& operator=(const DescriptorParts&) = delete;

    // 0: it has not what a descriptor has.
    std::size_t rank() const noexcept { return rank_; }
    PyObject* base() const noexcept { return parts_[0]; }
    PyObject* shape() const noexcept { return parts_[1]; }
    PyObject* strides() const noexcept { return parts_[2]; }
    PyObject* block() const noexcept { return parts_[3]; }
    std::uint8_t how() const noexcept { return how_; }

  private:
    std::array<PyObject*, 4> parts_{};  // strong
    std::size_t rank_ = 0;
    std::uint8_t how_ = 0;
};

// A descriptor of the calls of one key: where its map goes, and the maps that were made for the last tensors.
class TensorMaps {
  public:
    TensorMaps(const TensorMapKind& kind, const Descriptor& descriptor, std::uint32_t offset);
    // Puts the map of the tensor of this program that the call has into `params`. Answers a CUresult.
    int put(const std::uint64_t* leaves, std::byte* params);
    // The same of a buffer, if its client keeps the map. False: the daemon has to be asked.
    bool put_kept(const KeptMaps& maps, const Key& key, std::size_t number, std::byte* params);
    // What it would be asked for. `number`: of the descriptor in the key.
    MapKey wanted(const Key& key, std::size_t number) const noexcept;
    std::uint32_t offset() const noexcept { return offset_; }

  private:
    static constexpr std::size_t kKept = 8;
    static constexpr std::size_t kWords = 1 + 2 * kMaxRank;
    struct Kept {
        TensorMap map;
        std::array<std::uint64_t, kWords> of{};  // address, shape and strides; no tensor is at 0
        std::uint64_t room = 0;
    };
    // The place of what was made of this; else one for it, and false.
    bool look(const std::uint64_t* of, std::uint64_t room) noexcept;
    TensorMapKind kind_;
    std::uint16_t leaf_;
    std::uint32_t offset_;
    std::size_t next_ = 0, last_ = 0;
    std::vector<Kept> kept_;
};

// triton_descriptor(type, tritons): of descriptors; there are two.
PyObject* set_descriptor(PyObject*, PyObject* args);

}  // namespace ringlaunch::python::triton
