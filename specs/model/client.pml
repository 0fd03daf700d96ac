/* What the client's two ends have in common, and its file (see sync.pml). */

/* The sidecar, unless the client dies first: what was done stands, and is not remembered. */
inline remember(number) {
    if
    :: base = (content == 0 -> NIL : number);
        base_content = content
    :: mortal
    fi
}

/* The application's commit: client 0's changes page 1, client 1's both; a new file has both. */
inline write_file() {
    what = 2 + me + CLIENTS * writes;
    writes++;
    if
    :: content == 0 || me == 1 -> content = PAIR(what, what)
    :: content != 0 && me == 0 -> content = WITH(content, 1, what)
    fi;
    printf("client %d: writes (%d, %d)\n", me, ONE(content), TWO(content));
    whole = content;
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
    whole = content;
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
        MOVE(client_push, planning, push_planned, greeting) /* / greet */
    :: true ->
        pulling = true;
        a = a + PULL;
        /* Unforced with changes it names the base's root: if nothing is newer, they stay. */
        named = (content == 0 -> NIL : (base != NIL && !force -> base_content : content));
        MOVE(client_pull, planning, pull_planned, greeting) /* / greet */
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
        whole = version[pulled_version];
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
    byte whole;                         /* what an application or a pull last made the file */
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
        PROMISE(no_torn_file, content == whole);
        if
        :: k % SESSIONS != SESSIONS - 1 -> next!content, base, base_content, writes
        :: else
        fi;
        content = 0; base = 0; base_content = 0; writes = 0;
        planned = 0; named = 0; pages = 0; told_of = 0;
        aside = 0; pulled_version = 0; pulled_root = 0; overwritten = 0; whole = 0;
        force = 0; pulling = 0; mortal = 0; may_announce = 0;
        state = 0;
        out!bye(0, 0, 0)
    };
    drain();
end_over:
    false
}
