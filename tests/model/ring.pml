/* The ring of schema/ring.hpp: records of one and two slots through a ring of four, with padding and slot reuse.
 *
 * The producer's stores go through a buffer that empties in any order, except that a release store leaves it only after
 * all before it, and stores to one place stay in order (weaker than any machine we run on). The reader may be killed after
 * any record and a new one starts at `completed`. Safety only: each record the reader takes is whole and is the next one.
 *
 * Mutants (spin -D...): HEAD_RELAXED STAMP_FIRST PEEK_RELAXED COMPLETED_EARLY ONE_SLOT_MORE ONE_LAP_MORE LAPLESS_STAMP
 *                       NO_PADDING_ROOM RESTART_AT_ISSUED
 */
#define SLOTS   4
#define RECORDS 5
#define BUFFER  6
#define PAD     3

#ifdef ONE_SLOT_MORE
#define SLACK 1
#else
#ifdef ONE_LAP_MORE
#define SLACK SLOTS
#else
#define SLACK 0
#endif
#endif

#ifdef HEAD_RELAXED
#define RELEASE 0
#else
#define RELEASE 1
#endif

#ifdef LAPLESS_STAMP
#define STAMP(p) ((p) % SLOTS + 1)
#else
#define STAMP(p) ((p) + 1)
#endif
#define CONTINUES(p) (128 + (p) + 1)

/* Shared memory. A head's payload is number * 4 + slots (PAD: padding), a continuation's its record's number + 1. */
byte stamp[SLOTS];
byte payload[SLOTS];
byte completed;

/* The producer's store buffer. */
bool is_stamp[BUFFER];
byte slot[BUFFER];
byte value[BUFFER];
bool release[BUFFER];
byte length;

byte sizes[RECORDS];    /* slots of each record, chosen by the producer; the reader must find the same */

inline store(what, p, v, rel) {
    d_step {
        length < BUFFER ->
        is_stamp[length] = what; slot[length] = (p) % SLOTS; value[length] = v; release[length] = rel;
        length++
    }
}

active proctype memory() {
    byte i, j;
    bool allowed;
end:
    do
    :: atomic {
        length > 0 ->
        i = 0;
        do
        :: i + 1 < length -> i++
        :: break
        od;
        allowed = (!release[i] || i == 0);
        j = 0;
        do
        :: j < i -> if
                    :: is_stamp[j] == is_stamp[i] && slot[j] == slot[i] -> allowed = 0
                    :: else
                    fi; j++
        :: else -> break
        od;
        if
        :: allowed ->
            if
            :: is_stamp[i] -> stamp[slot[i]] = value[i]
            :: else -> payload[slot[i]] = value[i]
            fi;
            do
            :: i + 1 < length ->
                is_stamp[i] = is_stamp[i + 1]; slot[i] = slot[i + 1]; value[i] = value[i + 1]; release[i] = release[i + 1];
                i++
            :: else -> break
            od;
            length--;
            is_stamp[length] = 0; slot[length] = 0; value[length] = 0; release[length] = 0
        :: else
        fi;
        i = 0; j = 0; allowed = 0
    }
    od
}

inline publish(p, v) {
#ifdef STAMP_FIRST
    store(1, p, STAMP(p), RELEASE);
    store(0, p, v, 0)
#else
    store(0, p, v, 0);
    store(1, p, STAMP(p), RELEASE)
#endif
}

active proctype producer() {
    byte position, number, slots, padding, seen;
    do
    :: number < RECORDS ->
        if
        :: slots = 1
        :: slots = 2
        fi;
        sizes[number] = slots;
        padding = (slots > SLOTS - position % SLOTS -> SLOTS - position % SLOTS : 0);
        do
#ifdef NO_PADDING_ROOM
        :: position + slots <= seen + SLOTS -> break
        :: position + slots > seen + SLOTS -> atomic { completed > seen -> seen = completed }
#else
        :: position + padding + slots <= seen + SLOTS + SLACK -> break
        :: position + padding + slots > seen + SLOTS + SLACK -> atomic { completed > seen -> seen = completed }
#endif
        od;
        if
        :: padding > 0 -> publish(position, PAD); position = position + padding
        :: else
        fi;
        if
        :: slots == 2 ->
            store(1, position + 1, CONTINUES(position + 1), 0);
            store(0, position + 1, number + 1, 0)
        :: else
        fi;
        publish(position, number * 4 + slots);
        position = position + slots;
        number++
    :: else -> break
    od
}

active proctype reader() {
    byte position, number, head, rest, issued_number, completed_number;
    bool early, restarted;
    do
    :: number < RECORDS ->
#ifdef PEEK_RELAXED
        /* The payload may be loaded before the stamp is. */
        if
        :: early = 1; head = payload[position % SLOTS]
        :: early = 0
        fi;
#endif
        stamp[position % SLOTS] == STAMP(position);
#ifdef COMPLETED_EARLY
        completed = position + sizes[number];
#endif
        if
        :: early
        :: else -> head = payload[position % SLOTS]
        fi;
        if
        :: head == PAD ->
            assert(position % SLOTS != 0);
            position = position + (SLOTS - position % SLOTS)
        :: else ->
            assert(head == number * 4 + sizes[number]);
            if
            :: sizes[number] == 2 ->
                assert(stamp[(position + 1) % SLOTS] == CONTINUES(position + 1));
                rest = payload[(position + 1) % SLOTS];
                assert(rest == number + 1)
            :: else
            fi;
            position = position + sizes[number];
            number++
        fi;
        if
        :: !restarted -> /* killed before it said so: the next one starts at `completed` */
            restarted = 1;
#ifdef RESTART_AT_ISSUED
            number = completed_number;
#else
            position = completed; number = completed_number;
#endif
        :: true -> completed = position; completed_number = number
        fi;
        head = 0; rest = 0; early = 0
    :: else -> break
    od
}
