#include "bench/peers.hpp"

#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <boost/interprocess/ipc/message_queue.hpp>
#include <boost/lockfree/spsc_queue.hpp>
#include <cerrno>
#include <cstring>
#include <functional>
#include <new>
#include <stdexcept>
#include <system_error>

namespace ringlaunch::bench {

namespace {

using Bytes = std::array<std::uint8_t, kMessageBytes>;

[[noreturn]] void fail(const char* doing) {
    throw std::system_error(errno, std::generic_category(), doing);
}

// A child that runs `echo` until it is killed; it dies with this process, whatever happens.
class Child {
  public:
    explicit Child(const std::function<void()>& echo) {
        const pid_t parent = ::getpid();
        pid_ = ::fork();
        if (pid_ < 0) fail("cannot fork an echo process");
        if (pid_ == 0) {
            ::prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (::getppid() != parent) ::_exit(0);
            try {
                echo();
            } catch (...) {
            }
            ::_exit(0);
        }
    }
    ~Child() {
        ::kill(pid_, SIGKILL);
        ::waitpid(pid_, nullptr, 0);
    }
    Child(const Child&) = delete;
    Child& operator=(const Child&) = delete;

  private:
    pid_t pid_ = -1;
};

void read_all(int fd, void* to, std::size_t bytes) {
    auto* at = static_cast<char*>(to);
    while (bytes > 0) {
        const ssize_t got = ::read(fd, at, bytes);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) throw std::runtime_error("the echo process is gone");
        at += got;
        bytes -= static_cast<std::size_t>(got);
    }
}

void write_all(int fd, const void* from, std::size_t bytes) {
    // A message is smaller than PIPE_BUF, so a pipe or socket takes it whole.
    if (::write(fd, from, bytes) != static_cast<ssize_t>(bytes))
        throw std::runtime_error("the echo process is gone");
}

void check(const void* sent, const void* got) {
    if (std::memcmp(sent, got, kMessageBytes) != 0) throw std::runtime_error("the echo is not what was sent");
}

class DescriptorPeer : public EchoPeer {
  public:
    DescriptorPeer(std::string name, std::array<int, 2> there, std::array<int, 2> back)
        : name_(std::move(name)), there_(there), back_(back), child_([this] {
              Bytes message;
              for (;;) {
                  read_all(there_[0], message.data(), message.size());
                  write_all(back_[1], message.data(), message.size());
              }
          }) {}
    ~DescriptorPeer() override {
        for (int fd : {there_[0], there_[1], back_[0], back_[1]}) ::close(fd);
    }
    std::string name() const override { return name_; }
    void round_trip(const std::uint8_t (&message)[kMessageBytes]) override {
        write_all(there_[1], message, sizeof message);
        Bytes echo;
        read_all(back_[0], echo.data(), echo.size());
        check(message, echo.data());
    }

  private:
    std::string name_;
    std::array<int, 2> there_, back_;
    Child child_;
};

std::unique_ptr<EchoPeer> make_pipe_peer() {
    std::array<int, 2> there, back;
    if (::pipe(there.data()) != 0 || ::pipe(back.data()) != 0) fail("cannot make pipes");
    return std::make_unique<DescriptorPeer>("pipe", there, back);
}

std::unique_ptr<EchoPeer> make_socket_peer() {
    std::array<int, 2> there, back;
    if (::socketpair(AF_UNIX, SOCK_STREAM, 0, there.data()) != 0 ||
        ::socketpair(AF_UNIX, SOCK_STREAM, 0, back.data()) != 0)
        fail("cannot make socket pairs");
    return std::make_unique<DescriptorPeer>("unix socket pair", there, back);
}

class MessageQueuePeer : public EchoPeer {
  public:
    MessageQueuePeer()
        : there_name_("ringlaunch-bench-there-" + std::to_string(::getpid())),
          back_name_("ringlaunch-bench-back-" + std::to_string(::getpid())),
          there_(ipc::create_only, there_name_.c_str(), 64, kMessageBytes),
          back_(ipc::create_only, back_name_.c_str(), 64, kMessageBytes),
          child_([this] {
              Bytes message;
              ipc::message_queue::size_type got;
              unsigned priority;
              for (;;) {
                  there_.receive(message.data(), message.size(), got, priority);
                  back_.send(message.data(), message.size(), 0);
              }
          }) {}
    ~MessageQueuePeer() override {
        ipc::message_queue::remove(there_name_.c_str());
        ipc::message_queue::remove(back_name_.c_str());
    }
    std::string name() const override { return "Boost.Interprocess message_queue"; }
    void round_trip(const std::uint8_t (&message)[kMessageBytes]) override {
        there_.send(message, sizeof message, 0);
        Bytes echo;
        ipc::message_queue::size_type got;
        unsigned priority;
        back_.receive(echo.data(), echo.size(), got, priority);
        check(message, echo.data());
    }

  private:
    struct ipc {
        using message_queue = boost::interprocess::message_queue;
        static constexpr auto& create_only = boost::interprocess::create_only;
    };
    std::string there_name_, back_name_;
    ipc::message_queue there_, back_;
    Child child_;
};

// Two ends that spin, on a processor each: the OS may leave them on one, where they would take turns. The
// other end keeps off this one's.
class Apart {
  public:
    Apart() {
        if (::sched_getaffinity(0, sizeof before_, &before_) != 0) fail("cannot ask for the processors");
        cpu_set_t here;
        CPU_ZERO(&here);
        CPU_SET(::sched_getcpu(), &here);
        CPU_XOR(&elsewhere_, &before_, &here);
        if (CPU_COUNT(&elsewhere_) != 0) ::sched_setaffinity(0, sizeof here, &here);
    }
    ~Apart() { ::sched_setaffinity(0, sizeof before_, &before_); }
    Apart(const Apart&) = delete;
    Apart& operator=(const Apart&) = delete;

    void go_elsewhere() const {
        if (CPU_COUNT(&elsewhere_) != 0) ::sched_setaffinity(0, sizeof elsewhere_, &elsewhere_);
    }

  private:
    cpu_set_t before_, elsewhere_;
};

// Both ends spin, and yield now and then so that one processor is enough.
class LockfreePeer : public EchoPeer {
  public:
    LockfreePeer()
        : queues_(map()), child_([this] {
              apart_.go_elsewhere();
              Bytes message;
              for (;;) {
                  pop(queues_->there, message);
                  while (!queues_->back.push(message)) {
                  }
              }
          }) {}
    ~LockfreePeer() override { ::munmap(queues_, sizeof(Queues)); }
    std::string name() const override { return "boost::lockfree::spsc_queue, ends apart"; }
    void round_trip(const std::uint8_t (&message)[kMessageBytes]) override {
        Bytes out;
        std::memcpy(out.data(), message, sizeof message);
        while (!queues_->there.push(out)) {
        }
        Bytes echo;
        pop(queues_->back, echo);
        check(message, echo.data());
    }

  private:
    using Queue = boost::lockfree::spsc_queue<Bytes, boost::lockfree::capacity<1024>>;
    struct Queues {
        Queue there, back;
    };
    static Queues* map() {
        void* memory =
            ::mmap(nullptr, sizeof(Queues), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) fail("cannot map the queues");
        return new (memory) Queues;
    }
    static void pop(Queue& queue, Bytes& to) {
        for (unsigned spins = 0; !queue.pop(to); ++spins) {
            if ((spins & 1023) == 1023) ::sched_yield();
        }
    }
    Queues* queues_;
    Apart apart_;
    Child child_;
};

}  // namespace

std::vector<EchoPeerMaker> echo_peer_makers() {
    return {
        []() -> std::unique_ptr<EchoPeer> { return std::make_unique<LockfreePeer>(); },
        make_pipe_peer,
        make_socket_peer,
        []() -> std::unique_ptr<EchoPeer> { return std::make_unique<MessageQueuePeer>(); },
    };
}

}  // namespace ringlaunch::bench
