/*
 * The sync protocol (wire v2) for spin: two clients, one database, losses at any moment.
 * README.md beside this file says what it promises, how to run it, and how to read a trail.
 *
 * A database is two pages. What a page holds is a number, new for every write, and a content (of a
 * file, of a version) is a pair of them, which is also its root. Version 0 is the empty database,
 * and its content is 0. Each client has one file with a sidecar, and SESSIONS sessions, one after
 * the other; the server's end of one may outlive the client's, beside the next.
 *
 * Each step of a machine is a MOVE(machine, state, event, state), alone on its line. `tests/model/
 * test_promela.py` holds them against the machines' declared tables, both ways. Transitions that
 * are not modelled are named here, with the reason ("same": the state stays):
 *
 * UNMODELLED client_push announcing window_hashed measured: a dry run changes nothing
 * UNMODELLED client_push finishing request_pages measured: a dry run changes nothing
 * UNMODELLED client_pull greeting hello_reply measured: a dry run changes nothing
 * UNMODELLED client_pull preparing replica_prepared measured: a dry run changes nothing
 * UNMODELLED client_pull drilling drilled_down measured: a dry run changes nothing
 * UNMODELLED client_push announcing|finishing ranges_differ same: wire v1
 * UNMODELLED client_pull announcing page_data|pages_stored same: wire v1
 * UNMODELLED server_push receiving complete in_sync: wire v1
 * UNMODELLED server_push settling page_hashes|hashes_compared same: wire v1
 * UNMODELLED server_pull comparing pages_read same: wire v1, a page that differs is sent at once
 * UNMODELLED server_pull comparing pages_read same: wire v1, and no more of them
 * UNMODELLED server_push undecided page_hashes refused: only a client of other making goes on here
 * UNMODELLED server_push undecided range_hashes refused: only a client of other making goes on here
 * UNMODELLED server_push undecided complete refused: only a client of other making goes on here
 * UNMODELLED client_push planning error|failed refused: there is no connection yet
 * UNMODELLED client_pull planning error|failed refused: there is no connection yet
 * UNMODELLED client_push planning peer_lost lost: there is no connection yet
 * UNMODELLED client_pull planning peer_lost lost: there is no connection yet
 * UNMODELLED client_push examining peer_lost lost: nothing is said or heard in it
 * UNMODELLED client_pull preparing|announcing peer_lost lost: nothing is heard in it
 * UNMODELLED server_push opening peer_lost lost: as in the state that follows
 * UNMODELLED server_pull opening peer_lost lost: as in the state that follows
 * UNMODELLED client_pull applying peer_lost same: nothing is heard in it
 * UNMODELLED client_push examining|announcing|drilling error refused: a loss with a word more
 * UNMODELLED client_pull greeting|preparing|announcing|drilling|receiving error refused: so too
 * UNMODELLED client_pull applying error same: nothing is heard in it
 * UNMODELLED server_push awaiting_hello|opening|undecided|receiving|settling error refused: so too
 * UNMODELLED server_pull awaiting_hello|opening|comparing|streaming error refused: so too
 * UNMODELLED server_push committing error same: nothing is heard in it
 * UNMODELLED client_push greeting|examining|announcing|drilling|finishing failed refused: so too
 * UNMODELLED client_pull greeting|announcing|drilling|receiving failed refused: so too
 * UNMODELLED server_push awaiting_hello|opening|undecided|receiving|settling failed refused: so too
 * UNMODELLED server_pull awaiting_hello|opening|comparing|streaming failed refused: so too
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

#define PROMISE(name, holds) assert(holds)

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

/* --- the server's end of a push -------------------------------------------------------------- */

/* The version that hello builds on: the base it names, or the newest with the root it names. */
inline find_base() {
    known = base;
    if
    :: base == NIL && root != NIL ->
        at = head;
        do
        :: at > 0 && version[at] != root -> at--
        :: at > 0 && version[at] == root -> known = at; break
        :: at == 0 -> break
        od
    :: else
    fi;
    at = 0
}

inline open_push() {
    opened = head;
    opened_root = version[head];
    find_base();
#ifdef LAST_WINS
    conflict = false;
#else
    conflict = (head != 0 && !force && known != head);
#endif
    /* Pages never announced are the base's; a page that the base, or else the head, has is held. */
    staged = (known == NIL -> 0 : version[known]);
    held = (known == NIL -> opened_root : staged);
#ifdef MIXED
    staged = opened_root;
#endif
    if
    :: root == opened_root ->
        out!hello_reply(opened, opened_root, known != NIL);
        MOVE(server_push, opening, push_opened, in_sync)
    :: root != opened_root && conflict && base == NIL ->
        out!hello_reply(opened, opened_root, false);
        MOVE(server_push, opening, push_opened, undecided)
    :: root != opened_root && conflict && base != NIL ->
        out!error(0, 0, 0);
        MOVE(server_push, opening, push_opened, refused)
    :: root != opened_root && !conflict ->
        out!hello_reply(opened, opened_root, known != NIL);
        MOVE(server_push, opening, push_opened, receiving)
    fi;
    conflict = false;
    root = 0
}

inline hear_push() {
    if
    :: frame == range_hashes && state == receiving ->
        MOVE(server_push, receiving, range_hashes, receiving);
        SAY(ranges_differ, BOTH, 0, 0);
        MOVE(server_push, receiving, ranges_compared, receiving)
    :: frame == page_hashes && state == receiving ->
        MOVE(server_push, receiving, page_hashes, receiving);
        /* Page 1 may have been staged by a push that was interrupted. */
        if
        :: PAGE(held, a) != b -> missing = missing | a; c = a
        :: PAGE(held, a) == b || a == 1 -> staged = WITH(staged, a, b)
        fi;
        MOVE(server_push, receiving, hashes_compared, receiving);
#ifdef SILENT
        if
        :: c != 0 -> SAY(request_pages, c, 0, 0)
        :: c == 0
        fi
#else
        SAY(request_pages, c, 0, 0)
#endif
    :: frame == page_data && state == receiving ->
        MOVE(server_push, receiving, page_data, receiving);
        staged = WITH(staged, a, b);
        missing = WITHOUT(missing, a);
        MOVE(server_push, receiving, pages_staged, receiving)
    :: frame == complete && state == receiving ->
        root = a;
        if
        :: missing == 0 ->
            MOVE(server_push, receiving, complete, committing)
        :: missing != 0 ->
            MOVE(server_push, receiving, complete, settling)
        fi
    :: frame == page_data && state == settling ->
        MOVE(server_push, settling, page_data, settling);
        staged = WITH(staged, a, b);
        missing = WITHOUT(missing, a);
        if
#ifdef COMMIT_EARLY
        :: true ->
#else
        :: missing == 0 ->
#endif
            MOVE(server_push, settling, pages_staged, committing)
        :: missing != 0 ->
            MOVE(server_push, settling, pages_staged, settling)
        fi
    :: frame == bye && state == undecided ->
        MOVE(server_push, undecided, peer_lost, lost)
    :: frame == bye && state == receiving ->
        MOVE(server_push, receiving, peer_lost, lost)
    :: frame == bye && state == settling ->
        MOVE(server_push, settling, peer_lost, lost)
    :: else -> PROMISE(nothing_is_said_out_of_turn, false)
    fi
}

/* The log's compare-and-swap: one step, or none. A version and its pages appear together. */
inline append(number) {
    PROMISE(no_torn_version, staged == root);
    PROMISE(no_acknowledged_push_lost, !told[number]);
    PROMISE(no_version_replaced_unseen, force || head == 0 || known == head);
    version[number] = staged;
    head = number;
    at = number;
    done = true;
    printf("session %d: version %d is (%d, %d)\n", k, at, ONE(staged), TWO(staged))
}

inline commit() {
    if
    :: opened != 0 && opened_root == root -> at = opened; done = true
#ifdef NO_CAS
    :: else -> append(opened + 1)
#else
    :: else ->
        if
        :: head == opened -> append(opened + 1)
        :: head != opened ->
            opened = head;
            opened_root = version[head];
            conflict = (opened_root != root && !force)
        fi
#endif
    fi
}

inline finish_push() {
#ifdef ACK_EARLY
    atomic { SAY(sync_complete, opened + 1, root, 0) };
#endif
    do
    :: !done && !conflict -> atomic { commit() }
    :: done || conflict -> break
    od;
    atomic {
        if
        :: done ->
            MOVE(server_push, committing, push_committed, committed);
#ifndef ACK_EARLY
            SAY(sync_complete, at, root, 0)
#endif
        :: conflict ->
            /* The end of a race that was lost: the commit fails, and the client is told. */
            MOVE(server_push, committing, failed, refused);
            SAY(error, 0, 0, 0)
        :: mortal ->
            /* With a version that stands, and of which nobody was told; or with none. */
            MOVE(server_push, committing, peer_lost, lost)
        fi
    }
}

/* --- the server's end of a pull -------------------------------------------------------------- */

inline open_pull() {
    find_base();
    at = head;
    opened_root = version[head];
    if
    :: root == opened_root ->
        out!hello_reply(at, opened_root, false);
        MOVE(server_pull, opening, pull_opened, in_sync)
    :: root != opened_root ->
        missing = (opened_root == 0 -> 0 : BOTH);
        if
        :: known != NIL && known != 0 -> missing = missing & DIFFERENCE(opened_root, version[known])
        :: else -> known = NIL
        fi;
        out!hello_reply(at, opened_root, known != NIL);
        MOVE(server_pull, opening, pull_opened, comparing)
    fi;
    root = 0; known = 0; base = 0
}

inline hear_pull() {
    if
    :: frame == page_hashes ->
        MOVE(server_pull, comparing, page_hashes, comparing);
        missing = (PAGE(opened_root, a) == b -> WITHOUT(missing, a) : missing | a);
        MOVE(server_pull, comparing, hashes_compared, comparing)
    :: frame == range_hashes ->
        MOVE(server_pull, comparing, range_hashes, comparing);
        missing = (a == opened_root || opened_root == 0 -> 0 : BOTH);
        SAY(ranges_differ, missing, 0, 0);
        MOVE(server_pull, comparing, ranges_compared, comparing)
    :: frame == complete ->
        MOVE(server_pull, comparing, complete, streaming)
    :: frame == bye ->
        MOVE(server_pull, comparing, peer_lost, lost)
    :: else -> PROMISE(nothing_is_said_out_of_turn, false)
    fi
}

#ifdef READ_HEAD
#define PULLED version[head]
#else
#define PULLED opened_root
#endif

inline stream() {
    do
    :: state == streaming && missing != 0 ->
        atomic {
            a = (missing == 2 -> 2 : 1);
            missing = WITHOUT(missing, a);
            MOVE(server_pull, streaming, pages_read, streaming);
            SAY(page_data, a, PAGE(PULLED, a), 0);
            a = 0
        }
    :: state == streaming && missing == 0 ->
        atomic {
            MOVE(server_pull, streaming, pages_read, delivered);
            SAY(sync_complete, at, opened_root, 0)
        }
    :: state == streaming && mortal ->
        atomic {
            MOVE(server_pull, streaming, peer_lost, lost)
        }
    :: state != streaming -> break
    od
}

/* --- the server's end ------------------------------------------------------------------------ */

/* The server is lost while it waits for the next frame. */
inline server_may_be_lost() {
    if
    :: mortal && state == receiving ->
        MOVE(server_push, receiving, peer_lost, lost)
    :: mortal && state == settling ->
        MOVE(server_push, settling, peer_lost, lost)
    :: mortal && state == comparing ->
        MOVE(server_pull, comparing, peer_lost, lost)
    :: true
    fi
}

inline greet_client() {
    if
    :: mortal && !pulling ->
        MOVE(server_push, awaiting_hello, peer_lost, lost)
    :: mortal && pulling ->
        MOVE(server_pull, awaiting_hello, peer_lost, lost)
    :: !pulling ->
        MOVE(server_push, awaiting_hello, hello, opening);
        open_push()
    :: pulling ->
        MOVE(server_pull, awaiting_hello, hello, opening);
        open_pull()
    fi
}

proctype Server(byte k; chan hello; chan in; chan out) {
    mtype state = awaiting_hello;
    mtype frame;
    byte a, b, c;                       /* what frames carry */
    byte base, root, known;             /* of hello: the base named, the root, the base found */
    byte opened, opened_root, at;       /* the head at the opening; the version made or pulled */
    byte held, staged, missing;
    bool force, pulling, mortal, conflict, done, heard_bye;
    xr in;
    xs out;

end_unused:
    atomic {
        hello?base, root, a ->
        mortal = a / MORTAL;
        pulling = (a % MORTAL == PULL);
        force = (a % MORTAL == FORCED_PUSH);
        a = 0;
        greet_client();
        if
        :: mortal && state == undecided ->
            MOVE(server_push, undecided, peer_lost, lost)
        :: mortal && state == receiving ->
            MOVE(server_push, receiving, peer_lost, lost)
        :: mortal && state == comparing ->
            MOVE(server_pull, comparing, peer_lost, lost)
        :: true
        fi
    };
    do
    :: OVER || state == committing || state == streaming -> break
    :: else ->
        atomic {
            in?frame(a, b, c);
            heard_bye = (frame == bye);
            if
            :: !pulling -> hear_push()
            :: pulling -> hear_pull()
            fi;
            frame = 0; a = 0; b = 0; c = 0;
            server_may_be_lost()
        }
    od;
    if
    :: state == committing -> finish_push()
    :: state == streaming -> stream()
    :: OVER
    fi;
    atomic {
        /* Forgotten, so that spin does not tell the same states apart by it. */
        base = 0; root = 0; known = 0; opened = 0; opened_root = 0; at = 0;
        held = 0; staged = 0; missing = 0;
        force = 0; pulling = 0; mortal = 0; conflict = 0; done = 0;
        state = 0;
        out!bye(0, 0, 0)
    };
    drain();
end_over:
    false
}

/* --- the client's end of a push -------------------------------------------------------------- */

#define CHANGED (base == NIL || content != base_content)

/* The sidecar, unless the client dies first: what was done stands, and is not remembered. */
inline remember(number) {
    if
    :: base = (content == 0 -> NIL : number);
        base_content = content
    :: mortal
    fi
}

inline hear_greeting_of_push() {
    if
    :: base != NIL && planned == b ->
        MOVE(client_push, greeting, hello_reply, unchanged);
        told_of = a;
        remember(a)
    :: !(base != NIL && planned == b) && a != 0 && !c ->
        MOVE(client_push, greeting, hello_reply, examining);
        if
        :: planned == b ->
            MOVE(client_push, examining, content_hashed, unchanged);
            told_of = a;
            remember(a)
        :: planned != b && force ->
            MOVE(client_push, examining, content_hashed, drilling);
            MOVE(client_push, drilling, drilled_down, drilling);
            SAY(range_hashes, planned, 0, 0)
        :: planned != b && !force ->
            MOVE(client_push, examining, content_hashed, refused)
        fi
    :: !(base != NIL && planned == b) && (a == 0 || c) ->
        MOVE(client_push, greeting, hello_reply, announcing);
        pages = (c -> DIFFERENCE(planned, base_content) : BOTH);
        may_announce = true
    fi
}

inline hear_as_pusher() {
    if
    :: state == greeting && frame == hello_reply -> hear_greeting_of_push()
    :: state == greeting && frame == error ->
        MOVE(client_push, greeting, error, refused)
    :: state == greeting && frame == bye ->
        MOVE(client_push, greeting, peer_lost, lost)
    :: state == drilling && frame == ranges_differ ->
        MOVE(client_push, drilling, ranges_differ, drilling);
        MOVE(client_push, drilling, drilled_down, announcing);
        pages = a;
        may_announce = true
    :: state == drilling && frame == bye ->
        MOVE(client_push, drilling, peer_lost, lost)
    :: state == announcing && frame == request_pages ->
        MOVE(client_push, announcing, request_pages, announcing);
        if
        :: a != 0 ->
            SAY(page_data, a, PAGE(planned, a), 0);
            MOVE(client_push, announcing, pages_loaded, announcing)
        :: a == 0
        fi;
        may_announce = true
    :: state == announcing && frame == bye ->
        MOVE(client_push, announcing, peer_lost, lost)
    :: state == finishing && frame == request_pages ->
        MOVE(client_push, finishing, request_pages, finishing);
        if
        :: a != 0 ->
            SAY(page_data, a, PAGE(planned, a), 0);
            MOVE(client_push, finishing, pages_loaded, finishing)
        :: a == 0
        fi
    :: state == finishing && frame == sync_complete ->
        MOVE(client_push, finishing, sync_complete, pushed);
        told_of = a;
        remember(a)
    :: state == finishing && frame == error ->
        MOVE(client_push, finishing, error, refused)
    :: state == finishing && frame == bye ->
        MOVE(client_push, finishing, peer_lost, lost)
    :: else -> PROMISE(nothing_is_said_out_of_turn, false)
    fi
}

/* A window is a page. The second may follow the first at once, or wait for its answer, as the
   window after the last that may be announced ahead does. */
inline announce_as_pusher() {
    if
    :: may_announce && pages == BOTH ->
        SAY(page_hashes, 1, ONE(planned), 0);
        pages = 2;
        MOVE(client_push, announcing, window_hashed, announcing);
        if
        :: may_announce = false
        :: true
        fi
    :: else
    fi;
    if
    :: may_announce ->
        if
        :: pages != 0 -> SAY(page_hashes, pages, PAGE(planned, pages), 0)
        :: pages == 0
        fi;
        MOVE(client_push, announcing, window_hashed, finishing);
        pages = 0;
        may_announce = false;
        if
        :: true -> SAY(complete, planned, 0, 0)
        :: mortal ->
            MOVE(client_push, finishing, peer_lost, lost)
        fi
    :: else
    fi
}

/* --- the client's end of a pull -------------------------------------------------------------- */

/* Whether a change that is nowhere else would be lost. A file without a sidecar may still be one of
   the versions (the server found its root), and any file may be the very version pulled. */
#ifdef OVERWRITE
#define WOULD_LOSE false
#else
#define WOULD_LOSE \
    (planned != 0 && CHANGED && !force && !(base == NIL && c) && planned != b)
#endif

inline hear_greeting_of_pull() {
    if
    :: named == b ->
        MOVE(client_pull, greeting, hello_reply, unchanged);
        if
        :: force || !CHANGED || base == NIL -> remember(a)
        :: else
        fi
    :: named != b ->
        MOVE(client_pull, greeting, hello_reply, preparing);
        pulled_version = a;
        pulled_root = b;
        aside = planned;
        if
        :: WOULD_LOSE ->
            MOVE(client_pull, preparing, failed, refused)
        :: !WOULD_LOSE && (planned == 0 || (c && (base == NIL || !CHANGED))) ->
            MOVE(client_pull, preparing, replica_prepared, receiving);
            SAY(complete, 0, 0, 0)
        :: !WOULD_LOSE && planned != 0 && c && base != NIL && CHANGED ->
            MOVE(client_pull, preparing, replica_prepared, announcing);
            pages = DIFFERENCE(planned, base_content);
            may_announce = true
        :: !WOULD_LOSE && planned != 0 && !c ->
            MOVE(client_pull, preparing, replica_prepared, drilling);
            MOVE(client_pull, drilling, drilled_down, drilling);
            SAY(range_hashes, planned, 0, 0)
        fi
    fi
}

inline hear_as_puller() {
    if
    :: state == greeting && frame == hello_reply -> hear_greeting_of_pull()
    :: state == greeting && frame == bye ->
        MOVE(client_pull, greeting, peer_lost, lost)
    :: state == drilling && frame == ranges_differ ->
        MOVE(client_pull, drilling, ranges_differ, drilling);
        MOVE(client_pull, drilling, drilled_down, announcing);
        pages = a;
        may_announce = true
    :: state == drilling && frame == bye ->
        MOVE(client_pull, drilling, peer_lost, lost)
    :: state == receiving && frame == page_data ->
        MOVE(client_pull, receiving, page_data, receiving);
        aside = WITH(aside, a, b);
        MOVE(client_pull, receiving, pages_stored, receiving)
    :: state == receiving && frame == sync_complete ->
        PROMISE(a_pull_is_the_version_promised, a == pulled_version && b == pulled_root);
        MOVE(client_pull, receiving, sync_complete, applying);
        apply()
    :: state == receiving && frame == bye ->
        MOVE(client_pull, receiving, peer_lost, lost)
    :: else -> PROMISE(nothing_is_said_out_of_turn, false)
    fi
}

inline announce_as_puller() {
    if
    :: may_announce && pages == BOTH ->
        SAY(page_hashes, 1, ONE(planned), 0);
        pages = 2;
        MOVE(client_pull, announcing, window_hashed, announcing)
    :: else
    fi;
    if
    :: may_announce ->
        if
        :: pages != 0 -> SAY(page_hashes, pages, PAGE(planned, pages), 0)
        :: pages == 0
        fi;
        MOVE(client_pull, announcing, window_hashed, receiving);
        pages = 0;
        may_announce = false;
        if
        :: true -> SAY(complete, 0, 0, 0)
        :: mortal ->
            MOVE(client_pull, receiving, peer_lost, lost)
        fi
    :: else
    fi
}

/* Installed in one step, unless an application has written since the file was read. The check of
   the root is left out, and so is the server's before a commit: they would hide what goes wrong. */
inline apply() {
    if
    :: writes < WRITES - me -> write_file()
    :: true
    fi;
#ifdef BLIND_APPLY
    if
    :: false
#else
    if
    :: content != planned ->
        MOVE(client_pull, applying, failed, refused)
#endif
    :: else ->
        overwritten = content;
        content = (pulled_root == 0 -> 0 : aside);
        MOVE(client_pull, applying, version_applied, pulled);
        remember(pulled_version)
    fi
}

/* --- the client's end ------------------------------------------------------------------------ */

/* The application's commit: client 0's changes page 1, client 1's both; a new file has both. */
inline write_file() {
    what = 2 + me + CLIENTS * writes;
    writes++;
    if
    :: content == 0 || me == 1 -> content = PAIR(what, what)
    :: content != 0 && me == 0 -> content = WITH(content, 1, what)
    fi;
    printf("client %d: writes (%d, %d)\n", me, ONE(content), TWO(content));
    what = 0
}

/* The client is lost while it waits for the next frame. */
inline client_may_be_lost() {
    if
    :: mortal && state == drilling && !pulling ->
        MOVE(client_push, drilling, peer_lost, lost)
    :: mortal && state == announcing ->
        MOVE(client_push, announcing, peer_lost, lost)
    :: mortal && state == finishing ->
        MOVE(client_push, finishing, peer_lost, lost)
    :: mortal && state == drilling && pulling ->
        MOVE(client_pull, drilling, peer_lost, lost)
    :: mortal && state == receiving ->
        MOVE(client_pull, receiving, peer_lost, lost)
    :: true
    fi
}

/* What the user will do, whom it will befall, and what is said first. */
inline begin() {
    if
    :: writes < WRITES - me -> write_file()
    :: true
    fi;
    planned = content;          /* one read transaction */
    if
    :: content != 0 -> force = true
    :: true
    fi;
    if
    :: mortal = true
    :: a = MORTAL
    :: true
    fi;
    state = planning;
    if
    :: content != 0 ->
        a = a + (force -> FORCED_PUSH : PUSH);
        named = (base == NIL -> NIL : content);
        MOVE(client_push, planning, push_planned, greeting)
    :: true ->
        pulling = true;
        a = a + PULL;
        /* Unforced with changes it names the base's root: if nothing is newer, they stay. */
        named = (content == 0 -> NIL : (base != NIL && !force -> base_content : content));
        MOVE(client_pull, planning, pull_planned, greeting)
    fi
}

/* What the client was told, and what it did, against the log itself. */
inline judge() {
    if
    :: told_of != 0 ->
        PROMISE(what_is_acknowledged_is_there, told_of <= head && version[told_of] == planned);
        told[told_of] = true
    :: state == pulled ->
        PROMISE(a_pull_is_one_version, content == version[pulled_version]);
        at = head;
        do
        :: at > 0 && version[at] != overwritten -> at--
        :: at == 0 || version[at] == overwritten -> break
        od;
        PROMISE(no_change_overwritten_unseen,
            version[at] == overwritten || (force && overwritten == planned));
        at = 0
    fi
}

proctype Client(byte k; byte me; chan hello; chan in; chan out; chan mine; chan next) {
    mtype state, frame;
    byte content, base, base_content, writes;
    byte a, b, c;                       /* what frames carry */
    byte what, at, planned, named, pages, told_of;
    byte aside, pulled_version, pulled_root, overwritten;
    bool force, pulling, mortal, may_announce, heard_bye;
    xr in;
    xs out;
    xr mine;
    xs next;

end_unused:
    atomic {
        mine?content, base, base_content, writes ->
        begin();
        hello!base, named, a
    };
    atomic {
        a = 0;
        if
        :: mortal && !pulling ->
            MOVE(client_push, greeting, peer_lost, lost)
        :: mortal && pulling ->
            MOVE(client_pull, greeting, peer_lost, lost)
        :: true
        fi
    };
    do
    :: OVER -> break
    :: else ->
        atomic {
            in?frame(a, b, c);
            heard_bye = (frame == bye);
            if
            :: !pulling ->
                hear_as_pusher();
                announce_as_pusher()
            :: pulling ->
                hear_as_puller();
                announce_as_puller()
            fi;
            frame = 0; a = 0; b = 0; c = 0;
            client_may_be_lost()
        }
    od;
    if
    :: told_of != 0 || state == pulled -> atomic { judge() }
    :: else
    fi;
    atomic {
        if
        :: k % SESSIONS != SESSIONS - 1 -> next!content, base, base_content, writes
        :: else
        fi;
        content = 0; base = 0; base_content = 0; writes = 0;
        planned = 0; named = 0; pages = 0; told_of = 0;
        aside = 0; pulled_version = 0; pulled_root = 0; overwritten = 0;
        force = 0; pulling = 0; mortal = 0; may_announce = 0;
        state = 0;
        out!bye(0, 0, 0)
    };
    drain();
end_over:
    false
}

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
