#include "daemon/driver/elf.hpp"

#include <elf.h>

#include <algorithm>
#include <cstring>
#include <string_view>
#include <unordered_map>

#include "schema/error.hpp"

namespace ringlaunch::driver {

namespace {

constexpr std::uint16_t kMachineCuda = 190;
constexpr std::uint8_t kSymbolIsKernel = 0x10;  // in st_other of a cubin's function symbols
constexpr std::string_view kSignaturePrefix = "ringlaunch_signature_";
constexpr std::string_view kHostKernelPrefix = "ringlaunch_kernel_";
constexpr std::size_t kMaxStringBytes = 64 * 1024;  // C++ symbols can be long
constexpr std::size_t kMaxKernelNameBytes = 1024;
constexpr std::size_t kMaxSignatureBytes = 8 + 6 * 256;

// Attributes of .nv.info.<kernel>: format and attribute byte, then 2 bytes of value or of length.
enum InfoFormat : std::uint8_t { kInfoNone = 1, kInfoByte = 2, kInfoHalf = 3, kInfoSized = 4 };
enum InfoAttribute : std::uint8_t {
    kInfoMaxThreads = 0x05,
    kInfoRequiredBlock = 0x10,
    kInfoParam = 0x17,
    kInfoParamBytes = 0x19,
    kInfoRegisters = 0x2f,
    kInfoParamV2 = 0x45,
};
// From sm_80 on, the shared memory of a kernel that uses any begins with this much of the system's.
constexpr std::uint32_t kReservedSharedBytes = 1024;

[[noreturn]] void damaged(const std::string& what) {
    throw Error(Status::bad_image, "the image is damaged: " + what);
}

constexpr std::string_view kFatBinaryMagic = "\x50\xed\x55\xba";
constexpr const char* kPtxText = "PTX text";

// A range of the image; every read checks its bounds.
class Bytes {
  public:
    Bytes(std::span<const std::byte> bytes, std::string what) : bytes_(bytes), what_(std::move(what)) {}

    std::size_t size() const { return bytes_.size(); }
    const std::string& what() const { return what_; }

    template <class T>
    T read(std::uint64_t at) const {
        T value;
        std::memcpy(&value, range(at, sizeof(T)).data(), sizeof(T));
        return value;
    }
    std::span<const std::byte> range(std::uint64_t at, std::uint64_t bytes) const {
        if (at > bytes_.size() || bytes > bytes_.size() - at)
            damaged(what_ + " ends at byte " + std::to_string(bytes_.size()) + ", but bytes " +
                    std::to_string(at) + " to " + std::to_string(at) + " + " + std::to_string(bytes) +
                    " are referred to");
        return bytes_.subspan(at, bytes);
    }
    Bytes part(std::uint64_t at, std::uint64_t bytes, const std::string& what) const {
        if (at > bytes_.size() || bytes > bytes_.size() - at)
            damaged(what + " should stand at byte " + std::to_string(at) + " and be " +
                    std::to_string(bytes) + " long, but " + what_ + " has " + std::to_string(bytes_.size()) +
                    " bytes");
        return Bytes(bytes_.subspan(at, bytes), what);
    }
    // A string that ends with 0, without it.
    std::string_view text(std::uint64_t at) const {
        if (at >= bytes_.size()) damaged(what_ + " has no string at byte " + std::to_string(at));
        const auto* begin = reinterpret_cast<const char*>(bytes_.data()) + at;
        const std::size_t room = std::min(bytes_.size() - static_cast<std::size_t>(at), kMaxStringBytes);
        const void* end = std::memchr(begin, 0, room);
        if (end == nullptr) damaged(what_ + " has a string without end at byte " + std::to_string(at));
        return {begin, static_cast<std::size_t>(static_cast<const char*>(end) - begin)};
    }

  private:
    std::span<const std::byte> bytes_;
    std::string what_;
};

bool starts_with(std::span<const std::byte> bytes, std::string_view text) {
    return bytes.size() >= text.size() && std::memcmp(bytes.data(), text.data(), text.size()) == 0;
}

bool printable(std::string_view name) {
    return !name.empty() && std::all_of(name.begin(), name.end(), [](char c) { return c > ' ' && c < 127; });
}

std::string cubin_architecture(const Elf64_Ehdr& header) {
    // The flags moved by a byte with ABI version 8.
    const unsigned sm =
        header.e_ident[EI_ABIVERSION] >= 8 ? (header.e_flags >> 8) & 0xff : header.e_flags & 0xff;
    return "sm_" + std::to_string(sm);
}

std::string machine_name(std::uint16_t machine) {
    switch (machine) {
        case EM_X86_64:
            return "x86-64";
        case EM_AARCH64:
            return "AArch64";
        case EM_386:
            return "i386";
        case EM_PPC64:
            return "PowerPC 64";
        case EM_RISCV:
            return "RISC-V";
        case kMachineCuda:
            return "NVIDIA GPUs";
        default:
            return "machine " + std::to_string(machine);
    }
}

struct Section {
    Elf64_Shdr header;
    std::string_view name;
};

class Elf {
  public:
    explicit Elf(std::span<const std::byte> bytes) : bytes_(bytes, "the file") {
        header_ = bytes_.read<Elf64_Ehdr>(0);
        read_sections();
    }

    const Elf64_Ehdr& header() const { return header_; }
    const std::vector<Section>& sections() const { return sections_; }

    Bytes contents(const Section& section) const {
        const std::string what = "section " + quoted(section.name);
        if (section.header.sh_type == SHT_NOBITS) damaged(what + " should have contents, but has none");
        return bytes_.part(section.header.sh_offset, section.header.sh_size, what);
    }

    // Calls `see` with each symbol of the symbol table of this type (a file has one), and its name.
    template <class See>
    void each_symbol(std::uint32_t type, const See& see) const {
        for (const Section& section : sections_) {
            if (section.header.sh_type != type) continue;
            const Bytes table = contents(section);
            if (section.header.sh_link >= sections_.size())
                damaged(table.what() + " names string table " + std::to_string(section.header.sh_link) +
                        " of " + std::to_string(sections_.size()) + " sections");
            const Bytes names = contents(sections_[section.header.sh_link]);
            for (std::size_t i = 1; i < table.size() / sizeof(Elf64_Sym); ++i) {
                const auto symbol = table.read<Elf64_Sym>(i * sizeof(Elf64_Sym));
                if (symbol.st_name == 0) continue;
                see(symbol, names.text(symbol.st_name), i);
            }
            return;
        }
    }

    // The bytes of a data symbol that lies at a virtual address (shared objects).
    std::span<const std::byte> at_address(std::uint64_t address, std::uint64_t bytes,
                                          const std::string& what) const {
        if (header_.e_phentsize != sizeof(Elf64_Phdr))
            damaged("program headers have " + std::to_string(header_.e_phentsize) + " bytes");
        for (std::uint32_t i = 0; i < header_.e_phnum; ++i) {
            const auto segment =
                bytes_.read<Elf64_Phdr>(checked_add(header_.e_phoff, i * sizeof(Elf64_Phdr)));
            if (segment.p_type != PT_LOAD || address < segment.p_vaddr) continue;
            const std::uint64_t within = address - segment.p_vaddr;
            if (within > segment.p_filesz || bytes > segment.p_filesz - within) continue;
            return bytes_.range(checked_add(segment.p_offset, within), bytes);
        }
        damaged(what + " lies in no segment of the file");
    }

    // The bytes of a data symbol that lies in a section (cubins).
    std::span<const std::byte> in_section(const Elf64_Sym& symbol, std::uint64_t bytes,
                                          const std::string& what) const {
        if (symbol.st_shndx >= sections_.size()) damaged(what + " lies in no section of the file");
        const Section& section = sections_[symbol.st_shndx];
        // A linked cubin counts from the section's address.
        const std::uint64_t base = section.header.sh_addr;
        if (symbol.st_value < base) damaged(what + " lies before its section");
        return contents(section).range(symbol.st_value - base, bytes);
    }

    static std::string quoted(std::string_view name) {
        return printable(name) ? "'" + std::string(name) + "'" : std::string("without a readable name");
    }

  private:
    static std::uint64_t checked_add(std::uint64_t a, std::uint64_t b) {
        if (a > ~b) damaged("an offset overflows");
        return a + b;
    }

    void read_sections() {
        if (header_.e_shoff == 0) return;
        if (header_.e_shentsize != sizeof(Elf64_Shdr))
            damaged("section headers have " + std::to_string(header_.e_shentsize) + " bytes, not " +
                    std::to_string(sizeof(Elf64_Shdr)));
        const auto first = bytes_.read<Elf64_Shdr>(header_.e_shoff);
        // Counts that do not fit the header stand in the first section.
        const std::uint64_t count = header_.e_shnum != 0 ? header_.e_shnum : first.sh_size;
        const std::uint64_t names_index =
            header_.e_shstrndx == SHN_XINDEX ? first.sh_link : header_.e_shstrndx;
        if (count > bytes_.size() / sizeof(Elf64_Shdr))
            damaged("it should have " + std::to_string(count) + " sections, more than fit into it");
        const Bytes table = bytes_.part(header_.e_shoff, count * sizeof(Elf64_Shdr), "the section table");
        sections_.reserve(count);
        for (std::uint64_t i = 0; i < count; ++i)
            sections_.push_back({table.read<Elf64_Shdr>(i * sizeof(Elf64_Shdr)), {}});
        if (names_index >= count) damaged("its section names should stand in a section that is not there");
        const Bytes names = contents(sections_[names_index]);
        for (Section& section : sections_)
            if (section.header.sh_type != SHT_NULL) section.name = names.text(section.header.sh_name);
    }

    Bytes bytes_;
    Elf64_Ehdr header_;
    std::vector<Section> sections_;
};

std::vector<std::byte> copy_signature(std::span<const std::byte> bytes) {
    return {bytes.begin(), bytes.end()};
}

std::uint64_t signature_bytes(const Elf64_Sym& symbol, const std::string& what) {
    if (symbol.st_size > kMaxSignatureBytes)
        damaged(what + " has " + std::to_string(symbol.st_size) + " bytes; " +
                std::to_string(kMaxSignatureBytes) + " is the most");
    return symbol.st_size;
}

// Logs, errors and commands print it as it is.
void check_kernel_name(std::string_view name) {
    if (name.size() <= kMaxKernelNameBytes && printable(name)) return;
    if (name.empty()) damaged("a kernel has no name");
    std::string shown;
    for (const char c : name.substr(0, 64)) shown += printable({&c, 1}) ? c : '?';
    throw Error(Status::bad_image, "a kernel's name, '" + shown + "' (" + std::to_string(name.size()) +
                                       " bytes), must consist of printable ASCII characters, at most " +
                                       std::to_string(kMaxKernelNameBytes) + " of them");
}

void add_kernel(Image& image, std::string_view name) {
    check_kernel_name(name);
    if (image.kernels.size() == kMaxImageKernels)
        throw Error(Status::bad_image,
                    "the image has more than " + std::to_string(kMaxImageKernels) + " kernels");
    ImageKernel kernel;
    kernel.name = name;
    image.kernels.push_back(std::move(kernel));
}

using Signatures = std::vector<std::pair<std::string, std::vector<std::byte>>>;

void attach_signatures(Image& image, Signatures signatures) {
    std::unordered_map<std::string_view, std::size_t> by_name;
    for (std::size_t i = 0; i < image.kernels.size(); ++i)
        if (!by_name.emplace(image.kernels[i].name, i).second)
            damaged("it has two kernels named '" + image.kernels[i].name + "'");
    for (auto& [name, bytes] : signatures) {
        const auto found = by_name.find(name);
        if (found == by_name.end())
            image.orphans.push_back(name);
        else
            image.kernels[found->second].signature = std::move(bytes);
    }
}

void note_signature(Signatures& signatures, std::string_view symbol, std::span<const std::byte> bytes) {
    const std::string_view kernel = symbol.substr(kSignaturePrefix.size());
    check_kernel_name(kernel);
    if (signatures.size() == kMaxImageKernels)
        throw Error(Status::bad_image,
                    "the image has more than " + std::to_string(kMaxImageKernels) + " signatures");
    signatures.emplace_back(std::string(kernel), copy_signature(bytes));
}

void read_host_object(const Elf& elf, Image& image) {
    Signatures signatures;
    elf.each_symbol(SHT_DYNSYM, [&](const Elf64_Sym& symbol, std::string_view name, std::size_t) {
        if (symbol.st_shndx == SHN_UNDEF || ELF64_ST_TYPE(symbol.st_info) != STT_OBJECT) return;
        if (name.starts_with(kHostKernelPrefix)) {
            add_kernel(image, name.substr(kHostKernelPrefix.size()));
        } else if (name.starts_with(kSignaturePrefix)) {
            const std::string what = "symbol " + Elf::quoted(name);
            note_signature(signatures, name,
                           elf.at_address(symbol.st_value, signature_bytes(symbol, what), what));
        }
    });
    attach_signatures(image, std::move(signatures));
}

void read_param(ImageKernel& kernel, std::vector<bool>& seen, std::uint32_t ordinal, ParamPlace place) {
    if (ordinal >= 4096) damaged("parameter " + std::to_string(ordinal) + " of kernel '" + kernel.name + "'");
    if (ordinal >= kernel.params.size()) {
        kernel.params.resize(ordinal + 1);
        seen.resize(ordinal + 1);
    }
    if (seen[ordinal])
        damaged("kernel '" + kernel.name + "' describes parameter " + std::to_string(ordinal) + " twice");
    kernel.params[ordinal] = place;
    seen[ordinal] = true;
}

// Calls `see(attribute, payload)` for each sized attribute, `half(attribute, value)` for those of two bytes.
template <class See, class Half>
void each_attribute(const Bytes& info, const See& see, const Half& half) {
    for (std::uint64_t at = 0; at < info.size();) {
        const auto format = info.read<std::uint8_t>(at);
        const auto attribute = info.read<std::uint8_t>(at + 1);
        const auto value = info.read<std::uint16_t>(at + 2);
        at += 4;
        switch (format) {
            case kInfoNone:
            case kInfoByte:
                break;
            case kInfoHalf:
                half(attribute, value);
                break;
            case kInfoSized:
                see(attribute, info.part(at, value, info.what() + " attribute " + std::to_string(attribute)));
                at += value;
                break;
            default:
                damaged(info.what() + " has an attribute of unknown format " + std::to_string(format) +
                        " at byte " + std::to_string(at - 4));
        }
    }
}

void read_kernel_info(const Bytes& info, ImageKernel& kernel) {
    std::vector<bool> seen;
    each_attribute(
        info,
        [&](std::uint8_t attribute, const Bytes& payload) {
            switch (attribute) {
                case kInfoParam:  // u32 index, u16 ordinal, u16 offset, u32 whose upper 14 bits are the size
                    read_param(kernel, seen, payload.read<std::uint16_t>(4),
                               {payload.read<std::uint16_t>(6), payload.read<std::uint32_t>(8) >> 18});
                    break;
                case kInfoParamV2:  // u32 index, u16 ordinal, u16 offset, u16 size, u16 flags
                    read_param(kernel, seen, payload.read<std::uint16_t>(4),
                               {payload.read<std::uint16_t>(6), payload.read<std::uint16_t>(8)});
                    break;
                case kInfoMaxThreads: {
                    const std::uint64_t threads = std::uint64_t{payload.read<std::uint32_t>(0)} *
                                                  std::max(payload.read<std::uint32_t>(4), 1u);
                    kernel.max_threads = static_cast<std::uint32_t>(std::min<std::uint64_t>(threads, 1024));
                    break;
                }
                case kInfoRequiredBlock:
                    for (std::size_t i = 0; i < 3; ++i)
                        kernel.required_block[i] = payload.read<std::uint32_t>(4 * i);
                    break;
                default:
                    break;
            }
        },
        [&](std::uint8_t attribute, std::uint16_t value) {
            if (attribute == kInfoParamBytes) kernel.param_bytes = value;
        });
    for (std::size_t i = 0; i < seen.size(); ++i)
        if (!seen[i])
            damaged("kernel '" + kernel.name + "' does not describe parameter " + std::to_string(i));
}

void read_cubin(const Elf& elf, Image& image) {
    Signatures signatures;
    std::unordered_map<std::size_t, std::size_t> kernel_of_symbol;
    elf.each_symbol(SHT_SYMTAB, [&](const Elf64_Sym& symbol, std::string_view name, std::size_t index) {
        const unsigned type = ELF64_ST_TYPE(symbol.st_info);
        if (type == STT_FUNC && symbol.st_shndx != SHN_UNDEF && (symbol.st_other & kSymbolIsKernel) != 0) {
            kernel_of_symbol[index] = image.kernels.size();
            add_kernel(image, name);
        } else if (type == STT_OBJECT && symbol.st_shndx != SHN_UNDEF && name.starts_with(kSignaturePrefix)) {
            const std::string what = "symbol " + Elf::quoted(name);
            note_signature(signatures, name, elf.in_section(symbol, signature_bytes(symbol, what), what));
        }
    });

    std::unordered_map<std::string_view, const Section*> sections;
    for (const Section& section : elf.sections()) sections.emplace(section.name, &section);
    const bool reserves_shared = std::atoi(image.architecture.c_str() + 3) >= 80;
    for (ImageKernel& kernel : image.kernels) {
        if (!sections.contains(".text." + kernel.name)) damaged("kernel '" + kernel.name + "' has no code");
        if (const auto info = sections.find(".nv.info." + kernel.name); info != sections.end())
            read_kernel_info(elf.contents(*info->second), kernel);
        if (const auto shared = sections.find(".nv.shared." + kernel.name); shared != sections.end()) {
            const std::uint64_t bytes = shared->second->header.sh_size;
            const std::uint64_t reserved =
                reserves_shared && bytes >= kReservedSharedBytes ? kReservedSharedBytes : 0;
            if (bytes > (1u << 20))
                damaged("kernel '" + kernel.name + "' has more shared memory than any GPU");
            kernel.static_shared_bytes = static_cast<std::uint32_t>(bytes - reserved);
        }
    }
    if (const auto info = sections.find(".nv.info"); info != sections.end()) {
        each_attribute(
            elf.contents(*info->second),
            [&](std::uint8_t attribute, const Bytes& payload) {
                if (attribute != kInfoRegisters) return;  // u32 symbol, u32 registers
                const auto kernel = kernel_of_symbol.find(payload.read<std::uint32_t>(0));
                if (kernel != kernel_of_symbol.end())
                    image.kernels[kernel->second].registers = payload.read<std::uint32_t>(4);
            },
            [](std::uint8_t, std::uint16_t) {});
    }
    attach_signatures(image, std::move(signatures));
}

bool is_elf64(std::span<const std::byte> bytes) {
    return bytes.size() >= sizeof(Elf64_Ehdr) && starts_with(bytes, ELFMAG) &&
           static_cast<unsigned char>(bytes[EI_CLASS]) == ELFCLASS64 &&
           static_cast<unsigned char>(bytes[EI_DATA]) == ELFDATA2LSB;
}

bool looks_like_text(std::span<const std::byte> bytes) {
    return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) {
        const auto c = static_cast<unsigned char>(b);
        return c >= 32 || c == '\n' || c == '\r' || c == '\t';
    });
}

// The header's own words: magic (4 bytes), version and header's length (2 each), length of what follows (8).
// A loader that believed a wrong length would read beyond the image.
void check_fat_binary(const Bytes& image) {
    const auto header_bytes = image.read<std::uint16_t>(6);
    const auto content_bytes = image.read<std::uint64_t>(8);
    if (header_bytes < 16)
        damaged(image.what() + " has a header of " + std::to_string(header_bytes) + " bytes");
    (void)image.part(header_bytes, content_bytes, "its content");
}

std::string describe_elf(const Elf64_Ehdr& header) {
    if (header.e_machine == kMachineCuda) {
        const char* what =
            header.e_type == ET_REL ? "a relocatable cubin (nvcc -rdc=true) for " : "a cubin for ";
        return what + cubin_architecture(header);
    }
    const std::string machine = machine_name(header.e_machine);
    switch (header.e_type) {
        case ET_DYN:
            return "a shared object for " + machine;
        case ET_EXEC:
            return "an executable for " + machine;
        case ET_REL:
            return "an object file (.o) for " + machine + ", not linked yet";
        case ET_CORE:
            return "a core dump";
        default:
            return "an ELF file of type " + std::to_string(header.e_type) + " for " + machine;
    }
}

}  // namespace

std::string describe_image(std::span<const std::byte> bytes) {
    if (bytes.empty()) return "nothing: 0 bytes";
    if (is_elf64(bytes)) {
        Elf64_Ehdr header;
        std::memcpy(&header, bytes.data(), sizeof(header));
        return describe_elf(header);
    }
    if (starts_with(bytes, ELFMAG)) return "an ELF file that is cut off, or not 64-bit little-endian";
    if (starts_with(bytes, kFatBinaryMagic)) return "a fat binary (nvcc -fatbin)";
    if (starts_with(bytes, "\xb1\x43\x62\x46"))
        return "the wrapper of a fat binary, which refers to memory of another process";
    if (starts_with(bytes, "!<arch>\n")) return "a static library (.a)";
    if (starts_with(bytes, "\x7fNVR") || starts_with(bytes, "BC\xc0\xde")) return "compiler bitcode";
    std::string_view head(reinterpret_cast<const char*>(bytes.data()),
                          std::min<std::size_t>(bytes.size(), 4096));
    head = head.substr(0, head.find_last_not_of('\0') + 1);  // compilers end PTX with a 0
    if (looks_like_text(bytes.first(head.size()))) {
        if (head.find(".version") != head.npos && head.find(".target") != head.npos) return kPtxText;
        if (head.find("__global__") != head.npos || head.find("#include") != head.npos)
            return "source text, not compiled";
        return "text";
    }
    std::string hex;
    for (std::size_t i = 0; i < std::min<std::size_t>(bytes.size(), 8); ++i) {
        static constexpr char kDigits[] = "0123456789abcdef";
        const auto byte = static_cast<unsigned char>(bytes[i]);
        hex += {kDigits[byte >> 4], kDigits[byte & 15], ' '};
    }
    hex.pop_back();
    return std::to_string(bytes.size()) + " bytes of an unknown kind that begin with " + hex;
}

std::vector<ImageFunction> read_functions(std::span<const std::byte> cubin) {
    if (!is_elf64(cubin)) damaged("it is " + describe_image(cubin) + ", no cubin");
    const Elf elf(cubin);
    std::vector<ImageFunction> functions;
    elf.each_symbol(SHT_SYMTAB, [&](const Elf64_Sym& symbol, std::string_view name, std::size_t) {
        if (ELF64_ST_TYPE(symbol.st_info) != STT_FUNC || symbol.st_shndx >= elf.sections().size()) return;
        // One that the device did not load has no address.
        const Elf64_Shdr& section = elf.sections()[symbol.st_shndx].header;
        const std::uint64_t base = section.sh_addr;
        if (base == 0 || !printable(name)) return;
        const std::uint64_t address = symbol.st_value >= base ? symbol.st_value : base + symbol.st_value;
        std::span<const std::byte> code;
        if (const std::uint64_t from = address - base;
            section.sh_type == SHT_PROGBITS && section.sh_offset <= cubin.size() &&
            section.sh_size <= cubin.size() - section.sh_offset && from <= section.sh_size &&
            symbol.st_size <= section.sh_size - from)
            code = cubin.subspan(section.sh_offset + from, symbol.st_size);
        functions.push_back(
            {std::string(name), address, symbol.st_size, code, (symbol.st_other & kSymbolIsKernel) != 0});
    });
    return functions;
}

Image read_image(std::span<const std::byte> bytes) {
    Image image;
    image.found = describe_image(bytes);
    if (starts_with(bytes, kFatBinaryMagic)) {
        check_fat_binary(Bytes(bytes, "the fat binary"));
        image.kind = ImageKind::fat_binary;
    } else if (image.found == kPtxText) {
        image.kind = ImageKind::ptx;
    }
    if (!is_elf64(bytes)) return image;
    const Elf elf(bytes);
    const Elf64_Ehdr& header = elf.header();
    if (header.e_machine == kMachineCuda && header.e_type == ET_EXEC) {
        image.kind = ImageKind::cubin;
        image.architecture = cubin_architecture(header);
        read_cubin(elf, image);
    } else if (header.e_machine == EM_X86_64 && header.e_type == ET_DYN) {
        image.kind = ImageKind::host_object;
        image.architecture = "x86-64";
        read_host_object(elf, image);
    }
    return image;
}

}  // namespace ringlaunch::driver
