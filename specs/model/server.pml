/* The server's end of a session (see sync.pml). */

/* --- the server's end of a push -------------------------------------------------------------- */

/* The version that hello builds on: the base it names, if there is such a version, or the newest
   with the root it names. */
inline find_base() {
    known = (base > head -> NIL : base);
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
        MOVE(server_push, opening, push_opened, in_sync) /* 1 [roots_equal] / greet_and_close */
    :: root != opened_root && conflict && base == NIL ->
        out!hello_reply(opened, opened_root, false);
        MOVE(server_push, opening, push_opened, undecided) /* 2 [conflicts_without_base] / greet */
    :: root != opened_root && conflict && base != NIL ->
        out!error(0, 0, 0);
        MOVE(server_push, opening, push_opened, refused) /* 3 [conflicts] / refuse_conflict */
    :: root != opened_root && !conflict ->
        out!hello_reply(opened, opened_root, known != NIL);
        MOVE(server_push, opening, push_opened, receiving) /* 4 / greet */
    fi;
    conflict = false;
    root = 0
}

inline hear_push() {
    if
    :: frame == range_hashes && state == receiving ->
        MOVE(server_push, receiving, range_hashes, receiving); /* / compare_ranges */
#ifdef ASK_UNASKED
        SAY(request_pages, BOTH, 0, 0);
#endif
        SAY(ranges_differ, BOTH, 0, 0);
        MOVE(server_push, receiving, ranges_compared, receiving) /* / name_differing */
    :: frame == page_hashes && state == receiving ->
        MOVE(server_push, receiving, page_hashes, receiving); /* / compare_hashes */
        /* Page 1 may have been staged by a push that was interrupted. */
        if
        :: PAGE(held, a) != b -> missing = missing | a; c = a
        :: PAGE(held, a) == b || a == 1 -> staged = WITH(staged, a, b)
        fi;
        MOVE(server_push, receiving, hashes_compared, receiving); /* / request_missing */
#ifdef SILENT
        if
        :: c != 0 -> SAY(request_pages, c, 0, 0)
        :: c == 0
        fi
#else
        SAY(request_pages, c, 0, 0)
#endif
    :: frame == page_data && state == receiving ->
        MOVE(server_push, receiving, page_data, receiving); /* / stage */
        staged = WITH(staged, a, b);
        missing = WITHOUT(missing, a);
        MOVE(server_push, receiving, pages_staged, receiving) /* / count */
    :: frame == complete && state == receiving ->
        root = a;
        if
        :: missing == 0 ->
            MOVE(server_push, receiving, complete, committing)
                /* 2 [nothing_outstanding] / commit */
        :: missing != 0 ->
            MOVE(server_push, receiving, complete, settling) /* 3 / ask_for_rest */
        fi
    :: frame == page_data && state == settling ->
        MOVE(server_push, settling, page_data, settling); /* / stage */
        staged = WITH(staged, a, b);
        missing = WITHOUT(missing, a);
        if
#ifdef COMMIT_EARLY
        :: true ->
#else
        :: missing == 0 ->
#endif
            MOVE(server_push, settling, pages_staged, committing)
                /* 1 [nothing_outstanding] / count_and_commit */
        :: missing != 0 ->
            MOVE(server_push, settling, pages_staged, settling) /* 2 / count */
        fi
    :: frame == bye && state == undecided ->
        MOVE(server_push, undecided, peer_lost, lost)
    :: frame == bye && state == receiving ->
        MOVE(server_push, receiving, peer_lost, lost) /* / abandon */
    :: frame == bye && state == settling ->
        MOVE(server_push, settling, peer_lost, lost) /* / abandon */
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
            MOVE(server_push, committing, push_committed, committed); /* / report */
#ifndef ACK_EARLY
            SAY(sync_complete, at, root, 0)
#endif
        :: conflict ->
            /* The end of a race that was lost: the commit fails, and the client is told. */
            MOVE(server_push, committing, failed, refused); /* / tell_failure_and_abandon */
            SAY(error, 0, 0, 0)
        :: mortal ->
            /* With a version that stands, and of which nobody was told; or with none. */
            MOVE(server_push, committing, peer_lost, lost) /* / abandon */
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
        MOVE(server_pull, opening, pull_opened, in_sync) /* 1 [roots_equal] / greet_and_close */
    :: root != opened_root ->
        missing = (opened_root == 0 -> 0 : BOTH);
        if
        :: known != NIL && known != 0 -> missing = missing & DIFFERENCE(opened_root, version[known])
        :: else -> known = NIL
        fi;
        out!hello_reply(at, opened_root, known != NIL);
        MOVE(server_pull, opening, pull_opened, comparing) /* 2 / greet */
    fi;
    root = 0; known = 0; base = 0
}

inline hear_pull() {
    if
    :: frame == page_hashes ->
        MOVE(server_pull, comparing, page_hashes, comparing); /* / compare_hashes */
        missing = (PAGE(opened_root, a) == b -> WITHOUT(missing, a) : missing | a);
        MOVE(server_pull, comparing, hashes_compared, comparing) /* / send_at_once */
    :: frame == range_hashes ->
        MOVE(server_pull, comparing, range_hashes, comparing); /* / compare_ranges */
        missing = (a == opened_root || opened_root == 0 -> 0 : BOTH);
        SAY(ranges_differ, missing, 0, 0);
        MOVE(server_pull, comparing, ranges_compared, comparing) /* / name_differing */
    :: frame == complete ->
        MOVE(server_pull, comparing, complete, streaming) /* / send_rest */
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
            MOVE(server_pull, streaming, pages_read, streaming); /* 2 / send_pages */
            SAY(page_data, a, PAGE(PULLED, a), 0);
            a = 0
        }
    :: state == streaming && missing == 0 ->
        atomic {
            MOVE(server_pull, streaming, pages_read, delivered); /* 1 [exhausted] / report */
#ifdef END_AT_HEAD
            SAY(sync_complete, head, version[head], 0)
#else
            SAY(sync_complete, at, opened_root, 0)
#endif
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
        MOVE(server_push, receiving, peer_lost, lost) /* / abandon */
    :: mortal && state == settling ->
        MOVE(server_push, settling, peer_lost, lost) /* / abandon */
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
        MOVE(server_push, awaiting_hello, hello, opening); /* / open_push */
        open_push()
    :: pulling ->
        MOVE(server_pull, awaiting_hello, hello, opening); /* / open_pull */
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
            MOVE(server_push, receiving, peer_lost, lost) /* / abandon */
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
