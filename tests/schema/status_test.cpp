// Every numbered status has a name and a sentence of its own.
#include "schema/status.hpp"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace ringlaunch {
namespace {

TEST(Status, EachNumberInUseHasItsOwnNameAndText) {
    std::set<std::string_view> names, texts;
    std::size_t known = 0;
    for (std::uint32_t number = 0; number < 1000; ++number) {
        const auto status = static_cast<Status>(number);
        if (status_name(status) == "unknown") continue;
        ++known;
        names.insert(status_name(status));
        texts.insert(status_text(status));
        EXPECT_FALSE(status_text(status).empty()) << number;
    }
    EXPECT_EQ(names.size(), known);
    EXPECT_EQ(texts.size(), known);
}

TEST(Status, NumbersAreWireFormat) {
    // Append, never renumber: one of each family, and the ends.
    EXPECT_EQ(static_cast<int>(Status::ok), 0);
    EXPECT_EQ(static_cast<int>(Status::invalid_argument), 7);
    EXPECT_EQ(static_cast<int>(Status::version_mismatch), 20);
    EXPECT_EQ(static_cast<int>(Status::executor_quarantined), 33);
    EXPECT_EQ(static_cast<int>(Status::rate_limited), 34);
    EXPECT_EQ(static_cast<int>(Status::bad_kind), 50);
    EXPECT_EQ(static_cast<int>(Status::wait_cycle), 67);
    EXPECT_EQ(static_cast<int>(Status::kernel_faulted), 80);
    EXPECT_EQ(static_cast<int>(Status::suspect), 84);
    EXPECT_EQ(status_name(Status::bad_pointer), "bad_pointer");
}

TEST(Status, OfANewerPeerIsSaidToBeUnknown) {
    EXPECT_EQ(status_name(static_cast<Status>(9999)), "unknown");
    EXPECT_NE(status_text(static_cast<Status>(9999)), "");
}

}  // namespace
}  // namespace ringlaunch
