#include "triton_bind.hpp"

#include <cstddef>
#include <cstdint>
#include <utility>

#include "ref.hpp"
#include "triton_names.hpp"

namespace ringlaunch::python::triton {

namespace {

constexpr std::size_t kMaxOptions = 255;

}  // namespace

[[gnu::noinline]] const Names* read_names(Core& core, PyObject* tuple, Names& into) {
    Names made;
    const Py_ssize_t count = PyTuple_GET_SIZE(tuple);
    for (Py_ssize_t i = 0; i < count; ++i) {
        PyObject* name = PyTuple_GET_ITEM(tuple, i);
        if (core.of_triton && (same_name(name, name_grid) || same_name(name, name_warmup)))
            return nullptr;  // what Triton's run() takes beside a kernel's arguments
        std::int16_t to = kFirstOption;
        if (same_name(name, name_stream)) to = kToStream;
        for (std::size_t p = 0; p < core.params.size(); ++p)
            if (same_name(name, core.params[p].name.get())) {
                to = static_cast<std::int16_t>(p);
                break;
            }
        const bool param = to >= 0 && to < kFirstOption;
        if (to == kFirstOption ||
            (param && (core.flags[static_cast<std::size_t>(to)] & kNamedLikeOption) != 0)) {
            std::size_t number = 0;
            while (number < core.option_names.size() && !same_name(name, core.option_names[number].get()))
                ++number;
            if (number == kMaxOptions) return nullptr;
            if (number == core.option_names.size()) {
                PyObject* interned = Py_NewRef(name);
                PyUnicode_InternInPlace(&interned);
                core.option_names.push_back(Ref(interned));
            }
            if (param)
                made.both.push_back({static_cast<std::uint16_t>(i), static_cast<std::uint8_t>(number)});
            else
                to = static_cast<std::int16_t>(kFirstOption + static_cast<std::int16_t>(number));
        }
        if (to < 0 || to >= kFirstOption || !made.both.empty()) made.options = true;
        made.to.push_back(to);
    }
    if (!made.to.empty() && made.to.size() <= core.params.size() && made.both.empty()) {
        std::size_t next = core.params.size() - made.to.size();
        for (const std::int16_t to : made.to)
            if (to >= 0 && static_cast<std::size_t>(to) == next) ++next;
        if (next == core.params.size()) made.behind = next - made.to.size();
    }
    made.tuple = Ref::borrowed(tuple);
    into = std::move(made);
    return &into;
}

}  // namespace ringlaunch::python::triton
