-- Adds one message to one or two logs, in one statement: what `change_logs` does, for half the cost. Most
-- batches are a single message while a server has time.
--
-- `one_…` and `two_…`: its copies, in the order of the accounts' numbers; the second account is NULL if
-- there is one copy only. `…_room`: for how many undelivered entries before it the log has room.
-- `recipient` may block the sender, by one of `sender_names`.
--
-- Gives the ids of the new entries. Does nothing and gives NULL, or fails, where `change_logs` does.
CREATE FUNCTION add_message(
    not_after TIMESTAMPTZ,
    message_time BIGINT,
    message_stanza TEXT,
    recipient BIGINT,
    sender_names TEXT[],
    one_account BIGINT,
    one_peer TEXT,
    one_hash INTEGER,
    one_pending BOOLEAN,
    one_archived BOOLEAN,
    one_room BIGINT,
    two_account BIGINT,
    two_peer TEXT,
    two_hash INTEGER,
    two_pending BOOLEAN,
    two_archived BOOLEAN,
    two_room BIGINT,
    OUT one_id BIGINT,
    OUT two_id BIGINT
) LANGUAGE plpgsql AS $$
BEGIN
    -- The first update holds the log until the commit; if nothing is undelivered, the mark moves along.
    UPDATE log SET last = last + 1, undelivered = undelivered + one_pending::INTEGER,
            latest = CASE WHEN one_archived THEN greatest(latest, message_time) ELSE latest END,
            disorder = CASE WHEN one_archived AND latest > message_time
                THEN greatest(disorder, latest - message_time) ELSE disorder END,
            delivered = CASE undelivered + one_pending::INTEGER WHEN 0 THEN last + 1
                ELSE delivered END,
            ahead = CASE undelivered + one_pending::INTEGER WHEN 0 THEN '{}' ELSE ahead END
        WHERE account = one_account
            AND undelivered <= one_room AND archive_default = 0 AND NOT exceptions
        RETURNING last INTO one_id;
    IF one_id IS NULL THEN
        RETURN;
    END IF;
    IF two_account IS NOT NULL THEN
        UPDATE log SET last = last + 1, undelivered = undelivered + two_pending::INTEGER,
                latest = CASE WHEN two_archived THEN greatest(latest, message_time) ELSE latest END,
                disorder = CASE WHEN two_archived AND latest > message_time
                    THEN greatest(disorder, latest - message_time) ELSE disorder END,
                delivered = CASE undelivered + two_pending::INTEGER WHEN 0 THEN last + 1
                    ELSE delivered END,
                ahead = CASE undelivered + two_pending::INTEGER WHEN 0 THEN '{}' ELSE ahead END
            WHERE account = two_account
                AND undelivered <= two_room AND archive_default = 0 AND NOT exceptions
            RETURNING last INTO two_id;
    END IF;
    IF two_account IS NOT NULL AND two_id IS NULL OR EXISTS (
        SELECT FROM blocked WHERE account = recipient AND jid = ANY (sender_names)
    ) THEN
        -- Takes it back. `latest` and `disorder` may stay too large, which makes searches look at more.
        UPDATE log SET last = last - 1, undelivered = undelivered - one_pending::INTEGER,
                delivered = least(delivered, last - 1)
            WHERE account = one_account;
        UPDATE log SET last = last - 1, undelivered = undelivered - two_pending::INTEGER,
                delivered = least(delivered, last - 1)
            WHERE account = two_account AND two_id IS NOT NULL;
        one_id := NULL;
        two_id := NULL;
    ELSIF two_id IS NULL THEN
        INSERT INTO entry (account, id, peer, at, stanza, pending, archived, peer_hash) VALUES
            (one_account, one_id, one_peer, message_time, message_stanza, one_pending, one_archived,
                one_hash);
    ELSE
        INSERT INTO entry (account, id, peer, at, stanza, pending, archived, peer_hash) VALUES
            (one_account, one_id, one_peer, message_time, message_stanza, one_pending, one_archived,
                one_hash),
            (two_account, two_id, two_peer, message_time, message_stanza, two_pending, two_archived,
                two_hash);
    END IF;
    IF clock_timestamp() > not_after THEN
        RAISE query_canceled USING MESSAGE = 'nobody waits for it any more';
    END IF;
END $$;
