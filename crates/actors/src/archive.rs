//! The archive of messages: XEP-0313 and XEP-0441, for its owner.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rookery_features::iq::Request;
use rookery_features::xep0313_mam as mam;
use rookery_features::xep0441_preferences::{ByDefault, Preferences};
use rookery_proto::error::{Condition, StanzaError};
use rookery_proto::stanza::Stanza;
use rookery_proto::xml::Element;
use rookery_storage::{
    ArchiveAnswer, ArchiveDefault, ArchivePage, ArchivePreferences, ArchiveQuery, Entry, EntryId,
    Page,
};

use crate::node::NodeShared;
use crate::reply;
use crate::user_session::Session;

/// How often old messages are removed.
const EXPIRY_INTERVAL: Duration = Duration::from_mins(10);

/// Messages that are removed in one transaction.
const EXPIRY_BATCH: usize = 1000;

/// Messages on a page if the client does not say how many it wants.
const DEFAULT_PAGE: usize = 50;

/// Answers a request about the user's own archive. Yields the payload of the result, or `None` for an
/// empty one. Messages that a query finds go out before that.
pub(crate) async fn answer(
    session: &Rc<Session>,
    stanza: &Stanza,
    request: &Request,
) -> Result<Option<Element>, StanzaError> {
    let storage = &session.shard.node().storage;
    let account = &session.account.jid;
    if !session.shard.node().settings.archive.enabled {
        return Err(Condition::ServiceUnavailable.into());
    }
    match request {
        Request::ArchiveQuery => query(session, stanza).await.map(Some),
        Request::ArchiveForm => Ok(Some(mam::form())),
        Request::ArchiveMetadata => {
            let bounds = storage.archive_bounds(account).await;
            let bounds = bounds.map_err(|e| reply::storage_error(&e))?;
            let ends = bounds.map(|bounds| [bounds.first, bounds.last].map(|(id, at)| (id.0, at)));
            Ok(Some(mam::metadata(ends)))
        }
        Request::PreferencesGet => {
            let stored = storage.archive_preferences(account).await;
            let stored = stored.map_err(|e| reply::storage_error(&e))?;
            Ok(Some(from_storage(stored).to_element()))
        }
        Request::PreferencesSet => {
            let wanted = Preferences::parse(stanza)?;
            let stored = storage
                .set_archive_preferences(account, &to_storage(&wanted))
                .await;
            if stored.map_err(|e| reply::storage_error(&e))? {
                Ok(Some(wanted.to_element()))
            } else {
                Err(Condition::ItemNotFound.into())
            }
        }
        _ => Err(Condition::ServiceUnavailable.into()),
    }
}

/// XEP-0313 §4
async fn query(session: &Rc<Session>, stanza: &Stanza) -> Result<Element, StanzaError> {
    let node = session.shard.node();
    let wanted = mam::Query::parse(stanza)?;
    let max = wanted
        .max
        .unwrap_or(DEFAULT_PAGE)
        .min(node.settings.archive.max_page);
    let found = node
        .storage
        .archive(&session.account.jid, &for_storage(&wanted, max))
        .await;
    let mut page = match found.map_err(|e| reply::storage_error(&e))? {
        ArchiveAnswer::Page(page) => page,
        ArchiveAnswer::NotFound => return Err(Condition::ItemNotFound.into()),
    };
    shorten(
        &mut page,
        wanted.page,
        node.settings.sessions.outbox_bytes / 4,
    );
    let ends = page.entries.first().zip(page.entries.last());
    let fin = mam::Fin {
        ends: ends.map(|(first, last)| (first.id.0, last.id.0)),
        index: page.index,
        count: page.count,
        complete: page.complete,
        stable: true,
    };
    send(session, &wanted, page);
    Ok(fin.to_element())
}

/// A page that is longer than this in bytes ends earlier, so that it fits into the outbox; the client
/// asks for the rest as for any next page.
fn shorten(page: &mut ArchivePage, which: mam::Page, max_bytes: usize) {
    let mut bytes = 0;
    let mut fits = |entry: &Entry| {
        bytes += entry.stanza.len();
        bytes <= max_bytes
    };
    let entries = &mut page.entries;
    let count = match which {
        mam::Page::First | mam::Page::After(_) => entries.iter().take_while(|e| fits(e)).count(),
        mam::Page::Last | mam::Page::Before(_) => {
            entries.iter().rev().take_while(|e| fits(e)).count()
        }
    };
    let count = count.max(1);
    if count >= entries.len() {
        return;
    }
    page.complete = false;
    match which {
        mam::Page::First | mam::Page::After(_) => entries.truncate(count),
        mam::Page::Last | mam::Page::Before(_) => drop(entries.drain(..entries.len() - count)),
    }
    page.index = None;
}

/// Sends the messages of a page.
fn send(session: &Rc<Session>, query: &mam::Query, page: ArchivePage) {
    let mut entries = page.entries;
    if query.flip {
        entries.reverse();
    }
    for Entry { id, at, stanza, .. } in entries {
        let archived = mam::Archived {
            id: id.0,
            at,
            stanza: &stanza,
        };
        match archived.result(query.query_id.as_deref(), &session.account.jid) {
            Some(result) => session.answer(result),
            None => {
                tracing::error!(account = %session.account.jid, %id, "an archived message is unreadable");
            }
        }
    }
}

fn for_storage(query: &mam::Query, max: usize) -> ArchiveQuery {
    ArchiveQuery {
        with: query.with.clone(),
        start: query.start,
        end: query.end,
        after_id: query.after_id.map(EntryId),
        before_id: query.before_id.map(EntryId),
        ids: query.ids.iter().copied().map(EntryId).collect(),
        page: match query.page {
            mam::Page::First => Page::First,
            mam::Page::After(id) => Page::After(EntryId(id)),
            mam::Page::Last => Page::Last,
            mam::Page::Before(id) => Page::Before(EntryId(id)),
        },
        max,
    }
}

fn from_storage(stored: ArchivePreferences) -> Preferences {
    Preferences {
        default: match stored.default {
            ArchiveDefault::Always => ByDefault::Always,
            ArchiveDefault::Never => ByDefault::Never,
            ArchiveDefault::Roster => ByDefault::Roster,
        },
        always: stored.always,
        never: stored.never,
    }
}

fn to_storage(wanted: &Preferences) -> ArchivePreferences {
    ArchivePreferences {
        default: match wanted.default {
            ByDefault::Always => ArchiveDefault::Always,
            ByDefault::Never => ArchiveDefault::Never,
            ByDefault::Roster => ArchiveDefault::Roster,
        },
        always: wanted.always.clone(),
        never: wanted.never.clone(),
    }
}

/// Removes what is older, or more, than the settings allow, now and then.
pub(crate) fn start_expiry(node: &Arc<NodeShared>) {
    let archive = &node.settings.archive;
    if archive.max_age.is_none() && archive.max_messages.is_none() {
        return;
    }
    let node = Arc::clone(node);
    actix_rt::spawn(async move {
        let mut pace = tokio::time::interval(EXPIRY_INTERVAL);
        loop {
            pace.tick().await;
            expire(&node).await;
        }
    });
}

async fn expire(node: &NodeShared) {
    let archive = &node.settings.archive;
    loop {
        let oldest = archive
            .max_age
            .and_then(|age| SystemTime::now().checked_sub(age));
        let expired = node
            .storage
            .expire(oldest, archive.max_messages, EXPIRY_BATCH);
        match expired.await {
            Ok(0) => return,
            Ok(messages) => tracing::debug!(messages, "removed from archives"),
            Err(error) => {
                tracing::warn!(%error, "old messages were not removed from archives");
                return;
            }
        }
    }
}
