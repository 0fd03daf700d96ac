/*
 * The sync protocol (wire v2) for spin: two clients, one database, cuts and crashes at any moment.
 *
 * Checked exhaustively, by `make model-check`:
 *   - no torn version: a version holds two pages of one content, that of its push;
 *   - no lost acknowledged push: what a client was told stays in its place in the history;
 *   - no unseen loss: an unforced push replaces only the version it is based on, and an unforced
 *     pull only a file without changes of its own;
 *   - a pull gives exactly the version it names, and its file is never part old, part new;
 *   - no deadlock: every process ends, with buffers of one frame in each direction.
 *
 * A database is two pages. A content is a number, and page 1 and page 2 of content c are c: pages of
 * two contents in one version are seen at once. Version 0 is empty, content 0. The root of a content
 * is its number.
 *
 * Every transition of the machines is a MOVE(machine, state, event, state): `tests/model/
 * test_promela.py` holds them against the machines' declared tables, both ways. What is left out is
 * named here, with the reason:
 *
 * UNMODELLED client_push announcing window_hashed announcing: one window is enough for two pages
 * UNMODELLED client_push announcing request_pages announcing: one window is enough for two pages
 * UNMODELLED client_push announcing pages_loaded announcing: one window is enough for two pages
 * UNMODELLED client_push announcing window_hashed measured: a dry run sends no page and no complete
 * UNMODELLED client_push finishing request_pages measured: a dry run sends no page and no complete
 * UNMODELLED client_push announcing ranges_differ announcing: wire v1
 * UNMODELLED client_push finishing ranges_differ finishing: wire v1
 * UNMODELLED client_push drilling drilled_down drilling: two pages are one range
 * UNMODELLED client_push drilling ranges_differ drilling: two pages are one range
 * UNMODELLED client_pull greeting hello_reply measured: a dry run takes nothing
 * UNMODELLED client_pull preparing replica_prepared measured: a dry run takes nothing
 * UNMODELLED client_pull preparing replica_prepared announcing: what is held only saves pages
 * UNMODELLED client_pull preparing replica_prepared drilling: what is held only saves pages
 * UNMODELLED client_pull announcing *: what is held only saves pages
 * UNMODELLED client_pull drilling *: what is held only saves pages
 * UNMODELLED server_push receiving range_hashes receiving: two pages are one range
 * UNMODELLED server_push receiving ranges_compared receiving: two pages are one range
 * UNMODELLED server_push undecided range_hashes refused: two pages are one range
 * UNMODELLED server_push undecided complete refused: the client announces before it completes
 * UNMODELLED server_push receiving complete in_sync: wire v1
 * UNMODELLED server_push settling page_hashes settling: wire v1
 * UNMODELLED server_push settling hashes_compared settling: wire v1
 * UNMODELLED server_push receiving page_data receiving: one window, so complete comes first
 * UNMODELLED server_push receiving pages_staged receiving: one window, so complete comes first
 * UNMODELLED server_pull comparing page_hashes comparing: what is held only saves pages
 * UNMODELLED server_pull comparing hashes_compared comparing: what is held only saves pages
 * UNMODELLED server_pull comparing range_hashes comparing: what is held only saves pages
 * UNMODELLED server_pull comparing ranges_compared comparing: what is held only saves pages
 * UNMODELLED server_pull comparing pages_read comparing: wire v1
 * UNMODELLED * * error *: nothing refuses but the server, and a client's refusal is a loss to it
 * UNMODELLED * planning *: before hello there is no connection that could fail
 * UNMODELLED * * failed *: a failure of an effect is a crash that is told
 *
 * Flaws to plant: -DCOMMIT_EARLY (commit before the last page is there), -DNO_CAS (append without
 * looking at the head), -DACK_EARLY (answer before the commit), -DREAD_HEAD (a pull reads the head of
 * the moment), -DOVERWRITE (a pull does not look for local changes).
 */

#ifndef SESSIONS
#define SESSIONS 3          /* of both clients together */
#endif
#ifndef CUTS
#define CUTS 1              /* connections that are cut, at most */
#endif
#ifndef CRASHES
#define CRASHES 1           /* crashes of the server, and of clients, at most */
#endif

#define CLIENTS 2
#define VERSIONS (SESSIONS + 1)

mtype = {
    /* states */
    planning, greeting, examining, announcing, drilling, finishing, preparing, receiving, applying,
    pushed, pulled, unchanged, refused, lost,
    awaiting_hello, opening, undecided, settling, committing, comparing, streaming,
    in_sync, committed, delivered,
    /* frames */
    hello, hello_reply, page_hashes, request_pages, page_data, complete, sync_complete, error
};

#define MOVE(machine, from, event, to) assert(state == from); state = to

/* --- what is on disks ---------------------------------------------------------------------- */

byte head;                     /* the number of the newest version */
byte page1[VERSIONS];          /* the pages of each version */
byte page2[VERSIONS];
byte contents;                 /* contents made so far */

typedef File {
    byte one; byte two;        /* its pages */
    byte base;                 /* the sidecar: version and content last synced */
    byte base_content;
};
File file[CLIENTS];

typedef Told { byte version; byte content };
Told told[CLIENTS];            /* the newest version each client was told it pushed */

/* --- the wire ------------------------------------------------------------------------------ */

/* frame, and what it carries: hello (base, base's content, content held, force),
   hello_reply (head, root, base known), page_hashes (content), request_pages (page 1?, page 2?),
   page_data (page, content), complete (root), sync_complete (version, root) */
chan to_server[SESSIONS] = [1] of { mtype, byte, byte, byte, bool };
chan to_client[SESSIONS] = [1] of { mtype, byte, byte, byte, bool };
bool cut[SESSIONS];         /* for both ends; what is on its way may arrive or be lost */
bool closed[SESSIONS];      /* by the server, which says nothing more */
byte connections;
byte cuts;
byte crashes;
byte life;                     /* of the server: sessions of an earlier one are dead */
bool killed[CLIENTS];

/* A full buffer is waited for, except on a connection that is no more. */
#define SAY(wire, frame, a, b, c, d) \
    if \
    :: !cut[k] && !closed[k] -> \
        if :: wire[k]!frame(a, b, c, d) :: cut[k] || closed[k] fi \
    :: cut[k] || closed[k] \
    fi

/* What a server session leaves: its word still arrives, unless the server itself has died. What it
   remembered is forgotten, so that spin does not tell the same states apart by it. */
inline hang_up() {
    closed[k] = true;
    if
    :: life != mine -> cut[k] = true
    :: else
    fi;
    do
    :: to_server[k]?_, _, _, _, _
    :: empty(to_server[k]) -> break
    od
}

#define WHOLE(a, b, c) assert((a) == (c) && (b) == (c))

/* --- the server's end of a push ------------------------------------------------------------ */

inline open_push() {
    atomic {
        at_open = head;
        known = (base <= head && page1[base] == base_content);
        conflict = (at_open != 0 && !force && !(known && base == at_open));
    }
}

/* The log's compare-and-swap: one step, or none. Version and its pages appear together. */
inline commit_push() {
    atomic {
        if
        :: page1[head] == content && page2[head] == content -> done = true; version = head
#ifdef NO_CAS
        :: else ->
#else
        :: !(page1[head] == content && page2[head] == content) && head != at_open && force ->
            at_open = head
        :: !(page1[head] == content && page2[head] == content) && head != at_open && !force ->
            conflict = true
        :: !(page1[head] == content && page2[head] == content) && head == at_open ->
#endif
            version = at_open + 1;
            page1[version] = got1;
            page2[version] = got2;
            head = version;
            done = true;
            WHOLE(page1[version], page2[version], content);
            assert(force || at_open == 0 || base == at_open);
            assert(told[0].version == 0 || page1[told[0].version] == told[0].content);
            assert(told[1].version == 0 || page1[told[1].version] == told[1].content)
        fi
    }
}

proctype ServerPush(byte k) {
    mtype state = awaiting_hello;
    byte mine = life;
    byte base, base_content, held, content, at_open, version, got1, got2, page, what;
    bool force, known, conflict, done, need1, need2;

    {
    if
    :: to_server[k]?hello(base, base_content, held, force)
    :: cut[k] -> MOVE(server_push, awaiting_hello, peer_lost, lost); goto over
    fi;
    atomic {
    MOVE(server_push, awaiting_hello, hello, opening);
    open_push();
    if
    :: held == page1[at_open] ->
        SAY(to_client, hello_reply, at_open, page1[at_open], known, false);
        MOVE(server_push, opening, push_opened, in_sync); goto over
    :: held != page1[at_open] && conflict && !known ->
        SAY(to_client, hello_reply, at_open, page1[at_open], known, false);
        MOVE(server_push, opening, push_opened, undecided)
    :: held != page1[at_open] && conflict && known ->
        SAY(to_client, error, 0, 0, 0, false);
        MOVE(server_push, opening, push_opened, refused); goto over
    :: held != page1[at_open] && !conflict ->
        SAY(to_client, hello_reply, at_open, page1[at_open], known, false);
        MOVE(server_push, opening, push_opened, receiving)
    fi
    };

    if
    :: state == undecided ->
        if
        :: to_server[k]?page_hashes(content, _, _, _) ->
            SAY(to_client, error, 0, 0, 0, false);
            MOVE(server_push, undecided, page_hashes, refused)
        :: cut[k] || closed[k] -> MOVE(server_push, undecided, peer_lost, lost)
        fi;
        goto over
    :: state == receiving
    fi;

    if
    :: to_server[k]?page_hashes(content, _, _, _)
    :: cut[k] -> MOVE(server_push, receiving, peer_lost, lost); goto over
    fi;
    atomic {
    MOVE(server_push, receiving, page_hashes, receiving);
    /* Pages may be held already, from an interrupted push: then they are not asked for. */
    if
    :: need1 = true :: need1 = false; got1 = content
    fi;
    if
    :: need2 = true :: need2 = false; got2 = content
    fi;
    MOVE(server_push, receiving, hashes_compared, receiving);
    SAY(to_client, request_pages, need1, need2, 0, false)
    };

    if
    :: to_server[k]?complete(what, _, _, _)
    :: cut[k] -> MOVE(server_push, receiving, peer_lost, lost); goto over
    fi;
    atomic {
    if
    :: !need1 && !need2 -> MOVE(server_push, receiving, complete, committing)
    :: else -> MOVE(server_push, receiving, complete, settling)
    fi
    };
    do
    :: state == settling ->
        if
        :: atomic { to_server[k]?page_data(page, content, _, _) ->
            MOVE(server_push, settling, page_data, settling);
            if
            :: page == 1 -> got1 = content; need1 = false
            :: page == 2 -> got2 = content; need2 = false
            fi;
#ifdef COMMIT_EARLY
            MOVE(server_push, settling, pages_staged, committing)
#else
            if
            :: !need1 && !need2 -> MOVE(server_push, settling, pages_staged, committing)
            :: else -> MOVE(server_push, settling, pages_staged, settling)
            fi
#endif
            }
        :: cut[k] -> MOVE(server_push, settling, peer_lost, lost); goto over
        fi
    :: state == committing -> break
    od;

#ifdef ACK_EARLY
    SAY(to_client, sync_complete, at_open + 1, content, 0, false);
#endif
    do
    :: !done && !conflict -> commit_push()
    :: done ->
        MOVE(server_push, committing, push_committed, committed);
#ifndef ACK_EARLY
        SAY(to_client, sync_complete, version, content, 0, false);
#endif
        break
    :: conflict ->
        /* `failed` in committing: the end of a race that was lost, told to the client. */
        MOVE(server_push, committing, failed, refused);
        SAY(to_client, error, 0, 0, 0, false);
        break
    od;
over:
    skip
    } unless { life != mine };
    atomic {
        hang_up();
        mine = 0; base = 0; base_content = 0; held = 0; content = 0; at_open = 0; version = 0;
        got1 = 0; got2 = 0; page = 0; what = 0; state = 0;
        force = 0; known = 0; conflict = 0; done = 0; need1 = 0; need2 = 0
    }
}

/* --- the server's end of a pull ------------------------------------------------------------ */

proctype ServerPull(byte k) {
    mtype state = awaiting_hello;
    byte mine = life;
    byte base, base_content, held, version, what;
    bool force;

    {
    if
    :: to_server[k]?hello(base, base_content, held, force)
    :: cut[k] -> MOVE(server_pull, awaiting_hello, peer_lost, lost); goto over
    fi;
    atomic {
    MOVE(server_pull, awaiting_hello, hello, opening);
    version = head;
    SAY(to_client, hello_reply, version, page1[version], false, false);
    if
    :: held == page1[version] -> MOVE(server_pull, opening, pull_opened, in_sync); goto over
    :: else -> MOVE(server_pull, opening, pull_opened, comparing)
    fi
    };
    if
    :: to_server[k]?complete(what, _, _, _)
    :: cut[k] || closed[k] -> MOVE(server_pull, comparing, peer_lost, lost); goto over
    fi;
    MOVE(server_pull, comparing, complete, streaming);
#ifdef READ_HEAD
#define READ head
#else
#define READ version
#endif
    SAY(to_client, page_data, 1, page1[READ], 0, false);
    MOVE(server_pull, streaming, pages_read, streaming);
    if
    :: cut[k] -> MOVE(server_pull, streaming, peer_lost, lost); goto over
    :: !cut[k] -> SAY(to_client, page_data, 2, page2[READ], 0, false)
    fi;
    SAY(to_client, sync_complete, version, page1[version], 0, false);
    MOVE(server_pull, streaming, pages_read, delivered);
over:
    skip
    } unless { life != mine };
    atomic {
        hang_up();
        mine = 0; base = 0; base_content = 0; held = 0; version = 0; what = 0; state = 0; force = 0
    }
}

/* --- the client's end of a push ------------------------------------------------------------ */

/* A frame, or the news that none will come: the connection is cut, or the server has closed it and
   nothing is left on the way. */
#define GONE (cut[k] || (closed[k] && empty(to_client[k])))

inline push(force) {
    atomic {
    state = planning;
    content = file[me].one;    /* one read transaction */
    MOVE(client_push, planning, push_planned, greeting);
    SAY(to_server, hello, file[me].base, file[me].base_content, content, force)
    };
    if
    :: atomic { to_client[k]?hello_reply(version, root, known, _) ->
        if
        :: root == content -> MOVE(client_push, greeting, hello_reply, unchanged);
            synced(version, content)
        :: root != content && version != 0 && !known ->
            MOVE(client_push, greeting, hello_reply, examining);
            /* Equal roots were seen in the greeting; what is left is a conflict, or force. */
            if
            :: root == content -> MOVE(client_push, examining, content_hashed, unchanged)
            :: root != content && force ->
                MOVE(client_push, examining, content_hashed, drilling);
                MOVE(client_push, drilling, drilled_down, announcing)
            :: root != content && !force ->
                MOVE(client_push, examining, content_hashed, refused)
            fi
        :: root != content && (version == 0 || known) ->
            MOVE(client_push, greeting, hello_reply, announcing)
        fi }
    :: to_client[k]?error(_, _, _, _) -> MOVE(client_push, greeting, error, refused)
    :: GONE -> MOVE(client_push, greeting, peer_lost, lost)
    fi;
    if
    :: state == announcing ->
        SAY(to_server, page_hashes, content, 0, 0, false);
        MOVE(client_push, announcing, window_hashed, finishing);
        SAY(to_server, complete, content, 0, 0, false)
    :: else
    fi;
    do
    :: state == finishing ->
        if
        :: atomic { to_client[k]?request_pages(need1, need2, _, _) ->
            MOVE(client_push, finishing, request_pages, finishing);
            if
            :: need1 -> MOVE(client_push, finishing, pages_loaded, finishing);
                SAY(to_server, page_data, 1, content, 0, false)
            :: else
            fi;
            if
            :: need2 -> MOVE(client_push, finishing, pages_loaded, finishing);
                SAY(to_server, page_data, 2, content, 0, false)
            :: else
            fi }
        :: atomic { to_client[k]?sync_complete(version, root, _, _) ->
            MOVE(client_push, finishing, sync_complete, pushed);
            told[me].version = version;
            told[me].content = content;
            WHOLE(page1[version], page2[version], content) };
            synced(version, content)
        :: to_client[k]?error(_, _, _, _) -> MOVE(client_push, finishing, error, refused)
        :: GONE -> MOVE(client_push, finishing, peer_lost, lost)
        fi
    :: else -> break
    od
}

inline synced(of_version, of_content) {
    atomic { file[me].base = of_version; file[me].base_content = of_content }
}

/* --- the client's end of a pull ------------------------------------------------------------ */

inline pull(force) {
    atomic {
    state = planning;
    content = file[me].one;
    changed = (content != file[me].base_content);
    aside1 = 0; aside2 = 0;
    MOVE(client_pull, planning, pull_planned, greeting);
    /* Unforced with local changes it names the base's root: if nothing is newer, they stay. */
    if
    :: changed && !force ->
        SAY(to_server, hello, file[me].base, file[me].base_content, file[me].base_content, force)
    :: else ->
        SAY(to_server, hello, file[me].base, file[me].base_content, content, force)
    fi
    };
    if
    :: atomic { to_client[k]?hello_reply(version, root, known, _) ->
        if
        :: root == (changed && !force -> file[me].base_content : content) ->
            MOVE(client_pull, greeting, hello_reply, unchanged);
            if
            :: !changed || force -> synced(version, content)
            :: else
            fi
        :: else -> MOVE(client_pull, greeting, hello_reply, preparing);
            if
#ifndef OVERWRITE
            :: changed && !force && root != content ->
                MOVE(client_pull, preparing, failed, refused)
            :: !(changed && !force && root != content) ->
#else
            :: true ->
#endif
                MOVE(client_pull, preparing, replica_prepared, receiving);
                SAY(to_server, complete, 0, 0, 0, false)
            fi
        fi }
    :: GONE -> MOVE(client_pull, greeting, peer_lost, lost)
    fi;
    do
    :: state == receiving ->
        if
        :: atomic { to_client[k]?page_data(page, what, _, _) ->
            MOVE(client_pull, receiving, page_data, receiving);
            if
            :: page == 1 -> aside1 = what
            :: page == 2 -> aside2 = what
            fi;
            MOVE(client_pull, receiving, pages_stored, receiving) }
        :: to_client[k]?sync_complete(version, root, _, _) ->
            MOVE(client_pull, receiving, sync_complete, applying);
            /* The root is verified, then everything is installed in one transaction. */
            atomic {
                WHOLE(aside1, aside2, page1[version]);
                assert(force || file[me].one == file[me].base_content ||
                       file[me].one == aside1);
                file[me].one = aside1;
                file[me].two = aside2
            };
            MOVE(client_pull, applying, version_applied, pulled);
            synced(version, aside1)
        :: GONE -> MOVE(client_pull, receiving, peer_lost, lost)
        fi
    :: else -> break
    od
}

/* --- the clients' lives --------------------------------------------------------------------- */

#define CONNECT(kind) \
    atomic { connections < SESSIONS -> k = connections; connections++; run kind(k) }

inline let_go() {
    atomic {
        cut[k] = true;
        do
        :: to_client[k]?_, _, _, _, _
        :: empty(to_client[k]) -> break
        od;
        version = 0; root = 0; known = 0; content = 0; page = 0; what = 0; aside1 = 0; aside2 = 0;
        need1 = 0; need2 = 0; changed = 0; state = 0
    }
}

proctype Client(byte me) {
    mtype state;
    byte k, version, root, known, content, page, what, aside1, aside2;
    bool need1, need2, changed;

    {
    do
    :: connections < SESSIONS ->
        if
        :: atomic { contents++; file[me].one = contents; file[me].two = contents }
        :: skip
        fi;
        if
        :: connections >= SESSIONS -> break
        :: CONNECT(ServerPush); push(false)
        :: CONNECT(ServerPush); push(true)
        :: CONNECT(ServerPull); pull(false)
        :: CONNECT(ServerPull); pull(true)
        fi;
        /* The socket is closed; the server may be slow to notice. */
        let_go()
    :: connections >= SESSIONS -> break
    od
    } unless { killed[me] };
    /* A kill leaves the file whole: what is installed is installed in one step. */
    if
    :: killed[me] -> cut[k] = true
    :: else
    fi;
    WHOLE(file[me].one, file[me].two, file[me].one)
}

/* What goes wrong, at any moment. */
proctype Trouble() {
    byte which;
    do
    :: cuts < CUTS && connections > 0 ->
        atomic {
            cuts++;
            if
            :: which = 0
            :: connections > 1 -> which = 1
            :: connections > 2 -> which = 2
            fi;
            cut[which] = true;
            which = 0
        }
    :: crashes < CRASHES -> atomic { crashes++; life++ }
    :: crashes < CRASHES -> atomic { crashes++; if :: killed[0] = true :: killed[1] = true fi }
    :: break
    od
}

init {
    atomic { run Client(0); run Client(1); run Trouble() }
}
