/* The client's end of a session (see sync.pml). */

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
