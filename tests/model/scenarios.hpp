// What runs on the weakly ordered machine: a client and a reader with the real templates of schema/ring.hpp
// and schema/wakeup.hpp. Around them stand the steps that the client library and the dispatcher make, as
// schema/wakeup.hpp says.
//
//   ring      records of one and two slots through a ring of eight, with padding and reuse, the reader polls
//   sleep     the reader sleeps whenever it finds nothing; the producer only enqueues
//   wait      a client that waits, gives up, and waits again; a device completes what the reader issued
//   restart   the reader is killed at any step; the next one takes the stream up at `completed` on a new page
//   stop      a record is refused, and somebody reads why
//   page      the client's page is replaced by the next epoch's, then by the one of a closed stream
//   sample    each record is one to be timed
#pragma once

#include <string>

#include "schema/ring.hpp"
#include "schema/wakeup.hpp"
#include "tests/model/mutants.hpp"
#include "tests/model/weak_memory.hpp"

namespace ringlaunch::model {

inline constexpr std::uint32_t kSlots = 8;
inline constexpr std::size_t kMaxRecords = 8;
inline constexpr std::uint64_t kStart = 4;  // the stream's first position, in the middle of the ring

// Record `sequence` has one slot or two; the client writes them one after the other, so that a position says
// which it is. The third would cross the ring's end, while there is room for it.
constexpr std::uint32_t slots_of(std::size_t sequence) {
    return sequence % 6 == 0 ? 1 : 2;
}

struct Page {
    SharedU64 completed{kStart};
    SharedU64 issued{kStart};
    SharedU64 need_wakeup{0};
    SharedU32 state{0};
    alignas(kSlotBytes) std::byte words[kSlotBytes] = {};  // what is not atomic: the error, the epoch, ...
};
inline constexpr std::uint32_t kStopped = 1, kEnded = 2, kClosed = 3;

struct Scenario {
    Scenario(Choices& choices, Mutant mutant, bool with_membarrier, std::size_t record_count)
        : world(choices, mutant), membarrier(with_membarrier), records(record_count) {
        std::memset(static_cast<void*>(slots), 0, sizeof slots);
        for (const Slot& slot : slots) world.name_word(slot.stamp, Role::stamp);
        for (const Page& page : pages) {
            world.name_word(page.completed, Role::completed);
            world.name_word(page.need_wakeup, Role::need_wakeup);
            world.name_word(page.state, Role::state);
        }
        world.name_word(header.wait_position, Role::wait_position);
        world.name_word(current, Role::page);
        world.completed_read = kStart;
        std::uint64_t position = kStart;
        for (std::size_t i = 0; i < records; ++i) {
            const std::uint32_t to_end = kSlots - static_cast<std::uint32_t>(position % kSlots);
            if (slots_of(i) > to_end) position += to_end;
            starts[i] = position;
            position += slots_of(i);
        }
    }

    World world;
    const bool membarrier;  // else both sides fence
    const std::size_t records;
    alignas(kSlotBytes) Slot slots[kSlots + 1];  // the last for a record that should not have been written
    RingHeader header{};
    Page pages[3];         // the first epoch's, the next one's, the closed stream's own
    SharedU64 current{0};  // which of them the client's `page` is
    EdgeEvent doorbell, completion;
    Event wake, notice;
    RungSleep rung;  // the client's
    std::uint64_t starts[kMaxRecords] = {};
    std::uint32_t executed[kMaxRecords] = {};  // the test's own note
    bool client_done = false;
    bool samples = false;
    std::uint64_t last_sample = 0, last_sample_taken = 0;  // the client's and the reader's own

    // The device: finishes what was issued, in order. It and the driver share a lock; its words are the
    // driver's own.
    bool with_device = false;
    std::uint64_t device_issued = kStart, device_completed = kStart, notify_position = 0;
    View device_lock;

    // What look_ahead() went by.
    static constexpr std::uint64_t kFarAhead = 1 << 10;
    std::uint64_t completed_ahead = 0, lap_end_ahead = 0;

    bool all_executed() const {
        for (std::size_t i = 0; i < records; ++i)
            if (executed[i] == 0) return false;
        return true;
    }

    // ---- the client ----

    // The hot path's question, or one of its three bounds a slot further.
    bool clear(const RingProducer<WeakMemory>& producer, std::uint32_t count) {
        const auto one_if = [this](Mutant mutant) { return world.is(mutant) ? 1u : 0u; };
        const std::uint32_t longer = one_if(Mutant::room_for_too_long_a_record);
        const std::uint32_t further = one_if(Mutant::room_past_the_end);
        const std::uint32_t more = one_if(Mutant::room_off_by_a_slot);
        const std::uint64_t end = producer.position() + count;
        const bool clear = count <= kSlots / 4 + longer && end <= lap_end_ahead + further &&
                           end <= completed_ahead + kSlots + more;
        if (longer + further + more != 0) return clear;
        if ((count <= producer.max_record_slots() && producer.clear(count)) != clear)
            world.fail("clear() has other bounds than it should");
        return clear;
    }
    void look_ahead(RingProducer<WeakMemory>& producer) {
        completed_ahead = world.completed_read;
        lap_end_ahead = (producer.position() / kSlots + 1) * kSlots;
        producer.look_ahead(kFarAhead);
    }
    Status reserve(RingProducer<WeakMemory>& producer, std::uint32_t count, const Page& page) {
        world.reserving = true;
        const Status status = producer.reserve(count, page.completed);
        world.reserving = false;
        return status;
    }

    // A launch that is too long for this ring, which the client asks for like any other.
    void send_too_long(RingProducer<WeakMemory>& producer, const Page& page) {
        constexpr std::uint32_t kTooLong = kSlots / 4 + 1;
        if (!clear(producer, kTooLong)) {
            if (reserve(producer, kTooLong, page) != Status::record_too_long)
                world.fail("a record was taken that is too long");
            return;
        }
        producer.publish_each<kTooLong>([]<std::size_t k>(std::integral_constant<std::size_t, k>) {
            return k == 1 ? first_word(kLaunchKind, kTooLong, 0) : 0;
        });
    }

    // As the client: where the way is not clear, reserve(), and look ahead.
    void send(RingProducer<WeakMemory>& producer, std::size_t i, const Page& page) {
        if (i == 0) {
            look_ahead(producer);  // so that there is something to ask
            send_too_long(producer, page);
        }
        const bool was_clear = clear(producer, slots_of(i));
        if (!was_clear)
            while (reserve(producer, slots_of(i), page) != Status::ok) world.pause();
        if (world.is(Mutant::none) && producer.position() != starts[i])
            world.fail("the producer stands elsewhere than its records");
        const bool timed = samples && WeakMemory::load_relaxed(page.issued) >= last_sample;
        if (timed) {
            last_sample = producer.position();
            if (!world.is(Mutant::sample_time_after_stamp))
                WeakMemory::store_relaxed(header.sample_ns, time_of(i));
            WeakMemory::store_relaxed(header.sample_position, last_sample);
        }
        publish(producer, i);
        if (!was_clear) look_ahead(producer);
        if (timed && world.is(Mutant::sample_time_after_stamp))
            WeakMemory::store_relaxed(header.sample_ns, time_of(i));
    }
    static constexpr std::uint64_t time_of(std::size_t i) { return 100 + i; }

    void publish(RingProducer<WeakMemory>& producer, std::size_t i) {
        std::uint64_t params[7];
        for (std::uint64_t k = 0; k < 7; ++k) params[k] = 1000 * i + k;
        schema::LaunchRecord record{};
        record.mutate_kind(schema::RecordKind::Launch);
        record.mutate_slots(static_cast<std::uint16_t>(slots_of(i)));
        record.mutate_kernel(0x1000 + i);
        record.mutate_grid_x(static_cast<std::uint32_t>(77 * i));
        // Both ways of writing a record, of one slot and of two.
        if (i / 2 % 2 == 0) {
            if (slots_of(i) == 2) producer.write_continuation(1, reinterpret_cast<const std::byte*>(params));
            producer.publish(record);
        } else {
            const auto word = [&]<std::size_t k>(std::integral_constant<std::size_t, k>) {
                return k < 8 ? load_word(reinterpret_cast<const std::byte*>(&record) + 8 * k) : params[k - 9];
            };
            if (slots_of(i) == 2)
                producer.publish_each<2>(word);
            else
                producer.publish_each<1>(word);
        }
    }

    // Publishes and rings. In `restart`, the slow path also takes the notice of a new page.
    void enqueue(RingProducer<WeakMemory>& producer, std::size_t i, std::size_t& page) {
        const auto& early_word = pages[page].need_wakeup;
        const bool early = world.is(Mutant::producer_looks_before_stamp) && must_ring<WeakMemory>(early_word);
        send(producer, i, pages[page]);
        if (world.is(Mutant::producer_no_look)) return;
        if (world.is(Mutant::producer_looks_before_stamp) ? early : rings_after(pages[page].need_wakeup)) {
            doorbell.signal();
            if (notice.drain()) page = 1;
        }
    }
    bool rings_after(const SharedU64& need_wakeup) {
        if (!world.is(Mutant::producer_rings_once_for_a_page) &&
            !world.is(Mutant::rung_sleep_without_its_page))
            return producer_must_ring<WeakMemory>(need_wakeup, rung, !membarrier);
        WeakMemory::after_stamp(!membarrier);
        const std::uint64_t sleep = WeakMemory::load_relaxed(need_wakeup);
        const bool any_page = world.is(Mutant::rung_sleep_without_its_page);
        return sleep != 0 &&
               rung.rings_for(any_page ? pages[0].need_wakeup : need_wakeup, any_page ? sleep : 1);
    }

    void wait_for(std::uint64_t position, std::size_t& page, bool may_give_up) {
        for (;;) {
            if (WeakMemory::load_acquire(pages[page].completed) >= position) return;
            wake.drain();
            announce_wait<WeakMemory>(header, position);
            const bool done = !world.is(Mutant::waiter_no_second_look) &&
                              WeakMemory::load_acquire(pages[page].completed) >= position;
            if (world.is(Mutant::waiter_drains_after_second_look)) wake.drain();
            bool gives_up = false;
            if (!done) {
                if (!world.is(Mutant::waiter_no_doorbell) && must_ring<WeakMemory>(pages[page].need_wakeup))
                    doorbell.signal();
                world.sleep([this] { return wake.is_set() || notice.is_set(); }, may_give_up);
                gives_up = may_give_up && !wake.is_set();
                if (notice.drain()) page = 1;
            }
            announce_wait<WeakMemory>(header, 0);
            if (gives_up) return;
        }
    }

    // ---- the reader ----

    struct Reader {
        RingConsumer<WeakMemory> consumer;
        Page* page;
        std::uint64_t woken_for = 0;
        std::uint64_t sleep = 0;
        RecordCopy copy{};
    };

    void check(const RecordCopy& copy) {
        for (std::size_t i = 0; i < records; ++i) {
            if (starts[i] != copy.position) continue;
            const auto& record = copy.as<schema::LaunchRecord>();
            if (copy.slots != slots_of(i) || record.kernel() != 0x1000 + i || record.grid_x() != 77 * i)
                world.fail("a record's head is torn");
            if (copy.slots == 2) {
                std::uint64_t params[7];
                std::memcpy(params, copy.params + kHeadParamBytes, sizeof params);
                for (std::uint64_t k = 0; k < 7; ++k)
                    if (params[k] != 1000 * i + k) world.fail("a record's parameters are torn");
            }
            ++executed[i];
            return;
        }
        if (copy.as<schema::PaddingRecord>().kind() != schema::RecordKind::Padding)
            world.fail("a record nobody wrote");
    }

    // Takes what is there, and wakes who waits for what is completed.
    bool look(Reader& reader, bool at_waiters) {
        bool found = false;
        while (reader.consumer.peek()) {
            found = true;
            if (world.is(Mutant::completed_before_copy))
                WeakMemory::store_release(reader.page->completed, end_of_next(reader));
            if (reader.consumer.copy(reader.copy) != Status::ok) world.fail("a record was refused");
            reader.consumer.advance(reader.copy.slots);
            const std::uint64_t end = reader.consumer.position();
            const bool late = world.is(Mutant::issued_after_handing_over);
            if (!late) WeakMemory::store_relaxed(reader.page->issued, end);
            check(reader.copy);
            if (late) WeakMemory::store_relaxed(reader.page->issued, end);
            if (samples) take_sample(reader.copy.position, end);
            if (with_device) {
                world.step();
                device_issued = end;
                device_lock.join(world.publish_view());
            } else if (!world.is(Mutant::completed_before_copy)) {
                WeakMemory::store_release(reader.page->completed, end);
            }
        }
        if (!at_waiters) return found;
        const std::uint64_t waits = WeakMemory::load_relaxed(header.wait_position);
        if (waits == 0 || waits == reader.woken_for) return found;
        // The real reader loads it relaxed or stronger; it decides only about waking.
        if (WeakMemory::load_relaxed(reader.page->completed) >= waits) {
            reader.woken_for = waits;
            wake.signal();
            return true;
        }
        if (!with_device || reader.consumer.position() < waits || world.is(Mutant::reader_no_notification))
            return found;
        // Dispatcher::arm(): what completed since the look above is no more to be waited for, but looked at.
        if (WeakMemory::load_relaxed(reader.page->completed) >= waits)
            return found || !world.is(Mutant::reader_sleeps_on_what_completed_meanwhile);
        notify_at(waits);
        return found;
    }

    // The time may be a later record's, where the client has gone on meanwhile, but never an earlier one's.
    void take_sample(std::uint64_t first, std::uint64_t end) {
        const std::uint64_t at = WeakMemory::load_relaxed(header.sample_position);
        if (at - first >= end - first || at == last_sample_taken) return;
        last_sample_taken = at;
        const std::uint64_t ns = WeakMemory::load_relaxed(header.sample_ns);
        for (std::size_t i = 0; i < records; ++i)
            if (starts[i] == at && ns < time_of(i)) world.fail("a sample has an earlier record's time");
    }

    std::uint64_t end_of_next(const Reader& reader) const {
        const std::uint64_t position = reader.consumer.position();
        for (std::size_t i = 0; i < records; ++i)
            if (starts[i] == position) return position + slots_of(i);
        return position + 1;  // padding: the last slot of the ring
    }

    // Turns for ever; sleeps as soon as there is nothing.
    void read(Reader& reader, bool first_look) {
        while (first_look) {
            if (look(reader, true)) continue;
            break;
        }
        for (;;) {
            const bool announces = !world.is(Mutant::reader_no_announcement);
            const bool late = world.is(Mutant::reader_announces_after_barrier);
            if (reader.sleep == 0 || !world.is(Mutant::sleeps_without_numbers)) ++reader.sleep;
            if (announces && !late) announce_sleep<WeakMemory>(reader.page->need_wakeup, reader.sleep);
            barrier();
            if (announces && late) announce_sleep<WeakMemory>(reader.page->need_wakeup, reader.sleep);
            bool found = false;
            if (first_look && !world.is(Mutant::reader_no_second_look))
                found = look(reader, !world.is(Mutant::reader_second_look_without_waiters));
            if (world.is(Mutant::reader_takes_edges_after_second_look)) doorbell.take();
            if (!found) {
                world.sleep([this] { return doorbell.has_edge() || completion.has_edge(); });
                doorbell.take();
                completion.take();
            }
            announce_awake<WeakMemory>(reader.page->need_wakeup);
            first_look = true;
            while (look(reader, true)) {
            }
        }
    }

    void barrier() {
        if (world.is(Mutant::reader_no_barrier)) return;
        if (membarrier && !world.is(Mutant::reader_fences_only_itself))
            world.membarrier();
        else
            world.fence();
    }

    // ---- the device ----

    void notify_at(std::uint64_t position) {
        world.step();
        world.take_view(device_lock);
        if (device_completed >= position)
            completion.signal();
        else
            notify_position = position;
        device_lock.join(world.publish_view());
    }
    void complete_for_ever() {
        for (;;) {
            world.sleep([this] { return device_issued > device_completed; });
            world.take_view(device_lock);
            const std::uint64_t position = device_issued;
            WeakMemory::store_release(pages[0].completed, position);
            world.step();
            device_completed = position;
            device_lock.join(world.publish_view());
            if (notify_position != 0 && notify_position <= position) {
                notify_position = 0;
                completion.signal();
            }
        }
    }

    RingProducer<WeakMemory> producer() { return {slots, kSlots, kStart}; }
    Reader reader(std::size_t page, std::uint64_t position) {
        return {RingConsumer<WeakMemory>(slots, kSlots, position), &pages[page]};
    }
};

// ---- the scenarios ----

inline std::string run_ring(Choices& choices, Mutant mutant, bool membarrier, std::size_t records) {
    Scenario it(choices, mutant, membarrier, records);
    it.world.add_thread("the producer", true, true, [&it] {
        auto producer = it.producer();
        for (std::size_t i = 0; i < it.records; ++i) it.send(producer, i, it.pages[0]);
    });
    it.world.add_thread("the reader", false, false, [&it] {
        auto reader = it.reader(0, kStart);
        while (!it.all_executed())
            if (!it.look(reader, false)) it.world.pause();
    });
    std::string wrong = it.world.run([&it] { return it.world.finished(0) && it.world.finished(1); });
    for (std::size_t i = 0; i < records && wrong.empty(); ++i)
        if (it.executed[i] != 1) wrong = "a record ran twice";
    return wrong;
}

inline std::string run_sleep(Choices& choices, Mutant mutant, bool membarrier, std::size_t records) {
    Scenario it(choices, mutant, membarrier, records);
    it.world.add_thread("the producer", true, true, [&it] {
        auto producer = it.producer();
        std::size_t page = 0;
        for (std::size_t i = 0; i < it.records; ++i) it.enqueue(producer, i, page);
    });
    it.world.add_thread("the reader", false, false, [&it] {
        auto reader = it.reader(0, kStart);
        it.read(reader, true);
    });
    return it.world.run([&it] { return it.all_executed(); });
}

inline std::string run_wait(Choices& choices, Mutant mutant, bool membarrier, std::size_t records) {
    Scenario it(choices, mutant, membarrier, records);
    it.with_device = true;
    it.world.add_thread("the client", true, true, [&it] {
        auto producer = it.producer();
        std::size_t page = 0;
        for (std::size_t i = 0; i < it.records; ++i) {
            it.enqueue(producer, i, page);
            it.wait_for(producer.position(), page, true);
            if (i % 2 == 0) it.wait_for(producer.position(), page, false);
        }
        it.wait_for(producer.position(), page, false);
        it.client_done = true;
    });
    it.world.add_thread("the reader", false, false, [&it] {
        auto reader = it.reader(0, kStart);
        it.read(reader, true);
    });
    it.world.add_thread("the device", false, false, [&it] { it.complete_for_ever(); });
    return it.world.run([&it] { return it.client_done; });
}

inline std::string run_restart(Choices& choices, Mutant mutant, bool membarrier, std::size_t records) {
    Scenario it(choices, mutant, membarrier, records);
    const bool waits = choices.pick(2) == 1;  // or only ever enqueues
    it.world.add_thread("the client", true, true, [&it, waits] {
        auto producer = it.producer();
        std::size_t page = 0;
        for (std::size_t i = 0; i < it.records; ++i) it.enqueue(producer, i, page);
        if (waits) it.wait_for(producer.position(), page, false);
        it.client_done = true;
    });
    it.world.add_thread("the first reader", false, false, [&it] {
        it.world.die_after(it.world.choose(60));
        auto reader = it.reader(0, kStart);
        it.read(reader, true);
    });
    it.world.add_thread("the next reader", false, false, [&it] {
        // The supervisor first: it reaps, reads A and B, marks the dead page, makes the next, tells the
        // client.
        World& world = it.world;
        world.sleep([&world] { return world.finished(1); });
        world.join_thread(1);
        Page &dead = it.pages[0], &page = it.pages[1];
        const std::uint64_t completed = WeakMemory::load_acquire(dead.completed);
        const std::uint64_t issued = WeakMemory::load_relaxed(dead.issued);
        if (completed > issued) world.fail("completed is past issued");
        for (std::size_t i = 0; i < it.records; ++i)
            if (it.executed[i] != 0 && it.starts[i] >= issued)
                world.fail("the driver was given a record that nobody would call in doubt");
        WeakMemory::store_release(dead.state, kEnded);
        if (!world.is(Mutant::dead_page_not_marked))
            announce_sleep<WeakMemory>(dead.need_wakeup,
                                       world.is(Mutant::dead_page_marked_as_a_sleep) ? 1 : kRingAlways);
        WeakMemory::store_relaxed(page.completed, completed);
        WeakMemory::store_relaxed(page.issued, completed);
        if (!world.is(Mutant::no_notice_of_the_new_page)) it.notice.signal();
        auto reader = it.reader(1, world.is(Mutant::next_reader_starts_at_issued) ? issued : completed);
        it.read(reader, !world.is(Mutant::next_reader_no_first_look));
    });
    return it.world.run([&it] { return it.client_done && it.all_executed(); });
}

// The driver takes some records and refuses the next. Who sees the stop (a client, another executor's
// dispatcher that waits for the stream) reads why, and how far it got.
inline std::string run_stop(Choices& choices, Mutant mutant, bool membarrier, std::size_t records) {
    Scenario it(choices, mutant, membarrier, records);
    constexpr char kWhy[] = "why";
    it.world.add_thread("the dispatcher", false, false, [&it, &kWhy] {
        Page& page = it.pages[0];
        const std::uint64_t handed = kStart + it.records;
        for (std::uint64_t end = kStart + 1; end <= handed + 1; ++end)
            WeakMemory::store_relaxed(page.issued, end);
        const bool state_first = it.world.is(Mutant::state_before_error);
        const bool late = it.world.is(Mutant::issued_taken_back_after_state);
        if (!late) WeakMemory::store_relaxed(page.issued, handed);
        if (state_first) WeakMemory::store_release(page.state, kStopped);
        WeakMemory::write_payload(page.words, kWhy, sizeof kWhy);
        if (!state_first) WeakMemory::store_release(page.state, kStopped);
        if (late) WeakMemory::store_relaxed(page.issued, handed);
    });
    it.world.add_thread("who looks", true, true, [&it, &kWhy] {
        const Page& page = it.pages[0];
        while (WeakMemory::load_acquire(page.state) != kStopped) it.world.pause();
        char why[sizeof kWhy];
        WeakMemory::read_payload(why, page.words, sizeof why);
        if (std::memcmp(why, kWhy, sizeof why) != 0) it.world.fail("the error is torn");
        if (WeakMemory::load_relaxed(page.issued) != kStart + it.records)
            it.world.fail("issued is not where the stop left it");
    });
    return it.world.run([&it] { return it.world.finished(0) && it.world.finished(1); });
}

// One thread of the client takes in the daemon's notices, another launches.
inline std::string run_page(Choices& choices, Mutant mutant, bool membarrier, std::size_t records) {
    Scenario it(choices, mutant, membarrier, records);
    it.world.add_thread("who takes notices in", true, true, [&it] {
        const bool address_first = it.world.is(Mutant::page_address_before_its_words);
        for (std::uint64_t next = 1; next <= 2; ++next) {
            Page& page = it.pages[next];
            if (address_first) WeakMemory::store_release(it.current, next);
            WeakMemory::write_payload(page.words, &next, sizeof next);
            if (next == 1) {  // the daemon's: it stood so before the notice
                WeakMemory::store_relaxed(page.completed, kStart + 3);
            } else {
                WeakMemory::store_relaxed(page.completed, WeakMemory::load_acquire(it.pages[1].completed));
                WeakMemory::store_relaxed(page.state, kClosed);
            }
            if (!address_first) WeakMemory::store_release(it.current, next);
        }
    });
    it.world.add_thread("who launches", true, true, [&it] {
        std::uint64_t completed_before = kStart;
        for (std::uint64_t at = 0; at != 2;) {
            at = WeakMemory::load_acquire(it.current);
            const Page& page = it.pages[at];
            std::uint64_t epoch;
            WeakMemory::read_payload(&epoch, page.words, sizeof epoch);
            if (epoch != at) it.world.fail("a page is seen that is not there yet");
            const std::uint64_t completed = WeakMemory::load_relaxed(page.completed);
            if (completed < completed_before) it.world.fail("completed went back");
            completed_before = completed;
            if (at == 2 && WeakMemory::load_relaxed(page.state) != kClosed)
                it.world.fail("a closed stream looks as if it ran");
            if (at != 2) it.world.pause();
        }
    });
    return it.world.run([&it] { return it.world.finished(0) && it.world.finished(1); });
}

inline std::string run_sample(Choices& choices, Mutant mutant, bool membarrier, std::size_t records) {
    Scenario it(choices, mutant, membarrier, records);
    it.samples = true;
    it.world.add_thread("the producer", true, true, [&it] {
        auto producer = it.producer();
        for (std::size_t i = 0; i < it.records; ++i) it.send(producer, i, it.pages[0]);
    });
    it.world.add_thread("the reader", false, false, [&it] {
        auto reader = it.reader(0, kStart);
        while (!it.all_executed())
            if (!it.look(reader, false)) it.world.pause();
    });
    return it.world.run([&it] { return it.world.finished(0) && it.world.finished(1); });
}

inline std::string run_scenario(Where where, Choices& choices, Mutant mutant, bool membarrier,
                                std::size_t records) {
    switch (where) {
        case Where::ring:
            return run_ring(choices, mutant, membarrier, records);
        case Where::sleep:
            return run_sleep(choices, mutant, membarrier, records);
        case Where::wait:
            return run_wait(choices, mutant, membarrier, records);
        case Where::restart:
            return run_restart(choices, mutant, membarrier, records);
        case Where::stop:
            return run_stop(choices, mutant, membarrier, records);
        case Where::page:
            return run_page(choices, mutant, membarrier, records);
        case Where::sample:
            return run_sample(choices, mutant, membarrier, records);
    }
    return "no such scenario";
}

}  // namespace ringlaunch::model
