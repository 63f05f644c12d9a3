-- Changes the logs of many accounts in one statement, and so in one round trip: locks them, notes
-- deliveries, adds entries. Plans are made once for each connection: with the lengths of the arrays in
-- view the planner would make a new one each time, which takes longer than carrying it out.
--
-- `for_accounts`: whose logs change, ascending. For each: how many entries are new and how many of them
-- are pending; for how many undelivered ones before that has `room`; of what is archived of them the
-- earliest and the latest time, and how much earlier than one before it one is at most.
--
-- `message_…`: the messages. `received_…` and `sent_…`: their copies for either end. `…_places`: in which
-- log, counted from 1 in `for_accounts`; 0: there is no copy. `…_ids`: counted from the last id of that
-- log.
--
-- `marked_…`: which entries were delivered. `most_ahead`: how many a log remembers past its mark.
--
-- Gives the last id that each log had, and how many entries became delivered. Does nothing and gives NULL
-- if a log is missing, and, unless `is_checked`, if somebody has to look closer: a log has no room, its
-- owner does not want all messages archived, or blocks one of the senders. Fails after `not_after`: then
-- the one who called may have told that it was not done.
CREATE FUNCTION change_logs(
    not_after TIMESTAMPTZ,
    is_checked BOOLEAN,
    for_accounts BIGINT[],
    new_entries BIGINT[],
    new_pending BIGINT[],
    room BIGINT[],
    earliest BIGINT[],
    new_latest BIGINT[],
    new_disorder BIGINT[],
    message_times BIGINT[],
    message_stanzas TEXT[],
    received_places INTEGER[],
    received_ids BIGINT[],
    received_peers TEXT[],
    received_hashes INTEGER[],
    received_pending BOOLEAN[],
    received_archived BOOLEAN[],
    sent_places INTEGER[],
    sent_ids BIGINT[],
    sent_peers TEXT[],
    sent_hashes INTEGER[],
    sent_pending BOOLEAN[],
    sent_archived BOOLEAN[],
    marked_accounts BIGINT[],
    marked_ids BIGINT[],
    most_ahead INTEGER,
    OUT last_ids BIGINT[],
    OUT now_delivered BIGINT
) LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    were_undelivered BIGINT[];
    archive_all BOOLEAN[];
BEGIN
    now_delivered := 0;
    SELECT array_agg(l.last), array_agg(l.undelivered),
            array_agg(l.archive_default = 0 AND NOT l.exceptions)
        INTO last_ids, were_undelivered, archive_all
        FROM (
            SELECT last, undelivered, archive_default, exceptions FROM log
            WHERE account = ANY (for_accounts) ORDER BY account FOR UPDATE
        ) l;
    IF cardinality(last_ids) IS DISTINCT FROM cardinality(for_accounts) THEN
        last_ids := NULL;
        RETURN;
    END IF;
    IF NOT is_checked AND EXISTS (
        SELECT FROM unnest(new_entries, room, were_undelivered, archive_all)
            AS l (entries, room, undelivered, archive_all)
        WHERE l.entries > 0 AND (l.undelivered > l.room OR NOT l.archive_all)
    ) THEN
        last_ids := NULL;
        RETURN;
    END IF;
    IF NOT is_checked AND EXISTS (
        SELECT FROM blocked b WHERE b.account = ANY (for_accounts)
    ) AND EXISTS (
        SELECT FROM unnest(received_places, received_peers) AS r (place, peer)
        WHERE (
            SELECT count(*) FROM blocked b
            WHERE b.account = for_accounts[r.place] AND b.jid = ANY (ARRAY[
                r.peer, split_part(r.peer, '/', 1),
                regexp_replace(split_part(r.peer, '/', 1), '^[^@]*@', '')])
        ) > 0
    ) THEN
        last_ids := NULL;
        RETURN;
    END IF;

    IF cardinality(marked_ids) > 0 THEN
        -- `marked`: the undelivered ones among those that were named. With those that were ahead before
        -- they are `ids`; the mark moves up to the first entry that is pending and not among them. What
        -- is archived and beyond that stays in the list, as far as it fits. What is in no archive goes.
        WITH marked AS MATERIALIZED (
            SELECT e.account, e.id, e.archived
            FROM unnest(marked_accounts, marked_ids) AS named (account, id)
            JOIN log l ON l.account = named.account
            JOIN entry e ON e.account = named.account AND e.id = named.id
            WHERE e.pending AND e.id > l.delivered AND e.id <> ALL (l.ahead)
        ), gone AS (
            DELETE FROM entry e USING marked m
            WHERE e.account = m.account AND e.id = m.id AND NOT m.archived
        ), done AS MATERIALIZED (
            SELECT l.account, l.last, l.delivered, l.ahead || array_agg(m.id) AS ids,
                count(*) AS marked, array_agg(m.id) FILTER (WHERE NOT m.archived) AS gone
            FROM marked m JOIN log l ON l.account = m.account GROUP BY l.account
        ), moved AS MATERIALIZED (
            SELECT d.account, d.marked, d.ids, d.gone, coalesce((
                SELECT e.id - 1 FROM entry e
                WHERE e.account = d.account AND e.id > d.delivered AND e.pending
                    AND e.id <> ALL (d.ids)
                ORDER BY e.id LIMIT 1), d.last) AS mark
            FROM done d
        ), rest AS MATERIALIZED (
            SELECT m.account, m.marked, m.mark, ARRAY(
                SELECT id FROM unnest(m.ids) AS id
                WHERE id > m.mark AND (m.gone IS NULL OR id <> ALL (m.gone)) ORDER BY id) AS ahead
            FROM moved m
        ), changed AS (
            UPDATE log l SET delivered = greatest(l.delivered, r.mark), ahead = r.ahead[:most_ahead],
                undelivered = l.undelivered - r.marked
                    + greatest(cardinality(r.ahead) - most_ahead, 0)
            FROM rest r WHERE l.account = r.account
        )
        SELECT coalesce(sum(r.marked - greatest(cardinality(r.ahead) - most_ahead, 0)), 0)
            INTO now_delivered FROM rest r;
    END IF;

    IF cardinality(message_times) > 0 THEN
        INSERT INTO entry (account, id, peer, at, stanza, pending, archived, peer_hash)
            SELECT for_accounts[c.place], last_ids[c.place] + c.id, c.peer, m.at, m.stanza, c.pending,
                c.archived, c.hash
            FROM unnest(message_times, message_stanzas,
                received_places, received_ids, received_peers, received_hashes, received_pending,
                received_archived,
                sent_places, sent_ids, sent_peers, sent_hashes, sent_pending, sent_archived)
                AS m (at, stanza, r1, r2, r3, r4, r5, r6, s1, s2, s3, s4, s5, s6)
            CROSS JOIN LATERAL (VALUES (r1, r2, r3, r4, r5, r6), (s1, s2, s3, s4, s5, s6))
                AS c (place, id, peer, hash, pending, archived)
            WHERE c.place > 0;
        -- If nothing is undelivered then, the mark moves over the new ones.
        UPDATE log l SET last = l.last + n.entries, undelivered = l.undelivered + n.pending,
                latest = greatest(l.latest, n.latest),
                disorder = greatest(l.disorder, n.disorder,
                    CASE WHEN l.latest > n.earliest THEN l.latest - n.earliest ELSE 0 END),
                delivered = CASE l.undelivered + n.pending WHEN 0 THEN l.last + n.entries
                    ELSE l.delivered END,
                ahead = CASE l.undelivered + n.pending WHEN 0 THEN '{}' ELSE l.ahead END
            FROM unnest(for_accounts, new_entries, new_pending, earliest, new_latest, new_disorder)
                AS n (account, entries, pending, earliest, latest, disorder)
            WHERE l.account = n.account AND n.entries > 0;
    END IF;
    IF clock_timestamp() > not_after THEN
        RAISE query_canceled USING MESSAGE = 'nobody waits for it any more';
    END IF;
END $$;
