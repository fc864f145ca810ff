// The arguments of a Triton kernel as its compiled code takes them.
//
// The quick way: one operation a parameter moves a number that the key was made of to its place. The slow way
// converts any Python object. Both give the same bytes, and both give those of Triton's own launcher: floats
// are cast as C does (1e300 is infinite as fp32), bf16 is cut, fp16 is rounded. What a parameter's type does
// not hold Triton cuts or refuses, depending on its version: inline that is left to it, in the daemon it is
// refused.
#pragma once

#include <Python.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <ringlaunch/ringlaunch.hpp>
#include <string>
#include <vector>

#include "triton_key.hpp"

namespace ringlaunch::python::triton {

// What the compiled kernel takes.
struct Takes {
    std::string kernel;
    std::vector<Param> params;
    std::uint32_t padded_bytes = 0;  // of the buffer: whole words, up to the end of the last slot
};

enum class Move : std::uint8_t {
    word,     // 8 bytes as they are, of a word that has no others
    pair,     // the low halves of two, which are all
    narrow,   // the low bytes; the key says that they are all
    checked,  // the low bytes, if they are all
    to_real,  // an integer as a floating number
    real,     // a floating number
};

struct Op {
    Move move;
    ParamType type;
    std::uint8_t shift;  // bits within the word
    std::uint8_t above;  // bits of a word that the parameter does not have
    bool first;          // of its word
    std::uint16_t leaf;
    std::uint16_t word;
    std::uint16_t param;  // for messages; of a pair, the leaf of the upper half
};

struct Packing {
    std::vector<Op> ops;
    // Words that no argument has stand from here on (scratch pointers that are null, the padding of the last
    // slot): so many pieces are zeroed before.
    std::uint16_t first_zero = 0, zero_pieces = 0;
    static constexpr std::size_t kPieceBytes = 32;
};

inline void zero_pieces(std::byte* at, std::uint32_t pieces) noexcept {
    for (; pieces != 0; --pieces) {
        std::memset(at, 0, Packing::kPieceBytes);
        at += Packing::kPieceBytes;
        asm("" : "+r"(at));  // a call of memset for all of them would take as long as the rest of this
    }
}

// How leaves of these kinds are passed. `leaves`: which of the key's is each parameter. False: some argument
// is of a kind that its parameter cannot take; the slow way says so.
bool plan(const Takes& takes, const Key& key, const std::vector<std::uint16_t>& leaves, Packing& out);

// Packs into `out` (takes.padded_bytes long, and a piece more), all of which is written. Answers the first
// operation whose number the parameter's type does not hold; null: all fit.
const Op* pack(const Takes& takes, const Packing& packing, const std::uint64_t* leaves, std::byte* out);

// The error about such a number. Always returns false.
bool refuse_unfit(const Takes& takes, const Op& op, const std::uint64_t* leaves);

// The same from Python objects, one a parameter, in two steps: what may run Python code, then the buffers,
// which another thread may have freed meanwhile. Tensors' maps are the caller's to put there. False: a Python
// error is set.
bool pack_objects(const Takes& takes, const Session* session, PyObject* const* args, std::byte* out);
bool repack_objects(const Takes& takes, const Session* session, PyObject* const* args, std::byte* out);

// The error about a buffer that is no live one of `session`. Always returns false.
bool refuse_buffer(const std::string& kernel, const std::string& param, const Session* session,
                   PyObject* arg);

}  // namespace ringlaunch::python::triton
