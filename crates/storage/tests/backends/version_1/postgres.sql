-- What version 1 of the schema is: a copy that never changes, for the tests of migrations.
CREATE TABLE migration (
    version BIGINT PRIMARY KEY,
    needs BIGINT NOT NULL,
    applied TIMESTAMPTZ NOT NULL DEFAULT now()
);
INSERT INTO migration (version, needs) VALUES (1, 1);

CREATE TABLE account (
    id BIGINT PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    jid TEXT COLLATE "C" NOT NULL UNIQUE,
    domain TEXT COLLATE "C" NOT NULL,
    sha1_salt BYTEA NOT NULL,
    sha1_iterations BIGINT NOT NULL,
    sha1_stored_key BYTEA NOT NULL,
    sha1_server_key BYTEA NOT NULL,
    sha256_salt BYTEA NOT NULL,
    sha256_iterations BIGINT NOT NULL,
    sha256_stored_key BYTEA NOT NULL,
    sha256_server_key BYTEA NOT NULL
);
CREATE INDEX account_domain ON account (domain, jid);

-- Locked by every change to the roster. Tombstones of versions up to `forgotten` are gone.
CREATE TABLE roster (
    account BIGINT PRIMARY KEY REFERENCES account ON DELETE CASCADE,
    version BIGINT NOT NULL,
    forgotten BIGINT NOT NULL
) WITH (fillfactor = 70);
-- A removed item stays as a tombstone for a while. `hidden`: nothing but a request.
CREATE TABLE roster_item (
    account BIGINT NOT NULL REFERENCES account ON DELETE CASCADE,
    contact TEXT COLLATE "C" NOT NULL,
    version BIGINT NOT NULL,
    removed BOOLEAN NOT NULL,
    hidden BOOLEAN NOT NULL,
    name TEXT,
    subscription TEXT NOT NULL,
    ask BOOLEAN NOT NULL,
    approved BOOLEAN NOT NULL,
    pending_in TEXT,
    groups TEXT NOT NULL,
    PRIMARY KEY (account, contact)
);

CREATE TABLE blocked (
    account BIGINT NOT NULL REFERENCES account ON DELETE CASCADE,
    jid TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (account, jid)
);

-- The log of an account: the id of its newest entry, the delivered mark, entries past it.
-- Locked by every append, until it is committed: so ids get visible in their order.
CREATE TABLE log (
    account BIGINT PRIMARY KEY REFERENCES account ON DELETE CASCADE,
    last BIGINT NOT NULL,
    delivered BIGINT NOT NULL,
    undelivered BIGINT NOT NULL
) WITH (fillfactor = 50);
-- No foreign key: an entry is only written while the row in `log` is locked.
CREATE TABLE log_entry (
    account BIGINT NOT NULL,
    id BIGINT NOT NULL,
    peer TEXT NOT NULL,
    at BIGINT NOT NULL,
    stanza TEXT NOT NULL,
    PRIMARY KEY (account, id)
);

CREATE TABLE vcard (
    account BIGINT PRIMARY KEY REFERENCES account ON DELETE CASCADE,
    xml TEXT NOT NULL
);
CREATE TABLE private (
    account BIGINT NOT NULL REFERENCES account ON DELETE CASCADE,
    name TEXT NOT NULL,
    ns TEXT NOT NULL,
    xml TEXT NOT NULL,
    PRIMARY KEY (account, ns, name)
);
CREATE TABLE last (
    account BIGINT PRIMARY KEY REFERENCES account ON DELETE CASCADE,
    at BIGINT NOT NULL,
    status TEXT NOT NULL
);
CREATE TABLE secret (
    name TEXT PRIMARY KEY,
    value BYTEA NOT NULL
);
