/*
 * The sync protocol (wire v2) for spin: two clients, one database, losses at any moment.
 * README.md beside this file says what it promises, how to run it, and how to read a trail.
 *
 * A database is two pages. What a page holds is a number, new for every write, and a content (of a
 * file, of a version) is a pair of them, which is also its root. Version 0 is the empty database,
 * and its content is 0. Each client has one file with a sidecar, and SESSIONS sessions, one after
 * the other; the server's end of one may outlive the client's, beside the next.
 *
 * Each step of a machine is a MOVE(machine, state, event, state), alone on its line; the comment
 * behind it is the machine's own words: its turn, if several transitions are tried for one event,
 * [its guard] / its action. `tests/model/test_promela.py` holds all of it against the machines,
 * both ways. Who changes a guard or an action has to look at what the model does there.
 *
 * Transitions that are not modelled, with the reason ("same": the state stays):
 *
 * UNMODELLED client_push announcing window_hashed measured 1 [is_measured_empty] / close_measured:
 *     a dry run changes nothing
 * UNMODELLED client_push finishing request_pages measured 1 [is_measured] / count_and_close: so too
 * UNMODELLED client_pull greeting hello_reply measured 2 [is_measured_already] /
 *     note_count_and_close: so too
 * UNMODELLED client_pull preparing replica_prepared measured 1 [would_replace_all] /
 *     close_measured: so too
 * UNMODELLED client_pull drilling drilled_down measured 2 [is_dry_run] / close_measured: so too
 * UNMODELLED client_push announcing|finishing ranges_differ same / answer_mismatch: wire v1
 * UNMODELLED client_pull announcing page_data same / store: wire v1
 * UNMODELLED client_pull announcing pages_stored same / count: wire v1
 * UNMODELLED server_push receiving complete in_sync 1 [nothing_said] / finish_empty: wire v1
 * UNMODELLED server_push settling page_hashes same [are_outstanding] / verify_hashes: wire v1
 * UNMODELLED server_push settling hashes_compared same: wire v1
 * UNMODELLED server_pull comparing pages_read same 2 / send_pages: wire v1, a page that differs is
 *     sent at once
 * UNMODELLED server_pull comparing pages_read same 1 [exhausted]: wire v1, and no more of them
 * UNMODELLED server_push undecided page_hashes|range_hashes|complete refused / refuse_conflict:
 *     only a client of other making goes on here
 * UNMODELLED client_push|client_pull planning error refused / hear_refusal: there is no connection
 *     yet
 * UNMODELLED client_push|client_pull planning failed refused / close_on_failure: there is no
 *     connection yet
 * UNMODELLED client_push|client_pull planning peer_lost lost: there is no connection yet
 * UNMODELLED client_push examining peer_lost lost: nothing is said or heard in it
 * UNMODELLED client_pull preparing|announcing peer_lost lost: nothing is heard in it
 * UNMODELLED server_push|server_pull opening peer_lost lost: as in the state that follows
 * UNMODELLED client_pull applying peer_lost|error same: nothing is heard in it
 * UNMODELLED server_push committing error same: nothing is heard in it
 * UNMODELLED client_push examining|announcing|drilling error refused / hear_refusal: a loss with a
 *     word more
 * UNMODELLED client_pull greeting|preparing|announcing|drilling|receiving error refused /
 *     hear_refusal: so too
 * UNMODELLED server_push awaiting_hello|opening|undecided error refused / hear_refusal: so too
 * UNMODELLED server_push receiving|settling error refused / hear_refusal_and_abandon: so too
 * UNMODELLED server_pull awaiting_hello|opening|comparing|streaming error refused / hear_refusal:
 *     so too
 * UNMODELLED client_push greeting|examining|announcing|drilling|finishing failed refused /
 *     close_on_failure: so too
 * UNMODELLED client_pull greeting|announcing|drilling|receiving failed refused / close_on_failure:
 *     so too
 * UNMODELLED server_push awaiting_hello|opening|undecided failed refused / tell_failure: so too
 * UNMODELLED server_push receiving|settling failed refused / tell_failure_and_abandon: so too
 * UNMODELLED server_pull awaiting_hello|opening|comparing|streaming failed refused / tell_failure:
 *     so too
 *
 * What the machines' guards ask:
 *
 * GUARD client_push roots_equal: self.plan.root is not None and self.plan.root == e.root
 * GUARD client_push content_unknown: self.wire_version > 1 and bool(e.head) and not e.base_known
 * GUARD client_push content_equal: e.root == self.reply.root
 * GUARD client_push is_forced: self.plan is not None and self.plan.force
 * GUARD client_push is_measured_empty: self.plan.dry_run and e.last and not e.windows and not
 *     self.unanswered
 * GUARD client_push is_last: e.last
 * GUARD client_push has_ranges: bool(e.ranges)
 * GUARD client_push is_measured: self.plan is not None and self.plan.dry_run and self.unanswered <=
 *     1
 * GUARD client_pull roots_equal: self.plan.root is not None and self.plan.root == e.root
 * GUARD client_pull is_measured_already: self.plan.dry_run and (self.plan.fresh or e.pages_changed
 *     is not None)
 * GUARD client_pull would_replace_all: self.is_dry_run() and e.announce == "nothing"
 * GUARD client_pull announces_nothing: e.announce == "nothing"
 * GUARD client_pull announces_windows: e.announce == "windows"
 * GUARD client_pull is_last: e.last
 * GUARD client_pull has_ranges: bool(e.ranges)
 * GUARD client_pull is_dry_run: self.plan is not None and self.plan.dry_run
 * GUARD server_push roots_equal: self.greeting.root is not None and self.greeting.root ==
 *     e.head.root
 * GUARD server_push conflicts_without_base: e.conflict is not None and self.greeting.base is None
 * GUARD server_push conflicts: e.conflict is not None
 * GUARD server_push nothing_said: self.speaks_v1 and not self.announced
 * GUARD server_push nothing_outstanding: not self.requested and not self.offered
 * GUARD server_push are_outstanding: self.speaks_v1 and self.requested.covers(e.page_runs)
 * GUARD server_pull roots_equal: self.greeting.root is not None and self.greeting.root ==
 *     e.version.root
 * GUARD server_pull exhausted: e.exhausted
 */

#ifndef SESSIONS
#define SESSIONS 2          /* of each client */
#endif
#ifndef WRITES
#define WRITES 2            /* to client 0's file; client 1's has one less */
#endif

#define CLIENTS 2
#define ALL (CLIENTS * SESSIONS)
#define VERSIONS (ALL + 2)

mtype = {
    /* states */
    planning, greeting, examining, announcing, drilling, finishing, preparing, receiving, applying,
    pushed, pulled, unchanged, refused, lost,
    awaiting_hello, opening, undecided, settling, committing, comparing, streaming,
    in_sync, committed, delivered,
    /* frames; `bye` is the end of a connection, as whoever still listens notices it */
    hello_reply, page_hashes, range_hashes, ranges_differ, request_pages, page_data, complete,
    sync_complete, error, bye
};

#define TEXT(words) #words
#define MOVE(machine, from, event, to) \
    assert(state == from); \
    state = to; \
    printf(TEXT(session %d: machine from -event-> to\n), k)

/* README.md says what each of them is. With -DONLY=name no other is looked at. */
mtype = {
    no_torn_version, no_torn_file, what_is_acknowledged_is_there, no_acknowledged_push_lost,
    no_version_replaced_unseen, a_pull_is_the_version_promised, a_pull_is_one_version,
    no_change_overwritten_unseen, nothing_is_said_out_of_turn, no_deadlock
};

#ifdef ONLY
#define PROMISE(name, holds) assert(name != ONLY || (holds))
#else
#define PROMISE(name, holds) assert(holds)
#endif

/* --- contents: pairs of pages --------------------------------------------------------------- */

#define NIL 255             /* no base, no root */
#define PAIR(one, two) ((one) * 16 + (two))
#define ONE(content) ((content) / 16)
#define TWO(content) ((content) % 16)
#define PAGE(content, page) ((page) == 1 -> ONE(content) : TWO(content))
#define WITH(content, page, what) \
    ((page) == 1 -> PAIR(what, TWO(content)) : PAIR(ONE(content), what))

/* Sets of pages: 1, 2, or 3 for both. */
#define BOTH 3
#define DIFFERENCE(x, y) ((ONE(x) != ONE(y) -> 1 : 0) + (TWO(x) != TWO(y) -> 2 : 0))
#define WITHOUT(pages, page) ((pages) & (BOTH - (page)))

/* --- the log, which is all that several sessions share --------------------------------------- */

byte head;                     /* the number of the newest version */
byte version[VERSIONS];        /* the content of each */
bool told[VERSIONS];           /* a client was told that its push is this version */

/* --- the wire -------------------------------------------------------------------------------- */

/* An end sends when its last frame has been taken: one frame of buffer. That the connection is over
   can always be said.

   A cut, a crash and a kill look alike: an end says nothing more, and what it had not heard is
   lost. Each end may be lost at each step; in one session it is one of the two (`mortal`), for an
   end whose peer is gone changes nothing any more, but for a commit that is on its way. A server's
   crash is the loss of all its sessions; here each is lost by itself, which includes all at once,
   and is what several server processes see. */
chan to_server[ALL] = [2] of { mtype, byte, byte, byte };
chan to_client[ALL] = [2] of { mtype, byte, byte, byte };

/* hello and what the token says: base, root, one of these (+ MORTAL if the server is the one). It
   is read when it is sent, for until then nothing has happened: the session might begin later. */
chan hello_of[ALL] = [0] of { byte, byte, byte };
#define PUSH 0
#define FORCED_PUSH 1
#define PULL 2
#define MORTAL 4

/* What one session of a client leaves to its next: content, base, the base's content, writes. */
chan turn[ALL + CLIENTS] = [1] of { byte, byte, byte, byte };

#ifdef TWO_FRAMES
#define SAY(frame, a, b, c) out!frame(a, b, c)
#else
#define SAY(frame, a, b, c) \
    empty(out); \
    out!frame(a, b, c)
#endif

#define OVER \
    (state == pushed || state == pulled || state == unchanged || state == in_sync \
     || state == committed || state == delivered || state == refused || state == lost)

/* The connection is over here; whatever still comes is not looked at. */
inline drain() {
    do
    :: !heard_bye -> atomic { in?frame(_, _, _); heard_bye = (frame == bye); frame = 0 }
    :: heard_bye -> break
    od
}

#include "server.pml"
#include "client_push.pml"
#include "client_pull.pml"
#include "client.pml"

/* --- how it begins --------------------------------------------------------------------------- */

/* The database is empty, or has one version, which each client has or has not; then the others have
   no file. */
init {
    byte k, client;
    byte content[CLIENTS], base[CLIENTS];

    atomic {
        base[0] = NIL; base[1] = NIL;
        if
        :: true
        :: head = 1;
            version[1] = PAIR(1, 1);
            if
            :: content[0] = version[1]; base[0] = 1
            :: true
            fi;
            if
            :: content[1] = version[1]; base[1] = 1
            :: true
            fi
        fi;
        do
        :: k < ALL ->
            client = k / SESSIONS;
            run Server(k, hello_of[k], to_server[k], to_client[k]);
            run Client(k, client, hello_of[k], to_client[k], to_server[k], turn[k],
                turn[(k % SESSIONS == SESSIONS - 1 -> ALL + client : k + 1)]);
            k++
        :: k == ALL -> break
        od;
        turn[0]!content[0], base[0], content[0], 0;
        turn[SESSIONS]!content[1], base[1], content[1], 0;
        k = 0; client = 0; content[0] = 0; content[1] = 0; base[0] = 0; base[1] = 0
    }
}
