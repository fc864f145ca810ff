// In place of inline_cuda.cpp in a build without cuda.h.
#include "inline_kernel.hpp"

namespace ringlaunch::python {

void load_cuda() {
    throw Error(
        Status::unsupported,
        "this build of ringlaunch has no CUDA (cuda.h was not found); build it where the CUDA toolkit "
        "is installed");
}

std::uint64_t current_context() noexcept {
    return 0;
}

bool device_address(std::uint64_t&) noexcept {
    return false;
}

InlineDevice inline_device() {
    load_cuda();
    return {};
}

InlineFunction load_inline_function(const std::string&, const std::string&, bool) {
    load_cuda();
    return {};
}

void allow_inline_shared(std::uint64_t, std::uint32_t) {}

std::unique_ptr<InlineKernel> make_inline_kernel(const InlineShape&) {
    load_cuda();
    return nullptr;
}

bool launches_by_itself(std::uint64_t) noexcept {
    return true;
}

std::unique_ptr<StreamIssuer> make_issuer() {
    load_cuda();
    return nullptr;
}

int encode_tensor_map(const triton::TensorMapKind&, const std::uint64_t*, TensorMap&) noexcept {
    return 801;  // CUDA_ERROR_NOT_SUPPORTED
}

std::string inline_error_text(int result) {
    return "CUDA error " + std::to_string(result);
}

void set_most_inline_graphs(std::size_t) {}

}  // namespace ringlaunch::python
