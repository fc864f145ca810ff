// What a faulting kernel leaves behind. Each fault is raised in a child process, whose death and fault page
// are read as the supervisor reads them.
#include <gmock/gmock.h>
#include <sys/mman.h>

#include <csignal>

#include "harness.hpp"

namespace ringlaunch::driver {
namespace {

using testing::HasSubstr;

class SharedFaultPage {
  public:
    SharedFaultPage()
        : at_(::mmap(nullptr, sizeof(FaultPage), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)) {
        new (at_) FaultPage;
    }
    ~SharedFaultPage() { ::munmap(at_, sizeof(FaultPage)); }
    SharedFaultPage(const SharedFaultPage&) = delete;
    SharedFaultPage& operator=(const SharedFaultPage&) = delete;
    FaultPage& operator*() const { return *static_cast<FaultPage*>(at_); }
    FaultPage* operator->() const { return static_cast<FaultPage*>(at_); }
    FaultPage* get() const { return static_cast<FaultPage*>(at_); }

  private:
    void* at_;
};

struct FaultCase {
    const char* kernel;
    int signal;
    std::vector<std::byte> params;
    const char* text;
    std::uint64_t address = 0;  // 0: not looked at
};

void PrintTo(const FaultCase& of, std::ostream* out) {
    *out << of.kernel;
}

class HostFault : public testing::TestWithParam<FaultCase> {};

TEST_P(HostFault, NamesTheKernelAndTheRecordAndDiesByItsSignal) {
    const FaultCase& fault = GetParam();
    const SharedFaultPage page;
    const int status = in_child([&] {
        Rig rig(DriverKind::Host, page.get());
        const auto module = load(*rig.driver, TEST_FAULT_KERNELS);
        TestStream bystander(*rig.driver), stream(*rig.driver, 1000);
        bystander.fill(rig.base + 4096, 64, 1, 1);
        stream.fill(rig.base, 64, 1, 1);
        stream.launch(find(*module, fault.kernel), {}, {}, fault.params);
        stream.fill(rig.base, 64, 1, 1);
        (void)stream.finish();
    });
    ASSERT_TRUE(WIFSIGNALED(status)) << "status " << status;
    EXPECT_EQ(WTERMSIG(status), fault.signal);
    EXPECT_EQ(page->kind.load(), static_cast<std::uint32_t>(FaultKind::signal));
    EXPECT_EQ(page->signal, static_cast<std::uint32_t>(fault.signal));
    EXPECT_EQ(page->stream, 7u);
    EXPECT_EQ(page->position, 1001u);
    EXPECT_EQ(page->kernel, 99u);
    if (fault.address != 0) {
        EXPECT_EQ(page->address, fault.address);
    }
    const std::string text = page->text;
    EXPECT_THAT(text, HasSubstr(fault.text));
    EXPECT_THAT(text, HasSubstr(std::string("in kernel ") + fault.kernel + ", record 1001"));
}

// In the reservation, where no chunk is: what a kernel that leaves its buffers meets.
constexpr std::uint64_t kNoChunk = 0x7e8000000000 + (std::uint64_t{32} << 30);
const std::vector<std::byte> kAnOutput = pack(std::uint64_t{0x7e8000000000}, 0);

INSTANTIATE_TEST_SUITE_P(
    Kernels, HostFault,
    testing::Values(FaultCase{"write_to", SIGSEGV, pack(std::uint64_t{64}), "SIGSEGV at address 0x40", 64},
                    FaultCase{"write_to", SIGSEGV, pack(kNoChunk), "SIGSEGV at address 0x7e8800000000",
                              kNoChunk},
                    FaultCase{"write_to", SIGSEGV, pack(std::uint64_t{1} << 63), "SIGSEGV", 0},
                    FaultCase{"past_the_file", SIGBUS, {}, "SIGBUS at address 0x", 0},
                    FaultCase{"divide", SIGFPE, kAnOutput, "SIGFPE (integer division by zero", 0},
                    FaultCase{"trap", SIGILL, {}, "SIGILL", 0},
                    FaultCase{"call_abort", SIGABRT, {}, "SIGABRT", 0},
                    FaultCase{"throw_out", SIGABRT, {}, "SIGABRT", 0},
                    FaultCase{"overflow_stack", SIGSEGV, kAnOutput, "its stack overflowed", 0},
                    FaultCase{"call_exit", SIGABRT, {}, "exit() called", 0}),
    [](const auto& of) { return std::string(of.param.kernel) + "_" + std::to_string(of.index); });

TEST(HostFaults, TheFirstOfManyWins) {
    const SharedFaultPage page;
    const int status = in_child([&] {
        Rig rig(DriverKind::Host, page.get());
        const auto module = load(*rig.driver, TEST_FAULT_KERNELS);
        std::deque<TestStream> streams;
        for (std::uint64_t i = 0; i < 8; ++i) streams.emplace_back(*rig.driver, 100 * i);
        for (std::uint64_t i = 0; i < streams.size(); ++i)
            streams[i].launch(find(*module, "write_to"), {}, {}, pack(0x1000 * (i + 1)));
        (void)streams[0].finish();
    });
    ASSERT_TRUE(WIFSIGNALED(status)) << "status " << status;
    EXPECT_EQ(WTERMSIG(status), SIGSEGV);
    // All that the page says is of one fault.
    EXPECT_EQ(page->address, 0x1000 * (page->position / 100 + 1));
    EXPECT_THAT(std::string(page->text), HasSubstr("record " + std::to_string(page->position)));
}

// Who catches the signal otherwise: nobody. (A sanitizer would.)
void catch_nothing() {
    ::signal(SIGSEGV, SIG_DFL);
}

TEST(HostFaults, AFaultInAChainIsPutDownToItsLaunch) {
    for (const std::uint64_t culprit : {0u, 1u, 17u, 31u}) {
        const SharedFaultPage page;
        const int status = in_child([&] {
            Rig rig(DriverKind::Host, page.get());
            const auto module = load(*rig.driver, TEST_FAULT_KERNELS);
            // With two places in the stream's queue a backlog of 32 is taken whole as a chain only.
            TestStream stream(*rig.driver, 0, 2);
            const auto good = pack(rig.base), bad = pack(std::uint64_t{64});
            const auto backlog = [&](std::uint64_t bad_one) {
                std::vector<Launch> launches;
                for (std::uint64_t i = 0; i < 32; ++i) {
                    launches.push_back(TestStream::make_launch(
                        find(*module, "write_to"), {}, {}, i == bad_one ? bad : good, stream.position() + i));
                    launches.back().kernel_id = 100 + i;
                }
                return launches;
            };
            for (int i = 0; i < 10; ++i) stream.launch_chain(backlog(~std::uint64_t{0}));
            ASSERT_TRUE(stream.finish());
            std::size_t taken = 0;
            const std::vector<Launch> launches = backlog(culprit);
            ASSERT_EQ((*stream).launch_chain(launches, taken), Status::ok);
            stream.moved_to(stream.position() + taken);
            (void)stream.finish();
        });
        ASSERT_TRUE(WIFSIGNALED(status)) << "status " << status;
        EXPECT_EQ(WTERMSIG(status), SIGSEGV);
        EXPECT_EQ(page->position, 320 + culprit);
        EXPECT_EQ(page->kernel, 100 + culprit);
    }
}

TEST(HostFaults, ASignalFromOutsideBlamesNobody) {
    const SharedFaultPage page;
    const int status = in_child([&] {
        catch_nothing();
        const pid_t victim = ::getpid();
        Rig rig(DriverKind::Host, page.get());
        const auto module = load(*rig.driver, TEST_KERNELS);
        TestStream stream(*rig.driver);
        stream.launch(find(*module, "hold"), {}, {}, pack(rig.base));
        const pid_t killer = ::fork();
        if (killer == 0) {
            ::kill(victim, SIGSEGV);
            ::_exit(0);
        }
        (void)stream.finish();
    });
    ASSERT_TRUE(WIFSIGNALED(status)) << "status " << status;
    EXPECT_EQ(WTERMSIG(status), SIGSEGV);
    EXPECT_EQ(page->kind.load(), static_cast<std::uint32_t>(FaultKind::none));
}

// A kernel that sends its process a signal has returned when it comes, as a rule.
struct Sent {
    std::unique_ptr<SharedFaultPage> page = std::make_unique<SharedFaultPage>();
    int status = 0;
};
Sent send_signal(int signal, const std::function<void(Rig&, const Module&)>& beside) {
    Sent sent;
    sent.status = in_child([&] {
        catch_nothing();
        Rig rig(DriverKind::Host, sent.page->get());
        const auto module = load(*rig.driver, TEST_FAULT_KERNELS);
        beside(rig, *module);
        TestStream stream(*rig.driver, 1000);
        stream.launch(find(*module, "send"), {}, {}, pack(signal));
        (void)stream.finish();
        for (;;) ::pause();
    });
    return sent;
}

TEST(HostFaults, AKernelThatSendsASignalIsNamedThoughItHasReturned) {
    for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP}) {
        const Sent sent = send_signal(signal, [](Rig& rig, const Module&) {
            static TestStream bystander(*rig.driver);  // copies and fills send nothing
            bystander.fill(rig.base, 64, 1, 1);
            ASSERT_TRUE(bystander.finish());
        });
        ASSERT_TRUE(WIFSIGNALED(sent.status)) << "status " << sent.status;
        EXPECT_EQ(WTERMSIG(sent.status), signal);
        const FaultPage& page = **sent.page;
        EXPECT_EQ(page.kind.load(), static_cast<std::uint32_t>(FaultKind::signal));
        EXPECT_EQ(page.signal, static_cast<std::uint32_t>(signal));
        EXPECT_EQ(page.stream, 7u);
        EXPECT_EQ(page.position, 1000u);
        EXPECT_EQ(page.kernel, 99u);
        EXPECT_EQ(page.also_count, 0u);
        EXPECT_THAT(std::string(page.text), HasSubstr("sent to this process with kill()"));
    }
}

TEST(HostFaults, OfASentSignalAllWhoseKernelsRanAreSuspectsAndNobodyIsAccused) {
    const Sent sent = send_signal(SIGSEGV, [](Rig& rig, const Module& module) {
        static TestStream neighbour(*rig.driver, 500);
        neighbour.launch(find(module, "write_to"), {}, {}, pack(rig.base));
        ASSERT_TRUE(neighbour.finish());
    });
    ASSERT_TRUE(WIFSIGNALED(sent.status)) << "status " << sent.status;
    const FaultPage& page = **sent.page;
    EXPECT_EQ(page.kind.load(), static_cast<std::uint32_t>(FaultKind::signal));
    EXPECT_EQ(page.stream, 0u);
    ASSERT_EQ(page.also_count, 2u);
    EXPECT_EQ(page.also[0].position + page.also[1].position, 1500u);
    EXPECT_THAT(std::string(page.text), HasSubstr("one of the kernels that were running"));
}

TEST(HostFaults, AFaultOfTheExecutorItselfBlamesNoKernel) {
    const SharedFaultPage page;
    const int status = in_child([&] {
        catch_nothing();
        Rig rig(DriverKind::Host, page.get());
        ::raise(SIGSEGV);
    });
    ASSERT_TRUE(WIFSIGNALED(status)) << "status " << status;
    EXPECT_EQ(WTERMSIG(status), SIGSEGV);
    EXPECT_EQ(page->kind.load(), static_cast<std::uint32_t>(FaultKind::none));
}

TEST(HostFaults, WorksWithoutAFaultPage) {
    const int status = in_child([&] {
        Rig rig(DriverKind::Host, nullptr);
        const auto module = load(*rig.driver, TEST_FAULT_KERNELS);
        TestStream stream(*rig.driver);
        stream.launch(find(*module, "trap"), {}, {});
        (void)stream.finish();
    });
    ASSERT_TRUE(WIFSIGNALED(status)) << "status " << status;
    EXPECT_EQ(WTERMSIG(status), SIGILL);
}

TEST(HostFaults, TheHandlersLeaveWithTheDriver) {
    struct sigaction before {};
    struct sigaction during {};
    struct sigaction after {};
    ::sigaction(SIGSEGV, nullptr, &before);
    {
        const Rig rig(DriverKind::Host);
        ::sigaction(SIGSEGV, nullptr, &during);
    }
    ::sigaction(SIGSEGV, nullptr, &after);
    EXPECT_NE(during.sa_sigaction, before.sa_sigaction);
    EXPECT_EQ(after.sa_sigaction, before.sa_sigaction);
}

}  // namespace
}  // namespace ringlaunch::driver
