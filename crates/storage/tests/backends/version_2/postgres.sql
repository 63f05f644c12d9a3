-- What version 2 made of version 1.
-- In the order in which they are used, so that nobody waits in a circle.
LOCK TABLE account, log, log_entry IN ACCESS EXCLUSIVE MODE;

-- `pending`: it has to be delivered. `archived`: it is in the archive. `peer_hash`: of the bare
-- JID, for searches (log.rs); with that condition the index serves them and nothing else.
ALTER TABLE log_entry RENAME TO entry;
ALTER TABLE entry
    ADD COLUMN pending BOOLEAN NOT NULL DEFAULT true,
    ADD COLUMN archived BOOLEAN NOT NULL DEFAULT false,
    ADD COLUMN peer_hash INTEGER;
CREATE INDEX entry_peer ON entry (account, peer_hash, id)
    WHERE archived AND peer_hash IS NOT NULL;

-- `undelivered` counts pending entries past the mark, but for those in `ahead`: archived ones
-- that are delivered. `latest`: the latest time that an archived entry has; `disorder`: how much
-- earlier than one before it one was accepted at most, in microseconds. `archive_default`: 0
-- always, 1 never, 2 roster. `exceptions`: there are some.
ALTER TABLE log
    ADD COLUMN ahead BIGINT[] NOT NULL DEFAULT '{}',
    ADD COLUMN latest BIGINT NOT NULL DEFAULT -9223372036854775808,
    ADD COLUMN disorder BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN archive_default BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN exceptions BOOLEAN NOT NULL DEFAULT false;
CREATE TABLE archive_exception (
    account BIGINT NOT NULL REFERENCES account ON DELETE CASCADE,
    jid TEXT COLLATE "C" NOT NULL,
    archive BOOLEAN NOT NULL,
    PRIMARY KEY (account, jid)
);

CREATE FUNCTION remove_entries() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM entry WHERE account = OLD.id;
    RETURN NULL;
END $$;
CREATE TRIGGER remove_entries AFTER DELETE ON account
    FOR EACH ROW EXECUTE FUNCTION remove_entries();

-- A place in a log by time. Not past: an id such that all archived entries before it were accepted
-- before `at_micros`; past: one such that it and all after it were accepted after `at_micros`.
-- Times grow with the ids, but for `slack`.
CREATE FUNCTION log_place(log_account BIGINT, at_micros BIGINT, slack BIGINT, past BOOLEAN)
    RETURNS BIGINT LANGUAGE plpgsql STABLE AS $$
DECLARE
    low BIGINT;
    high BIGINT;
    middle BIGINT;
    next_id BIGINT;
    next_at NUMERIC;
BEGIN
    SELECT coalesce(min(id), 0), coalesce(max(id) + 1, 0) INTO low, high
        FROM entry WHERE account = log_account;
    WHILE low < high LOOP
        middle := low + (high - low) / 2;
        SELECT id, at INTO next_id, next_at FROM entry
            WHERE account = log_account AND id >= middle AND archived ORDER BY id LIMIT 1;
        IF FOUND AND (past AND next_at - slack <= at_micros
            OR NOT past AND next_at + slack < at_micros)
        THEN
            low := next_id + 1;
        ELSE
            high := middle;
        END IF;
    END LOOP;
    RETURN low;
END $$;

-- What programs of version 1 see.
CREATE VIEW log_entry AS
    SELECT e.account, e.id, e.peer, e.at, e.stanza
    FROM entry e JOIN log l ON l.account = e.account
    WHERE e.pending AND e.id > l.delivered AND e.id <> ALL (l.ahead);
CREATE FUNCTION change_log_entry() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO entry (account, id, peer, at, stanza)
            VALUES (NEW.account, NEW.id, NEW.peer, NEW.at, NEW.stanza);
        RETURN NEW;
    END IF;
    DELETE FROM entry WHERE account = OLD.account AND id = OLD.id AND NOT archived;
    RETURN OLD;
END $$;
CREATE TRIGGER change_log_entry INSTEAD OF INSERT OR DELETE ON log_entry
    FOR EACH ROW EXECUTE FUNCTION change_log_entry();
CREATE TABLE IF NOT EXISTS migration (
    version BIGINT PRIMARY KEY,
    needs BIGINT NOT NULL,
    applied TIMESTAMPTZ NOT NULL DEFAULT now()
);
INSERT INTO migration (version, needs) VALUES (2, 1);
