//! The schema and how it came about.
//!
//! A migration is never edited once released; a change is a new entry of [`MIGRATIONS`]. It must
//! leave a schema that the version before it can still work with, or say in `needs` which version
//! can: processes that were started before keep the file open meanwhile. So a column is added first,
//! and removed a release after the last program that used it.

use rusqlite::{Connection, TransactionBehavior};

/// One step.
struct Migration {
    /// The oldest schema version whose programs can work with the schema after this step.
    needs: i64,
    sql: &'static str,
}

/// The version that this program makes.
pub(super) const KNOWN: i64 = 3;

/// All steps; the first one makes version 1.
const MIGRATIONS: &[Migration] = &[
    Migration {
        needs: 1,
        sql: VERSION_1,
    },
    Migration {
        needs: 2,
        sql: VERSION_2,
    },
    Migration {
        needs: 2,
        sql: VERSION_3,
    },
];

const VERSION_1: &str = "
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
";

/// The logs keep what was sent, and what was delivered.
const VERSION_2: &str = "
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
";

/// Accounts can be disabled. Programs of version 2 let their users log in.
const VERSION_3: &str = "
    ALTER TABLE account ADD COLUMN disabled INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX account_disabled ON account (domain, jid) WHERE disabled;
";

/// Why the schema is not as it has to be.
#[derive(Debug)]
pub(super) enum Failed {
    /// The database said no.
    Sql(rusqlite::Error),
    /// A newer program has changed it in a way that this one cannot work with.
    TooNew { found: i64, known: i64 },
}

impl From<rusqlite::Error> for Failed {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

/// Brings the schema up to date. Of several processes that start at once, one does it.
pub(super) fn migrate(db: &mut Connection) -> Result<(), Failed> {
    apply(db, MIGRATIONS)
}

fn apply(db: &mut Connection, migrations: &[Migration]) -> Result<(), Failed> {
    let known = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(
        "CREATE TABLE IF NOT EXISTS migration (
            version INTEGER PRIMARY KEY,
            needs INTEGER NOT NULL,
            applied INTEGER NOT NULL DEFAULT (unixepoch())
        ) STRICT",
    )?;
    let (found, needs) = version(&transaction)?;
    if needs > known {
        return Err(Failed::TooNew { found, known });
    }
    for (version, migration) in (1..)
        .zip(migrations)
        .filter(|(version, _)| *version > found)
    {
        transaction.execute_batch(migration.sql)?;
        transaction.execute(
            "INSERT INTO migration (version, needs) VALUES (?1, ?2)",
            (version, migration.needs),
        )?;
        tracing::info!(version, "database schema migrated");
    }
    transaction.commit()?;
    Ok(())
}

/// The version of the schema, and the oldest whose programs can work with it.
pub(super) fn version(db: &Connection) -> rusqlite::Result<(i64, i64)> {
    db.query_row(
        "SELECT ifnull(max(version), 0), ifnull(max(needs), 0) FROM migration",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Migration = Migration {
        needs: 1,
        sql: "CREATE TABLE a (x)",
    };
    const COMPATIBLE: Migration = Migration {
        needs: 1,
        sql: "ALTER TABLE a ADD COLUMN y",
    };
    const BREAKING: Migration = Migration {
        needs: 3,
        sql: "DROP TABLE a",
    };

    #[test]
    fn migrations_run_once_and_in_order() {
        let mut db = Connection::open_in_memory().unwrap();
        apply(&mut db, &[ONE]).unwrap();
        apply(&mut db, &[ONE, COMPATIBLE]).unwrap();
        apply(&mut db, &[ONE, COMPATIBLE]).unwrap();
        db.execute("INSERT INTO a (x, y) VALUES (1, 2)", [])
            .unwrap();
    }

    #[test]
    fn a_newer_schema_is_accepted_if_it_is_declared_compatible() {
        let mut db = Connection::open_in_memory().unwrap();
        apply(&mut db, &[ONE, COMPATIBLE]).unwrap();
        apply(&mut db, &[ONE]).unwrap();
    }

    #[test]
    fn a_newer_schema_is_refused_otherwise() {
        let mut db = Connection::open_in_memory().unwrap();
        apply(&mut db, &[ONE, COMPATIBLE, BREAKING]).unwrap();
        let error = apply(&mut db, &[ONE, COMPATIBLE]).unwrap_err();
        assert!(
            matches!(error, Failed::TooNew { found: 3, known: 2 }),
            "{error:?}"
        );
    }

    #[test]
    fn a_migration_that_fails_leaves_nothing() {
        let mut db = Connection::open_in_memory().unwrap();
        let wrong = Migration {
            needs: 1,
            sql: "CREATE TABLE b (x); CREATE TABLE b (x)",
        };
        assert!(apply(&mut db, &[ONE, wrong]).is_err());
        apply(&mut db, &[ONE, COMPATIBLE]).unwrap();
    }

    #[test]
    fn the_schema_of_this_version_can_be_made() {
        let mut db = Connection::open_in_memory().unwrap();
        migrate(&mut db).unwrap();
        assert_eq!(version(&db).unwrap().0, KNOWN);
    }
}
