// A call that is like one before: what of its arguments has to be as it was, and where the rest goes.
//
// Most calls find the variant that the call before has found. Of such a call no key is made: each argument is
// compared with what it was and moved to its place among the parameters, in one go. A call that passes has
// the key of the one before, since all that a key holds of an argument is compared. One that does not takes
// the usual way from its beginning: nothing has happened yet, and nothing here runs Python code.
#pragma once

#include <Python.h>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "handles.hpp"
#include "small_int.hpp"
#include "torch_tensor.hpp"
#include "triton_pack.hpp"

namespace ringlaunch::python::triton {

class Repeat {
  public:
    // A parameter's argument in that call.
    struct Given {
        PyObject* object;
        std::uint16_t arg;  // its place among the call's, or kDefault
        std::uint8_t flags;
        static constexpr std::uint16_t kDefault = 0xffff;
    };
    // `params`: one a leaf of the call's key. `options`: what else it was compiled for. `session`: of the
    // key. `device`: of the tensors. Null: some argument is of a kind that only the usual way knows.
    static std::unique_ptr<Repeat> make(const std::vector<Given>& params, const std::vector<Given>& options,
                                        const Packing& packing, const Session* session, int device);

    std::uint64_t context() const noexcept { return std::bit_cast<std::uint64_t>(session_); }
    int device() const noexcept { return device_; }

    // Packs the arguments as pack() does. `tensors`: room for those among them; behind the last when it
    // returns. False: the call is not like that one.
    bool pack(PyObject* const* args, std::byte* out, PyObject**& tensors) const noexcept;

  private:
    enum class Take : std::uint8_t { pair, integer, tensor, buffer, real32, real64, fixed };
    // What a number has to be, besides of its kind: its low bits in a range, and not this.
    struct Look {
        std::int64_t other;
        std::uint8_t low, least, more;
    };
    struct Op {
        Look looks[2];       // the second of a pair
        std::uint64_t mask;  // what of the bits is passed
        std::uint64_t kept;  // what of the word stays, which the operation before has begun
        std::int64_t value;  // of a fixed one; of a buffer its element type
        PyTypeObject* type;  // of a tensor, and its version
        unsigned int version;
        TorchKind kind;
        std::uint16_t args[2];
        std::uint16_t at;    // the word's bytes
        std::uint8_t shift;  // in the word
        Take take;
    };
    // What is compiled in.
    struct Constant {
        PyObject* object;  // strong, immutable
        std::int64_t value;
        std::uint16_t arg;
        bool small;  // an integer: another object of this value will do
    };

    Repeat() = default;
    Repeat(const Repeat&) = delete;
    Repeat& operator=(const Repeat&) = delete;
    bool add_constant(const Given& given);
    bool add_moved(const Given& given, Op op, ParamType type, bool whole_word);
    void join_pair();

    static bool fits(std::uint64_t bits, const Look& look) noexcept {
        return static_cast<std::uint32_t>((bits & look.low) - look.least) <= look.more;
    }
    static bool take_integer(PyObject* arg, const Look& look, std::uint64_t& bits) noexcept {
        std::int64_t value = 0;
        if (!PyLong_CheckExact(arg) || !small_int(arg, value)) return false;
        bits = static_cast<std::uint64_t>(value);
        return fits(bits, look) && value != look.other;
    }

    std::vector<Constant> constants_;
    std::vector<Op> ops_;
    std::uint16_t first_zero_ = 0, zero_pieces_ = 0;  // as of Packing
    int device_ = 0;
    const Session* session_ = nullptr;  // of the buffers; without them the context

  public:
    ~Repeat();
};

[[gnu::always_inline]] inline bool Repeat::pack(PyObject* const* args, std::byte* out,
                                                PyObject**& tensors) const noexcept {
    for (const Constant& constant : constants_) {
        PyObject* const arg = args[constant.arg];
        if (arg == constant.object) continue;
        std::int64_t value = 0;
        if (!constant.small || !PyLong_CheckExact(arg) || !small_int(arg, value) || value != constant.value)
            return false;
    }
    zero_pieces(out + 8 * first_zero_, zero_pieces_);
    // Whole words, as in pack().
    const auto put = [out](const Op& op, std::uint64_t word) {
        std::memcpy(out + op.at, &word, sizeof word);
    };
    std::uint64_t word = 0;
    PyObject** tensor = tensors;
    for (const Op& op : ops_) {
        std::uint64_t bits = 0;
        PyObject* const arg = args[op.args[0]];
        if (op.take == Take::pair) {
            std::uint64_t above = 0;
            if (!take_integer(arg, op.looks[0], bits) || !take_integer(args[op.args[1]], op.looks[1], above))
                [[unlikely]]
                return false;
            put(op, static_cast<std::uint32_t>(bits) | above << 32);
            continue;
        }
        if (op.take == Take::tensor) {
            std::uint64_t address = 0;
            if (Py_TYPE(arg) != op.type || op.type->tp_version_tag != op.version ||
                !read_torch_as(arg, op.kind, address) || !fits(address, op.looks[0])) [[unlikely]]
                return false;
            *tensor++ = arg;
            put(op, address);
            continue;
        }
        switch (op.take) {
            case Take::buffer: {
                const auto* buffer = reinterpret_cast<const BufferObject*>(arg);
                if (Py_TYPE(arg) != usual_buffer_type || buffer->live_session != session_ ||
                    buffer->element != op.value || !fits(buffer->address, op.looks[0])) [[unlikely]]
                    return false;
                put(op, buffer->address);
                continue;
            }
            case Take::integer:
                if (!take_integer(arg, op.looks[0], bits)) [[unlikely]]
                    return false;
                bits &= op.mask;
                break;
            case Take::fixed:
                bits = static_cast<std::uint64_t>(op.value) & op.mask;
                break;
            case Take::real32:
            case Take::real64:
                if (!PyFloat_CheckExact(arg)) [[unlikely]]
                    return false;
                bits = op.take == Take::real64
                           ? std::bit_cast<std::uint64_t>(PyFloat_AS_DOUBLE(arg))
                           : std::bit_cast<std::uint32_t>(static_cast<float>(PyFloat_AS_DOUBLE(arg)));
                break;
            case Take::pair:
            case Take::tensor:
                break;
        }
        word = (word & op.kept) | bits << op.shift;
        put(op, word);
    }
    tensors = tensor;
    return true;
}

}  // namespace ringlaunch::python::triton
