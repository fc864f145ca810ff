// Which launch a fault dump means, among those that were running. The dumps in data/ are an H200's, cut down:
// two modules of one image; kernel step ran in several streams, and a launch of one block of 64 threads, with
// parameters (pointer, 0xabcdef12, 1700000), faulted.
#include "daemon/driver/culprit.hpp"

#include <gmock/gmock.h>

#include <atomic>
#include <random>
#include <thread>

#include "harness.hpp"
#include "schema/error.hpp"
#include "schema/version.hpp"

namespace ringlaunch::driver {
namespace {

using testing::ElementsAre;
using testing::Field;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

constexpr std::uint64_t kWild = 0xdead0000bee0;

struct Fallen {
    std::vector<std::byte> bytes;
    FaultDump dump;
    SharedU64 words[3] = {}, pages[3] = {};
    LaunchJournals journals;
    std::vector<LaunchJournals::Open> streams;  // 1, 2, 3

    explicit Fallen(const std::string& fault)
        : bytes(read_file(std::string(TEST_DATA) + "/fault_" + fault + ".dump")),
          dump(read_fault_dump(bytes)) {
        for (std::uint64_t i = 0; i < 3; ++i) streams.push_back(journals.open(i + 1, 64, words[i], pages[i]));
    }
    std::uint64_t module(std::size_t i) const { return dump.modules.at(dump.modules.size() - 2 + i).handle; }
    NotedLaunch launch(const std::string& kernel, std::uint64_t position, std::uint64_t pointer = kWild,
                       std::size_t of_module = 0) const {
        const auto params = pack(pointer, std::uint64_t{0xabcdef12}, std::int64_t{1700000});
        NotedLaunch noted;
        noted.position = position;
        noted.kernel = 77;
        noted.module = module(of_module);
        noted.name = digest(kernel);
        noted.params = digest(params);
        noted.param_bytes = static_cast<std::uint32_t>(params.size());
        noted.block = {64, 1, 1};
        return noted;
    }
    std::vector<Culprit> find() {
        journals.look();
        return find_in_journals();
    }
    std::vector<Culprit> find_in_journals() const {
        return journals.read([&](const auto& all) { return find_culprits(dump, all); });
    }
    // Beside the grid that trapped another's, which the device held as well; and their launches, of which
    // stream 2's trapped.
    DumpedGrid& add_neighbour() {
        DumpedGrid busy = dump.grids.at(0);
        ++busy.id;
        busy.params = {};
        streams[0]->note(launch("bad_trap", 5, 4096));
        streams[1]->note(launch("bad_trap", 7));
        return *dump.grids.insert(dump.grids.begin(), busy);
    }
};

auto at(std::uint64_t stream, std::uint64_t position) {
    return testing::AllOf(Field(&FaultedLaunch::stream, stream), Field(&FaultedLaunch::position, position));
}

struct Known {
    const char* fault;
    const char* kernel;
    std::uint64_t pointer;
    const char* text;
};
constexpr std::uint64_t kOdd = 0x7f2002000003;
const Known kKnown[] = {
    {"illegal", "bad_store", kWild,
     "CUDA_EXCEPTION_14, Warp Illegal Address at program counter 0x7fcd037a16f0 = bad_store+0xf0"},
    {"misaligned", "bad_store", kOdd,
     "CUDA_EXCEPTION_6, Warp Misaligned Address at program counter 0x7f20237a16f0 = bad_store+0xf0"},
    {"trap", "bad_trap", kWild,
     "an exception without a name (a trap) at program counter 0x7f1b277a16d0 = bad_trap+0xd0"},
    {"assert", "bad_assert", kWild,
     "CUDA_EXCEPTION_12, Warp Assert at program counter 0x7f2d4b7a17f0 = bad_assert+0x1f0"},
};

class CulpritOf : public testing::TestWithParam<Known> {};

TEST_P(CulpritOf, ARealFaultIsItsLaunchAmongOthers) {
    const Known& known = GetParam();
    Fallen in(known.fault);
    for (std::uint64_t i = 0; i < 10; ++i) {
        in.streams[0]->note(in.launch("step", i));
        in.streams[2]->note(in.launch(known.kernel, i, known.pointer));
    }
    in.words[2] = 10;  // the same, and through
    in.streams[1]->note(in.launch(known.kernel, 20, 1));
    in.streams[1]->note(in.launch(known.kernel, 21, known.pointer));
    in.streams[1]->note(in.launch(known.kernel, 22, known.pointer));
    in.words[1] = 21;
    const auto found = in.find();
    ASSERT_THAT(found, SizeIs(1));
    EXPECT_EQ(found[0].what, known.text);
    EXPECT_THAT(found[0].launches, ElementsAre(at(2, 21)));
    EXPECT_EQ(found[0].launches[0].kernel, 77u);
}

INSTANTIATE_TEST_SUITE_P(H200, CulpritOf, testing::ValuesIn(kKnown),
                         [](const auto& of) { return std::string(of.param.fault); });

TEST(Culprit, IsFoundByWhatCompletedBeforeTheFallAndNotBehindIt) {
    Fallen in("illegal");
    for (std::uint64_t i = 0; i < 10; ++i) in.streams[0]->note(in.launch("bad_store", i));
    in.streams[1]->note(in.launch("bad_store", 3));
    in.words[0] = 5;
    in.words[1] = 4;
    in.journals.look();
    in.words[0] = 10;
    EXPECT_THAT(in.find_in_journals().at(0).launches, ElementsAre(at(1, 5)));
}

TEST(Culprit, IsOfTheModuleWhoseCodeItWas) {
    Fallen in("illegal");
    in.streams[0]->note(in.launch("bad_store", 5, kWild, 1));
    in.streams[1]->note(in.launch("bad_store", 7, kWild, 0));
    EXPECT_THAT(in.find().at(0).launches, ElementsAre(at(2, 7)));
}

TEST(Culprit, IsToldFromOthersByItsParametersAndItsShape) {
    Fallen in("assert");
    in.streams[0]->note(in.launch("bad_assert", 5, 4096));
    in.streams[1]->note(in.launch("bad_assert", 7));
    NotedLaunch wide = in.launch("bad_assert", 9);
    wide.grid.x = 2;
    in.streams[2]->note(wide);
    EXPECT_THAT(in.find().at(0).launches, ElementsAre(at(2, 7)));
}

TEST(Culprit, IsTheForemostOfAStreamRatherThanOneBehindOthers) {
    Fallen in("illegal");
    in.streams[0]->note(in.launch("step", 4));
    in.streams[0]->note(in.launch("bad_store", 5));
    in.streams[1]->note(in.launch("bad_store", 7));
    EXPECT_THAT(in.find().at(0).launches, ElementsAre(at(2, 7)));
}

TEST(Culprit, IsAnyOfTheForemostGraphSinceNobodyKnowsHowFarThatIs) {
    Fallen in("illegal");
    in.streams[0]->note(in.launch("step", 5));
    in.streams[0]->note(in.launch("bad_store", 5));
    in.streams[0]->note(in.launch("bad_store", 6));
    in.streams[1]->note(in.launch("bad_store", 7));
    EXPECT_THAT(in.find().at(0).launches, ElementsAre(at(1, 5), at(2, 7)));
}

TEST(Culprit, IsBehindOthersWhereNoForemostOneFits) {
    Fallen in("illegal");
    in.streams[0]->note(in.launch("step", 4));
    in.streams[0]->note(in.launch("bad_store", 5));
    EXPECT_THAT(in.find().at(0).launches, ElementsAre(at(1, 5)));
}

TEST(Culprit, OfStreamsAtTheSameCodeAreAllOfThem) {
    Fallen in("illegal");
    in.streams[0]->note(in.launch("bad_store", 5));
    in.streams[1]->note(in.launch("step", 6));
    in.streams[2]->note(in.launch("bad_store", 7));
    EXPECT_THAT(in.find().at(0).launches, ElementsAre(at(1, 5), at(3, 7)));
}

TEST(Culprit, OfATrapIsTheOneWithABrokenWarp) {
    Fallen in("trap");
    ASSERT_THAT(in.dump.grids, SizeIs(1));
    ASSERT_TRUE(in.dump.grids[0].broken);
    in.add_neighbour().broken = false;
    const auto found = in.find();
    ASSERT_THAT(found, SizeIs(1));
    EXPECT_THAT(found[0].launches, ElementsAre(at(2, 7)));
}

TEST(Culprit, OfATrapIsTheOneBehindTheTrapWhereNoneOrAllAreBroken) {
    for (const bool broken : {false, true}) {
        Fallen in("trap");
        in.dump.grids.at(0).broken = broken;
        *in.add_neighbour().program_counter -= 32;
        const auto found = in.find();
        ASSERT_THAT(found, SizeIs(1)) << broken;
        EXPECT_THAT(found[0].launches, ElementsAre(at(2, 7)));
    }
}

// A graph is one record, whose launches all run at its position.
TEST(Culprit, IsALaunchOfAGraphHoweverManyStandBehindIt) {
    Fallen in("illegal");
    for (std::uint64_t position = 5; position < 8; ++position) {
        ASSERT_TRUE(in.streams[0]->make_room(kMaxGraphNodes));
        in.streams[0]->note(in.launch("bad_store", position));
        for (std::uint32_t i = 1; i < kMaxGraphNodes; ++i) in.streams[0]->note(in.launch("step", position));
    }
    in.streams[1]->note(in.launch("step", 2));
    in.streams[1]->note(in.launch("bad_store", 3));  // the same, and innocent
    in.words[0] = 6;
    EXPECT_THAT(in.find().at(0).launches, ElementsAre(at(1, 6)));
}

TEST(Culprit, OfADumpWithAnyByteChangedIsALaunchThatRanOrNone) {
    const std::vector<std::byte> whole = read_file(std::string(TEST_DATA) + "/fault_trap.dump");
    Fallen in("trap");
    in.streams[0]->note(in.launch("step", 5, 4096));
    in.streams[1]->note(in.launch("bad_trap", 7));
    in.streams[2]->note(in.launch("bad_trap", 9, 4096));
    in.journals.look();
    std::mt19937 random(3);
    int found = 0;
    for (int i = 0; i < 5'000; ++i) {
        // The code of modules stands at its beginning, and their section headers behind it.
        std::vector<std::byte> bytes = whole;
        bytes[random() % (i % 2 == 0 ? 0x7000 : bytes.size())] = static_cast<std::byte>(random() & 0xff);
        try {
            in.dump = read_fault_dump(bytes);
            for (const Culprit& culprit : in.find_in_journals())
                for (const FaultedLaunch& launch : culprit.launches) {
                    ++found;
                    EXPECT_THAT(launch, testing::AnyOf(at(1, 5), at(2, 7), at(3, 9)));
                }
        } catch (const Error&) {
            // Refused.
        }
    }
    EXPECT_GT(found, 1000);
}

TEST(Culprit, ThatNobodyLaunchedIsNobody) {
    Fallen in("misaligned");
    in.streams[0]->note(in.launch("step", 5));
    const auto found = in.find();
    EXPECT_THAT(found.at(0).launches, IsEmpty());
    EXPECT_THAT(found[0].what, HasSubstr("Warp Misaligned Address"));
}

// The warps of the fault had left when the dump was made: only its place is known.
void without_grid(Fallen& in) {
    for (DumpedFault& fault : in.dump.faults) fault.grid.reset();
    in.dump.grids.clear();
}

TEST(Culprit, HadCompletedWhereNothingThatRanCanHaveBeenIt) {
    for (const bool grid : {true, false}) {
        Fallen in("illegal");
        if (!grid) without_grid(in);
        in.streams[0]->note(in.launch("step", 5));  // of the same module
        for (std::uint64_t position = 4; position < 9; ++position)
            in.streams[1]->note(in.launch(position == 7 ? "bad_store" : "step", position));
        in.words[1] = 9;
        EXPECT_THAT(in.find().at(0).launches, ElementsAre(at(2, 7))) << grid;
    }
}

TEST(Culprit, HasNotCompletedWhereOneThatRanFits) {
    for (const bool grid : {true, false}) {
        Fallen in("illegal");
        if (!grid) without_grid(in);
        in.streams[0]->note(in.launch("bad_store", 5));
        in.streams[1]->note(in.launch("bad_store", 7));
        in.words[1] = 8;
        EXPECT_THAT(in.find().at(0).launches, ElementsAre(at(1, 5))) << grid;
    }
}

TEST(Culprit, OfSeveralThatCompletedIsTheLastOfAnyStream) {
    Fallen in("illegal");
    for (std::uint64_t position = 4; position < 9; ++position) {
        in.streams[0]->note(in.launch("bad_store", position));
        in.streams[1]->note(in.launch("bad_store", position));
    }
    in.words[0] = in.words[1] = 9;
    EXPECT_THAT(in.find().at(0).launches, ElementsAre(at(1, 8), at(2, 8)));
}

TEST(Culprit, MayBeOfAStreamThatHasJustGone) {
    Fallen in("illegal");
    without_grid(in);
    in.streams[0]->note(in.launch("step", 5));
    in.streams[1]->note(in.launch("bad_store", 7));
    in.words[1] = 8;
    in.streams[1].reset();
    EXPECT_THAT(in.find().at(0).launches, ElementsAre(at(2, 7)));
}

TEST(Culprit, IsNobodyWhereOnlyTheModuleOfItsKernelRuns) {
    Fallen in("illegal");
    without_grid(in);
    in.streams[0]->note(in.launch("step", 5));
    EXPECT_THAT(in.find().at(0).launches, IsEmpty());
}

TEST(Journal, KeepsTwiceWhatIsInFlight) {
    LaunchJournals journals;
    SharedU64 word{0}, page{0};
    const auto journal = journals.open(1, 4000, word, page);
    for (std::uint64_t i = 0; i < 20'000; ++i) {
        NotedLaunch launch;
        launch.position = i;
        journal->note(launch);
    }
    std::uint64_t first = 0, count = 0;
    journal->each_running([&](const NotedLaunch& launch) {
        if (count++ == 0) first = launch.position;
    });
    EXPECT_EQ(first + count, 20'000u);
    EXPECT_GE(count, 8000u);
}

TEST(Journal, HasRoomForGraphsAgainOnceSomeHaveCompleted) {
    LaunchJournals journals;
    SharedU64 word{0}, page{0};
    const auto journal = journals.open(1, 64, word, page);
    std::uint64_t position = 0;
    const auto note_graphs = [&] {
        for (; journal->make_room(kMaxGraphNodes); ++position)
            for (std::uint32_t i = 0; i < kMaxGraphNodes; ++i) {
                NotedLaunch launch;
                launch.position = position;
                launch.kernel = i;
                journal->note(launch);
            }
    };
    note_graphs();
    EXPECT_GT(position, 4u);
    for (const std::uint64_t completed : {std::uint64_t{1}, position, position + 3}) {
        word = completed;
        journal->publish();
        const std::uint64_t before = position;
        note_graphs();
        EXPECT_GT(position, before);
        // All that is in flight is there, each in its place.
        std::uint64_t next = completed * kMaxGraphNodes;
        journal->each_running([&](const NotedLaunch& launch) {
            if (launch.position < completed) return;
            EXPECT_EQ(launch.position * kMaxGraphNodes + launch.kernel, next);
            ++next;
        });
        EXPECT_EQ(next, position * kMaxGraphNodes);
    }
}

TEST(Journal, IsNotTakenAwayWhileItIsRead) {
    Fallen in("illegal");
    in.journals.look();
    std::atomic<bool> stop{false};
    std::thread control([&] {
        while (!stop) {
            SharedU64 word{0}, page{0};
            in.journals.open(9, 64, word, page);
        }
    });
    for (int i = 0; i < 200; ++i) EXPECT_THAT(in.find_in_journals().at(0).launches, IsEmpty());
    stop = true;
    control.join();
}

TEST(Journal, OfAStreamThatIsGoneIsKeptForEightMore) {
    LaunchJournals journals;
    SharedU64 word{0}, page{0};
    const auto kept = journals.open(100, 64, word, page);
    for (std::uint64_t stream = 1; stream <= 20; ++stream) journals.open(stream, 64, word, page);
    std::vector<std::uint64_t> streams;
    journals.read([&](const auto& all) {
        for (const LaunchJournal* journal : all) streams.push_back(journal->stream());
    });
    EXPECT_THAT(streams, ElementsAre(100, 13, 14, 15, 16, 17, 18, 19, 20));
}

TEST(Journal, PublishesWhatCompletedBeforeTheFallAndNothingFromBehindIt) {
    LaunchJournals journals;
    SharedU64 word{3}, page{3};
    const auto journal = journals.open(1, 64, word, page);
    word = 5;
    EXPECT_EQ(page, 3u);
    journal->publish();
    EXPECT_EQ(page, 5u);
    word = 6;
    journals.look();
    word = 9;
    journals.look();
    journal->publish();
    EXPECT_EQ(page, 6u);
    SharedU64 late{2}, its_page{2};
    const auto opened = journals.open(2, 64, late, its_page);
    late = 4;
    journals.publish();
    EXPECT_EQ(its_page, 2u);
}

}  // namespace
}  // namespace ringlaunch::driver
