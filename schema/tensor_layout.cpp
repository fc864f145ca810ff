#include "schema/tensor_layout.hpp"

#include <string>

#include "schema/error.hpp"

namespace ringlaunch {

namespace {

template <class Number>
void take(const flatbuffers::Vector<Number>* from, std::array<Number, TensorLayout::kMaxRank>& to,
          std::uint32_t count, const std::string& what) {
    const std::uint32_t found = from == nullptr ? 0 : from->size();
    if (found != count)
        throw Error(Status::invalid_argument, "cannot make a tensor map: it has " + std::to_string(found) +
                                                  " " + what + " where there have to be " +
                                                  std::to_string(count));
    for (std::uint32_t i = 0; i < count; ++i) to[i] = from->Get(i);
}

}  // namespace

flatbuffers::Offset<schema::TensorLayout> write_layout(flatbuffers::FlatBufferBuilder& builder,
                                                       const TensorLayout& layout) {
    const std::size_t rank = layout.rank;
    const auto sides = builder.CreateVector(layout.sides.data(), rank);
    const auto strides = builder.CreateVector(layout.strides.data(), rank - 1);
    const auto box = builder.CreateVector(layout.box.data(), rank);
    const auto steps = builder.CreateVector(layout.steps.data(), rank);
    return schema::CreateTensorLayout(builder, layout.element_type, sides, strides, box, steps,
                                      layout.interleave, layout.swizzle, layout.promotion, layout.fill);
}

TensorLayout read_layout(const schema::TensorLayout& from) {
    TensorLayout layout;
    layout.rank = from.sides() == nullptr ? 0 : from.sides()->size();
    if (layout.rank == 0 || layout.rank > TensorLayout::kMaxRank)
        throw Error(Status::invalid_argument, "cannot make a tensor map: the rank is " +
                                                  std::to_string(layout.rank) + ", it has to be 1 to 5");
    take(from.sides(), layout.sides, layout.rank, "sides");
    take(from.strides(), layout.strides, layout.rank - 1, "strides");
    take(from.box(), layout.box, layout.rank, "sides of a box");
    if (from.steps() != nullptr && from.steps()->size() != 0)
        take(from.steps(), layout.steps, layout.rank, "steps");
    layout.element_type = from.element_type();
    layout.interleave = from.interleave();
    layout.swizzle = from.swizzle();
    layout.promotion = from.promotion();
    layout.fill = from.fill();
    return layout;
}

}  // namespace ringlaunch
