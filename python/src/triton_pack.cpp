// The arguments of a Triton kernel as its compiled code takes them.
#include "triton_pack.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "errors.hpp"
#include "pack.hpp"
#include "schema/id_text.hpp"

namespace ringlaunch::python::triton {

namespace {

bool is_float(ParamType type) noexcept {
    return type >= ParamType::float16 && type <= ParamType::float64;
}
bool is_signed(ParamType type) noexcept {
    return type >= ParamType::int8 && type <= ParamType::int64;
}

std::string place(const Takes& takes, std::size_t param) {
    return "kernel '" + takes.kernel + "', parameter '" + takes.params[param].name + "' (" +
           type_word(takes.params[param].type) + "): ";
}

// Does an integer of this size and sign hold the value? `above`: it is a uint64 beyond the largest int64.
bool holds(const Param& param, std::uint64_t bits, bool above) noexcept {
    const int width = static_cast<int>(8 * param.size);
    const auto value = static_cast<std::int64_t>(bits);
    if (is_signed(param.type)) {
        if (above) return false;
        return width == 64 ||
               (value >= -(std::int64_t{1} << (width - 1)) && value < std::int64_t{1} << (width - 1));
    }
    if (value < 0 && !above) return false;
    return width == 64 || bits >> width == 0;
}

[[gnu::cold]] std::string range_text(const Param& param) {
    const auto width = 8 * param.size;
    const auto one = [](std::uint32_t bits) {
        return std::to_string((std::uint64_t{1} << (bits - 1)) - 1 + (std::uint64_t{1} << (bits - 1)));
    };
    if (!is_signed(param.type)) return "an integer from 0 to " + one(width);
    const std::uint64_t half = std::uint64_t{1} << (width - 1);
    return "an integer from -" + std::to_string(half) + " to " + std::to_string(half - 1);
}

[[gnu::cold]] bool out_of_range(const Takes& takes, std::size_t param, const std::string& found) {
    PyErr_Clear();
    set_named_error("OutOfRange",
                    place(takes, param) + "expected " +
                        (is_float(takes.params[param].type) ? std::string("a number that float16 holds")
                                                            : range_text(takes.params[param])) +
                        ", found " + found);
    return false;
}

// As Triton's launcher: a cast, of bf16 the upper half of the float, of fp16 the nearest.
bool real_bits(ParamType type, double value, std::uint64_t& out) noexcept {
    switch (type) {
        case ParamType::float64:
            out = std::bit_cast<std::uint64_t>(value);
            return true;
        case ParamType::bfloat16:
            out = std::bit_cast<std::uint32_t>(static_cast<float>(value)) >> 16;
            return true;
        case ParamType::float16: {
            std::uint16_t half = 0;
            const bool fits = to_float16(value, half);
            out = half;
            return fits;
        }
        default:
            out = std::bit_cast<std::uint32_t>(static_cast<float>(value));
            return true;
    }
}

void put(std::byte* out, std::uint32_t offset, std::uint32_t size, std::uint64_t bits) noexcept {
    std::memcpy(out + offset, &bits, size);
}

// A Python error may be set; "is no number" is ours to say.
[[gnu::cold]] bool wrong_type(const Takes& takes, std::size_t param, const std::string& expected,
                              PyObject* found) {
    if (PyErr_Occurred() != nullptr && PyErr_ExceptionMatches(PyExc_TypeError) == 0) return false;
    PyErr_Clear();
    set_named_error("ParamTypeError", place(takes, param) + "expected " + expected + ", found " +
                                          short_repr(found) + " (" + type_name(found) + ")");
    return false;
}

bool integer_object(const Takes& takes, std::size_t i, PyObject* arg, std::uint64_t& out) {
    const Param& param = takes.params[i];
    PyObject* index = PyNumber_Index(arg);
    if (index == nullptr) return wrong_type(takes, i, range_text(param), arg);
    int overflow = 0;
    out = static_cast<std::uint64_t>(PyLong_AsLongLongAndOverflow(index, &overflow));
    if (overflow > 0) {
        out = PyLong_AsUnsignedLongLong(index);
        if (PyErr_Occurred() != nullptr)
            PyErr_Clear();
        else
            overflow = 0;
        if (overflow == 0 && !holds(param, out, true)) overflow = 1;
    } else if (overflow == 0 && !holds(param, out, false)) {
        overflow = 1;
    }
    Py_DECREF(index);
    return overflow == 0 || out_of_range(takes, i, short_repr(arg));
}

bool address_object(const Takes& takes, std::size_t i, PyObject* arg, std::uint64_t& out) {
    if (arg == Py_None) {
        out = 0;
        return true;
    }
    if (PyLong_Check(arg)) {
        out = PyLong_AsUnsignedLongLong(arg);
        return PyErr_Occurred() == nullptr || out_of_range(takes, i, short_repr(arg));
    }
    return wrong_type(takes, i, "a Buffer, None or an address", arg);
}

}  // namespace

bool refuse_buffer(const std::string& kernel, const std::string& param, const Session* session,
                   PyObject* arg) {
    const auto* buffer = reinterpret_cast<const BufferObject*>(arg);
    const std::string where =
        "kernel '" + kernel + "'" + (param.empty() ? std::string() : ", parameter '" + param + "'") + ": ";
    if (buffer->live_session == nullptr) {
        set_named_error("Closed", where + "expected a buffer that lives, found one that was freed");
    } else if (buffer->live_session->closed) {
        set_named_error("Closed",
                        where + "expected a buffer of an open client, found one whose client is closed");
    } else {
        const auto session_text = [](const Session* of) {
            return of == nullptr ? std::string("none")
                                 : id_text(of->client.daemon().session) + " on " + of->client.daemon().socket;
        };
        set_named_error("InvalidArgument",
                        where + "expected buffers of the client that the launch is for (session " +
                            session_text(session) + "), found one of another client (session " +
                            session_text(buffer->live_session) + ")");
    }
    return false;
}

bool plan(const Takes& takes, const Key& key, const std::vector<std::uint16_t>& leaves, Packing& packing) {
    std::vector<Op>& out = packing.ops;
    out.clear();
    std::uint32_t words = 0;  // that an operation before has begun
    for (std::size_t i = 0; i < leaves.size(); ++i) {
        const Param& param = takes.params[i];
        if (leaves[i] >= key.leaf_count()) return false;
        const LeafKind kind = key.kind(leaves[i]);
        if (kind == LeafKind::descriptor || param.type == ParamType::bytes) {
            if (kind != LeafKind::descriptor || param.type != ParamType::bytes) return false;
            continue;  // its map is put there by TensorMaps
        }
        if (param.offset % param.size != 0) return false;
        Move move = Move::narrow;
        if (param.type == ParamType::pointer) {
            if (kind == LeafKind::real || kind == LeafKind::constant) return false;
            move = kind == LeafKind::int32 || kind == LeafKind::int64 ? Move::checked : Move::word;
        } else if (kind == LeafKind::none || kind == LeafKind::buffer || kind == LeafKind::tensor ||
                   kind == LeafKind::constant) {
            return false;
        } else if (is_float(param.type)) {
            if (kind == LeafKind::uint64) return false;
            move = kind == LeafKind::real ? Move::real : Move::to_real;
        } else if (kind == LeafKind::real) {
            return false;
        } else if (kind == LeafKind::uint64) {
            if (param.type != ParamType::uint64) return false;
            move = Move::word;
        } else if (param.size == 8 && (is_signed(param.type) || kind == LeafKind::boolean)) {
            move = Move::word;
        } else if (kind != LeafKind::boolean &&
                   !(kind == LeafKind::int32 && param.type == ParamType::int32)) {
            move = Move::checked;
        }
        const std::uint32_t word = param.offset / 8;
        if (move == Move::narrow && param.size == 4 && param.offset % 8 == 4 && !out.empty() &&
            out.back().move == Move::narrow && out.back().word == word && out.back().first &&
            out.back().above == 32) {
            out.back().move = Move::pair;
            out.back().param = leaves[i];
            continue;
        }
        out.push_back({move, param.type, static_cast<std::uint8_t>(param.offset % 8 * 8),
                       static_cast<std::uint8_t>(64 - 8 * param.size), word >= words, leaves[i],
                       static_cast<std::uint16_t>(word), static_cast<std::uint16_t>(i)});
        words = word + 1;
    }
    std::vector<bool> written(takes.padded_bytes / 8);
    for (const Op& op : out) written[op.word] = true;
    const auto zero = std::find(written.begin(), written.end(), false);
    packing.first_zero = static_cast<std::uint16_t>(zero - written.begin());
    packing.zero_pieces = static_cast<std::uint16_t>((8 * (written.end() - zero) + Packing::kPieceBytes - 1) /
                                                     Packing::kPieceBytes);
    return true;
}

bool refuse_unfit(const Takes& takes, const Op& op, const std::uint64_t* leaves) {
    const std::uint64_t leaf = leaves[op.leaf];
    return out_of_range(takes, op.param,
                        op.move == Move::real ? std::to_string(std::bit_cast<double>(leaf))
                                              : std::to_string(static_cast<std::int64_t>(leaf)));
}

const Op* pack(const Takes& takes, const Packing& packing, const std::uint64_t* leaves, std::byte* out) {
    // Whole words are stored, because whole words are what the ring's copy loads.
    zero_pieces(out + 8 * packing.first_zero, packing.zero_pieces);
    for (const Op& op : packing.ops) {
        std::byte* const at = out + 8 * op.word;
        const std::uint64_t leaf = leaves[op.leaf];
        std::uint64_t bits = leaf;
        // Most fill their word.
        if (op.move == Move::word) {
            std::memcpy(at, &bits, sizeof bits);
            continue;
        }
        if (op.move == Move::pair) {
            bits = (bits & 0xffffffff) | leaves[op.param] << 32;
            std::memcpy(at, &bits, sizeof bits);
            continue;
        }
        switch (op.move) {
            case Move::word:
            case Move::pair:
                break;
            case Move::narrow:
                bits = bits << op.above >> op.above;
                break;
            case Move::checked:
                if (!holds(takes.params[op.param], leaf, false)) [[unlikely]]
                    return &op;
                bits = bits << op.above >> op.above;
                break;
            case Move::to_real:
            case Move::real: {
                const double value = op.move == Move::real
                                         ? std::bit_cast<double>(leaf)
                                         : static_cast<double>(static_cast<std::int64_t>(leaf));
                if (!real_bits(op.type, value, bits)) [[unlikely]]
                    return &op;
                break;
            }
        }
        bits <<= op.shift;
        if (!op.first) {
            std::uint64_t before;
            std::memcpy(&before, at, sizeof before);
            bits |= before;
        }
        std::memcpy(at, &bits, sizeof bits);
    }
    return nullptr;
}

bool repack_objects(const Takes& takes, const Session* session, PyObject* const* args, std::byte* out) {
    for (std::size_t i = 0; i < takes.params.size(); ++i) {
        if (args[i] == nullptr || !is_buffer(args[i])) continue;
        const auto* buffer = reinterpret_cast<const BufferObject*>(args[i]);
        if (buffer->live_session != session || session == nullptr)
            return refuse_buffer(takes.kernel, takes.params[i].name, session, args[i]);
        put(out, takes.params[i].offset, 8, buffer->address);
    }
    return true;
}

bool pack_objects(const Takes& takes, const Session* session, PyObject* const* args, std::byte* out) {
    std::memset(out, 0, takes.padded_bytes);
    for (std::size_t i = 0; i < takes.params.size(); ++i) {
        const Param& param = takes.params[i];
        PyObject* arg = args[i];
        std::uint64_t bits = 0;
        if (arg == nullptr) continue;                  // a pointer of the launcher's own
        if (param.type == ParamType::bytes) continue;  // the caller's
        if (param.type == ParamType::pointer) {
            if (is_buffer(arg)) continue;
            if (!address_object(takes, i, arg, bits)) return false;
        } else if (is_float(param.type)) {
            const double value = PyFloat_AsDouble(arg);
            if (value == -1.0 && PyErr_Occurred() != nullptr) return wrong_type(takes, i, "a number", arg);
            if (!real_bits(param.type, value, bits)) return out_of_range(takes, i, short_repr(arg));
        } else if (!integer_object(takes, i, arg, bits)) {
            return false;
        }
        put(out, param.offset, param.size, bits);
    }
    return repack_objects(takes, session, args, out);
}

}  // namespace ringlaunch::python::triton
