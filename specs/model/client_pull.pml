/* The client's end of a pull (see sync.pml). */

#define CHANGED (base == NIL || content != base_content)

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
            /* 1 [roots_equal] / note_version_and_close */
        if
        :: force || !CHANGED || base == NIL -> remember(a)
        :: else
        fi
    :: named != b ->
        MOVE(client_pull, greeting, hello_reply, preparing); /* 3 / prepare_replica */
        pulled_version = a;
        pulled_root = b;
        aside = planned;
        if
        :: WOULD_LOSE ->
            MOVE(client_pull, preparing, failed, refused) /* / close_on_failure */
        :: !WOULD_LOSE && (planned == 0 || (c && (base == NIL || !CHANGED))) ->
            MOVE(client_pull, preparing, replica_prepared, receiving);
                /* 2 [announces_nothing] / finish */
            SAY(complete, 0, 0, 0)
        :: !WOULD_LOSE && planned != 0 && c && base != NIL && CHANGED ->
            MOVE(client_pull, preparing, replica_prepared, announcing);
                /* 3 [announces_windows] / announce_first */
            pages = DIFFERENCE(planned, base_content);
            may_announce = true
        :: !WOULD_LOSE && planned != 0 && !c ->
            MOVE(client_pull, preparing, replica_prepared, drilling); /* 4 / drill_first */
            MOVE(client_pull, drilling, drilled_down, drilling);
                /* 1 [has_ranges] / announce_ranges */
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
        MOVE(client_pull, drilling, ranges_differ, drilling); /* / drill_deeper */
        MOVE(client_pull, drilling, drilled_down, announcing); /* 3 / announce_first */
        pages = a;
        may_announce = true
    :: state == drilling && frame == bye ->
        MOVE(client_pull, drilling, peer_lost, lost)
    :: state == receiving && frame == page_data ->
        MOVE(client_pull, receiving, page_data, receiving); /* / store */
        aside = WITH(aside, a, b);
#ifdef APPLY_EARLY
        content = aside;
#endif
        MOVE(client_pull, receiving, pages_stored, receiving) /* / count */
    :: state == receiving && frame == sync_complete ->
        PROMISE(a_pull_is_the_version_promised, a == pulled_version && b == pulled_root);
        MOVE(client_pull, receiving, sync_complete, applying); /* / apply */
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
        MOVE(client_pull, announcing, window_hashed, announcing) /* 2 / announce */
    :: else
    fi;
    if
    :: may_announce ->
        if
        :: pages != 0 -> SAY(page_hashes, pages, PAGE(planned, pages), 0)
        :: pages == 0
        fi;
        MOVE(client_pull, announcing, window_hashed, receiving); /* 1 [is_last] / announce_last */
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

#ifdef BLIND_APPLY
#define WRITTEN_MEANWHILE false
#else
#define WRITTEN_MEANWHILE (content != planned)
#endif

/* One transaction: nothing of it is done if an application has written since the file was read, or
   if the client is killed before the end of it; all of it if after. The check of the root is left
   out, and so is the server's before a commit: they would hide what goes wrong. */
inline apply() {
    if
    :: writes < WRITES - me -> write_file()
    :: true
    fi;
    if
    :: WRITTEN_MEANWHILE ->
        MOVE(client_pull, applying, failed, refused) /* / close_on_failure */
    :: !WRITTEN_MEANWHILE && mortal ->
#ifdef APPLY_TORN
        content = WITH(content, 2, TWO(aside));
#endif
        MOVE(client_pull, applying, failed, refused) /* / close_on_failure */
    :: !WRITTEN_MEANWHILE ->
        overwritten = content;
        content = (pulled_root == 0 -> 0 : aside);
        MOVE(client_pull, applying, version_applied, pulled); /* / close_applied */
        remember(pulled_version)
    fi
}
