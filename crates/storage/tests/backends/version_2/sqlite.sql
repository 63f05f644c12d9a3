-- What version 2 made of version 1.
-- A message, once for both of its ends: the accounts in whose logs it is, and whom each of them
-- sees as the other end. Its id is the one of its entries, so appending costs one row at the end of
-- this table.
CREATE TABLE message (
    id INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    recipient INTEGER,
    sender INTEGER,
    recipient_peer TEXT,
    sender_peer TEXT,
    stanza TEXT NOT NULL
) STRICT;
INSERT INTO message (id, at, recipient, recipient_peer, stanza)
    SELECT id, at, account, peer, stanza FROM log_entry ORDER BY id;

-- The entries of the logs. `kind`: see log_writer.rs. `peer`: a hash of the bare JID, for
-- searches. No foreign key: an entry is only written when `log` has its account.
CREATE TABLE entry (
    account INTEGER NOT NULL,
    id INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    peer INTEGER NOT NULL,
    PRIMARY KEY (account, id)
) STRICT, WITHOUT ROWID;
-- All of them were pending, in no archive, and received.
INSERT INTO entry (account, id, kind, peer)
    SELECT account, id, 2, 0 FROM log_entry ORDER BY account, id;

-- The newest id that any entry had. Ids are in the order of commits, as one process at a time
-- writes, and are never used again.
CREATE TABLE log_position (newest INTEGER NOT NULL) STRICT;
INSERT INTO log_position (newest)
    SELECT ifnull(max(seq), 0) FROM sqlite_sequence WHERE name = 'log_entry';
DROP TABLE log_entry;
ALTER TABLE entry RENAME TO log_entry;

-- `ahead`: archived entries above the mark that are delivered (deliveries.rs). `disorder`: how
-- much earlier than one before it an archived entry was accepted at most, in microseconds.
-- `archive_default`: 0 always, 1 never, 2 roster. `exceptions`: there are some.
ALTER TABLE log DROP COLUMN delivered;
ALTER TABLE log DROP COLUMN undelivered;
ALTER TABLE log ADD COLUMN delivered INTEGER NOT NULL DEFAULT 0;
ALTER TABLE log ADD COLUMN ahead BLOB;
ALTER TABLE log ADD COLUMN disorder INTEGER NOT NULL DEFAULT 0;
ALTER TABLE log ADD COLUMN archive_default INTEGER NOT NULL DEFAULT 0;
ALTER TABLE log ADD COLUMN exceptions INTEGER NOT NULL DEFAULT 0;
CREATE TABLE archive_exception (
    account INTEGER NOT NULL REFERENCES account ON DELETE CASCADE,
    jid TEXT NOT NULL,
    archive INTEGER NOT NULL,
    PRIMARY KEY (account, jid)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS migration (
    version INTEGER PRIMARY KEY,
    needs INTEGER NOT NULL,
    applied INTEGER NOT NULL DEFAULT (unixepoch())
) STRICT;
INSERT INTO migration (version, needs) VALUES (2, 2);
