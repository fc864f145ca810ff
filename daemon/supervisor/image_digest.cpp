#include "daemon/supervisor/image_digest.hpp"

#include <openssl/evp.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <system_error>

#include "schema/error.hpp"

namespace ringlaunch::supervisor {

namespace {

class Sha256 {
  public:
    Sha256() : context_(::EVP_MD_CTX_new(), &::EVP_MD_CTX_free) {
        check(context_ && ::EVP_DigestInit_ex(context_.get(), ::EVP_sha256(), nullptr) == 1);
    }
    void add(const void* data, std::size_t bytes) {
        check(::EVP_DigestUpdate(context_.get(), data, bytes) == 1);
    }
    template <class Number>
    void add_number(Number number) {
        const auto value = static_cast<std::uint64_t>(number);
        add(&value, sizeof value);
    }
    // With its length: no two lists of words give the same bytes.
    void add_text(const std::string& text) {
        add_number(text.size());
        add(text.data(), text.size());
    }
    std::string hexadecimal() {
        unsigned char digest[EVP_MAX_MD_SIZE];
        unsigned length = 0;
        check(::EVP_DigestFinal_ex(context_.get(), digest, &length) == 1);
        static constexpr char kDigits[] = "0123456789abcdef";
        std::string text;
        for (unsigned i = 0; i < length; ++i) {
            text += kDigits[digest[i] >> 4];
            text += kDigits[digest[i] & 15];
        }
        return text;
    }

  private:
    static void check(bool fine) {
        if (!fine)
            throw Error(Status::internal_error, "cannot compute the SHA-256 of an image: libcrypto refuses");
    }
    std::unique_ptr<EVP_MD_CTX, decltype(&::EVP_MD_CTX_free)> context_;
};

}  // namespace

std::string image_digest(const UniqueFd& image, std::uint64_t bytes,
                         const std::vector<DeclaredSignature>& signatures, std::uint32_t max_registers,
                         std::uint64_t stack_bytes) {
    Sha256 hash;
    hash.add_number(bytes);
    std::vector<char> buffer(std::size_t{1} << 20);
    std::uint64_t done = 0;
    while (done < bytes) {
        const std::size_t wanted = std::min<std::uint64_t>(buffer.size(), bytes - done);
        const ssize_t got = ::pread(image.get(), buffer.data(), wanted, static_cast<off_t>(done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) throw std::system_error(errno, std::generic_category(), "cannot read a module's image");
        if (got == 0) throw Error(Status::bad_image, "a module's image ends before its size says so");
        hash.add(buffer.data(), static_cast<std::size_t>(got));
        done += static_cast<std::uint64_t>(got);
    }
    hash.add_number(signatures.size());
    for (const DeclaredSignature& signature : signatures) {
        hash.add_text(signature.kernel);
        hash.add_number(signature.params.size());
        for (const ParamInfo& param : signature.params) {
            hash.add_number(static_cast<std::uint8_t>(param.type));
            hash.add_number(param.offset);
            hash.add_number(param.size);
            hash.add_text(param.name);
        }
    }
    hash.add_number(max_registers);
    hash.add_number(stack_bytes);
    return hash.hexadecimal();
}

}  // namespace ringlaunch::supervisor
