/* Sleeping, waking, waiting and the restart of a reader: schema/wakeup.hpp, step by step.
 *
 * Every store goes into its process's buffer (x_local) and reaches memory (x_mem) at any later time; a fence empties the
 * buffer of its process, a membarrier those of the client and of the caller. A client publishes RECORDS records, then waits
 * for them (it may give up once and wait again). With -DRESTART the first reader is killed at any step and the next takes
 * the stream up. Each sleep of a reader has a number, from 1; the client rings once for a page and number, and at every
 * record for ALWAYS. With -DDEVICE a device completes what the reader only issues. With -DFENCES there is no membarrier. When
 * nothing can move, everything must have been done.
 *
 * Mutants: PRODUCER_NO_LOOK PRODUCER_LOOKS_FIRST PRODUCER_NO_FENCE READER_NO_ANNOUNCEMENT READER_ANNOUNCES_LATE
 *          READER_NO_BARRIER READER_FENCES_ONLY_ITSELF READER_NO_SECOND_LOOK READER_TAKES_EDGES_LATE WAITER_NO_FENCE
 *          WAITER_NO_SECOND_LOOK WAITER_NO_DOORBELL WAITER_DRAINS_LATE SECOND_LOOK_WITHOUT_WAITERS DEAD_PAGE_NOT_MARKED
 *          NEXT_READER_NO_FIRST_LOOK NO_NOTICE PRODUCER_RINGS_ONCE SLEEPS_WITHOUT_NUMBERS DEAD_PAGE_MARKED_AS_A_SLEEP
 *          RUNG_WITHOUT_ITS_PAGE; with -DDEVICE also READER_NO_NOTIFICATION
 */
#define RECORDS 2
#define ALWAYS 255

byte published_local, published_mem;    /* the client's: stamps, as a count */
byte wait_local, wait_mem;              /* the client's: wait_position */
chan need_buffer[2] = [3] of { byte };  /* each reader's: need_wakeup of its page, in order */
byte need_mem[2];
byte completed_local[2], completed_mem[2];
bool doorbell, completion;              /* eventfds that are never read: is there an edge that no sleep has taken? */
bool wake, notice;                      /* an eventfd and the socket; the OS orders all four */
byte issued, device_done, notify;       /* the driver's own words, under its lock */
bool dead, client_done, waits;
byte taken;                             /* how many records some reader has run: the test's own note */

/* Has the client rung for this sleep? */
#if defined(PRODUCER_RINGS_ONCE)
#define RUNG (rung_sleep != 0 && rung_page == page)
#elif defined(RUNG_WITHOUT_ITS_PAGE)
#define RUNG (rung_sleep == sleep)
#else
#define RUNG (rung_sleep == sleep && rung_page == page)
#endif
#ifdef SLEEPS_WITHOUT_NUMBERS
#define NEXT_SLEEP number = 1
#else
#define NEXT_SLEEP number++
#endif

inline client_fence() { d_step { published_mem = published_local; wait_mem = wait_local } }

inline reader_fence(me) {
    d_step {
        do
        :: nempty(need_buffer[me]) -> need_buffer[me] ? need_mem[me]
        :: empty(need_buffer[me]) -> break
        od;
#ifndef DEVICE
        completed_mem[me] = completed_local[me]
#else
        skip
#endif
    }
}

/* Buffers empty by themselves, at some time: also those of a process that has died. */
active proctype memory() {
end:
    do
    :: atomic { published_mem < published_local -> published_mem++ }
    :: atomic { wait_mem != wait_local -> wait_mem = wait_local }
    :: atomic { nempty(need_buffer[0]) -> need_buffer[0] ? need_mem[0] }
    :: atomic { completed_mem[0] < completed_local[0] -> completed_mem[0] = completed_local[0] }
#ifdef RESTART
    :: atomic { nempty(need_buffer[1]) -> need_buffer[1] ? need_mem[1] }
    :: atomic { completed_mem[1] < completed_local[1] -> completed_mem[1] = completed_local[1] }
#endif
    od
}

active proctype client() {
    byte i, page, sleep, rung_page, rung_sleep;
    bool gave_up, look;
    if
    :: waits = 0
    :: waits = 1
    fi;
    do
    :: i < RECORDS ->
        i++;
#ifdef PRODUCER_LOOKS_FIRST
        sleep = need_mem[page];
        published_local = i;
#else
        published_local = i;
#if defined(FENCES) && !defined(PRODUCER_NO_FENCE)
        client_fence();
#endif
        sleep = need_mem[page];
#endif
#ifdef PRODUCER_NO_LOOK
        sleep = 0;
#endif
        d_step {
            look = (sleep != 0 && (!RUNG || sleep == ALWAYS));
            if
            :: look -> rung_page = page; rung_sleep = sleep
            :: else
            fi
        };
        if
        :: look ->
            doorbell = 1;
            if
            :: atomic { notice -> notice = 0; page = 1 }
            :: else
            fi
        :: else
        fi
    :: else -> break
    od;
    do
    :: !waits -> break
    :: waits && completed_mem[page] >= RECORDS -> break
    :: else ->
        wake = 0;
        wait_local = RECORDS;
#ifndef WAITER_NO_FENCE
        client_fence();
#endif
        look = 0;
#ifndef WAITER_NO_SECOND_LOOK
        look = (completed_mem[page] >= RECORDS);
#endif
#ifdef WAITER_DRAINS_LATE
        wake = 0;
#endif
        if
        :: look
        :: else ->
#ifndef WAITER_NO_DOORBELL
            if
            :: need_mem[page] -> doorbell = 1
            :: else
            fi;
#endif
            if
            :: wake
            :: atomic { notice -> notice = 0; page = 1 }
            :: !gave_up -> gave_up = 1
            fi
        fi;
        wait_local = 0;
        client_fence()
    od;
    client_done = 1
}

inline look_round(me) {
    found = 0;
    do
    :: position < published_mem ->
        position++;
        taken = (position > taken -> position : taken);
#ifdef DEVICE
        issued = position;
#else
        completed_local[me] = position;
#endif
        found = 1
    :: else -> break
    od
}

#ifdef DEVICE
#define REACHED(me, wanted) (completed_mem[me] >= wanted)
#else
#define REACHED(me, wanted) (position >= wanted)
#endif

inline look_at_waiters(me) {
    seen = wait_mem;
    if
    :: seen != 0 && seen != woken ->
        if
        :: REACHED(me, seen) ->
            woken = seen;
            reader_fence(me);   /* the system call's own lock orders what the waiter is woken to see */
            wake = 1;
            found = 1
        :: else ->
#if defined(DEVICE) && !defined(READER_NO_NOTIFICATION)
            if
            :: position >= seen -> atomic {
                if
                :: device_done >= seen -> completion = 1
                :: else -> notify = seen
                fi }
            :: else
            fi
#else
            skip
#endif
        fi
    :: else
    fi;
    seen = 0
}

#ifdef DEVICE
active proctype device() {
end:
    do
    :: atomic { completed_local[0] < issued -> completed_local[0] = completed_local[0] + 1 };
        atomic {
            completed_mem[0] = completed_local[0];
            device_done = completed_local[0];
            if
            :: notify != 0 && notify <= device_done -> notify = 0; completion = 1
            :: else
            fi
        }
    od
}
#endif

/* Turns for ever. `first`: it looks before it first sleeps. */
inline read(me, first) {
    if
    :: first -> do
                :: look_round(me); look_at_waiters(me);
                    if
                    :: found
                    :: else -> break
                    fi
                od
    :: else
    fi;
    do
    :: true ->
        NEXT_SLEEP;
#if !defined(READER_NO_ANNOUNCEMENT) && !defined(READER_ANNOUNCES_LATE)
        need_buffer[me] ! number;
#endif
#ifndef READER_NO_BARRIER
        reader_fence(me);
#if !defined(FENCES) && !defined(READER_FENCES_ONLY_ITSELF)
        client_fence();         /* the membarrier, at whatever step the client is; its caller's own barriers stand */
        reader_fence(me);       /* before and after, and without the one before it this fails */
#endif
#endif
#ifdef READER_ANNOUNCES_LATE
        need_buffer[me] ! number;
#endif
        found = 0;
#ifndef READER_NO_SECOND_LOOK
        if
        :: first || again ->
            look_round(me);
#ifndef SECOND_LOOK_WITHOUT_WAITERS
            look_at_waiters(me)
#endif
        :: else
        fi;
#endif
#ifdef READER_TAKES_EDGES_LATE
        doorbell = 0;
#endif
        if
        :: found
        :: else -> (doorbell || completion); doorbell = 0; completion = 0
        fi;
        again = 1;
        need_buffer[me] ! 0;
        do
        :: look_round(me); look_at_waiters(me);
            if
            :: found
            :: else -> break
            fi
        od
    od
}

active proctype reader() provided (!dead) {
    byte position, woken, seen, number;
    bool found, again;
    read(0, true)
}

#ifdef RESTART
#ifdef NEXT_READER_NO_FIRST_LOOK
#define FIRST_LOOK false
#else
#define FIRST_LOOK true
#endif

active proctype next_reader() {
    byte position, woken, seen, number;
    bool found, again;
    /* The supervisor: the kill, at any step of the first reader; the reaping orders its stores before what follows. */
    dead = 1;
    reader_fence(0);
    position = completed_mem[0];
    completed_local[1] = position;
    completed_mem[1] = position;
#ifdef DEAD_PAGE_MARKED_AS_A_SLEEP
    need_buffer[0] ! 1;
#elif !defined(DEAD_PAGE_NOT_MARKED)
    need_buffer[0] ! ALWAYS;    /* its own store, which its next barrier orders (the buffer is at hand) */
#endif
#ifndef NO_NOTICE
#ifndef DEAD_PAGE_NOT_MARKED
    reader_fence(0);            /* the socket orders it before the notice */
#endif
    notice = 1;
#endif
    read(1, FIRST_LOOK)
}
#endif

/* When nothing can move any more, nothing may be left undone. */
active proctype judge() {
    timeout -> assert(taken == RECORDS && client_done)
}
