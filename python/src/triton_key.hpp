// What a call of a Triton kernel gives, as a key of bytes and the numbers that a launch may pass.
//
// Triton compiles a kernel for the types of its arguments, for some of their values (1, divisible by 16,
// None) and for the values of its constants. The key holds at least as much of each argument as Triton's own
// specialization looks at: two calls of one key are one to Triton. It may hold more, which costs a second
// look-up and nothing else. What the encoder does not know has no key: such a call goes through Triton's own
// code.
//
// A key is a string of tags, one or more an argument, and a string of words that some tags stand for. No list
// of tags is the beginning of another, so equal strings mean equal arguments.
#pragma once

#include <Python.h>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "handles.hpp"
#include "small_int.hpp"
#include "triton_tensor.hpp"

namespace ringlaunch::python::triton {

// What an argument is to a launch. Constants are not passed.
// A descriptor is its tensor's address, and is followed by its shape and its strides.
enum class LeafKind : std::uint8_t {
    constant,
    none,
    boolean,
    int32,
    int64,
    uint64,
    real,
    buffer,
    tensor,
    descriptor
};

enum class Tag : std::uint8_t {
    none = 1,
    boolean,
    one,    // the integer 1, where Triton compiles it in
    int32,  // the even ones of each pair: not known to be divisible by 16
    int32_aligned,
    int64,
    int64_aligned,
    uint64,
    uint64_aligned,
    real,
    tuple,            // followed by the count of its elements, and these
    tuple_of,         // the same, of a type derived from tuple; a word names the type
    descriptor,       // followed by rank, element, how it is read; a word for each side of its block
    true_value = 32,  // constants, from here on: each value is another kernel
    false_value,
    int_value,
    real_value,
    string_value,
    object_value,  // known by its identity
    int_of,        // a number of another type than Python's own; a word names the type
    real_of,
    function_value,  // by its identity and that of its hash
    wrapped,         // tl.constexpr, followed by what it holds
    option = 64,     // followed by the option's number and its value
    memory = 128     // of a buffer or tensor: with its element type and whether it is divisible by 16
};

enum ParamFlags : std::uint8_t {
    kConstexpr = 1,
    kNoSpecialize = 2,
    kNoAlignment = 4,
    kNamedLikeOption = 8,
    kReal = 16,  // annotated: a floating number, whatever number is given
    kWide = 32   // annotated: an integer of more than 32 bits, however small
};

inline constexpr std::size_t kMaxParams = 128;  // calls of a kernel with more go the slow way
inline constexpr std::size_t kMaxTags = 512;
inline constexpr std::size_t kMaxWords = 256;
inline constexpr std::size_t kMaxLeaves = 256;
inline constexpr std::size_t kMaxHeld = 32;
inline constexpr std::size_t kMaxDescriptors = 16;
inline constexpr std::size_t kMaxRank = 5;

// Element types of a buffer (BufferObject::element) from 1 on; 0 is one that Triton does not know.
inline constexpr std::uint8_t kMaxElement = 63;

// Types of Triton whose instances may be constants; none of them where it is not imported.
struct ConstantTypes {
    std::vector<PyTypeObject*> by_identity;  // immutable ones: tl.dtype
    std::vector<PyTypeObject*> functions;    // JITFunction and the like, which have a `hash`
    PyTypeObject* constexpr_type = nullptr;
    PyTypeObject* enum_type = nullptr;
};
extern ConstantTypes constant_types;
// triton_types(by_identity, functions, constexpr, Enum): the types of Triton's objects that may be constants.
PyObject* set_types(PyObject*, PyObject* args);

// Of members of an enumeration whose hash is that of their name, of an int or of a str.
bool is_enum_member(PyTypeObject* type);

// A tensor descriptor among the arguments.
struct Descriptor {
    std::uint16_t leaf;  // its first
    std::uint8_t rank;
    std::uint8_t how;                         // of these
    const BufferObject* buffer;               // borrowed from the call; null: of this program
    std::uint64_t room;                       // of the buffer from the tensor's address on
    static constexpr std::uint8_t kNan = 1;   // what is read outside of it
    static constexpr std::uint8_t kTf32 = 2;  // rounded to it
};

class Key {
  public:
    // Begins anew, with tensors of this process among the arguments. `asked`: those that had to be asked;
    // null: none were, yet.
    void begin_with_tensors(const Asked* asked) noexcept {
        session_ = nullptr;
        foreign_ = nullptr;
        tag_count_ = word_count_ = leaf_count_ = held_count_ = check_count_ = descriptor_count_ = 0;
        given_count_ = 0;
        device_ = TensorView::kUnknown;
        with_tensors_ = true;
        unasked_ = has_tensors_ = false;
        asked_ = asked;
    }
    // It has no key because objects among the arguments have to be asked first.
    bool unasked() const noexcept { return unasked_; }

    // Takes the arguments from `from` on while they are of the usual kinds (integers, floats, buffers,
    // tensors of the usual type on one device, and integers as constants). Answers the first that is not: one
    // for parameter() or constexpr_leaf().
    std::size_t usual(PyObject* const* args, const std::uint8_t* flags, std::size_t from,
                      std::size_t total) noexcept;
    // False: it has no key, and goes the slow way. A Python error may be set.
    bool parameter(PyObject* arg, std::uint8_t flags) {
        given_[given_count_++] = arg;
        return runtime(arg, flags);
    }
    bool runtime(PyObject* arg, std::uint8_t flags);
    bool constant(PyObject* arg);
    // Of an option Triton reads the text, which objects may change.
    bool option(std::uint8_t number, PyObject* value) {
        const std::uint32_t held = held_count_;
        return put(Tag::option) && put(number) && constant(value) && held == held_count_;
    }
    // A parameter that is compiled in.
    bool constexpr_leaf(PyObject* arg) { return constant(arg) && leaf(LeafKind::constant, 0); }

    // After the last: what is compared and hashed.
    void finish(std::uint64_t settings) noexcept {
        std::memset(tags_.data() + tag_count_, 0, 8);
        settings_ = settings;
    }
    std::uint64_t hash() const noexcept;
    // The words of a key that was kept (see keep()).
    bool equals(const std::vector<std::uint64_t>& kept) const noexcept;
    void keep(std::vector<std::uint64_t>& out) const;

    // Of the first buffer among the arguments; null: there was none.
    const Session* session() const noexcept { return session_; }
    void set_session(const Session* session) noexcept { session_ = session; }
    // The first argument that is a buffer of another client than the first, or was freed. Null: there is
    // none.
    PyObject* foreign() const noexcept { return foreign_; }

    bool has_tensors() const noexcept { return has_tensors_; }
    // The CUDA device of the tensors; below 0: there are none, or only such as have to be checked.
    int device() const noexcept { return device_; }
    // Leaves whose address only the driver knows whether a kernel may use: memory of the host, of objects
    // that do not say where it is, or of another device than device().
    std::size_t check_count() const noexcept { return check_count_; }
    std::size_t check(std::size_t i) const noexcept { return checks_[i]; }
    // What the driver calls that memory.
    void set_address(std::size_t leaf, std::uint64_t address) noexcept { leaves_[leaf] = address; }

    std::size_t leaf_count() const noexcept { return leaf_count_; }
    const std::uint64_t* leaves() const noexcept { return leaves_.data(); }
    LeafKind kind(std::size_t i) const noexcept { return static_cast<LeafKind>(kinds_[i]); }
    std::size_t descriptor_count() const noexcept { return descriptor_count_; }
    const Descriptor& descriptor(std::size_t i) const noexcept { return descriptors_[i]; }
    // The arguments that a launch in this program needs until it is issued: all but numbers, constants and
    // buffers.
    std::span<PyObject* const> given() const noexcept { return {given_.data(), given_count_}; }
    std::size_t held_count() const noexcept { return held_count_; }
    PyObject* held(std::size_t i) const noexcept { return held_[i]; }

  private:
    bool put(Tag tag) noexcept { return put(static_cast<std::uint8_t>(tag)); }
    bool put(std::uint8_t tag) noexcept {
        if (tag_count_ == kMaxTags) [[unlikely]]
            return false;
        tags_[tag_count_++] = tag;
        return true;
    }
    bool word(std::uint64_t value) noexcept {
        if (word_count_ == kMaxWords) [[unlikely]]
            return false;
        words_[word_count_++] = value;
        return true;
    }
    bool leaf(LeafKind kind, std::uint64_t bits) noexcept {
        if (leaf_count_ == kMaxLeaves) [[unlikely]]
            return false;
        kinds_[leaf_count_] = static_cast<std::uint8_t>(kind);
        leaves_[leaf_count_++] = bits;
        return true;
    }
    // The object stands in the key with its address, so whoever keeps the key keeps the object.
    bool hold(PyObject* object) noexcept {
        if (held_count_ == kMaxHeld) [[unlikely]]
            return false;
        held_[held_count_++] = object;
        return word(std::bit_cast<std::uint64_t>(object));
    }
    bool real(double value) noexcept {
        return put(Tag::real) && leaf(LeafKind::real, std::bit_cast<std::uint64_t>(value));
    }
    static bool is_aligned(std::uint64_t value, std::uint8_t flags) noexcept {
        return (flags & (kNoSpecialize | kNoAlignment)) == 0 && (value & 15) == 0;
    }
    static bool is_narrow(std::int64_t value, std::uint8_t flags) noexcept {
        return (flags & kWide) == 0 && value == static_cast<std::int32_t>(value);
    }
    static std::uint8_t integer_tag(std::int64_t value, std::uint8_t flags) noexcept {
        if (value == 1 && (flags & kNoSpecialize) == 0) return static_cast<std::uint8_t>(Tag::one);
        return static_cast<std::uint8_t>(
            static_cast<std::uint8_t>(is_narrow(value, flags) ? Tag::int32 : Tag::int64) +
            (is_aligned(static_cast<std::uint64_t>(value), flags) ? 1 : 0));
    }
    static LeafKind integer_kind(std::int64_t value, std::uint8_t flags) noexcept {
        const bool one = value == 1 && (flags & kNoSpecialize) == 0;
        return one || is_narrow(value, flags) ? LeafKind::int32 : LeafKind::int64;
    }
    bool integer(std::int64_t value, std::uint8_t flags) noexcept {
        if ((flags & kReal) != 0) return real(static_cast<double>(value));
        return put(integer_tag(value, flags)) &&
               leaf(integer_kind(value, flags), static_cast<std::uint64_t>(value));
    }
    static std::uint8_t memory_tag(std::uint8_t element, std::uint64_t address, std::uint8_t flags) noexcept {
        return static_cast<std::uint8_t>(static_cast<std::uint8_t>(Tag::memory) | element << 1 |
                                         (is_aligned(address, flags) ? 1 : 0));
    }
    bool memory(std::uint8_t element, std::uint64_t address, LeafKind kind, std::uint8_t flags) noexcept {
        return put(memory_tag(element, address, flags)) && leaf(kind, address);
    }
    bool buffer(const BufferObject* buffer, std::uint8_t flags);
    void own(const BufferObject* buffer) noexcept;
    bool tensor(const TensorView& view, std::uint8_t flags) noexcept;
    bool read_tensor(PyObject* arg, const TensorType& type, std::uint8_t flags) noexcept {
        TensorView view;
        return read_exchange(arg, type, view) && tensor(view, flags);
    }
    bool unusual_tensor(PyObject* arg, std::uint8_t flags);
    bool descriptor(PyObject* arg);
    bool described_tensor(PyObject* base, TensorView& out);
    bool sides(PyObject* list, std::size_t rank, bool strides);
    bool large_integer(PyObject* arg, std::uint8_t flags);
    bool runtime_slowly(PyObject* arg, std::uint8_t flags);
    bool tuple(PyObject* arg, bool of_constants);
    bool string(PyObject* arg);
    bool constant_slowly(PyObject* arg);
    bool number_of_c(PyObject* arg);
    std::size_t tag_words() const noexcept { return (tag_count_ + 7) / 8; }
    std::uint64_t tags_at(std::uint32_t i) const noexcept {
        std::uint64_t word;
        std::memcpy(&word, tags_.data() + i, sizeof word);
        return word;
    }

    const Session* session_ = nullptr;
    PyObject* foreign_ = nullptr;
    std::uint64_t settings_ = 0;
    std::uint32_t tag_count_ = 0, word_count_ = 0, leaf_count_ = 0, held_count_ = 0;
    std::uint32_t check_count_ = 0, descriptor_count_ = 0, given_count_ = 0;
    int depth_ = 0;
    int device_ = TensorView::kUnknown;
    bool with_tensors_ = false, unasked_ = false, has_tensors_ = false;
    const Asked* asked_ = nullptr;
    // Not set before they are used: a call sets a few of them.
    alignas(8) std::array<std::uint8_t, kMaxTags + 8> tags_;
    std::array<std::uint64_t, kMaxWords> words_;
    std::array<std::uint64_t, kMaxLeaves> leaves_;
    std::array<std::uint8_t, kMaxLeaves> kinds_;
    std::array<PyObject*, kMaxHeld> held_;
    std::array<PyObject*, kMaxParams> given_;
    std::array<std::uint16_t, kMaxLeaves> checks_;
    std::array<Descriptor, kMaxDescriptors> descriptors_;
};

inline bool Key::equals(const std::vector<std::uint64_t>& kept) const noexcept {
    if (kept.size() != 3 + tag_words() + word_count_ || kept[0] != settings_ ||
        kept[1] != std::bit_cast<std::uint64_t>(session_) ||
        kept[2] != (std::uint64_t{tag_count_} << 32 | word_count_))
        return false;
    const std::uint64_t* word = kept.data() + 3;
    std::uint64_t different = 0;
    for (std::uint32_t i = 0; i < tag_count_; i += 8) different |= tags_at(i) ^ *word++;
    for (std::uint32_t i = 0; i < word_count_; ++i) different |= words_[i] ^ *word++;
    return different == 0;
}

// Its client is the call's.
inline void Key::own(const BufferObject* buffer) noexcept {
    if (session_ == nullptr) session_ = buffer->live_session;
    if (buffer->live_session != session_ || session_ == nullptr) [[unlikely]] {
        if (foreign_ == nullptr) foreign_ = reinterpret_cast<PyObject*>(const_cast<BufferObject*>(buffer));
    }
}

inline bool Key::buffer(const BufferObject* buffer, std::uint8_t flags) {
    own(buffer);
    if (buffer->element == 0) [[unlikely]]
        return false;
    return memory(buffer->element, buffer->address, LeafKind::buffer, flags);
}

inline bool Key::tensor(const TensorView& view, std::uint8_t flags) noexcept {
    has_tensors_ = true;
    if (view.device != TensorView::kUnknown && device_ == TensorView::kUnknown) device_ = view.device;
    if ((view.device == TensorView::kUnknown || view.device != device_) && view.address != 0 &&
        check_count_ != kMaxLeaves) [[unlikely]]
        checks_[check_count_++] = static_cast<std::uint16_t>(leaf_count_);
    return view.element != 0 && memory(view.element, view.address, LeafKind::tensor, flags);
}

inline std::size_t Key::usual(PyObject* const* args, const std::uint8_t* flags, std::size_t from,
                              std::size_t total) noexcept {
    // Each is one tag, one leaf, and one word at most, so the places are looked at once. All counts stay in
    // registers.
    const std::size_t count = total - from;
    if (tag_count_ + count > kMaxTags || word_count_ + count > kMaxWords || leaf_count_ + count > kMaxLeaves)
        [[unlikely]]
        return from;
    args += from;
    flags += from;
    std::uint8_t* const tags = tags_.data() + tag_count_;
    std::uint64_t* const leaves = leaves_.data() + leaf_count_;
    std::uint8_t* const kinds = kinds_.data() + leaf_count_;
    std::uint64_t* word = words_.data() + word_count_;
    PyObject** given = given_.data() + given_count_;
    const Session* session = session_;
    int device = device_;
    std::size_t i = 0;
    const auto take = [&](std::uint8_t tag, LeafKind kind, std::uint64_t bits) {
        tags[i] = tag;
        kinds[i] = static_cast<std::uint8_t>(kind);
        leaves[i] = bits;
    };
    for (; i < count; ++i) {
        PyObject* const arg = args[i];
        const std::uint8_t flag = flags[i];
        if (PyLong_CheckExact(arg)) {
            std::int64_t value = 0;
            if (!small_int(arg, value)) break;
            const auto bits = static_cast<std::uint64_t>(value);
            if (flag == 0) [[likely]] {
                static_assert(PyLong_SHIFT < 32);  // so it is narrow
                const std::uint8_t aligned = (bits & 15) == 0 ? 1 : 0;
                take(value == 1 ? static_cast<std::uint8_t>(Tag::one)
                                : static_cast<std::uint8_t>(static_cast<std::uint8_t>(Tag::int32) + aligned),
                     LeafKind::int32, bits);
            } else if ((flag & kConstexpr) != 0) {
                *word++ = bits;
                take(static_cast<std::uint8_t>(Tag::int_value), LeafKind::constant, 0);
            } else if ((flag & kReal) != 0) {
                take(static_cast<std::uint8_t>(Tag::real), LeafKind::real,
                     std::bit_cast<std::uint64_t>(static_cast<double>(value)));
            } else {
                take(integer_tag(value, flag), integer_kind(value, flag), bits);
            }
        } else if ((flag & kConstexpr) != 0) {
            break;
        } else if (Py_TYPE(arg) == usual_buffer_type) {
            const auto* buffer = reinterpret_cast<const BufferObject*>(arg);
            if (session == nullptr) session = buffer->live_session;
            if (buffer->live_session != session || session == nullptr || buffer->element == 0) [[unlikely]]
                break;
            take(memory_tag(buffer->element, buffer->address, flag), LeafKind::buffer, buffer->address);
        } else if (with_tensors_ && usual_tensor.is_of(Py_TYPE(arg))) {
            TensorView view;
            if (!read_exchange(arg, usual_tensor, view) || view.device < 0 ||
                (device >= 0 && view.device != device)) [[unlikely]]
                break;
            device = view.device;
            *given++ = arg;
            take(memory_tag(view.element, view.address, flag), LeafKind::tensor, view.address);
        } else if (PyFloat_CheckExact(arg)) {
            take(static_cast<std::uint8_t>(Tag::real), LeafKind::real,
                 std::bit_cast<std::uint64_t>(PyFloat_AS_DOUBLE(arg)));
        } else {
            break;
        }
    }
    session_ = session;
    device_ = device;
    has_tensors_ |= device >= 0;
    given_count_ = static_cast<std::uint32_t>(given - given_.data());
    word_count_ = static_cast<std::uint32_t>(word - words_.data());
    tag_count_ += static_cast<std::uint32_t>(i);
    leaf_count_ += static_cast<std::uint32_t>(i);
    return from + i;
}

inline bool Key::runtime(PyObject* arg, std::uint8_t flags) {
    if (Py_TYPE(arg) == usual_buffer_type) [[likely]]
        return buffer(reinterpret_cast<const BufferObject*>(arg), flags);
    if (with_tensors_) {
        if (usual_tensor.is_of(Py_TYPE(arg))) return read_tensor(arg, usual_tensor, flags);
        if (other_tensor.is_of(Py_TYPE(arg))) return read_tensor(arg, other_tensor, flags);
    }
    if (std::int64_t value = 0; PyLong_CheckExact(arg) && small_int(arg, value)) [[likely]]
        return integer(value, flags);
    if (PyFloat_CheckExact(arg)) [[likely]]
        return real(PyFloat_AS_DOUBLE(arg));
    return runtime_slowly(arg, flags);
}

inline bool Key::constant(PyObject* arg) {
    if (std::int64_t value = 0; PyLong_CheckExact(arg) && small_int(arg, value)) [[likely]]
        return put(Tag::int_value) && word(static_cast<std::uint64_t>(value));
    if (arg == Py_True) return put(Tag::true_value);
    if (arg == Py_False) return put(Tag::false_value);
    if (arg == Py_None) return put(Tag::none);
    return constant_slowly(arg);
}

}  // namespace ringlaunch::python::triton
