#include "triton_try_repeat.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

#include "handles.hpp"
#include "ref.hpp"
#include "triton_variant.hpp"

namespace ringlaunch::python::triton {

namespace {

constexpr std::uint32_t kMaxRepeats = 8;    // made for one entry: its calls are of many kinds
constexpr std::uint32_t kLongestWait = 64;  // calls

}  // namespace

bool list_given(const Core& core, const Bound& bound, PyObject* const* args, Py_ssize_t count,
                std::vector<Repeat::Given>& params, std::vector<Repeat::Given>& options) {
    for (std::size_t i = 0; i < core.params.size(); ++i)
        params.push_back({bound.values[i], Repeat::Given::kDefault, core.flags[i]});
    const auto place = [](std::size_t arg) { return static_cast<std::uint16_t>(arg); };
    const std::size_t given = bound.values == args ? params.size() : static_cast<std::size_t>(count);
    for (std::size_t i = 0; i < given; ++i) params[i].arg = place(i);
    if (bound.names == nullptr) return given != 0;
    for (std::size_t i = 0; i < bound.names->to.size(); ++i) {
        const std::int16_t to = bound.names->to[i];
        if (to == kToStream) return false;
        if (to < kFirstOption)
            params[static_cast<std::size_t>(to)].arg = place(given + i);
        else
            options.push_back({args[given + i], place(given + i), kConstexpr});
    }
    for (const Names::Both& each : bound.names->both)
        options.push_back({args[given + each.keyword], place(given + each.keyword), kConstexpr});
    return true;
}

namespace {

// Null: it has arguments that no Repeat knows, or is of none.
std::unique_ptr<Repeat> make_repeat(const Core& core, const Entry& entry, const Key& key, const Bound& bound,
                                    Mode mode, PyObject* const* args, Py_ssize_t count) {
    const Variant& variant = variant_of(entry.variant.get());
    const std::size_t total = core.params.size();
    // Without tensors or buffers it takes more than the arguments to know where the call goes.
    const bool known = variant.here != nullptr
                           ? key.has_tensors() || mode == Mode::in_process
                           : std::any_of(bound.values, bound.values + total,
                                         [](PyObject* value) { return Py_TYPE(value) == usual_buffer_type; });
    if (variant.scratch_bytes != 0 || !entry.maps.empty() || bound.stream != nullptr || !known ||
        key.leaf_count() != total || key.check_count() != 0)
        return nullptr;
    std::vector<Repeat::Given> params, options;
    if (!list_given(core, bound, args, count, params, options)) return nullptr;
    return Repeat::make(params, options, entry.packing, key.session(),
                        variant.here == nullptr ? -1 : variant.here->device());
}

}  // namespace

[[gnu::noinline]] void try_repeats(Core& core, Entry& entry, const Key& key, const Bound& bound, Mode mode,
                                   PyObject* const* args, Py_ssize_t count, PyObject* names) {
    const Variant& variant = variant_of(entry.variant.get());
    core.hits_before = variant.hits;
    if (!entry.is_repeat(mode, count, names)) {
        if (entry.repeats == kMaxRepeats) return;
        ++entry.repeats;
        entry.repeat.reset();
        entry.names = Ref::borrowed(names);
        entry.count = count;
        entry.mode = mode;
        try {
            entry.repeat = make_repeat(core, entry, key, bound, mode, args, count);
        } catch (const std::bad_alloc&) {
        }
    }
    core.repeat = entry.repeat.get();
}

[[gnu::noinline]] void was_no_repeat(Core& core) noexcept {
    const bool many = variant_of(core.last->variant.get()).hits - core.hits_before > kLongestWait;
    core.repeat_after = many ? 1 : std::min(2 * core.repeat_after, kLongestWait);
    core.repeat_in = core.repeat_after;
    core.repeat = nullptr;
}

}  // namespace ringlaunch::python::triton
