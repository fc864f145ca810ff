// A tensor's layout in messages.
#pragma once

#include "control_generated.h"
#include "schema/tensor_map.hpp"

namespace ringlaunch {

// `layout`: of rank 1 to 5.
flatbuffers::Offset<schema::TensorLayout> write_layout(flatbuffers::FlatBufferBuilder& builder,
                                                       const TensorLayout& layout);
// Throws Error{invalid_argument} unless there are 1 to 5 sides, and as many of all else as that asks for.
TensorLayout read_layout(const schema::TensorLayout& layout);

}  // namespace ringlaunch
