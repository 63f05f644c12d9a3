//! The schema and how it came about; the rules of `sqlite/schema.rs` apply.
//!
//! Nodes that are running go on working with the schema meanwhile: a migration adds, and what it
//! replaces is removed by a later release.

use super::pool::Lease;
use crate::Error;

/// One step.
struct Migration {
    /// The oldest schema version whose programs can work with the schema after this step.
    needs: i64,
    sql: &'static str,
}

/// All steps; the first one makes version 1.
const MIGRATIONS: &[Migration] = &[
    Migration {
        needs: 1,
        sql: VERSION_1,
    },
    Migration {
        needs: 1,
        sql: VERSION_2,
    },
    Migration {
        needs: 1,
        sql: VERSION_3,
    },
    Migration {
        needs: 1,
        sql: VERSION_4,
    },
];

/// Taken by the node that migrates; an arbitrary number.
const LOCK: &str = "SELECT pg_advisory_xact_lock(7294611054301)";

const VERSION_1: &str = r#"
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
"#;

/// The logs keep what was sent, and what was delivered.
///
/// Programs of version 1 go on working: for them `log_entry` is a view of what is undelivered, and
/// what they append or remove there is done to `entry`. A release after the last of them, the view
/// goes.
const VERSION_2: &str = r#"
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
"#;

/// Accounts can be disabled. Programs of the versions before let their users log in.
const VERSION_3: &str = "
    ALTER TABLE account ADD COLUMN disabled BOOLEAN NOT NULL DEFAULT false;
    CREATE INDEX account_disabled ON account (domain, jid) WHERE disabled;
";

/// Logs are written by functions.
const VERSION_4: &str = concat!(
    include_str!("change_logs.sql"),
    include_str!("add_message.sql")
);

/// Brings the schema up to date. Of several nodes that start at once, one does it.
///
/// # Errors
/// In words, if a newer program has changed it in a way that this one cannot work with.
pub(super) async fn migrate(lease: &mut Lease) -> Result<Result<(), String>, Error> {
    apply(lease, MIGRATIONS).await
}

async fn apply(lease: &mut Lease, migrations: &[Migration]) -> Result<Result<(), String>, Error> {
    let known = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
    lease.begin().await?;
    lease.run_script(LOCK).await?;
    lease
        .run_script(
            "CREATE TABLE IF NOT EXISTS migration (
                version BIGINT PRIMARY KEY,
                needs BIGINT NOT NULL,
                applied TIMESTAMPTZ NOT NULL DEFAULT now()
            )",
        )
        .await?;
    let rows = lease
        .query(
            "SELECT coalesce(max(version), 0), coalesce(max(needs), 0) FROM migration",
            &[],
        )
        .await?;
    let (found, needs) = match rows.first() {
        Some(row) => (super::get::<i64>(row, 0)?, super::get::<i64>(row, 1)?),
        None => (0, 0),
    };
    if needs > known {
        lease.rollback().await?;
        return Ok(Err(format!(
            "its schema has version {found}, this program knows {known}: update rookery"
        )));
    }
    for (version, migration) in (1..)
        .zip(migrations)
        .filter(|(version, _)| *version > found)
    {
        lease.run_script(migration.sql).await?;
        lease
            .execute(
                "INSERT INTO migration (version, needs) VALUES ($1, $2)",
                &[&version, &migration.needs],
            )
            .await?;
        tracing::info!(version, "database schema migrated");
    }
    lease.commit().await?;
    Ok(Ok(()))
}
