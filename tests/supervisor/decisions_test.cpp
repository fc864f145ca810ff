// Ids, rates, fault domains, and how a death is read.
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cstring>
#include <set>

#include "daemon/supervisor/death.hpp"
#include "daemon/supervisor/ids.hpp"
#include "daemon/supervisor/image_digest.hpp"
#include "daemon/supervisor/peer.hpp"
#include "daemon/supervisor/placement.hpp"
#include "daemon/supervisor/rate_limit.hpp"

namespace ringlaunch::supervisor {
namespace {

TEST(Ids, AreNeverGivenTwice) {
    IdAllocator ids;
    std::set<std::uint64_t> seen;
    for (int i = 0; i < 1000; ++i) {
        const std::uint64_t id = ids.take();
        EXPECT_TRUE(seen.insert(id).second);
        EXPECT_GE(id >> 32, 1u);
        if (i % 3 != 0) ids.give_back(id);
    }
}

TEST(Ids, UseAnIndexAgainWithTheNextGeneration) {
    IdAllocator ids;
    const std::uint64_t first = ids.take();
    EXPECT_EQ(first, std::uint64_t{1} << 32);
    ids.give_back(first);
    EXPECT_EQ(ids.take(), std::uint64_t{2} << 32);
    EXPECT_EQ(ids.take(), (std::uint64_t{1} << 32) + 1);
}

TEST(Ids, LeaveAnIndexWhoseGenerationsAreUsedUp) {
    IdAllocator ids;
    ids.give_back(ids.take());
    ids.set_generation(0, IdAllocator::kMaxGeneration);
    const std::uint64_t last = ids.take();
    EXPECT_EQ(last >> 32, IdAllocator::kMaxGeneration);
    ids.give_back(last);
    EXPECT_EQ(static_cast<std::uint32_t>(ids.take()), 1u);
}

std::string digest_of(const std::string& image, const std::vector<DeclaredSignature>& signatures,
                      std::uint32_t max_registers, std::uint64_t stack_bytes) {
    const UniqueFd file = make_memfd("image", image.size());
    EXPECT_EQ(::pwrite(file.get(), image.data(), image.size(), 0), static_cast<ssize_t>(image.size()));
    return image_digest(file, image.size(), signatures, max_registers, stack_bytes);
}

TEST(ImageDigest, DiffersForWhateverAnImageIsLoadedWith) {
    const std::vector<DeclaredSignature> declared{{"k", {{schema::ParamType::Int32, 0, 4, ""}}}};
    const std::set<std::string> digests{digest_of("image", {}, 0, 0),       digest_of("imagf", {}, 0, 0),
                                        digest_of("image", declared, 0, 0), digest_of("image", {}, 32, 0),
                                        digest_of("image", {}, 0, 32),      digest_of("image", {}, 32, 32),
                                        digest_of("image", declared, 0, 32)};
    EXPECT_EQ(digests.size(), 7u);
    EXPECT_TRUE(digests.contains(digest_of("image", {}, 0, 32)));
}

// What follows an image in the digest, put into the image itself.
TEST(ImageDigest, CannotBeHadWithAnotherImage) {
    const std::vector<DeclaredSignature> declared{{"k", {{schema::ParamType::Int32, 0, 4, ""}}}};
    std::string longer = "image";
    const auto add = [&](std::uint64_t number) {
        longer.append(reinterpret_cast<const char*>(&number), sizeof number);
    };
    add(1);
    add(1);
    longer += "k";
    for (const std::uint64_t number : {std::uint64_t{1}, static_cast<std::uint64_t>(schema::ParamType::Int32),
                                       std::uint64_t{0}, std::uint64_t{4}})
        add(number);
    // The empty name's length is what the longer one has as its number of signatures.
    EXPECT_NE(digest_of("image", declared, 32, 0), digest_of(longer, {}, 32, 0));
}

TEST(RateLimit, LetsASecondsWorthThroughAndThenFillsSteadily) {
    constexpr std::uint64_t kSecond = 1'000'000'000;
    RateLimit rate(10, 0);
    for (int i = 0; i < 10; ++i) EXPECT_TRUE(rate.take(0));
    EXPECT_FALSE(rate.take(0));
    EXPECT_FALSE(rate.take(kSecond / 20));
    EXPECT_TRUE(rate.take(kSecond / 10 + kSecond / 1000));
    EXPECT_FALSE(rate.take(kSecond / 10 + kSecond / 1000));
    for (int i = 0; i < 10; ++i) EXPECT_TRUE(rate.take(100 * kSecond));
    EXPECT_FALSE(rate.take(100 * kSecond));
}

TEST(Placement, SharesAnExecutorAsAsked) {
    EXPECT_EQ(place(Isolate::user, 7, 1, false, 0), place(Isolate::user, 7, 2, false, 0));
    EXPECT_NE(place(Isolate::user, 7, 1, false, 0), place(Isolate::user, 8, 2, false, 0));
    EXPECT_NE(place(Isolate::session, 7, 1, false, 0), place(Isolate::session, 7, 2, false, 0));
    EXPECT_EQ(place(Isolate::none, 7, 1, false, 0), place(Isolate::none, 8, 2, false, 0));
    for (const Isolate isolate : {Isolate::user, Isolate::session, Isolate::none})
        EXPECT_NE(place(isolate, 7, 1, false, 0), place(isolate, 7, 1, false, 1));
}

TEST(Placement, PutsWhoKillsExecutorsAlone) {
    for (const Isolate isolate : {Isolate::user, Isolate::session, Isolate::none}) {
        EXPECT_NE(place(isolate, 7, 1, true, 0), place(isolate, 7, 2, false, 0));
        EXPECT_NE(place(isolate, 7, 1, true, 0), place(isolate, 7, 2, true, 0));
    }
}

TEST(Placement, DelaysDoubleUpToABound) {
    RestartPolicy policy;
    policy.own_executor_at = 2;
    policy.first_delay_ms = 50;
    policy.max_delay_ms = 300;
    EXPECT_EQ(own_delay_ms(policy, 1), 0u);
    EXPECT_EQ(own_delay_ms(policy, 2), 50u);
    EXPECT_EQ(own_delay_ms(policy, 3), 100u);
    EXPECT_EQ(own_delay_ms(policy, 4), 200u);
    EXPECT_EQ(own_delay_ms(policy, 5), 300u);
    EXPECT_EQ(own_delay_ms(policy, 4'000'000'000), 300u);
    EXPECT_EQ(shared_delay_ms(policy, 1), 0u);
    EXPECT_EQ(shared_delay_ms(policy, 2), 50u);
    EXPECT_EQ(shared_delay_ms(policy, 100), 300u);
}

TEST(Placement, TheMostSuspectedIsTriedFirstAndOfSeveralTheLast) {
    RestartPolicy policy;
    policy.own_executor_at = 2;
    const Suspicion none[] = {{1, 1}, {2, 1}};
    EXPECT_EQ(choose_suspect(policy, none), 0u);
    EXPECT_EQ(choose_suspect(policy, {}), 0u);
    const Suspicion equal[] = {{1, 2}, {2, 2}, {3, 1}};
    EXPECT_EQ(choose_suspect(policy, equal), 2u);
    const Suspicion most[] = {{1, 4}, {2, 3}};
    EXPECT_EQ(choose_suspect(policy, most), 1u);
}

void fill(driver::FaultPage& page, driver::FaultKind kind, std::uint64_t stream) {
    page.signal = SIGSEGV;
    page.stream = stream;
    page.position = 12;
    page.kernel = 34;
    page.address = 0x10;
    std::strcpy(page.text, "kernel\ncrash");
    page.kind.store(static_cast<std::uint32_t>(kind));
}

TEST(Death, AFaultPageNamesTheCulprit) {
    driver::FaultPage page;
    fill(page, driver::FaultKind::signal, 5);
    const Death death = explain_death({true, SIGSEGV}, read_fault_page(page), {});
    EXPECT_EQ(death.cause, DeathCause::culprit_known);
    EXPECT_EQ(death.stream, 5u);
    EXPECT_EQ(death.position, 12u);
    EXPECT_EQ(death.kernel, 34u);
    EXPECT_EQ(death.text, "caught SIGSEGV at address 0x10 (kernel crash)");
}

TEST(Death, AFaultThatSaysItsSignalItselfIsSaidOnce) {
    driver::FaultPage page;
    fill(page, driver::FaultKind::signal, 5);
    std::strcpy(page.text, "SIGSEGV at address 0x10 (nothing is mapped there) in kernel crash, record 12");
    EXPECT_EQ(explain_death({true, SIGSEGV}, read_fault_page(page), {}).text,
              "caught SIGSEGV at address 0x10 (nothing is mapped there) in kernel crash, record 12");
}

TEST(Death, AFaultOutsideOfEveryStreamIsNoStreams) {
    driver::FaultPage page;
    fill(page, driver::FaultKind::signal, 0);
    const Death death = explain_death({true, SIGSEGV}, read_fault_page(page), {});
    EXPECT_EQ(death.cause, DeathCause::unknown);
    EXPECT_TRUE(death.outside_streams);
    EXPECT_FALSE(death.of_its_work());
}

TEST(Death, ASignalThatOneOfSeveralSentIsTheirs) {
    driver::FaultPage page;
    fill(page, driver::FaultKind::signal, 0);
    page.also_count = 2;
    page.also[0] = {5, 12, 34};
    page.also[1] = {6, 13, 35};
    const Death death = explain_death({true, SIGSEGV}, read_fault_page(page), {});
    EXPECT_EQ(death.cause, DeathCause::unknown);
    EXPECT_FALSE(death.outside_streams);
    EXPECT_EQ(death.also.size(), 2u);
}

TEST(Death, ALostDeviceMayNameNobody) {
    driver::FaultPage page;
    fill(page, driver::FaultKind::device, 0);
    const Death death = explain_death({false, driver::kExitDeviceLost}, read_fault_page(page), {});
    EXPECT_EQ(death.cause, DeathCause::unknown);
    EXPECT_FALSE(death.outside_streams);
    EXPECT_EQ(death.text, "lost its device (kernel crash)");
}

TEST(Death, AFaultDumpNamesTheCulpritAndWhoFaultedWithIt) {
    driver::FaultPage page;
    page.also[0] = {7, 70, 700};
    page.also_count = 1;
    fill(page, driver::FaultKind::device, 5);
    const Death death = explain_death({false, driver::kExitDeviceLost}, read_fault_page(page), {});
    EXPECT_EQ(death.cause, DeathCause::culprit_known);
    EXPECT_EQ(death.stream, 5u);
    ASSERT_EQ(death.also.size(), 1u);
    EXPECT_EQ(death.also[0].stream, 7u);
    EXPECT_EQ(death.also[0].position, 70u);
    EXPECT_EQ(death.also[0].kernel, 700u);
}

TEST(Death, AFaultPageThatCountsMoreThanItHoldsNamesNobody) {
    driver::FaultPage page;
    page.also_count = ~0u;
    fill(page, driver::FaultKind::device, 5);
    EXPECT_TRUE(read_fault_page(page).also.empty());
    EXPECT_EQ(explain_death({false, driver::kExitDeviceLost}, read_fault_page(page), {}).cause,
              DeathCause::unknown);
}

TEST(Death, AKillIsNobodysFaultThatIsKnown) {
    for (const int signal : {SIGKILL, SIGTERM, SIGINT}) {
        const Death death = explain_death({true, signal}, {}, {});
        EXPECT_EQ(death.cause, DeathCause::killed) << signal;
    }
    EXPECT_TRUE(explain_death({true, SIGKILL}, {}, {}).of_its_work());
    EXPECT_EQ(explain_death({true, SIGKILL}, {}, {}).text, "was killed by SIGKILL");
}

TEST(Death, OwnKillsSayWhyAndWhose) {
    const Death stuck = explain_death({true, SIGKILL}, {}, {true, "it hangs", 0});
    EXPECT_EQ(stuck.cause, DeathCause::unknown);
    EXPECT_FALSE(stuck.of_its_work());
    EXPECT_EQ(stuck.text, "was ended by the daemon: it hangs");
    const Death named = explain_death({true, SIGKILL}, {}, {true, "stream 9 hangs", 9});
    EXPECT_EQ(named.cause, DeathCause::culprit_known);
    EXPECT_EQ(named.stream, 9u);
    const Death left =
        explain_death({true, SIGKILL}, {},
                      OwnKill{.done = true, .why = "a client left stream 9", .stream = 9, .abandoned = true});
    EXPECT_EQ(left.cause, DeathCause::abandoned_work);
    EXPECT_EQ(left.stream, 9u);
}

TEST(Death, LeavingByItselfIsUnexplained) {
    EXPECT_EQ(explain_death({false, 3}, {}, {}).cause, DeathCause::unknown);
    EXPECT_EQ(explain_death({true, SIGABRT}, {}, {}).cause, DeathCause::unknown);
}

TEST(Death, GarbageOnTheFaultPageIsNoFault) {
    driver::FaultPage page;
    fill(page, static_cast<driver::FaultKind>(77), 5);
    EXPECT_EQ(read_fault_page(page).kind, driver::FaultKind::none);
    fill(page, driver::FaultKind::signal, 5);
    std::memset(page.text, 'x', sizeof page.text);  // not terminated
    EXPECT_EQ(read_fault_page(page).text.size(), sizeof page.text);
}

Peer peer_of(uid_t uid, gid_t gid, std::vector<gid_t> groups = {}) {
    Peer peer;
    peer.pid = 42;
    peer.uid = uid;
    peer.gid = gid;
    peer.groups = std::move(groups);
    return peer;
}

TEST(Peers, OnlyTheOwnUserByDefault) {
    SupervisorOptions options;
    EXPECT_FALSE(refuse_peer(peer_of(1000, 1000), 1000, options));
    EXPECT_TRUE(refuse_peer(peer_of(1001, 1000), 1000, options));
    EXPECT_TRUE(refuse_peer(peer_of(0, 0), 1000, options));
}

TEST(Peers, OthersAreLetInByUserAndByGroup) {
    SupervisorOptions options;
    options.allow_uids = {1001};
    options.allow_gids = {50};
    EXPECT_FALSE(refuse_peer(peer_of(1001, 1), 1000, options));
    EXPECT_FALSE(refuse_peer(peer_of(1002, 50), 1000, options));
    EXPECT_FALSE(refuse_peer(peer_of(1003, 1, {4, 50}), 1000, options));
    const auto why = refuse_peer(peer_of(1003, 1, {4, 5}), 1000, options);
    ASSERT_TRUE(why);
    EXPECT_NE(why->find("serves user 1000, those of --allow-uid 1001, the groups of --allow-gid 50"),
              std::string::npos)
        << *why;
}

TEST(Peers, TheHostDriverServesTheOwnUserOnlyAndSaysWhy) {
    SupervisorOptions options;
    options.driver = schema::DriverKind::Host;
    options.allow_uids = {1001};
    EXPECT_FALSE(refuse_peer(peer_of(1000, 1000), 1000, options));
    const auto why = refuse_peer(peer_of(1001, 1001), 1000, options);
    ASSERT_TRUE(why);
    EXPECT_NE(why->find("native code"), std::string::npos);
}

}  // namespace
}  // namespace ringlaunch::supervisor
