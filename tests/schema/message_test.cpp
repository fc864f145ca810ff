// Control messages over a real SOCK_SEQPACKET pair: boundaries, descriptors, and peers that misbehave.
#include "schema/message.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <thread>

#include "schema/segment.hpp"
#include "schema/version.hpp"

namespace ringlaunch {
namespace {

struct Pair {
    Pair() {
        int ends[2];
        if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) std::abort();
        here.reset(ends[0]);
        there.reset(ends[1]);
    }
    UniqueFd here, there;
};

std::vector<std::byte> bytes_of(std::size_t size, std::size_t value) {
    return std::vector<std::byte>(size, static_cast<std::byte>(value));
}

std::size_t open_descriptors() {
    std::size_t count = 0;
    DIR* folder = ::opendir("/proc/self/fd");
    while (::readdir(folder) != nullptr) ++count;
    ::closedir(folder);
    return count;
}

TEST(Messages, KeepTheirBoundaries) {
    Pair pair;
    for (const std::size_t size : {1u, 100u, 4096u, kMaxControlBytes})
        ASSERT_EQ(send_message(pair.here.get(), bytes_of(size, size % 251), {}, true), Transfer::done);
    Message message;
    for (const std::size_t size : {1u, 100u, 4096u, kMaxControlBytes}) {
        ASSERT_EQ(receive_message(pair.there.get(), message, true), Transfer::done);
        EXPECT_EQ(message.bytes, bytes_of(size, size % 251));
        EXPECT_TRUE(message.fds.empty());
    }
    EXPECT_EQ(receive_message(pair.there.get(), message, false), Transfer::would_block);
}

TEST(Messages, CarryDescriptorsInOrder) {
    Pair pair;
    std::vector<UniqueFd> segments;
    std::vector<int> numbers;
    for (std::size_t i = 0; i < kMaxMessageFds; ++i) {
        segments.push_back(make_memfd("segment", 100 + i));
        numbers.push_back(segments.back().get());
    }
    ASSERT_EQ(send_message(pair.here.get(), bytes_of(3, 1), numbers, true), Transfer::done);
    Message message;
    ASSERT_EQ(receive_message(pair.there.get(), message, true), Transfer::done);
    ASSERT_EQ(message.fds.size(), kMaxMessageFds);
    for (std::size_t i = 0; i < kMaxMessageFds; ++i) {
        EXPECT_EQ(::lseek(message.fds[i].get(), 0, SEEK_END), static_cast<off_t>(100 + i));
        EXPECT_EQ(::fcntl(message.fds[i].get(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    }
}

TEST(Messages, RefuseToBeSentWhenTheyAreNone) {
    Pair pair;
    EXPECT_EQ(send_message(pair.here.get(), {}, {}, false), Transfer::malformed);
    EXPECT_EQ(send_message(pair.here.get(), bytes_of(kMaxControlBytes + 1, 1), {}, false),
              Transfer::malformed);
    const std::vector<int> many(kMaxMessageFds + 1, 0);
    EXPECT_EQ(send_message(pair.here.get(), bytes_of(1, 1), many, false), Transfer::malformed);
}

TEST(Messages, LongerThanTheBoundAreMalformedAndTheNextOneIsWhole) {
    Pair pair;
    const auto big = bytes_of(kMaxControlBytes + 1, 7);
    ASSERT_EQ(::send(pair.here.get(), big.data(), big.size(), 0), static_cast<ssize_t>(big.size()));
    ASSERT_EQ(send_message(pair.here.get(), bytes_of(5, 2), {}, true), Transfer::done);
    Message message;
    EXPECT_EQ(receive_message(pair.there.get(), message, true), Transfer::malformed);
    ASSERT_EQ(receive_message(pair.there.get(), message, true), Transfer::done);
    EXPECT_EQ(message.bytes, bytes_of(5, 2));
}

// Sends `fds` by hand beside a message of `size` bytes.
void send_raw(int socket, std::size_t size, const std::vector<int>& fds) {
    const auto bytes = bytes_of(size, 1);
    iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
    std::vector<char> control(CMSG_SPACE(fds.size() * sizeof(int)));
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = control.data();
    header.msg_controllen = control.size();
    cmsghdr* rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    std::memcpy(CMSG_DATA(rights), fds.data(), fds.size() * sizeof(int));
    ASSERT_GE(::sendmsg(socket, &header, 0), 0);
}

TEST(Messages, LeakNoDescriptorOfAMalformedOne) {
    Pair pair;
    const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
    {
        Message message;  // the receiving buffer exists before we count
        const std::size_t before = open_descriptors();
        send_raw(pair.here.get(), 1, std::vector<int>(253, null.get()));  // the OS's most, over ours
        EXPECT_EQ(receive_message(pair.there.get(), message, true), Transfer::malformed);
        EXPECT_TRUE(message.fds.empty());
        send_raw(pair.here.get(), kMaxControlBytes + 1, {null.get(), null.get()});
        EXPECT_EQ(receive_message(pair.there.get(), message, true), Transfer::malformed);
        EXPECT_EQ(open_descriptors(), before);
    }
}

TEST(Messages, ArriveWithoutTheirDescriptorsWhereTheProcessHasNoneLeft) {
    Pair pair;
    const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
    Message message;
    rlimit before{};
    ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
    for (const std::size_t left : {0u, 1u, 3u}) {
        send_raw(pair.here.get(), 7, {null.get(), null.get(), null.get()});
        {
            const rlimit low{64, before.rlim_max};
            ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &low), 0);
            std::vector<UniqueFd> taken;
            for (int fd; (fd = ::dup(null.get())) >= 0;) taken.emplace_back(fd);
            ASSERT_GE(taken.size(), left);
            taken.resize(taken.size() - left);
            EXPECT_EQ(receive_message(pair.there.get(), message, true),
                      left == 3 ? Transfer::done : Transfer::no_descriptors);
            EXPECT_EQ(message.fds.size(), left == 3 ? 3u : 0u);
        }
        ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
        EXPECT_EQ(message.bytes, bytes_of(7, 1));
    }
}

TEST(Messages, ForgetTheDescriptorsOfTheMessageBefore) {
    Pair pair;
    const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
    const int number = null.get();
    Message message;
    ASSERT_EQ(send_message(pair.here.get(), bytes_of(1, 1), {&number, 1}, true), Transfer::done);
    ASSERT_EQ(receive_message(pair.there.get(), message, true), Transfer::done);
    const std::size_t before = open_descriptors();
    ASSERT_EQ(send_message(pair.here.get(), bytes_of(1, 1), {}, true), Transfer::done);
    ASSERT_EQ(receive_message(pair.there.get(), message, true), Transfer::done);
    EXPECT_EQ(open_descriptors(), before - 1);
}

TEST(Messages, SayThatThePeerIsGone) {
    Pair pair;
    pair.there.reset();
    Message message;
    EXPECT_EQ(send_message(pair.here.get(), bytes_of(1, 1), {}, true), Transfer::closed);  // and no SIGPIPE
    EXPECT_EQ(receive_message(pair.here.get(), message, true), Transfer::closed);
}

TEST(Messages, AlreadySentArriveAfterThePeersDeath) {
    Pair pair;
    ASSERT_EQ(send_message(pair.here.get(), bytes_of(9, 3), {}, true), Transfer::done);
    pair.here.reset();
    Message message;
    ASSERT_EQ(receive_message(pair.there.get(), message, true), Transfer::done);
    EXPECT_EQ(message.bytes, bytes_of(9, 3));
    EXPECT_EQ(receive_message(pair.there.get(), message, true), Transfer::closed);
}

TEST(Messages, AlreadySentArriveFromAPeerThatLeftWithoutReading) {
    Pair pair;
    ASSERT_EQ(send_message(pair.there.get(), bytes_of(3, 4), {}, true), Transfer::done);
    ASSERT_EQ(send_message(pair.here.get(), bytes_of(9, 3), {}, true), Transfer::done);
    pair.here.reset();
    Message message;
    ASSERT_EQ(receive_message(pair.there.get(), message, true), Transfer::done);
    EXPECT_EQ(message.bytes, bytes_of(9, 3));
    EXPECT_EQ(receive_message(pair.there.get(), message, true), Transfer::closed);
}

TEST(Messages, WaitForRoomOnlyWhenAsked) {
    Pair pair;
    std::size_t sent = 0;
    while (send_message(pair.here.get(), bytes_of(4096, 1), {}, false) == Transfer::done) ++sent;
    ASSERT_GT(sent, 0u);
    std::thread reader([&] {
        Message message;
        for (std::size_t i = 0; i < sent + 1; ++i)
            if (receive_message(pair.there.get(), message, true) != Transfer::done) return;
    });
    EXPECT_EQ(send_message(pair.here.get(), bytes_of(4096, 1), {}, true), Transfer::done);
    reader.join();
}

}  // namespace
}  // namespace ringlaunch
