// Every cell of law 6's table, and who is found out by a rerun.
#include "daemon/supervisor/recovery.hpp"

#include <gtest/gtest.h>

namespace ringlaunch::supervisor {
namespace {

constexpr std::uint64_t kA = 100, kB = 130;

StreamAtDeath idle(bool rerun = false) {
    StreamAtDeath stream;
    stream.completed = stream.issued = kB;
    stream.rerun = rerun;
    return stream;
}
StreamAtDeath doubtful(bool rerun) {
    StreamAtDeath stream;
    stream.completed = kA;
    stream.issued = kB;
    stream.rerun = rerun;
    return stream;
}
StreamAtDeath culprit(bool rerun) {
    StreamAtDeath stream = doubtful(rerun);
    stream.culprit = true;
    return stream;
}

constexpr DeathCause kCauses[] = {DeathCause::culprit_known, DeathCause::unknown, DeathCause::killed,
                                  DeathCause::abandoned_work};

TEST(Recovery, TheCulpritStopsWhateverItChose) {
    for (const bool rerun : {false, true})
        EXPECT_EQ(decide(DeathCause::culprit_known, culprit(rerun)),
                  (Decision{Fate::stop, kA, Status::kernel_faulted}));
}

TEST(Recovery, ACulpritWithNothingInDoubtStopsToo) {
    StreamAtDeath stream = idle();
    stream.culprit = true;
    EXPECT_EQ(decide(DeathCause::culprit_known, stream), (Decision{Fate::stop, kB, Status::kernel_faulted}));
}

TEST(Recovery, NothingInDoubtGoesOnHoweverTheExecutorDied) {
    for (const DeathCause cause : kCauses)
        for (const bool rerun : {false, true})
            EXPECT_EQ(decide(cause, idle(rerun)), (Decision{Fate::go_on, kB, Status::ok}));
}

TEST(Recovery, StopHaltsWithTheReasonOfTheDeath) {
    EXPECT_EQ(decide(DeathCause::culprit_known, doubtful(false)),
              (Decision{Fate::stop, kA, Status::neighbour_faulted}));
    EXPECT_EQ(decide(DeathCause::unknown, doubtful(false)), (Decision{Fate::stop, kA, Status::suspect}));
    EXPECT_EQ(decide(DeathCause::killed, doubtful(false)),
              (Decision{Fate::stop, kA, Status::executor_killed}));
    EXPECT_EQ(decide(DeathCause::abandoned_work, doubtful(false)),
              (Decision{Fate::stop, kA, Status::executor_killed}));
}

TEST(Recovery, RerunGoesOnAtAWhereAnotherIsTheCulpritAndIsHeldElse) {
    EXPECT_EQ(decide(DeathCause::culprit_known, doubtful(true)), (Decision{Fate::go_on, kA, Status::ok}));
    EXPECT_EQ(decide(DeathCause::abandoned_work, doubtful(true)), (Decision{Fate::go_on, kA, Status::ok}));
    EXPECT_EQ(decide(DeathCause::unknown, doubtful(true)), (Decision{Fate::hold, kA, Status::ok}));
    EXPECT_EQ(decide(DeathCause::killed, doubtful(true)), (Decision{Fate::hold, kA, Status::ok}));
}

TEST(Recovery, ASuspectThatWasStillHeldStaysOneUntilTheCulpritIsKnown) {
    StreamAtDeath stream = idle(true);
    stream.suspect = true;
    EXPECT_EQ(decide(DeathCause::unknown, stream).fate, Fate::hold);
    EXPECT_EQ(decide(DeathCause::killed, stream).fate, Fate::hold);
    EXPECT_EQ(decide(DeathCause::abandoned_work, stream).fate, Fate::hold);
    EXPECT_EQ(decide(DeathCause::culprit_known, stream).fate, Fate::go_on);
}

TEST(Recovery, WhatAnEarlierRestartStoppedStaysStopped) {
    for (const DeathCause cause : kCauses)
        for (const bool rerun : {false, true}) {
            StreamAtDeath stream = doubtful(rerun);
            stream.stopped_by_restart = true;
            EXPECT_EQ(decide(cause, stream), (Decision{Fate::stay, kA, Status::ok}));
        }
}

TEST(Recovery, ARefusedRecordKeepsItsStreamStoppedWhereAllBeforeItCompleted) {
    for (const DeathCause cause : kCauses)
        for (const bool rerun : {false, true}) {
            StreamAtDeath stream = idle(rerun);
            stream.refused = true;
            EXPECT_EQ(decide(cause, stream).fate, Fate::stay);
        }
}

TEST(Recovery, ARefusedRecordBehindWorkInDoubtFollowsTheTable) {
    for (const DeathCause cause : kCauses)
        for (const bool rerun : {false, true}) {
            StreamAtDeath stream = doubtful(rerun);
            stream.refused = true;
            EXPECT_EQ(decide(cause, stream), decide(cause, doubtful(rerun)));
        }
}

TEST(Recovery, ARerunConvictsOnlyWhoWasAlone) {
    EXPECT_TRUE(convicts_probationer(DeathCause::unknown, 1, true, 1));
    EXPECT_FALSE(convicts_probationer(DeathCause::unknown, 2, true, 0));
    EXPECT_FALSE(convicts_probationer(DeathCause::unknown, 1, false, 1));
    EXPECT_FALSE(convicts_probationer(DeathCause::killed, 1, true, kKillsToConvict - 1));
    EXPECT_TRUE(convicts_probationer(DeathCause::killed, 1, true, kKillsToConvict));
    EXPECT_FALSE(convicts_probationer(DeathCause::killed, 2, true, kKillsToConvict));
    EXPECT_FALSE(convicts_probationer(DeathCause::culprit_known, 1, true, 1));
}

TEST(Recovery, WhatOneSessionCannotHaveIsItsOwnAtOnceWhereOthersHoldSomething) {
    EXPECT_TRUE(is_its_own({Status::bad_image, 1, true}));
    EXPECT_TRUE(is_its_own({Status::driver_error, 1, true}));
    EXPECT_TRUE(is_its_own({Status::executor_lost, 1, true}));
}

TEST(Recovery, WhereNobodyElseHoldsAnythingTheDriverHasToBeUsableAgain) {
    EXPECT_FALSE(is_its_own({Status::driver_error, 1, false}));
    EXPECT_TRUE(is_its_own({Status::driver_error, 2, false}));
}

TEST(Recovery, WhatIsLackingNowIsWaitedForWhichOthersThatHoldSomethingNeedNotDoForLong) {
    for (const Status lack : {Status::out_of_memory, Status::limit_reached}) {
        EXPECT_FALSE(is_its_own({lack, 3, true}));
        EXPECT_TRUE(is_its_own({lack, 4, true}));
        EXPECT_FALSE(is_its_own({lack, kTriesOfLack - 1, false}));
        EXPECT_TRUE(is_its_own({lack, kTriesOfLack, false}));
    }
}

}  // namespace
}  // namespace ringlaunch::supervisor
