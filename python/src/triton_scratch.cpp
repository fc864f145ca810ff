#include "triton_scratch.hpp"

#include <cstring>
#include <utility>
#include <vector>

#include "errors.hpp"
#include "handles.hpp"

namespace ringlaunch::python::triton {

std::uint64_t scratch_needed(const Variant& variant, const Dim3& grid) noexcept {
    std::uint64_t bytes = variant.scratch_bytes;
    for (const std::uint32_t side : {grid.x, grid.y, grid.z})
        if (__builtin_mul_overflow(bytes, std::uint64_t{side}, &bytes)) return ~std::uint64_t{0};
    return bytes;
}

[[gnu::noinline]] Ref find_scratch(Core& core, PyObject* kernel, PyObject* variant_object, PyObject* stream,
                                   std::uint64_t bytes) {
    Variant& variant = variant_of(variant_object);
    for (const Scratch& each : variant.scratch) {
        const auto* buffer = reinterpret_cast<const BufferObject*>(each.buffer.get());
        if (each.stream.get() == stream && buffer->bytes >= bytes && buffer->live_session != nullptr)
            return Ref::borrowed(each.buffer.get());
    }
    Ref made(PyObject_CallFunction(core.scratch.get(), "OOOK", kernel, variant_object, stream,
                                   static_cast<unsigned long long>(bytes)));
    if (!made) return made;
    if (!is_buffer(made.get())) {
        set_named_error("InternalError", "scratch memory is no buffer");
        return Ref();
    }
    std::vector<Scratch> old;  // let go of last: that may run Python code
    for (std::size_t i = variant.scratch.size(); i-- > 0;)
        if (variant.scratch[i].stream.get() == stream ||
            as_stream(variant.scratch[i].stream.get())->state == nullptr) {
            old.push_back(std::move(variant.scratch[i]));
            variant.scratch.erase(variant.scratch.begin() + static_cast<std::ptrdiff_t>(i));
        }
    variant.scratch.push_back({Ref::borrowed(stream), Ref::borrowed(made.get())});
    return made;
}

void put_scratch(const Variant& variant, const Ref& scratch, std::byte* params) {
    if (!scratch) return;
    const std::uint64_t address = reinterpret_cast<const BufferObject*>(scratch.get())->address;
    std::memcpy(params + variant.takes.params[variant.scratch_param].offset, &address, sizeof address);
}

[[gnu::noinline]] Ref allocate_here(const Core& core, PyObject* kernel, PyObject* variant,
                                    std::uint64_t stream, std::uint64_t bytes, std::uint64_t& address) {
    Ref made(PyObject_CallFunction(core.scratch.get(), "OOKK", kernel, variant,
                                   static_cast<unsigned long long>(stream),
                                   static_cast<unsigned long long>(bytes)));
    Ref number(made ? PyObject_CallMethod(made.get(), "data_ptr", nullptr) : nullptr);
    if (!number) return {};
    address = PyLong_AsUnsignedLongLong(number.get());
    return PyErr_Occurred() != nullptr ? Ref() : std::move(made);
}

}  // namespace ringlaunch::python::triton
