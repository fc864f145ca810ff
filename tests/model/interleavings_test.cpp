// The real templates under weak memory: right in every interleaving tried, and wrong in some as soon as one
// order, fence, check or step is taken away.
#include <gtest/gtest.h>

#include <cstdio>
#include <iterator>

#include "tests/model/mutants.hpp"
#include "tests/model/scenarios.hpp"

namespace ringlaunch::model {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr std::uint64_t kSeeds = 2'000;
constexpr std::uint64_t kMostRuns = 5'000;
#else
constexpr std::uint64_t kSeeds = 10'000;
constexpr std::uint64_t kMostRuns = 200'000;
#endif
// A mutant's search ends with the first run that notices: the rarest takes thousands.
constexpr std::uint64_t kMutantSeeds = 100'000;

struct Case {
    Where where;
    const char* name;
    std::size_t records;        // with seeds
    std::size_t searched;       // records in the systematic search
    std::uint32_t preemptions;  // its bounds
    std::uint32_t stale_reads;
};
void PrintTo(const Case& it, std::ostream* out) {
    *out << it.name;
}

constexpr Case kCases[] = {
    {Where::ring, "ring", 7, 6, 2, 1},     {Where::sleep, "sleep", 4, 2, 2, 2},
    {Where::wait, "wait", 3, 1, 1, 1},     {Where::restart, "restart", 4, 1, 1, 1},
    {Where::stop, "stop", 2, 2, 3, 3},     {Where::page, "page", 1, 1, 3, 3},
    {Where::sample, "sample", 5, 3, 2, 2},
};
const Case& case_of(Where where) {
    for (const Case& it : kCases)
        if (it.where == where) return it;
    std::abort();
}

struct Name {
    template <class Param>
    std::string operator()(const Param& test) const {
        return std::string(test.param.name);
    }
};

class Unmutated : public ::testing::TestWithParam<Case> {};

TEST_P(Unmutated, HoldsForEverySeed) {
    for (const bool membarrier : {true, false}) {
        for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
            SeededChoices choices(seed);
            ASSERT_EQ(run_scenario(GetParam().where, choices, Mutant::none, membarrier, GetParam().records),
                      "")
                << "seed " << seed << (membarrier ? ", membarrier" : ", fences");
        }
    }
}

TEST_P(Unmutated, HoldsForEveryChoiceWithinABound) {
    const Case& it = GetParam();
    for (const bool membarrier : {true, false}) {
        SearchedChoices choices(it.preemptions, it.stale_reads);
        std::uint64_t runs = 0;
        bool more = true;
        while (more && runs < kMostRuns) {
            choices.begin();
            ASSERT_EQ(run_scenario(it.where, choices, Mutant::none, membarrier, it.searched), "")
                << "run " << runs;
            ++runs;
            more = choices.advance();
        }
        std::printf("%s, %s: %llu runs, %s\n", it.name, membarrier ? "membarrier" : "fences",
                    static_cast<unsigned long long>(runs),
                    more ? "cut off" : "all there are within the bound");
    }
}

INSTANTIATE_TEST_SUITE_P(Scenarios, Unmutated, ::testing::ValuesIn(kCases), Name{});

class Mutated : public ::testing::TestWithParam<MutantName> {};

TEST_P(Mutated, IsCaught) {
    const MutantName& it = GetParam();
    const Case& scenario = case_of(it.where);
    for (std::uint64_t seed = 1; seed <= kMutantSeeds; ++seed) {
        for (const bool membarrier : {true, false}) {
            SeededChoices choices(seed);
            const std::string wrong =
                run_scenario(it.where, choices, it.mutant, membarrier, scenario.records);
            if (wrong.empty()) continue;
            std::printf("mutant %-36.*s caught by %-8s run %5llu: %s\n", static_cast<int>(it.name.size()),
                        it.name.data(), scenario.name, static_cast<unsigned long long>(seed), wrong.c_str());
            return;
        }
    }
    FAIL() << it.says << ": nobody noticed in " << kMutantSeeds << " runs";
}

INSTANTIATE_TEST_SUITE_P(Weakenings, Mutated, ::testing::ValuesIn(kMutants), Name{});

TEST(Machine, RepeatsARunOfTheSameSeed) {
    for (std::uint64_t seed = 1; seed < 200; ++seed) {
        SeededChoices one(seed), two(seed);
        EXPECT_EQ(run_scenario(Where::sleep, one, Mutant::reader_no_barrier, true, 3),
                  run_scenario(Where::sleep, two, Mutant::reader_no_barrier, true, 3));
    }
}

}  // namespace
}  // namespace ringlaunch::model
