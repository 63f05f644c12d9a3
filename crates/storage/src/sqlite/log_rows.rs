//! Rows of `message` and `log_entry`.

use std::sync::{Arc, LazyLock};

use rookery_proto::jid::Jid;
use rusqlite::{Connection, Statement};

use crate::Error;

/// A row of `message`.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) id: i64,
    pub(super) at: i64,
    /// Account and peer.
    pub(super) recipient: Option<(i64, Jid)>,
    /// Account and peer.
    pub(super) sender: Option<(i64, Jid)>,
    pub(super) stanza: Arc<str>,
}

/// A row of `log_entry`: account, id, kind, peer.
pub(super) type LogEntry = [i64; 4];

/// Rows that one statement inserts.
const ROWS: usize = 32;

/// A statement that inserts `rows` rows.
fn insert_sql(into: &str, row: &str, rows: usize) -> String {
    let values = vec![row; rows].join(", ");
    format!("INSERT OR ROLLBACK INTO {into} VALUES {values}")
}

static INSERT_MESSAGES: LazyLock<[String; 2]> = LazyLock::new(|| {
    let into = "message (id, at, recipient, sender, recipient_peer, sender_peer, stanza)";
    [1, ROWS].map(|rows| insert_sql(into, "(?, ?, ?, ?, ?, ?, ?)", rows))
});

static INSERT_ENTRIES: LazyLock<[String; 2]> = LazyLock::new(|| {
    let into = "log_entry (account, id, kind, peer)";
    [1, ROWS].map(|rows| insert_sql(into, "(?, ?, ?, ?)", rows))
});

/// Inserts rows of `message`.
pub(super) fn insert_messages(db: &Connection, messages: &[Message]) -> rusqlite::Result<()> {
    insert(db, &INSERT_MESSAGES, messages, |insert, first, message| {
        let account = |end: &Option<(i64, Jid)>| end.as_ref().map(|end| end.0);
        insert.raw_bind_parameter(first, message.id)?;
        insert.raw_bind_parameter(first + 1, message.at)?;
        insert.raw_bind_parameter(first + 2, account(&message.recipient))?;
        insert.raw_bind_parameter(first + 3, account(&message.sender))?;
        for (place, end) in [(4, &message.recipient), (5, &message.sender)] {
            let peer = end.as_ref().map(|end| end.1.as_str());
            insert.raw_bind_parameter(first + place, peer)?;
        }
        insert.raw_bind_parameter(first + 6, &*message.stanza)?;
        Ok(7)
    })
}

/// Inserts rows of `log_entry`.
pub(super) fn insert_entries(db: &Connection, entries: &[LogEntry]) -> rusqlite::Result<()> {
    insert(db, &INSERT_ENTRIES, entries, |insert, first, entry| {
        for (place, value) in entry.iter().enumerate() {
            insert.raw_bind_parameter(first + place, value)?;
        }
        Ok(entry.len())
    })
}

/// Inserts rows, many at a time and then one by one. `bind` binds a row from a parameter on, and
/// gives the number of its parameters.
fn insert<R>(
    db: &Connection,
    [one, many]: &[String; 2],
    rows: &[R],
    bind: impl Fn(&mut Statement<'_>, usize, &R) -> rusqlite::Result<usize>,
) -> rusqlite::Result<()> {
    let (chunks, rest) = rows.as_chunks::<ROWS>();
    if !chunks.is_empty() {
        let mut insert = db.prepare_cached(many)?;
        for chunk in chunks {
            let mut parameter = 1;
            for row in chunk {
                parameter += bind(&mut insert, parameter, row)?;
            }
            insert.raw_execute()?;
        }
    }
    if !rest.is_empty() {
        let mut insert = db.prepare_cached(one)?;
        for row in rest {
            bind(&mut insert, 1, row)?;
            insert.raw_execute()?;
        }
    }
    Ok(())
}

/// Removes an entry, and its message if it is in no other log. False if there is no such entry.
pub(super) fn remove(db: &Connection, account: i64, id: i64) -> Result<bool, Error> {
    let removed = db
        .prepare_cached("DELETE FROM log_entry WHERE account = ?1 AND id = ?2")?
        .execute([account, id])?;
    if removed == 0 {
        return Ok(false);
    }
    remove_message(db, account, id)?;
    Ok(true)
}

/// Removes what a message has for one account, and all of it if there is no other.
fn remove_message(db: &Connection, account: i64, id: i64) -> Result<(), Error> {
    let removed = db
        .prepare_cached(
            "DELETE FROM message WHERE id = ?2
             AND ifnull(recipient, ?1) = ?1 AND ifnull(sender, ?1) = ?1",
        )?
        .execute([account, id])?;
    if removed == 0 {
        for update in [
            "UPDATE message SET recipient = NULL, recipient_peer = NULL
             WHERE id = ?2 AND recipient = ?1",
            "UPDATE message SET sender = NULL, sender_peer = NULL WHERE id = ?2 AND sender = ?1",
        ] {
            db.prepare_cached(update)?.execute([account, id])?;
        }
    }
    Ok(())
}
