#include <pybind11/pybind11.h>
// Python.h comes first, by way of pybind11.
#include "triton_maps.hpp"

#include <array>
#include <bit>
#include <cstring>
#include <memory>
#include <type_traits>

#include "control_call.hpp"
#include "errors.hpp"
#include "handles.hpp"

namespace ringlaunch::python::triton {

namespace {

// As CUDA numbers them.
constexpr std::uint32_t kTf32 = 11, kPromotion128 = 2, kFillNan = 1;

static_assert(std::has_unique_object_representations_v<MapKey> && sizeof(MapKey) % 8 == 0);
using Words = std::array<std::uint64_t, sizeof(MapKey) / 8>;

}  // namespace

TensorLayout layout_of(const TensorMapKind& kind, const std::uint64_t* of) noexcept {
    // CUDA has the innermost first, and strides in bytes, without the innermost.
    TensorLayout layout;
    const std::uint32_t rank = kind.rank;
    layout.rank = rank;
    layout.element_type = kind.tf32 ? kTf32 : static_cast<std::uint32_t>(kind.element_type);
    layout.swizzle = static_cast<std::uint32_t>(kind.swizzle);
    layout.promotion = kPromotion128;
    layout.fill = kind.nan ? kFillNan : 0;
    for (std::uint32_t i = 0; i < rank; ++i) {
        layout.sides[rank - i - 1] = of[1 + i];
        layout.box[rank - i - 1] = kind.block[i];
        if (i + 1 < rank)
            layout.strides[rank - i - 2] = static_cast<std::uint64_t>(kind.element_bytes) * of[1 + rank + i];
    }
    return layout;
}

bool MapKey::operator==(const MapKey& other) const noexcept {
    return std::memcmp(this, &other, sizeof other) == 0;
}

std::size_t KeptMaps::Hash::operator()(const MapKey& key) const noexcept {
    std::uint64_t hash = 0;
    for (const std::uint64_t word : std::bit_cast<Words>(key)) {
        hash = (hash ^ word) * 0x9e3779b97f4a7c15;
        hash ^= hash >> 29;
    }
    return hash;
}

const TensorMap* KeptMaps::find(const MapKey& key) const noexcept {
    const auto at = maps_.find(key);
    return at == maps_.end() ? nullptr : &at->second;
}

void KeptMaps::keep(const MapKey& key, const TensorMap& map) {
    if (maps_.size() >= kMost) maps_.clear();
    maps_.insert_or_assign(key, map);
}

bool find_or_ask(const BufferObject* buffer, const MapKey& key, const std::string& what, TensorMap& out) {
    const std::shared_ptr<Session> session = buffer->session;
    if (const TensorMap* kept = session->maps.find(key); kept != nullptr) {
        out = *kept;
        return true;
    }
    try {
        out = control_call([session, memory = buffer->buffer, key] {
            return session->client.tensor_map(memory, key.address - memory.address(), key.layout);
        });
    } catch (const Error& error) {
        set_error(error.status(), what + error.what());
        return false;
    } catch (pybind11::error_already_set& error) {
        error.restore();
        return false;
    }
    ++session->maps.asked;
    session->maps.keep(key, out);
    return true;
}

}  // namespace ringlaunch::python::triton
