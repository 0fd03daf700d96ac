/* The client's end of a push (see sync.pml). */

inline hear_greeting_of_push() {
#ifdef REMEMBER_EARLY
    at = a;
#endif
    if
    :: base != NIL && planned == b ->
        MOVE(client_push, greeting, hello_reply, unchanged);
            /* 1 [roots_equal] / note_head_and_close */
        told_of = a;
        remember(a)
    :: !(base != NIL && planned == b) && a != 0 && !c ->
        MOVE(client_push, greeting, hello_reply, examining);
            /* 2 [content_unknown] / hash_content */
        if
        :: planned == b ->
            MOVE(client_push, examining, content_hashed, unchanged);
                /* 1 [content_equal] / close_in_sync */
            told_of = a;
            remember(a)
        :: planned != b && force ->
            MOVE(client_push, examining, content_hashed, drilling);
                /* 2 [is_forced] / drill_first */
            MOVE(client_push, drilling, drilled_down, drilling);
                /* 1 [has_ranges] / announce_ranges */
            SAY(range_hashes, planned, 0, 0)
        :: planned != b && !force ->
            MOVE(client_push, examining, content_hashed, refused) /* 3 / refuse_conflict */
        fi
    :: !(base != NIL && planned == b) && (a == 0 || c) ->
        MOVE(client_push, greeting, hello_reply, announcing); /* 3 / announce_first */
        pages = (c -> DIFFERENCE(planned, base_content) : BOTH);
        may_announce = true
    fi
}

inline hear_as_pusher() {
    if
    :: state == greeting && frame == hello_reply -> hear_greeting_of_push()
    :: state == greeting && frame == error ->
        MOVE(client_push, greeting, error, refused) /* / hear_refusal */
    :: state == greeting && frame == bye ->
        MOVE(client_push, greeting, peer_lost, lost)
    :: state == drilling && frame == ranges_differ ->
        MOVE(client_push, drilling, ranges_differ, drilling); /* / drill_deeper */
        MOVE(client_push, drilling, drilled_down, announcing); /* 2 / hash_next */
        pages = a;
        may_announce = true
    :: state == drilling && frame == bye ->
        MOVE(client_push, drilling, peer_lost, lost)
    :: state == announcing && frame == request_pages ->
        MOVE(client_push, announcing, request_pages, announcing);
            /* / answer_request_and_announce */
        if
        :: a != 0 ->
            SAY(page_data, a, PAGE(planned, a), 0);
            MOVE(client_push, announcing, pages_loaded, announcing) /* / send_pages */
        :: a == 0
        fi;
        may_announce = true
    :: state == announcing && frame == bye ->
        MOVE(client_push, announcing, peer_lost, lost)
    :: state == finishing && frame == request_pages ->
        MOVE(client_push, finishing, request_pages, finishing); /* 2 / answer_request */
        if
        :: a != 0 ->
            SAY(page_data, a, PAGE(planned, a), 0);
            MOVE(client_push, finishing, pages_loaded, finishing) /* / send_pages */
        :: a == 0
        fi
    :: state == finishing && frame == sync_complete ->
        MOVE(client_push, finishing, sync_complete, pushed); /* / note_version */
        told_of = a;
        remember(a)
    :: state == finishing && frame == error ->
        MOVE(client_push, finishing, error, refused) /* / hear_refusal */
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
        MOVE(client_push, announcing, window_hashed, announcing); /* 3 / announce */
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
        MOVE(client_push, announcing, window_hashed, finishing); /* 2 [is_last] / announce_last */
        pages = 0;
        may_announce = false;
        if
        :: true ->
            SAY(complete, planned, 0, 0);
#ifdef REMEMBER_EARLY
            base = at + 1;
            base_content = planned
#endif
        :: mortal ->
            MOVE(client_push, finishing, peer_lost, lost)
        fi
    :: else
    fi
}
