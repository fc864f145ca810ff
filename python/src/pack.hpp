// Python arguments to packed kernel parameters, by the kernel's declared types.
//
// A value may widen by kind (bool -> integer -> float), never narrow: a float for an integer parameter, a
// number for a boolean one or a value out of range is an exception that names the parameter.
#pragma once

#include <Python.h>

#include <cstddef>
#include <cstdint>
#include <ringlaunch/ringlaunch.hpp>
#include <string>
#include <vector>

namespace ringlaunch::python {

struct Session;

// Where the usual argument of a parameter goes: into a word of the packed parameters.
struct PackStep {
    ParamType type;      // unknown: no argument of this parameter is usual
    std::uint8_t shift;  // bits, in the word
    std::uint16_t word;
};

// What a kernel takes, as the packer walks it.
struct Layout {
    Layout() = default;
    // `bytes`: of the packed parameters.
    Layout(std::string kernel, std::vector<Param> params, std::uint32_t bytes);

    std::string kernel;
    std::vector<Param> params;
    std::vector<PackStep> steps;  // a parameter each
    std::uint32_t bytes = 0;
    std::uint32_t padded_bytes = 0;  // of the buffer: up to the end of the last slot, all zeroed
};

inline constexpr std::size_t kMaxPackedBytes = 4096;
inline constexpr std::size_t kPackedPadding = 64;

// The bytes up to the end of the last parameter.
std::uint32_t packed_bytes(const std::vector<Param>& params);

// The IEEE half and the bfloat16 nearest to `value` (ties to even). False: finite, but out of range.
bool to_float16(double value, std::uint16_t& out);
bool to_bfloat16(double value, std::uint16_t& out);

// Packs `count` arguments at their offsets into `out` (layout.padded_bytes long, whole words, padding
// zeroed). Buffers must belong to `session` (null: no buffer is taken). False: a Python error is set.
// `ran_python`: something ran code of the interpreter (an argument's __index__, __float__, buffer protocol),
// so buffers must be checked once more.
bool pack(const Layout& layout, const Session* session, PyObject* const* args, Py_ssize_t count,
          std::byte* out, bool& ran_python);

// The buffers among the arguments again, after something may have freed one.
bool repack_buffers(const Layout& layout, const Session* session, PyObject* const* args, std::byte* out);

const char* type_word(ParamType type);
// ParamType::unknown for a word that is no type.
ParamType type_of_word(const std::string& name);
// 0: the type does not say (bytes, unknown).
std::uint32_t param_type_bytes(ParamType type);

}  // namespace ringlaunch::python
