// The table of a kernel: which variant takes the calls of a key, and how it is given their arguments.
#pragma once

#include <Python.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <utility>
#include <vector>

#include "ref.hpp"
#include "triton_descriptor.hpp"
#include "triton_key.hpp"
#include "triton_mode.hpp"
#include "triton_pack.hpp"
#include "triton_repeat.hpp"

namespace ringlaunch::python::triton {

struct Entry {
    std::uint64_t hash = 0;
    std::vector<std::uint64_t> key;
    Packing packing;
    std::vector<TensorMaps> maps;
    std::vector<Ref> held;  // what the key names by its address
    Ref variant;  // where it is left to Triton, whose launcher alone can launch it, the compiled kernel
    bool left = false;
    // Of calls that find it, those with these names behind so many arguments, in this mode.
    std::unique_ptr<Repeat> repeat;
    Ref names;
    Py_ssize_t count = 0;
    Mode mode = Mode::daemon;
    std::uint32_t repeats = 0;  // made so far

    bool is_repeat(Mode of, Py_ssize_t given, PyObject* keywords) const noexcept {
        return names.get() == keywords && count == given && mode == of;
    }
};

// Open addressing over entries that never move.
class Table {
  public:
    Entry* find(const Key& key, std::uint64_t hash) const noexcept {
        if (slots_.empty()) return nullptr;
        for (std::size_t i = hash & mask_;; i = (i + 1) & mask_) {
            Entry* entry = slots_[i];
            if (entry == nullptr) return nullptr;
            if (entry->hash == hash && key.equals(entry->key)) return entry;
        }
    }
    void add(std::unique_ptr<Entry> entry) {
        entries_.push_back(std::move(entry));
        rebuild();
    }
    // Takes out what `goes` says. The entries are let go of by the caller: that may run Python code.
    template <class Goes>
    std::vector<std::unique_ptr<Entry>> take(const Goes& goes) {
        std::vector<std::unique_ptr<Entry>> out;
        auto kept = std::stable_partition(entries_.begin(), entries_.end(),
                                          [&](const std::unique_ptr<Entry>& entry) { return !goes(*entry); });
        out.insert(out.end(), std::make_move_iterator(kept), std::make_move_iterator(entries_.end()));
        entries_.erase(kept, entries_.end());
        rebuild();
        return out;
    }
    std::size_t size() const noexcept { return entries_.size(); }
    // Until one answers something else than 0.
    template <class Visit>
    int visit(const Visit& visit) const {
        for (const auto& entry : entries_)
            if (const int stop = visit(*entry); stop != 0) return stop;
        return 0;
    }

  private:
    void rebuild() {
        const std::size_t slots = std::bit_ceil(std::max<std::size_t>(8, 2 * entries_.size() + 1));
        slots_.assign(slots, nullptr);
        mask_ = slots - 1;
        for (const auto& entry : entries_) {
            std::size_t i = entry->hash & mask_;
            while (slots_[i] != nullptr) i = (i + 1) & mask_;
            slots_[i] = entry.get();
        }
    }
    std::vector<std::unique_ptr<Entry>> entries_;
    std::vector<Entry*> slots_;
    std::size_t mask_ = 0;
};

}  // namespace ringlaunch::python::triton
