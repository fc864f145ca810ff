// A graph of one stream, as the executor has it: its page, the driver's graph, and what its launches are
// checked against.
//
// The control thread makes and destroys it while the dispatcher does not know it; in between it is the
// dispatch thread's. A launch of it is checked as its launches by themselves would be, so what it names may
// go meanwhile: the session's tables count their changes, and a graph looks again after one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "daemon/driver/driver.hpp"
#include "daemon/executor/graph_page.hpp"
#include "daemon/executor/validation.hpp"
#include "schema/unique_fd.hpp"

namespace ringlaunch::executor {

class Graph {
  public:
    // Of records (law 2: `description` is a private copy), each checked like one of the ring. Throws Error:
    // the record's own refusal, which the text names, or what the driver has against it.
    Graph(std::uint64_t id, std::span<const std::byte> description, const Bounds& bounds,
          driver::Driver& driver);
    // From the page of an earlier executor, whose stream has `completed` so far. What cannot be had any more
    // (a module is gone) is no error: a launch says so. Throws Error where the page is none.
    Graph(std::uint64_t id, UniqueFd page, std::uint64_t completed, const Bounds& bounds,
          driver::Driver& driver);

    std::uint64_t id() const { return id_; }
    const UniqueFd& page() const { return page_.fd(); }
    UniqueFd take_page() { return page_.take_fd(); }
    std::size_t nodes() const { return nodes_.size(); }
    // Of its kernels, each once.
    const std::vector<std::uint64_t>& kernels() const { return kernels_; }
    // Control thread, between two turns: it can be launched no more, because of this. Hands out what is to be
    // destroyed.
    std::unique_ptr<driver::Graph> break_off(std::string why);

    // ---- dispatch thread
    struct Counts {
        std::uint32_t launches = 0, copies = 0, fills = 0;
        std::uint64_t copied_bytes = 0;
    };
    const Counts& counts() const { return counts_; }
    // Null: it can be launched no more, and why() says why.
    driver::Graph* driver_graph() const { return lost_ ? nullptr : driver_graph_.get(); }
    const char* why() const { return why_.c_str(); }
    // Before a record at `position` is looked at: what a restart left to be done.
    void go_on_at(std::uint64_t position) noexcept;
    // May it be launched as things stand? Else `node` is the one that may not, and `record` what it would be
    // in the ring, at `position`.
    [[nodiscard]] Status check(const Bounds& bounds, std::uint64_t position, std::uint32_t& node,
                               RecordCopy& record) noexcept;
    // The launch that an update gives node `node`, as a record of the ring; false: that is no launch.
    bool record_of(const schema::GraphUpdateRecord& update, const RecordCopy& copy,
                   RecordCopy& record) const noexcept;
    // `launch` is the node's, checked, of the update at `position`; its stream has `completed` so far. Before
    // the record counts as issued. ring_full: there is no room before more has completed. Else what the
    // driver says; then it was refused.
    [[nodiscard]] Status update(std::uint32_t node, const driver::Launch& launch, std::uint64_t position,
                                std::uint64_t completed) noexcept;
    // The update of `node`, a launch, at `position`, whose record ends at `end`, is refused with this: the
    // node stays as it is, and the graph is not launched until an update of the node is taken. ring_full: as
    // above.
    [[nodiscard]] Status refuse_update(std::uint32_t node, Refusal refusal, std::uint64_t end,
                                       std::uint64_t completed) noexcept;
    // Is there such a node? Then `node` is the first.
    bool has_refused(std::uint32_t& node, Refusal& refusal) const noexcept;

  private:
    void take_in(std::span<const driver::GraphNode> nodes);
    void keep(std::uint32_t node, const driver::Launch& launch) noexcept;
    void note(std::uint32_t node, Refusal refusal) noexcept;

    const std::uint64_t id_;
    GraphPage page_;
    // As they are now. Parameters of launches point into `params_`, which stays where it is.
    std::vector<driver::GraphNode> nodes_;
    std::vector<std::byte> params_;
    std::vector<std::uint64_t> kernels_;
    std::vector<Refusal> refusals_;  // a node's
    std::uint32_t refused_ = 0;      // of them: that are
    Counts counts_;
    std::unique_ptr<driver::Graph> driver_graph_;
    std::string why_;
    std::uint64_t checked_at_ = 0;  // SessionView::changes when all of it was found good; 0: never
    bool restored_ = false;         // what a restart left has not been looked at yet
    bool lost_ = false;             // the driver's graph is not what nodes_ are
};

}  // namespace ringlaunch::executor
