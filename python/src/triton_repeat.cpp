#include "triton_repeat.hpp"

#include <algorithm>
#include <limits>

namespace ringlaunch::python::triton {

namespace {

constexpr std::int64_t kNoInteger = std::numeric_limits<std::int64_t>::min();  // that is small
constexpr std::uint64_t kLowHalf = 0xffffffff;

bool is_one_of(const std::vector<PyTypeObject*>& types, PyTypeObject* type) noexcept {
    return std::find(types.begin(), types.end(), type) != types.end();
}

// An object that is the same constant as long as it is the same object.
bool is_constant(PyObject* object) noexcept {
    return PyLong_CheckExact(object) || PyFloat_CheckExact(object) || PyUnicode_CheckExact(object) ||
           PyBool_Check(object) || object == Py_None ||
           is_one_of(constant_types.by_identity, Py_TYPE(object));
}

bool is_real(ParamType type) noexcept {
    return type >= ParamType::float16 && type <= ParamType::float64;
}

const TensorType* known_type(PyTypeObject* type) noexcept {
    for (const TensorType* each : {&usual_tensor, &other_tensor})
        if (each->is_of(type)) return each;
    return &tensor_type(type);
}

}  // namespace

Repeat::~Repeat() {
    for (const Constant& constant : constants_) Py_DECREF(constant.object);
}

bool Repeat::add_constant(const Given& given) {
    if (!is_constant(given.object)) return false;
    if (given.arg == Given::kDefault) return true;  // it stays what it is
    std::int64_t value = 0;
    const bool small = PyLong_CheckExact(given.object) && small_int(given.object, value);
    constants_.push_back({given.object, value, given.arg, small});
    Py_INCREF(given.object);
    return true;
}

// `op` says where it goes. `whole_word`: all of its bits.
bool Repeat::add_moved(const Given& given, Op op, ParamType type, bool whole_word) {
    PyObject* const object = given.object;
    const bool fixed = given.arg == Given::kDefault;
    const bool looks = (given.flags & kNoSpecialize) == 0;
    op.args[0] = fixed ? 0 : given.arg;
    op.looks[0].other = kNoInteger;
    const auto look_at_low = [&](std::uint64_t bits) {
        if (!looks || (given.flags & kNoAlignment) != 0) return;
        op.looks[0].low = 15;
        if ((bits & 15) == 0) return;
        op.looks[0].least = 1;
        op.looks[0].more = 14;
    };
    if (PyLong_CheckExact(object)) {
        std::int64_t value = 0;
        if (is_real(type) || (given.flags & kReal) != 0 || !small_int(object, value) || (looks && value == 1))
            return false;
        look_at_low(static_cast<std::uint64_t>(value));
        op.take = fixed ? Take::fixed : Take::integer;
        op.value = value;
        if (looks) op.looks[0].other = 1;
    } else if (PyFloat_CheckExact(object)) {
        const double value = PyFloat_AS_DOUBLE(object);
        op.take = type == ParamType::float64 ? Take::real64 : Take::real32;
        if (fixed) {
            op.value = type == ParamType::float64
                           ? std::bit_cast<std::int64_t>(value)
                           : std::int64_t{std::bit_cast<std::int32_t>(static_cast<float>(value))};
            op.take = Take::fixed;
        }
    } else if (!whole_word || fixed) {
        return false;
    } else if (Py_TYPE(object) == usual_buffer_type) {
        const auto* buffer = reinterpret_cast<const BufferObject*>(object);
        if (buffer->live_session != session_ || session_ == nullptr) return false;
        look_at_low(buffer->address);
        op.take = Take::buffer;
        op.value = buffer->element;
    } else {
        const TensorType* const known = known_type(Py_TYPE(object));
        TensorView view;
        if (known->reading != Reading::exchange || !known->of_torch || !read_torch(object, view) ||
            view.device != device_ || !torch_kind(object, op.kind))
            return false;
        look_at_low(view.address);
        op.take = Take::tensor;
        op.type = known->type;
        op.version = known->version;
    }
    ops_.push_back(op);
    return true;
}

// The last two operations as one, where they are of integers.
void Repeat::join_pair() {
    const Op& upper = ops_.back();
    Op& lower = ops_[ops_.size() - 2];
    if (lower.take != Take::integer || upper.take != Take::integer) return;
    lower.take = Take::pair;
    lower.looks[1] = upper.looks[0];
    lower.args[1] = upper.args[0];
    ops_.pop_back();
}

std::unique_ptr<Repeat> Repeat::make(const std::vector<Given>& params, const std::vector<Given>& options,
                                     const Packing& packing, const Session* session, int device) {
    std::unique_ptr<Repeat> made(new Repeat());
    made->session_ = session;
    made->device_ = device;
    made->first_zero_ = packing.first_zero;
    made->zero_pieces_ = packing.zero_pieces;
    std::vector<bool> moved(params.size());
    const auto move = [&](std::size_t leaf, const Op& op, ParamType type, bool whole_word) {
        if (leaf >= params.size() || moved[leaf]) return false;
        moved[leaf] = true;
        return made->add_moved(params[leaf], op, type, whole_word);
    };
    for (const triton::Op& from : packing.ops) {
        Op op{};
        op.at = static_cast<std::uint16_t>(8 * from.word);
        op.mask = kLowHalf;
        if (from.move == Move::pair) {
            if (!move(from.leaf, op, ParamType::int32, false)) return nullptr;
            op.shift = 32;
            op.kept = kLowHalf;
            if (!move(from.param, op, ParamType::int32, false)) return nullptr;
            made->join_pair();
            continue;
        }
        op.shift = from.shift;
        if (!from.first) {
            if (made->ops_.empty() || made->ops_.back().at != op.at) return nullptr;
            op.kept = ~std::uint64_t{0};
        }
        const bool narrow = (from.move == Move::narrow && from.type == ParamType::int32) ||
                            (from.move == Move::real && from.type == ParamType::float32);
        const bool wide =
            from.move == Move::word || (from.move == Move::real && from.type == ParamType::float64);
        if (wide) op.mask = ~std::uint64_t{0};
        if ((!narrow && !wide) || !move(from.leaf, op, from.type, from.move == Move::word)) return nullptr;
    }
    for (std::size_t i = 0; i < params.size(); ++i) {
        const Given& given = params[i];
        if (moved[i]) continue;
        // Of those that are no constants Triton compiles 1 in, and None.
        std::int64_t value = 0;
        const bool one = PyLong_CheckExact(given.object) && small_int(given.object, value) && value == 1 &&
                         (given.flags & (kNoSpecialize | kReal)) == 0;
        if (((given.flags & kConstexpr) == 0 && !one && given.object != Py_None) ||
            !made->add_constant(given))
            return nullptr;
    }
    for (const Given& given : options)
        if (!made->add_constant(given)) return nullptr;
    return made;
}

}  // namespace ringlaunch::python::triton
