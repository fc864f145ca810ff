#include "triton_launch_inline.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "errors.hpp"
#include "inline_kernel.hpp"
#include "pack.hpp"
#include "triton_descriptor.hpp"
#include "triton_grid.hpp"
#include "triton_nesting.hpp"
#include "triton_pack.hpp"
#include "triton_scratch.hpp"

namespace ringlaunch::python::triton {

[[gnu::noinline]] bool check_addresses(Key& key, bool all) noexcept {
    const auto check = [&](std::size_t leaf) {
        std::uint64_t address = key.leaves()[leaf];
        if (!device_address(address)) return false;
        key.set_address(leaf, address);
        return true;
    };
    if (all) {
        for (std::size_t i = 0; i < key.leaf_count(); ++i)
            if (key.kind(i) == LeafKind::tensor && !check(i)) return false;
        return true;
    }
    for (std::size_t i = 0; i < key.check_count(); ++i)
        if (!check(key.check(i))) return false;
    return true;
}

bool find_stream(const Variant& variant, PyObject* named, std::uint64_t& out) {
    return named == nullptr ? current_stream(variant.here->device(), out)
                            : named_stream(variant.takes.kernel, named, out);
}

namespace {

// What has to live until a launch is issued: the arguments, the variant, scratch memory, and of descriptors,
// which may be given another tensor meanwhile, those that they have. Borrowed.
using Holds = std::array<PyObject*, kMaxParams + kMaxDescriptors + 2>;
std::size_t held_by_launch(const Core& core, const Key& key, const Bound& bound, PyObject* variant,
                           PyObject* scratch, Holds& out) noexcept {
    const auto given = key.given();
    std::size_t count = given.size();
    std::copy(given.begin(), given.end(), out.begin());
    out[count++] = variant;
    if (scratch != nullptr) out[count++] = scratch;
    if (key.descriptor_count() == 0) [[likely]]
        return count;
    std::size_t described = 0;
    for (std::size_t i = 0; i < core.params.size(); ++i)
        if (is_descriptor(bound.values[i]) && described++ < kMaxDescriptors)
            if (const DescriptorParts parts(bound.values[i]); parts.rank() != 0) out[count++] = parts.base();
    return count;
}

}  // namespace

PyObject* launch_here(Core& core, PyObject* kernel, Entry& entry, const Key& key, const Bound& bound,
                      const std::uint64_t* stream, const Dim3& grid, bool& tritons) {
    const Ref kept = Ref::borrowed(entry.variant.get());
    Variant& variant = variant_of(kept.get());
    alignas(16) std::byte params[kMaxPackedBytes + kPackedPadding];
    // Before what may run Python code: the entry may go then.
    if (const Op* unfit = pack(variant.takes, entry.packing, key.leaves(), params); unfit != nullptr)
        [[unlikely]] {
        tritons = core.of_triton;
        if (!tritons) refuse_unfit(variant.takes, *unfit, key.leaves());
        return nullptr;
    }
    for (TensorMaps& map : entry.maps)
        if (const int result = map.put(key.leaves(), params); result != 0) [[unlikely]] {
            set_named_error("DriverError",
                            "kernel '" + variant.takes.kernel +
                                "': making the map of a tensor descriptor: " + inline_error_text(result));
            return nullptr;
        }
    if (!has_blocks(grid)) [[unlikely]] {
        tritons =
            core.of_triton && variant.scratch_bytes != 0;  // it asks for the scratch memory all the same
        return tritons ? nullptr : Py_NewRef(variant.compiled.get());
    }
    Dim3 blocks = grid;
    if (variant.ctas != 1 && !with_clusters(variant, blocks)) [[unlikely]] {
        tritons = core.of_triton;
        if (tritons) PyErr_Clear();
        return nullptr;
    }
    std::uint64_t to = 0;
    if (stream != nullptr)
        to = *stream;
    else if (!find_stream(variant, bound.stream, to))
        return nullptr;
    Ref scratch;
    if (variant.scratch_bytes != 0) [[unlikely]] {
        std::uint64_t address = 0;
        if (!may_nest(kernel)) return nullptr;
        scratch = allocate_here(core, kernel, kept.get(), to, scratch_needed(variant, grid), address);
        if (!scratch) return nullptr;
        std::memcpy(params + variant.takes.params[variant.scratch_param].offset, &address, sizeof address);
    }
    Holds holds;
    const std::size_t count =
        in_region() ? held_by_launch(core, key, bound, kept.get(), scratch.get(), holds) : 0;
    return issue_here(variant, blocks, params, std::bit_cast<std::uint64_t>(key.session()), to,
                      {holds.data(), count});
}

}  // namespace ringlaunch::python::triton
