-- What version 1 of the schema is: a copy that never changes, for the tests of migrations.
CREATE TABLE migration (
    version INTEGER PRIMARY KEY,
    needs INTEGER NOT NULL,
    applied INTEGER NOT NULL DEFAULT (unixepoch())
) STRICT;
INSERT INTO migration (version, needs) VALUES (1, 1);

CREATE TABLE account (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    jid TEXT NOT NULL UNIQUE,
    domain TEXT NOT NULL,
    sha1_salt BLOB NOT NULL,
    sha1_iterations INTEGER NOT NULL,
    sha1_stored_key BLOB NOT NULL,
    sha1_server_key BLOB NOT NULL,
    sha256_salt BLOB NOT NULL,
    sha256_iterations INTEGER NOT NULL,
    sha256_stored_key BLOB NOT NULL,
    sha256_server_key BLOB NOT NULL
) STRICT;
CREATE INDEX account_domain ON account (domain, jid);

-- Tombstones of versions up to `forgotten` are gone.
CREATE TABLE roster (
    account INTEGER PRIMARY KEY REFERENCES account ON DELETE CASCADE,
    version INTEGER NOT NULL,
    forgotten INTEGER NOT NULL
) STRICT;
-- A removed item stays as a tombstone for a while. `hidden`: nothing but a request.
CREATE TABLE roster_item (
    account INTEGER NOT NULL REFERENCES account ON DELETE CASCADE,
    contact TEXT NOT NULL,
    version INTEGER NOT NULL,
    removed INTEGER NOT NULL,
    hidden INTEGER NOT NULL,
    name TEXT,
    subscription TEXT NOT NULL,
    ask INTEGER NOT NULL,
    approved INTEGER NOT NULL,
    pending_in TEXT,
    groups TEXT NOT NULL,
    PRIMARY KEY (account, contact)
) STRICT, WITHOUT ROWID;

CREATE TABLE blocked (
    account INTEGER NOT NULL REFERENCES account ON DELETE CASCADE,
    jid TEXT NOT NULL,
    PRIMARY KEY (account, jid)
) STRICT, WITHOUT ROWID;

-- The log of an account: the delivered mark, and the number of entries past it.
CREATE TABLE log (
    account INTEGER PRIMARY KEY REFERENCES account ON DELETE CASCADE,
    delivered INTEGER NOT NULL,
    undelivered INTEGER NOT NULL
) STRICT;
-- Appending costs one row at the end of the table and one in the index. As one process at a
-- time writes, ids are in the order of commits; they are never used again. No foreign key: an
-- entry is only written when `log` has its account.
CREATE TABLE log_entry (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    account INTEGER NOT NULL,
    peer TEXT NOT NULL,
    at INTEGER NOT NULL,
    stanza TEXT NOT NULL
) STRICT;
CREATE INDEX log_entry_account ON log_entry (account);

CREATE TABLE vcard (
    account INTEGER PRIMARY KEY REFERENCES account ON DELETE CASCADE,
    xml TEXT NOT NULL
) STRICT;
CREATE TABLE private (
    account INTEGER NOT NULL REFERENCES account ON DELETE CASCADE,
    name TEXT NOT NULL,
    ns TEXT NOT NULL,
    xml TEXT NOT NULL,
    PRIMARY KEY (account, ns, name)
) STRICT;
CREATE TABLE last (
    account INTEGER PRIMARY KEY REFERENCES account ON DELETE CASCADE,
    at INTEGER NOT NULL,
    status TEXT NOT NULL
) STRICT;
CREATE TABLE secret (
    name TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT;
