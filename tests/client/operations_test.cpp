// Every operation of the client against the real daemon, on the drivers that run here.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/resource.h>

#include <functional>
#include <numeric>
#include <random>

#include "client/src/client_state.hpp"
#include "client/src/stream_state.hpp"
#include "schema/error.hpp"
#include "tests/client/daemon.hpp"

namespace ringlaunch::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

struct Pair {
    float a, b;
};

// One daemon for all the tests that do it no harm.
class Host : public ::testing::Test {
  protected:
    static void SetUpTestSuite() { daemon_ = std::make_unique<Daemon>("host"); }
    static void TearDownTestSuite() { daemon_.reset(); }

    void SetUp() override {
        client_ = daemon_->connect();
        module_ = client_.load_file(TEST_KERNELS);
        stream_ = client_.stream();
    }

    Buffer words(std::size_t count) {
        Buffer buffer = client_.alloc(count * 4);
        EXPECT_EQ(stream_.fill(buffer, 0, 4, 0, count * 4), Status::ok);
        return buffer;
    }
    std::vector<unsigned> read(Stream& stream, const Buffer& buffer, std::size_t count) {
        std::vector<unsigned> values(count, 0xdeadbeef);
        EXPECT_EQ(stream.copy_to_host(values.data(), buffer, count * 4), Status::ok) << stream.last_error();
        return values;
    }
    std::vector<unsigned> read(const Buffer& buffer, std::size_t count) {
        return read(stream_, buffer, count);
    }
    Kernel kernel(const char* name) { return module_.kernel(name); }

    static std::unique_ptr<Daemon> daemon_;
    Client client_;
    Module module_;
    Stream stream_;
};
std::unique_ptr<Daemon> Host::daemon_;

TEST_F(Host, says_who_it_is) {
    const DaemonInfo& info = client_.daemon();
    EXPECT_EQ(info.pid, daemon_->pid());
    EXPECT_EQ(info.driver, "host");
    EXPECT_EQ(info.architecture, "x86-64");
    EXPECT_NE(info.session, 0u);
    EXPECT_EQ(info.socket, daemon_->options().socket);
}

TEST_F(Host, runs_a_kernel_over_what_was_copied_in) {
    constexpr int kCount = 1000;
    std::vector<float> values(kCount);
    std::iota(values.begin(), values.end(), 0.0f);
    const Buffer x = client_.alloc(kCount * sizeof(float));
    ASSERT_EQ(stream_.copy_to_device(x, values.data(), kCount * sizeof(float)), Status::ok);
    ASSERT_EQ(stream_.launch(kernel("scale"), {8}, {128}, x, 2.0f, kCount), Status::ok)
        << stream_.last_error();
    std::vector<float> out(kCount);
    ASSERT_EQ(stream_.copy_to_host(out.data(), x, kCount * sizeof(float)), Status::ok);
    for (int i = 0; i < kCount; ++i)
        EXPECT_EQ(out[static_cast<std::size_t>(i)], 2.0f * static_cast<float>(i));
}

TEST_F(Host, passes_every_kind_of_argument_at_its_place) {
    const Buffer out = words(5);
    ASSERT_EQ(stream_.launch(kernel("five"), {1}, {1}, out, 11u, 22.0f, 33.0, Pair{44, 55}), Status::ok)
        << stream_.last_error();
    EXPECT_EQ(read(out, 5), (std::vector<unsigned>{11, 22, 33, 44, 55}));
    // The same, packed by hand at the declared offsets.
    const Kernel five = kernel("five");
    std::vector<std::byte> params(five.param_bytes());
    const auto put = [&](std::size_t i, const auto& value) {
        ASSERT_EQ(five.params()[i].size, sizeof value);
        std::memcpy(params.data() + five.params()[i].offset, &value, sizeof value);
    };
    put(0, out.address());
    put(1, 1u);
    put(2, 2.0f);
    put(3, 3.0);
    put(4, Pair{4, 5});
    ASSERT_EQ(stream_.launch_packed(five, {1}, {1}, 0, params), Status::ok) << stream_.last_error();
    EXPECT_EQ(read(out, 5), (std::vector<unsigned>{1, 2, 3, 4, 5}));
}

// Opens descriptors until this process has all that it may have; gives them back.
class NoDescriptors {
  public:
    NoDescriptors() {
        ::getrlimit(RLIMIT_NOFILE, &before_);
        const rlimit low{128, before_.rlim_max};
        ::setrlimit(RLIMIT_NOFILE, &low);
        for (int fd; (fd = ::dup(0)) >= 0;) taken_.emplace_back(fd);
    }
    ~NoDescriptors() { ::setrlimit(RLIMIT_NOFILE, &before_); }

  private:
    rlimit before_{};
    std::vector<UniqueFd> taken_;
};

TEST(Descriptors, a_process_without_any_left_is_told_and_keeps_its_session) {
#ifdef __SANITIZE_ADDRESS__
    GTEST_SKIP() << "UBSan's check of virtual tables needs descriptors of its own, and calls a table invalid "
                    "where it has none";
#endif
    Daemon daemon("host", {"--max-streams", "2"});
    Client client = daemon.connect();
    const Module module = client.load_file(TEST_KERNELS);
    Stream stream = client.stream();
    const Buffer buffer = client.alloc(64);
    ASSERT_EQ(stream.fill(buffer, 0, 4, 0, 64), Status::ok);
    ASSERT_EQ(stream.synchronize(kPatienceNs), Status::ok);
    const int executor = daemon.executor();
    {
        const NoDescriptors none;
        for (int i = 0; i < 3; ++i) {
            Status status = Status::ok;
            std::string text;
            // The daemon may still be closing the one before.
            ASSERT_TRUE(eventually([&] {
                try {
                    client.stream();
                } catch (const Error& error) {
                    status = error.status();
                    text = error.what();
                }
                return text.find("--max-streams") == std::string::npos;
            }));
            EXPECT_EQ(status, Status::limit_reached) << text;
            EXPECT_THAT(text,
                        AllOf(HasSubstr("cannot open a stream"), HasSubstr("cannot receive the descriptors"),
                              HasSubstr("may open 128"), HasSubstr("ulimit -n")));
        }
        const auto refused = [](const std::function<void()>& doing) {
            try {
                doing();
            } catch (const Error& error) {
                EXPECT_EQ(error.status(), Status::limit_reached) << error.what();
                EXPECT_THAT(error.what(), AllOf(HasSubstr("may open 128"), HasSubstr("ulimit -n")));
                return;
            }
            ADD_FAILURE() << "that was possible";
        };
        refused([&] { client.load(std::as_bytes(std::span("no image"))); });
        refused([&] { client.load_file(TEST_KERNELS); });
        refused([&] { daemon.connect(); });
        // A new status page needs a descriptor for a moment only.
        ASSERT_EQ(::kill(executor, SIGKILL), 0);
        ASSERT_EQ(stream.fill(buffer, 1, 4, 0, 64), Status::ok) << stream.last_error();
        EXPECT_EQ(stream.synchronize(kPatienceNs), Status::ok) << stream.last_error();
    }
    // What the daemon made for the streams that could not be handed over has gone.
    EXPECT_TRUE(eventually([&] {
        try {
            return static_cast<bool>(client.stream());
        } catch (const Error&) {
            return false;
        }
    }));
}

TEST_F(Host, a_kernel_without_parameters_is_launched_too) {
    ASSERT_EQ(stream_.launch(kernel("none"), {1}, {1}), Status::ok) << stream_.last_error();
    EXPECT_EQ(stream_.synchronize(kPatienceNs), Status::ok);
}

TEST_F(Host, runs_a_stream_in_order) {
    constexpr unsigned kCount = 20'000;  // several times the ring
    const Buffer log = words(kCount), count = words(1);
    const Kernel append = kernel("append");
    for (unsigned i = 0; i < kCount; ++i)
        ASSERT_EQ(stream_.launch(append, {1}, {1}, log, count, i), Status::ok) << stream_.last_error();
    const std::vector<unsigned> found = read(log, kCount);
    for (unsigned i = 0; i < kCount; ++i) ASSERT_EQ(found[i], i);
}

TEST_F(Host, a_wrong_argument_names_the_parameter_and_enqueues_nothing) {
    const Buffer x = words(4);
    const std::uint64_t before = stream_.status().published;
    EXPECT_EQ(stream_.launch(kernel("scale"), {1}, {1}, x, 2.0, 4), Status::invalid_argument);
    EXPECT_THAT(stream_.last_error(), AllOf(HasSubstr("parameter 1"), HasSubstr("scale"),
                                            HasSubstr("float32"), HasSubstr("float64")));
    EXPECT_EQ(stream_.launch(kernel("scale"), {1}, {1}, x, 2.0f), Status::invalid_argument);
    EXPECT_THAT(stream_.last_error(), AllOf(HasSubstr("3 arguments"), HasSubstr("2 were given")));
    EXPECT_EQ(stream_.launch(kernel("scale"), {1}, {1}, 5, 2.0f, 4), Status::invalid_argument);
    EXPECT_THAT(stream_.last_error(),
                AllOf(HasSubstr("parameter 0"), HasSubstr("pointer"), HasSubstr("int32")));
    EXPECT_EQ(stream_.launch(kernel("scale"), {1}, {1}, x, 2.0f, 4u), Status::invalid_argument);
    EXPECT_THAT(stream_.last_error(), AllOf(HasSubstr("parameter 2"), HasSubstr("uint32")));
    EXPECT_EQ(stream_.launch(kernel("scale"), {1}, {1}, Buffer(), 2.0f, 4), Status::invalid_argument);
    EXPECT_THAT(stream_.last_error(), AllOf(HasSubstr("parameter 0"), HasSubstr("empty Buffer")));
    EXPECT_EQ(stream_.launch(Kernel(), {1}, {1}, x, 2.0f, 4), Status::closed);
    EXPECT_THAT(stream_.last_error(), HasSubstr("the Kernel is empty"));
    EXPECT_EQ(stream_.launch_packed(Kernel(), {1}, {1}, 0, {}), Status::closed);
    EXPECT_THAT(stream_.last_error(), HasSubstr("the Kernel is empty"));
    EXPECT_EQ(stream_.launch_packed(kernel("scale"), {1}, {1}, 0, {}), Status::invalid_argument);
    EXPECT_EQ(stream_.status().published, before);
    EXPECT_EQ(stream_.synchronize(kPatienceNs), Status::ok);
}

TEST_F(Host, a_wrong_grid_or_block_is_refused_where_it_is_made) {
    EXPECT_EQ(stream_.launch(kernel("none"), {0}, {1}), Status::invalid_argument);
    EXPECT_THAT(stream_.last_error(), HasSubstr("grid"));
    EXPECT_EQ(stream_.launch(kernel("none"), {1}, {1 << 20}), Status::invalid_argument);
    EXPECT_THAT(stream_.last_error(), HasSubstr("block"));
    EXPECT_EQ(stream_.launch(kernel("none"), {1}, {1, 0, 1}), Status::invalid_argument);
    EXPECT_EQ(stream_.launch(kernel("none"), {1}, {0, 0, 0}), Status::invalid_argument);
    EXPECT_THAT(stream_.last_error(), HasSubstr("default block"));
    EXPECT_EQ(stream_.synchronize(kPatienceNs), Status::ok);
}

TEST_F(Host, an_error_belongs_to_the_thread_and_the_stream_it_happened_to) {
    EXPECT_EQ(stream_.launch(kernel("none"), {0}, {1}), Status::invalid_argument);
    std::thread([&] { EXPECT_EQ(stream_.last_error(), ""); }).join();
    EXPECT_EQ(client_.stream().last_error(), "");
    EXPECT_NE(stream_.last_error(), "");
}

TEST_F(Host, fills_and_copies_within_the_device) {
    const Buffer a = words(8), b = words(8);
    ASSERT_EQ(stream_.fill(a, 0x11223344, 4, 8, 8), Status::ok);
    ASSERT_EQ(stream_.fill(a, 0xffffabcd, 2, 0, 2), Status::ok);
    ASSERT_EQ(stream_.fill(a, 0x77, 1, 31, 1), Status::ok);
    ASSERT_EQ(stream_.copy(b, 4, a, 0, 28), Status::ok);
    EXPECT_EQ(read(a, 8), (std::vector<unsigned>{0xabcd, 0, 0x11223344, 0x11223344, 0, 0, 0, 0x77000000}));
    EXPECT_EQ(read(b, 8), (std::vector<unsigned>{0, 0xabcd, 0, 0x11223344, 0x11223344, 0, 0, 0}));
    EXPECT_EQ(stream_.fill(a, 0, 3, 0, 3), Status::invalid_argument);
    EXPECT_EQ(stream_.fill(a, 0, 4, 2, 4), Status::invalid_argument);
}

TEST_F(Host, a_range_outside_a_buffer_is_refused_where_it_is_made) {
    const Buffer a = words(8);
    char byte = 0;
    EXPECT_EQ(stream_.copy_to_device(a, &byte, 1, 32), Status::invalid_argument);
    EXPECT_THAT(stream_.last_error(), AllOf(HasSubstr("32"), HasSubstr("leave the buffer")));
    EXPECT_EQ(stream_.copy_to_host(&byte, a, 1, ~std::size_t{0}), Status::invalid_argument);
    EXPECT_EQ(stream_.copy(a, 0, a, 30, 4), Status::invalid_argument);
    EXPECT_EQ(stream_.fill(a, 0, 1, 33, 0), Status::invalid_argument);
    EXPECT_EQ(stream_.copy_to_device(Buffer(), &byte, 1), Status::invalid_argument);
    Client other = daemon_->connect();
    EXPECT_EQ(stream_.fill(other.alloc(8), 0, 1, 0, 8), Status::invalid_argument);
    EXPECT_THAT(stream_.last_error(), HasSubstr("another client"));
}

TEST_F(Host, copies_more_than_its_staging_memory_holds) {
    ConnectOptions options = daemon_->options();
    options.staging_bytes = 64 << 10;
    Client client = Client::connect(options);
    Stream stream = client.stream();
    std::mt19937 random(7);
    for (const std::size_t bytes : {std::size_t{1}, std::size_t{16 << 10}, (std::size_t{16} << 10) + 1,
                                    std::size_t{64 << 10}, std::size_t{3'000'001}}) {
        std::vector<unsigned char> values(bytes), out(bytes);
        for (unsigned char& value : values) value = static_cast<unsigned char>(random());
        const Buffer buffer = client.alloc(bytes + 3);
        ASSERT_EQ(stream.copy_to_device(buffer, values.data(), bytes, 3), Status::ok) << stream.last_error();
        ASSERT_EQ(stream.copy_to_host(out.data(), buffer, bytes, 3), Status::ok) << stream.last_error();
        EXPECT_TRUE(values == out) << bytes << " bytes";
    }
    EXPECT_EQ(stream.synchronize(kPatienceNs), Status::ok);
}

TEST(Staging, eight_streams_can_copy_below_a_small_limit_and_who_cannot_is_told) {
    const Daemon daemon("host", {"--max-staging", "70000"});
    Client client = daemon.connect();
    std::vector<unsigned> values(10'000), out(values.size());
    std::iota(values.begin(), values.end(), 7u);
    const std::size_t bytes = values.size() * sizeof(unsigned);
    const Buffer buffer = client.alloc(bytes);
    std::vector<Stream> streams;
    for (int i = 0; i < 8; ++i) {
        Stream& stream = streams.emplace_back(client.stream());
        values[0] = static_cast<unsigned>(i);
        ASSERT_EQ(stream.copy_to_device(buffer, values.data(), bytes), Status::ok) << stream.last_error();
        ASSERT_EQ(stream.copy_to_host(out.data(), buffer, bytes), Status::ok) << stream.last_error();
        EXPECT_EQ(out, values);
    }
    Stream ninth = client.stream();
    EXPECT_EQ(ninth.copy_to_device(buffer, values.data(), bytes), Status::limit_reached);
    EXPECT_THAT(ninth.last_error(), HasSubstr("--max-staging"));
    streams.pop_back();  // and with it its share
    ASSERT_EQ(ninth.copy_to_device(buffer, values.data(), bytes), Status::ok) << ninth.last_error();
}

TEST_F(Host, copies_between_pinned_memory_and_the_device) {
    constexpr std::size_t kBytes = 3'000'001;
    const PinnedMemory from = client_.alloc_pinned(kBytes), to = client_.alloc_pinned(kBytes + 5);
    ASSERT_EQ(to.size(), kBytes + 5);
    for (std::size_t i = 0; i < kBytes; ++i) from.data()[i] = static_cast<std::byte>(i * 7 >> 3);
    const Buffer buffer = client_.alloc(kBytes);
    ASSERT_EQ(stream_.copy(buffer, 1, from, 1, kBytes - 1), Status::ok) << stream_.last_error();
    ASSERT_EQ(stream_.copy(buffer, 0, from, 0, 1), Status::ok) << stream_.last_error();
    ASSERT_EQ(stream_.copy(to, 5, buffer, 0, kBytes), Status::ok) << stream_.last_error();
    ASSERT_EQ(stream_.synchronize(kPatienceNs), Status::ok);
    EXPECT_EQ(std::memcmp(to.data() + 5, from.data(), kBytes), 0);
    EXPECT_EQ(stream_.copy(to, 0, buffer, 0, 0), Status::ok);
}

// Kernels of two clients may have the same id.
TEST_F(Host, a_kernel_of_another_client_is_refused) {
    Client other = daemon_->connect();
    Stream theirs = other.stream();
    const Buffer out = other.alloc(4);
    ASSERT_EQ(theirs.fill(out, 7, 4, 0, 4), Status::ok);
    const Kernel store = kernel("store");
    const auto refused = [&](Status status) {
        EXPECT_EQ(status, Status::invalid_argument);
        EXPECT_THAT(theirs.last_error(), HasSubstr("cannot launch kernel store: it is of another client"));
    };
    refused(theirs.launch(store, {1}, {1}, out, 0u, 8u));
    refused(theirs.try_launch(store, {1}, {1}, out, 0u, 8u));
    refused(theirs.launch_packed(store, {1}, {1}, 0, std::vector<std::byte>(store.param_bytes())));
    refused(theirs.launch(store.with_attributes({}), {1}, {1}, out, 0u, 8u));
    theirs.begin_graph();
    refused(theirs.launch(store, {1}, {1}, out, 0u, 8u));
    ASSERT_EQ(theirs.fill(out, 7, 4, 0, 4), Status::ok);
    EXPECT_EQ(theirs.end_graph().size(), 1u);
    EXPECT_EQ(read(theirs, out, 1), std::vector<unsigned>{7});
    const Kernel own = other.load_file(TEST_KERNELS).kernel("store");
    ASSERT_EQ(theirs.launch(own, {1}, {1}, out, 0u, 9u), Status::ok) << theirs.last_error();
    EXPECT_EQ(read(theirs, out, 1), std::vector<unsigned>{9});
}

TEST_F(Host, buffers_and_events_of_two_clients_meet) {
    Client other = daemon_->connect();
    Stream theirs = other.stream();
    const std::vector<unsigned> values{3, 1, 4, 1, 5, 9, 2, 6};
    const Buffer mine = words(8), lent = other.alloc(32);
    ASSERT_EQ(theirs.copy_to_device(lent, values.data(), 32), Status::ok);
    const Event written = theirs.record();
    ASSERT_EQ(stream_.wait(written), Status::ok) << stream_.last_error();
    ASSERT_EQ(stream_.copy(mine, 0, lent, 0, 32), Status::ok) << stream_.last_error();
    EXPECT_EQ(read(mine, 8), values);
    // By the stream of the one that is copied from, in parts, once more without asking anybody.
    ASSERT_EQ(stream_.copy(lent, 16, mine, 0, 16), Status::ok) << stream_.last_error();
    ASSERT_EQ(theirs.wait(stream_.record()), Status::ok) << theirs.last_error();
    std::vector<unsigned> found(8);
    ASSERT_EQ(theirs.copy_to_host(found.data(), lent, 32), Status::ok) << theirs.last_error();
    EXPECT_EQ(found, (std::vector<unsigned>{3, 1, 4, 1, 3, 1, 4, 1}));
    // A range is checked against the buffer, whoever's it is.
    EXPECT_EQ(stream_.copy(mine, 0, lent, 4, 32), Status::invalid_argument);
    EXPECT_THAT(stream_.last_error(), HasSubstr("leave the buffer"));
    EXPECT_NO_THROW(client_.borrow(lent));
    EXPECT_NO_THROW(client_.borrow(theirs.record()));
    EXPECT_THROW(client_.borrow(Buffer()), Error);
    EXPECT_THROW(client_.borrow(Event()), Error);
    other.close();
    EXPECT_EQ(stream_.copy(mine, 0, lent, 0, 32), Status::ok) << "what was lent outlives who lent it";
    EXPECT_EQ(stream_.synchronize(kPatienceNs), Status::ok);
    Client third = daemon_->connect();
    EXPECT_THROW(third.borrow(lent), Error);
}

TEST_F(Host, pinned_memory_may_go_with_its_copies_in_flight) {
    const Buffer log = words(64);
    for (unsigned i = 0; i < 64; ++i) {
        const PinnedMemory memory = client_.alloc_pinned(4);
        std::memcpy(memory.data(), &i, 4);
        ASSERT_EQ(stream_.launch(kernel("nap"), {1}, {1}, 1u), Status::ok);
        ASSERT_EQ(stream_.copy(log, i * 4, memory, 0, 4), Status::ok) << stream_.last_error();
    }
    const std::vector<unsigned> found = read(log, 64);
    for (unsigned i = 0; i < 64; ++i) EXPECT_EQ(found[i], i);
}

TEST_F(Host, kernels_read_and_write_pinned_memory) {
    constexpr unsigned kValues = 1000;
    const PinnedMemory log = client_.alloc_pinned(kValues * 4), count = client_.alloc_pinned(4);
    ASSERT_NE(log.device_address(), 0u);
    EXPECT_NE(log.device_address(), count.device_address());
    const Kernel append = kernel("append");
    for (unsigned i = 0; i < kValues; ++i)
        ASSERT_EQ(stream_.launch(append, {1}, {1}, log, count, i), Status::ok) << stream_.last_error();
    ASSERT_EQ(stream_.synchronize(kPatienceNs), Status::ok);
    const auto* const found = reinterpret_cast<const unsigned*>(log.data());
    for (unsigned i = 0; i < kValues; ++i) EXPECT_EQ(found[i], i);
    // Any place within it.
    ASSERT_EQ(stream_.launch(kernel("store"), {1}, {1}, DevicePointer{log.device_address() + 40}, 2u, 77u),
              Status::ok);
    ASSERT_EQ(stream_.synchronize(kPatienceNs), Status::ok);
    EXPECT_EQ(found[12], 77u);
}

TEST_F(Host, pinned_memory_may_go_with_launches_in_flight) {
    const Buffer count = words(1);
    ASSERT_EQ(stream_.fill(count, 0, 4, 0, 4), Status::ok);
    for (unsigned i = 0; i < 32; ++i) {
        const PinnedMemory memory = client_.alloc_pinned(4096);
        ASSERT_EQ(stream_.launch(kernel("nap"), {1}, {1}, 1u), Status::ok);
        ASSERT_EQ(stream_.launch(kernel("append"), {1}, {1}, memory, count, i), Status::ok);
    }
    EXPECT_EQ(stream_.synchronize(kPatienceNs), Status::ok) << stream_.last_error();
    EXPECT_EQ(read(count, 1), std::vector<unsigned>{32});
}

TEST_F(Host, pinned_memory_of_another_session_stops_the_stream) {
    Client other = daemon_->connect();
    const PinnedMemory theirs = other.alloc_pinned(4096);
    ASSERT_EQ(stream_.launch(kernel("store"), {1}, {1}, theirs, 0u, 1u), Status::ok);
    EXPECT_EQ(stream_.synchronize(kPatienceNs), Status::stream_stopped);
    EXPECT_EQ(stream_.status().status, Status::bad_pointer);
    EXPECT_THAT(stream_.status().text,
                AllOf(HasSubstr("store"), HasSubstr("nor inside memory of this session")));
    EXPECT_EQ(*reinterpret_cast<const unsigned*>(theirs.data()), 0u);
    stream_.resume();
    EXPECT_EQ(stream_.launch(kernel("store"), {1}, {1}, PinnedMemory(), 0u, 1u), Status::invalid_argument);
    EXPECT_THAT(stream_.last_error(), HasSubstr("empty"));
}

TEST_F(Host, pinned_memory_that_was_given_back_stops_the_stream) {
    const Kernel store = kernel("store");
    const std::uint64_t address = client_.alloc_pinned(4096).device_address();
    const auto end = std::chrono::steady_clock::now() + std::chrono::nanoseconds(kPatienceNs);
    Status status = Status::ok;
    while (status == Status::ok && std::chrono::steady_clock::now() < end) {
        ASSERT_EQ(stream_.launch(store, {1}, {1}, DevicePointer{address}, 0u, 1u), Status::ok);
        status = stream_.synchronize(kPatienceNs);
        (void)client_.alloc(1);  // what is due is sent with any call
    }
    EXPECT_EQ(status, Status::stream_stopped);
    EXPECT_EQ(stream_.status().status, Status::bad_pointer) << stream_.status().text;
}

TEST_F(Host, a_range_outside_pinned_memory_is_refused_where_it_is_made) {
    const Buffer a = words(8);
    const PinnedMemory memory = client_.alloc_pinned(32);
    EXPECT_EQ(stream_.copy(a, 0, memory, 30, 4), Status::invalid_argument);
    EXPECT_THAT(stream_.last_error(), AllOf(HasSubstr("30"), HasSubstr("leave the pinned memory")));
    EXPECT_EQ(stream_.copy(memory, 0, a, 30, 4), Status::invalid_argument);
    EXPECT_EQ(stream_.copy(memory, ~std::size_t{0}, a, 0, 4), Status::invalid_argument);
    EXPECT_EQ(stream_.copy(PinnedMemory(), 0, a, 0, 4), Status::invalid_argument);
    Client other = daemon_->connect();
    EXPECT_EQ(stream_.copy(other.alloc_pinned(8), 0, a, 0, 4), Status::invalid_argument);
    EXPECT_THAT(stream_.last_error(), HasSubstr("another client"));
    EXPECT_THROW(client_.alloc_pinned(0), Error);
    EXPECT_THROW(client_.alloc_pinned(std::size_t{1} << 50), Error);
}

TEST_F(Host, what_was_copied_from_may_be_reused_at_once) {
    const Buffer count = words(1), log = words(256);
    const Buffer value = client_.alloc(4);
    ASSERT_EQ(stream_.launch(kernel("nap"), {1}, {1}, 20u), Status::ok);
    for (unsigned i = 0; i < 256; ++i) {
        ASSERT_EQ(stream_.copy_to_device(value, &i, 4), Status::ok);
        ASSERT_EQ(stream_.copy(log, 4 * i, value, 0, 4), Status::ok);
    }
    const std::vector<unsigned> found = read(log, 256);
    for (unsigned i = 0; i < 256; ++i) EXPECT_EQ(found[i], i);
}

TEST_F(Host, an_event_is_done_when_what_was_before_it_is) {
    const Buffer gate = words(1);
    Stream opener = client_.stream();
    ASSERT_EQ(stream_.synchronize(kPatienceNs), Status::ok);
    ASSERT_EQ(stream_.launch(kernel("gate"), {1}, {1}, gate), Status::ok) << stream_.last_error();
    const Event event = stream_.record();
    ASSERT_TRUE(event);
    EXPECT_FALSE(event.done());
    EXPECT_EQ(event.wait(1'000'000), Status::timed_out);
    ASSERT_EQ(opener.fill(gate, 1, 4, 0, 4), Status::ok);
    EXPECT_EQ(event.wait(kPatienceNs), Status::ok);
    EXPECT_TRUE(event.done());
}

TEST_F(Host, a_stream_waits_for_an_event_of_another) {
    const Buffer gate = words(1), log = words(8), count = words(1);
    ASSERT_EQ(stream_.synchronize(kPatienceNs), Status::ok);
    Stream second = client_.stream();
    ASSERT_EQ(stream_.launch(kernel("nap"), {1}, {1}, 30u), Status::ok);
    ASSERT_EQ(stream_.launch(kernel("append"), {1}, {1}, log, count, 1u), Status::ok);
    ASSERT_EQ(second.wait(stream_.record()), Status::ok) << second.last_error();
    ASSERT_EQ(second.launch(kernel("append"), {1}, {1}, log, count, 2u), Status::ok);
    EXPECT_EQ(read(second, log, 3), (std::vector<unsigned>{1, 2, 0}));
    EXPECT_EQ(second.wait(Event()), Status::invalid_argument);
}

TEST_F(Host, many_threads_may_wait_for_one_stream) {
    const Buffer gate = words(1);
    ASSERT_EQ(stream_.synchronize(kPatienceNs), Status::ok);
    ASSERT_EQ(stream_.launch(kernel("gate"), {1}, {1}, gate), Status::ok);
    std::vector<Event> events;
    for (int i = 0; i < 8; ++i) {
        ASSERT_EQ(stream_.launch(kernel("nap"), {1}, {1}, 2u), Status::ok);
        events.push_back(stream_.record());
    }
    std::vector<std::thread> threads;
    std::array<Status, 24> found{};
    // From the last to the first, so that followers announce lower positions than their leader did.
    for (std::size_t i = 0; i < found.size(); ++i)
        threads.emplace_back([&, i] { found[i] = events[7 - i % 8].wait(kPatienceNs); });
    // One that gives up while others go on, whether it leads or not.
    threads.emplace_back([&] { EXPECT_EQ(events[0].wait(5'000'000), Status::timed_out); });
    threads.back().join();
    threads.pop_back();
    Stream opener = client_.stream();
    ASSERT_EQ(opener.fill(gate, 1, 4, 0, 4), Status::ok);
    for (std::thread& thread : threads) thread.join();
    for (const Status status : found) EXPECT_EQ(status, Status::ok);
}

TEST_F(Host, sleepers_and_an_event_loop_wait_for_one_stream) {
    ASSERT_EQ(stream_.synchronize(kPatienceNs), Status::ok);
    for (int round = 0; round < 50; ++round) {
        ASSERT_EQ(stream_.launch(kernel("nap"), {1}, {1}, 1u), Status::ok);
        const Event first = stream_.record();
        ASSERT_EQ(stream_.launch(kernel("nap"), {1}, {1}, 1u), Status::ok);
        const Event second = stream_.record();
        Status slept = Status::ok;
        std::thread sleeper([&] { slept = second.wait(kPatienceNs); });
        // The loop of Stream::wake_fd().
        for (const Event& event : {first, second}) {
            Status status = event.arm();
            while (status == Status::timed_out) {
                pollfd entry{stream_.wake_fd(), POLLIN, 0};
                ASSERT_EQ(::poll(&entry, 1, 30'000), 1) << "a wake-up was lost in round " << round;
                stream_.on_wake();
                status = event.arm();
            }
            EXPECT_EQ(status, Status::ok);
        }
        sleeper.join();
        EXPECT_EQ(slept, Status::ok);
    }
}

TEST_F(Host, an_event_loop_alone_loses_no_wake_up) {
    for (int round = 0; round < 200; ++round) {
        ASSERT_EQ(stream_.launch(kernel("nap"), {1}, {1}, static_cast<unsigned>(round % 3)), Status::ok);
        const Event first = stream_.record();
        ASSERT_EQ(stream_.launch(kernel("none"), {1}, {1}), Status::ok);
        const Event second = stream_.record();
        bool done = false;
        while (!done) {
            done = true;
            for (const Event& event : {second, first}) done &= event.arm() != Status::timed_out;
            if (done) break;
            pollfd entry{stream_.wake_fd(), POLLIN, 0};
            ASSERT_EQ(::poll(&entry, 1, 30'000), 1) << "a wake-up was lost in round " << round;
            stream_.on_wake();
        }
        EXPECT_TRUE(first.done() && second.done());
    }
}

TEST_F(Host, a_full_ring_is_an_answer_to_who_tries_and_a_wait_to_who_launches) {
    StreamOptions small;
    small.ring_slots = 64;
    Stream stream = client_.stream(small);
    const Buffer gate = words(1);
    ASSERT_EQ(stream_.synchronize(kPatienceNs), Status::ok);
    ASSERT_EQ(stream.launch(kernel("gate"), {1}, {1}, gate), Status::ok);
    int taken = 0;
    Status status = Status::ok;
    while ((status = stream.try_launch(kernel("none"), {1}, {1})) == Status::ok && taken < 1000) ++taken;
    EXPECT_EQ(status, Status::ring_full);
    EXPECT_EQ(taken, 63);
    std::thread opener([&] {
        std::this_thread::sleep_for(20ms);
        EXPECT_EQ(stream_.fill(gate, 1, 4, 0, 4), Status::ok);
    });
    for (int i = 0; i < 1000; ++i) ASSERT_EQ(stream.launch(kernel("none"), {1}, {1}), Status::ok);
    opener.join();
    EXPECT_EQ(stream.synchronize(kPatienceNs), Status::ok);
}

TEST_F(Host, a_buffer_that_was_let_go_of_serves_the_work_that_was_enqueued_before) {
    const Buffer log = words(100);
    for (unsigned i = 0; i < 100; ++i) {
        const Buffer value = client_.alloc(1 << 20);
        ASSERT_EQ(stream_.launch(kernel("nap"), {1}, {1}, i % 10 == 0 ? 2u : 0u), Status::ok);
        ASSERT_EQ(stream_.fill(value, i + 1, 4, 0, 1 << 20), Status::ok);
        ASSERT_EQ(stream_.copy(log, 4 * i, value, (1 << 20) - 4, 4), Status::ok);
    }
    const std::vector<unsigned> found = read(log, 100);
    for (unsigned i = 0; i < 100; ++i) EXPECT_EQ(found[i], i + 1);
}

TEST_F(Host, memory_of_buffers_that_went_is_used_again) {
    // 100 GiB in all, in a range of 64 GiB.
    for (int i = 0; i < 100; ++i) {
        const Buffer buffer = client_.alloc(std::size_t{1} << 30);
        ASSERT_EQ(stream_.fill(buffer, 1, 4, 0, 4), Status::ok);
    }
    EXPECT_EQ(stream_.synchronize(kPatienceNs), Status::ok) << stream_.status().text;
}

TEST_F(Host, a_module_that_was_let_go_of_serves_the_work_that_was_enqueued_before) {
    const Buffer log = words(64), count = words(1);
    for (unsigned i = 0; i < 64; ++i) {
        const Kernel append = client_.load_file(TEST_KERNELS).kernel("append");
        ASSERT_EQ(stream_.launch(kernel("nap"), {1}, {1}, i % 16 == 0 ? 5u : 0u), Status::ok);
        ASSERT_EQ(stream_.launch(append, {1}, {1}, log, count, i), Status::ok);
    }
    const std::vector<unsigned> found = read(log, 64);
    for (unsigned i = 0; i < 64; ++i) EXPECT_EQ(found[i], i);
}

TEST_F(Host, a_stream_that_was_let_go_of_finishes_what_was_enqueued) {
    const Buffer log = words(200), count = words(1);
    ASSERT_EQ(stream_.synchronize(kPatienceNs), Status::ok);
    {
        Stream passing = client_.stream();
        ASSERT_EQ(passing.launch(kernel("nap"), {1}, {1}, 20u), Status::ok);
        for (unsigned i = 0; i < 200; ++i)
            ASSERT_EQ(passing.launch(kernel("append"), {1}, {1}, log, count, i), Status::ok);
    }
    EXPECT_TRUE(eventually([&] { return read(count, 1)[0] == 200; }));
    // And it goes then, rather than with the session.
    detail::ClientState& state = *detail::Access::state(client_);
    EXPECT_TRUE(eventually([&] {
        state.sweep();
        const std::lock_guard lock(state.mutex);
        return state.draining.empty() && state.live.size() == 1;
    }));
}

TEST_F(Host, an_event_keeps_its_stream) {
    Event event;
    {
        Stream passing = client_.stream();
        ASSERT_EQ(passing.launch(kernel("nap"), {1}, {1}, 10u), Status::ok);
        event = passing.record();
    }
    EXPECT_EQ(event.wait(kPatienceNs), Status::ok);
}

TEST_F(Host, handles_outlive_their_client) {
    Stream stream;
    Kernel append;
    Buffer log, count;
    {
        Client client = daemon_->connect();
        stream = client.stream();
        append = client.load_file(TEST_KERNELS).kernel("append");
        log = client.alloc(64);
        count = client.alloc(4);
    }
    ASSERT_EQ(stream.fill(count, 0, 4, 0, 4), Status::ok);
    ASSERT_EQ(stream.launch(append, {1}, {1}, log, count, 9u), Status::ok) << stream.last_error();
    EXPECT_EQ(read(stream, log, 1)[0], 9u);
}

TEST_F(Host, a_bad_record_stops_the_stream_and_says_why_and_resume_skips_it) {
    const Buffer log = words(8), count = words(1);
    ASSERT_EQ(stream_.launch(kernel("append"), {1}, {1}, log, count, 1u), Status::ok);
    // An address that nobody gave out.
    ASSERT_EQ(stream_.launch(kernel("append"), {1}, {1}, DevicePointer{0x1234}, count, 2u), Status::ok);
    EXPECT_EQ(stream_.synchronize(kPatienceNs), Status::stream_stopped);
    const StreamStatus status = stream_.status();
    EXPECT_EQ(status.status, Status::bad_pointer);
    EXPECT_EQ(status.error_kernel, "append");
    EXPECT_THAT(status.text, AllOf(HasSubstr("append"), HasSubstr("0x1234")));
    EXPECT_EQ(stream_.launch(kernel("append"), {1}, {1}, log, count, 3u), Status::stream_stopped);
    EXPECT_FALSE(stream_.record());
    Stream other = client_.stream();
    // What was issued before it completes, though the stream has stopped; what came after is not run.
    EXPECT_TRUE(eventually([&] { return read(other, log, 2) == std::vector<unsigned>{1, 0}; }));
    stream_.resume();
    EXPECT_EQ(stream_.status().status, Status::ok);
    ASSERT_EQ(stream_.launch(kernel("append"), {1}, {1}, log, count, 4u), Status::ok) << stream_.last_error();
    EXPECT_EQ(read(log, 3), (std::vector<unsigned>{1, 4, 0}));
    EXPECT_THROW(stream_.resume(), Error) << "it has not stopped";
}

TEST_F(Host, threads_make_and_drop_what_they_like_at_the_same_time) {
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < 4; ++t)
        threads.emplace_back([&, t] {
            for (unsigned i = 0; i < 20; ++i) {
                Stream stream = client_.stream();
                const Buffer buffer = client_.alloc(4096 * (t + 1));
                const Kernel store = client_.load_file(TEST_KERNELS).kernel("store");
                EXPECT_EQ(stream.launch(store, {1}, {1}, buffer, 3u, 100 * t + i), Status::ok);
                EXPECT_EQ(read(stream, buffer, 4)[3], 100 * t + i);
            }
        });
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(client_.synchronize(kPatienceNs), Status::ok);
}

TEST_F(Host, synchronizes_all_streams_of_a_client) {
    const Buffer gate = words(1);
    ASSERT_EQ(stream_.synchronize(kPatienceNs), Status::ok);
    Stream second = client_.stream();
    ASSERT_EQ(second.launch(kernel("gate"), {1}, {1}, gate), Status::ok);
    EXPECT_EQ(client_.synchronize(1'000'000), Status::timed_out);
    ASSERT_EQ(stream_.fill(gate, 1, 4, 0, 4), Status::ok);
    EXPECT_EQ(client_.synchronize(kPatienceNs), Status::ok);
}

TEST_F(Host, refuses_what_is_no_module_and_names_the_kernels_there_are) {
    try {
        client_.load(std::as_bytes(std::span("#!/bin/sh")), "script");
        FAIL() << "it was loaded";
    } catch (const Error& error) {
        EXPECT_EQ(error.status(), Status::bad_image);
        EXPECT_THAT(error.what(), HasSubstr("script"));
    }
    EXPECT_THROW(client_.load_file("/nowhere/kernels.so"), Error);
    try {
        module_.kernel("scael");
        FAIL() << "it was found";
    } catch (const Error& error) {
        EXPECT_EQ(error.status(), Status::not_found);
        EXPECT_THAT(error.what(), AllOf(HasSubstr("scael"), HasSubstr("scale"), HasSubstr("append")));
    }
    EXPECT_THAT(module_.kernels(), ::testing::Contains("five"));
}

// A word that holds the kernel `gate` until another value is written into it.
Buffer closed_gate(Client& client, Stream& stream) {
    Buffer word = client.alloc(4);
    EXPECT_EQ(stream.fill(word, 0, 4, 0, 4), Status::ok);
    EXPECT_EQ(stream.synchronize(kPatienceNs), Status::ok);
    return word;
}

TEST_F(Host, a_wait_can_be_interrupted_by_its_caller) {
    Client client = daemon_->connect();
    Stream stream = client.stream(), opener = client.stream();
    const Kernel gate = client.load_file(TEST_KERNELS).kernel("gate");
    const Buffer word = closed_gate(client, opener);
    std::atomic<int> asked{0};
    detail::Access::state(client)->connection->set_hook(
        {[](void* context) { return ++*static_cast<std::atomic<int>*>(context) == 2; }, &asked});
    ASSERT_EQ(stream.launch(gate, {1}, {1}, word), Status::ok);
    EXPECT_EQ(stream.synchronize(), Status::interrupted);
    EXPECT_EQ(asked, 2);
    ASSERT_EQ(opener.fill(word, 1, 4, 0, 4), Status::ok);
    EXPECT_EQ(stream.synchronize(kPatienceNs), Status::ok) << "it was a wait that ended, not the work";
}

TEST(Close, wakes_who_waits) {
    Daemon daemon("host");  // which ends the kernel that the session leaves behind
    Client client = daemon.connect();
    Stream stream = client.stream();
    const Kernel gate = client.load_file(TEST_KERNELS).kernel("gate");
    const Buffer word = closed_gate(client, stream);
    ASSERT_EQ(stream.launch(gate, {1}, {1}, word), Status::ok);
    std::thread waiter([&] { EXPECT_EQ(stream.synchronize(kPatienceNs), Status::closed); });
    std::this_thread::sleep_for(20ms);
    client.close();
    waiter.join();
    EXPECT_EQ(stream.launch(gate, {1}, {1}, word), Status::closed);
    EXPECT_EQ(stream.status().status, Status::closed);
    EXPECT_THROW(stream.resume(), Error);
}

TEST(Limits, a_client_that_asks_too_often_is_slowed_down_not_refused) {
    Daemon daemon("null", {"--max-messages", "100"});
    Client client = daemon.connect();
    Stream stream = client.stream();
    // 300 messages: the frees of the buffers count too, and none of them may be lost.
    for (int i = 0; i < 150; ++i) EXPECT_GT(client.alloc(std::size_t{1} << 30).address(), 0u);
    detail::ClientState& state = *detail::Access::state(client);
    EXPECT_TRUE(eventually([&] {
        state.sweep();
        state.connection->pump();
        const std::lock_guard lock(state.mutex);
        return state.unsent.empty() && state.posted.empty();
    }));
}

TEST(Null, takes_records_and_runs_nothing) {
    Daemon daemon("null");
    Client client = daemon.connect();
    EXPECT_EQ(client.daemon().driver, "null");
    const Kernel scale = client.load_file(TEST_KERNELS).kernel("scale");
    Stream stream = client.stream();
    const Buffer x = client.alloc(4096);
    for (int i = 0; i < 100'000; ++i)
        ASSERT_EQ(stream.launch(scale, {1}, {1}, x, 2.0f, i), Status::ok) << stream.last_error();
    const Event event = stream.record();
    EXPECT_EQ(event.wait(kPatienceNs), Status::ok);
    EXPECT_TRUE(event.done());
    EXPECT_EQ(stream.status().completed, stream.status().published);
}

TEST(Null, a_kernel_with_too_many_parameters_refuses_itself_and_not_its_module) {
    Daemon daemon("null");
    Client client = daemon.connect();
    LoadOptions options;
    options.signatures = {
        {"plain",
         {{ParamType::pointer, 0, 8, ""}, {ParamType::float32, 8, 4, ""}, {ParamType::int32, 12, 4, ""}}}};
    const Module module = client.load_file(TEST_CUBINS "/undeclared_sm120.cubin", options);
    EXPECT_THAT(module.kernels(), ::testing::UnorderedElementsAre("plain", "huge"));
    try {
        static_cast<void>(module.kernel("huge"));
        ADD_FAILURE() << "no Error was thrown";
    } catch (const Error& error) {
        EXPECT_EQ(error.status(), Status::unsupported);
        EXPECT_THAT(error.what(), AllOf(HasSubstr("kernel huge of module undeclared_sm120.cubin"),
                                        HasSubstr("it takes 4810 bytes"), HasSubstr("at most 4096")));
    }
    Stream stream = client.stream();
    EXPECT_EQ(stream.launch(module.kernel("plain"), {1}, {1}, client.alloc(4), 2.0f, 1), Status::ok)
        << stream.last_error();
    EXPECT_EQ(stream.synchronize(kPatienceNs), Status::ok);
}

TEST(Null, a_module_has_the_stack_that_it_asks_for_up_to_the_limit) {
    Daemon daemon("null");
    Client client = daemon.connect();
    LoadOptions options;
    EXPECT_EQ(client.load_file(TEST_KERNELS, options).kernel("none").stack_bytes(), 0u);
    options.stack_bytes = 16 << 10;
    const Kernel deep = client.load_file(TEST_KERNELS, options).kernel("none");
    EXPECT_EQ(deep.stack_bytes(), 16u << 10);
    KernelAttributes early;
    early.programmatic = true;
    EXPECT_EQ(deep.with_attributes(early).stack_bytes(), 16u << 10);
    options.stack_bytes = 1 << 20;
    try {
        static_cast<void>(client.load_file(TEST_KERNELS, options));
        ADD_FAILURE() << "no Error was thrown";
    } catch (const Error& error) {
        EXPECT_EQ(error.status(), Status::limit_reached);
        EXPECT_THAT(error.what(), AllOf(HasSubstr("stack of 1048576 bytes"), HasSubstr("--max-stack")));
    }
}

TEST(Null, a_tensor_map_is_of_a_buffer_of_the_client) {
    Daemon daemon("null");
    Client client = daemon.connect(), other = daemon.connect();
    TensorLayout layout;
    layout.element_type = 9;  // bfloat16
    layout.rank = 3;
    layout.sides = {64, 10, 5};
    layout.strides = {128, 1280};
    layout.box = {64, 8, 1};
    layout.swizzle = 3;
    layout.promotion = 2;
    layout.fill = 1;
    const Buffer memory = client.alloc(8192), others = other.alloc(8192);
    const TensorMap map = client.tensor_map(memory, 512, layout);
    // As the null driver writes it: what it was asked.
    const auto number = [&](std::size_t at, std::size_t bytes) {
        std::uint64_t value = 0;
        std::memcpy(&value, map.data() + at, bytes);
        return value;
    };
    EXPECT_EQ(std::memcmp(map.data(), "RLNULMAP", 8), 0);
    EXPECT_EQ(number(8, 8), memory.address() + 512);
    for (std::size_t i = 0; i < 5; ++i) {
        EXPECT_EQ(number(16 + 8 * i, 8), layout.sides[i]) << i;
        EXPECT_EQ(number(88 + 2 * i, 2), layout.box[i]) << i;
        EXPECT_EQ(number(98 + i, 1), i < 3 ? 1u : 0u) << i;
    }
    for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(number(56 + 8 * i, 8), layout.strides[i]) << i;
    EXPECT_EQ(number(103, 6), 0x01'02'03'00'09'03u) << "rank, type, interleave, swizzle, promotion, fill";

    const auto refused = [&](Client& asked, const Buffer& of, std::uint64_t offset, Status status,
                             const std::string& text) {
        try {
            static_cast<void>(asked.tensor_map(of, offset, layout));
            ADD_FAILURE() << "no Error was thrown for " << text;
        } catch (const Error& error) {
            EXPECT_EQ(error.status(), status) << error.what();
            EXPECT_THAT(error.what(), AllOf(HasSubstr("cannot make a tensor map"), HasSubstr(text)));
        }
    };
    refused(client, others, 0, Status::invalid_argument, "another client's");
    refused(client, {}, 0, Status::invalid_argument, "the buffer is empty");
    refused(client, memory, 8193, Status::invalid_argument, "offset 8193 of a buffer of 8192 bytes");
    refused(client, memory, 8192, Status::invalid_argument, "does not lie in buffer");
    refused(client, memory, 2048, Status::invalid_argument, "larger than the 6144 bytes");
    layout.rank = 6;
    refused(client, memory, 0, Status::invalid_argument, "the rank is ");
    layout.rank = 3;
    client.close();
    refused(client, memory, 0, Status::closed, "");
}

TEST(Null, a_round_trip_may_be_asked_for_again_and_again) {
    Daemon daemon("null");
    Client client = daemon.connect();
    const Kernel none = client.load_file(TEST_KERNELS).kernel("none");
    Stream stream = client.stream();
    for (int i = 0; i < 2'000; ++i) {
        ASSERT_EQ(stream.launch(none, {1}, {1}), Status::ok);
        // Now and then late enough for the dispatcher to have gone to sleep.
        if (i % 100 == 0) std::this_thread::sleep_for(2ms);
        ASSERT_EQ(stream.synchronize(kPatienceNs), Status::ok) << i;
    }
}

}  // namespace
}  // namespace ringlaunch::testing
