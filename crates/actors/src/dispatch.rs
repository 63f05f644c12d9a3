//! Which code answers an IQ that a client sent (RFC 6120 §8.2.3, §8.4; RFC 6121 §8.5).
//!
//! One arm for each feature. Requests to the server and to accounts are answered here, on the
//! client's own node, since all nodes share the storage; those to resources are routed.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use rookery_features::iq::{Addressee, Request};
use rookery_features::{
    bind, password, xep0012_last, xep0030_disco, xep0049_private, xep0054_vcard, xep0077_register,
    xep0092_version, xep0199_ping, xep0202_time,
};
use rookery_proto::error::{Condition, StanzaError};
use rookery_proto::jid::{BareJid, Jid};
use rookery_proto::stanza::Stanza;
use rookery_proto::stream::{StreamCondition, StreamError};
use rookery_proto::xml::Element;

use crate::archive;
use crate::audit;
use crate::commands;
use crate::metrics::Outcome;
use crate::node;
use crate::presence_list::{BlockListRequest, RosterRequest};
use crate::reply;
use crate::shard::Parcel;
use crate::user_session::{Session, Taken};

/// What takes time; yields what the stream ends with, if it has to.
type Job = Pin<Box<dyn Future<Output = Option<StreamError>>>>;

/// Handles an IQ from the session's client.
pub(crate) fn iq(session: &Rc<Session>, parcel: Parcel) -> Taken {
    let node = session.shard.node();
    let own = &session.account.jid;
    let stanza = &parcel.stanza;
    let addressee = Addressee::of(stanza.to.as_ref(), own, |domain| node.serves(domain));
    match &addressee {
        Addressee::Resource(to) if xep0012_last::is_query(stanza) => {
            let account = Addressee::Account(to.to_bare());
            return Taken::Waiting(pass_if_visible(Rc::clone(session), parcel, account));
        }
        Addressee::Resource(_) | Addressee::Remote => return session.route(parcel),
        Addressee::Nobody => {
            session.refuse(parcel, &Condition::ServiceUnavailable.into());
            return Taken::Done;
        }
        Addressee::Account(account) => {
            let blocks = session
                .account
                .block_list
                .borrow()
                .as_ref()
                .map(|list| list.blocks(&Jid::from(account.clone())));
            match blocks {
                Some(false) => {}
                // XEP-0191 §3.5
                Some(true) => {
                    session.refuse(parcel, &reply::blocked_by_sender());
                    return Taken::Done;
                }
                None => return Taken::Waiting(with_block_list(Rc::clone(session), parcel)),
            }
        }
        Addressee::Server | Addressee::Own => {}
    }
    let request = Request::of(stanza, &addressee);
    let answer = match request {
        Request::Reply => {
            parcel.end(Outcome::Delivered);
            return Taken::Done;
        }
        Request::Ping => Ok(xep0199_ping::pong(stanza)),
        Request::Session => Ok(stanza.reply_result()),
        Request::Version => Ok(stanza.reply_result_with(xep0092_version::version())),
        Request::Time => Ok(stanza.reply_result_with(xep0202_time::time(SystemTime::now()))),
        Request::DiscoInfo {
            node: Some(ref node),
        }
        | Request::DiscoItems {
            node: Some(ref node),
        } if addressee == Addressee::Server && commands::is_node(node) => {
            let is_info = matches!(request, Request::DiscoInfo { .. });
            commands::discover(session, stanza, node, is_info)
        }
        Request::DiscoInfo { ref node } if addressee == Addressee::Server => {
            xep0030_disco::server_info(node.as_deref()).map(|info| stanza.reply_result_with(info))
        }
        Request::DiscoItems { ref node } if addressee == Addressee::Server => {
            xep0030_disco::server_items(node.as_deref())
                .map(|items| stanza.reply_result_with(items))
        }
        Request::Last if addressee == Addressee::Server => {
            let uptime = xep0012_last::uptime(node.started.elapsed());
            Ok(stanza.reply_result_with(uptime))
        }
        Request::CarbonsEnable | Request::CarbonsDisable => {
            session
                .resource
                .carbons
                .set(request == Request::CarbonsEnable);
            Ok(stanza.reply_result())
        }
        Request::Bind => Err(bind::Refusal::AlreadyBound.condition()),
        Request::Forbidden => Err(Condition::Forbidden),
        Request::Unknown => Err(Condition::ServiceUnavailable),
        Request::RosterGet | Request::RosterSet => {
            let list = session.shard.presence_list(&session.account);
            let resource = session.resource.jid.resource().to_owned();
            let stanza = Stanza::clone(stanza);
            return session.ask(parcel, list.send(RosterRequest { resource, stanza }));
        }
        Request::BlockList | Request::Block | Request::Unblock => {
            let list = session.shard.presence_list(&session.account);
            let resource = session.resource.jid.resource().to_owned();
            let stanza = Stanza::clone(stanza);
            return session.ask(parcel, list.send(BlockListRequest { resource, stanza }));
        }
        _ => return Taken::Waiting(with_storage(Rc::clone(session), parcel, addressee, request)),
    };
    match answer {
        Ok(answer) => {
            session.answer(answer);
            parcel.end(Outcome::Delivered);
        }
        Err(condition) => session.refuse(parcel, &condition.into()),
    }
    Taken::Done
}

/// Reads whom the user blocks, then goes on.
fn with_block_list(session: Rc<Session>, parcel: Parcel) -> Job {
    Box::pin(async move {
        match session.shard.load_block_list(&session.account).await {
            Ok(()) => match iq(&session, parcel) {
                Taken::Waiting(job) => job.await,
                Taken::Fatal(error) => Some(error),
                Taken::Done => None,
            },
            Err(error) => {
                session.refuse(parcel, &reply::storage_error(&error));
                None
            }
        }
    })
}

/// XEP-0012 §4: a client's idle time is for those who may see its presence.
fn pass_if_visible(session: Rc<Session>, parcel: Parcel, account: Addressee) -> Job {
    Box::pin(async move {
        let own =
            matches!(&account, Addressee::Account(account) if *account == session.account.jid);
        match sees_presence(&session, &account).await {
            Ok(visible) if visible || own => {
                if let Taken::Waiting(job) = session.route(parcel) {
                    return job.await;
                }
            }
            Ok(_) => session.refuse(parcel, &Condition::Forbidden.into()),
            Err(error) => session.refuse(parcel, &error),
        }
        None
    })
}

/// Requests that read or write storage.
fn with_storage(
    session: Rc<Session>,
    parcel: Parcel,
    addressee: Addressee,
    request: Request,
) -> Job {
    Box::pin(async move {
        let stanza = Arc::clone(&parcel.stanza);
        let answer = match request {
            Request::RegisterGet | Request::RegisterSet => {
                return register(&session, parcel).await;
            }
            Request::Command => commands::run(&session, &stanza).await,
            Request::ArchiveQuery
            | Request::ArchiveForm
            | Request::ArchiveMetadata
            | Request::PreferencesGet
            | Request::PreferencesSet => archive::answer(&session, &stanza, &request).await,
            _ => answer(&session, &stanza, &addressee, request).await,
        };
        match answer {
            Ok(Some(payload)) => session.answer(stanza.reply_result_with(payload)),
            Ok(None) => session.answer(stanza.reply_result()),
            Err(error) => {
                session.refuse(parcel, &error);
                return None;
            }
        }
        parcel.end(Outcome::Delivered);
        None
    })
}

async fn answer(
    session: &Session,
    stanza: &Stanza,
    addressee: &Addressee,
    request: Request,
) -> Result<Option<Element>, StanzaError> {
    let storage = &session.shard.node().storage;
    let own = &session.account.jid;
    if let Addressee::Account(account) = addressee
        && blocked_by(session, account).await?
    {
        // XEP-0191 §3.7
        return Err(Condition::ServiceUnavailable.into());
    }
    match request {
        Request::VcardGet => {
            let other = if let Addressee::Account(account) = addressee {
                Some(account)
            } else {
                None
            };
            let stored = storage.vcard(other.unwrap_or(own)).await;
            let stored = stored.map_err(|e| reply::storage_error(&e))?;
            Ok(Some(match other {
                Some(_) => xep0054_vcard::of_other(stored.as_deref())?,
                None => xep0054_vcard::own(stored.as_deref())?,
            }))
        }
        Request::VcardSet => {
            let vcard = xep0054_vcard::replacement(stanza)?;
            storage
                .set_vcard(own, &vcard)
                .await
                .map_err(|e| reply::storage_error(&e))?;
            Ok(None)
        }
        Request::PrivateGet => private_get(session, stanza).await,
        Request::PrivateSet => {
            for entry in xep0049_private::replacement(stanza)? {
                let xep0049_private::Key { name, ns } = &entry.key;
                storage
                    .set_private(own, name, ns, &entry.xml)
                    .await
                    .map_err(|e| reply::storage_error(&e))?;
            }
            Ok(None)
        }
        Request::DiscoInfo { node } => {
            let visible = sees_presence(session, addressee).await?;
            let has_archive = session.shard.node().settings.archive.enabled;
            let info = xep0030_disco::account_info(node.as_deref(), visible, has_archive)?;
            Ok(Some(info))
        }
        Request::DiscoItems { node } => {
            let visible = sees_presence(session, addressee).await?;
            Ok(Some(xep0030_disco::account_items(
                node.as_deref(),
                visible,
            )?))
        }
        Request::Last => last_activity(session, addressee).await,
        _ => Err(Condition::ServiceUnavailable.into()),
    }
}

async fn private_get(session: &Session, stanza: &Stanza) -> Result<Option<Element>, StanzaError> {
    let storage = &session.shard.node().storage;
    let keys = xep0049_private::requested(stanza)?;
    let mut values = Vec::with_capacity(keys.len());
    for key in &keys {
        let stored = storage
            .private(&session.account.jid, &key.name, &key.ns)
            .await;
        values.push(stored.map_err(|e| reply::storage_error(&e))?);
    }
    let pairs = keys.iter().zip(values.iter().map(Option::as_deref));
    Ok(Some(xep0049_private::result(pairs)?))
}

/// Whether an account blocks the user who asks.
async fn blocked_by(session: &Session, account: &BareJid) -> Result<bool, StanzaError> {
    let storage = &session.shard.node().storage;
    let blocked = storage
        .blocked(account)
        .await
        .map_err(|e| reply::storage_error(&e))?;
    Ok(rookery_features::xep0191_blocking::BlockList::new(blocked).blocks(&session.jid))
}

/// Whether the user who asks is subscribed to the presence of the account (or is its owner).
async fn sees_presence(session: &Session, addressee: &Addressee) -> Result<bool, StanzaError> {
    let Addressee::Account(account) = addressee else {
        return Ok(true);
    };
    let storage = &session.shard.node().storage;
    let item = storage
        .roster_item(account, &session.account.jid)
        .await
        .map_err(|e| reply::storage_error(&e))?;
    Ok(item.is_some_and(|item| item.subscription.seen_by_contact()))
}

async fn last_activity(
    session: &Session,
    addressee: &Addressee,
) -> Result<Option<Element>, StanzaError> {
    let visible = sees_presence(session, addressee).await?;
    let storage = &session.shard.node().storage;
    let account = match addressee {
        Addressee::Account(account) => account,
        _ => &session.account.jid,
    };
    let online = *account == session.account.jid || session.shard.node().is_online(account).await?;
    let last = storage
        .last(account)
        .await
        .map_err(|e| reply::storage_error(&e))?;
    let activity = match &last {
        _ if online => xep0012_last::Activity::Online,
        Some((at, status)) => xep0012_last::Activity::Offline {
            since: SystemTime::now().duration_since(*at).unwrap_or_default(),
            status,
        },
        None => xep0012_last::Activity::Never,
    };
    Ok(Some(xep0012_last::account(visible, activity)?))
}

/// XEP-0077 for a user who is logged in.
async fn register(session: &Rc<Session>, parcel: Parcel) -> Option<StreamError> {
    let stanza = &parcel.stanza;
    let fatal = match try_register(session, stanza).await {
        Ok(Done::Answer(payload)) => {
            session.answer(stanza.reply_result_with(payload));
            None
        }
        Ok(Done::Changed) => {
            session.answer(stanza.reply_result());
            None
        }
        Ok(Done::Removed) => {
            // §3.2: the result, then the account's streams end.
            session.answer(stanza.reply_result());
            // A node that cannot be told stands in the log, for operators.
            let _ = node::account_changed(session.shard.node(), &session.account.jid, true).await;
            Some(StreamError::from(StreamCondition::NotAuthorized))
        }
        Err(error) => {
            session.refuse(parcel, &error);
            return None;
        }
    };
    parcel.end(Outcome::Delivered);
    fatal
}

enum Done {
    Answer(Element),
    Changed,
    Removed,
}

async fn try_register(session: &Session, stanza: &Stanza) -> Result<Done, StanzaError> {
    let node = session.shard.node();
    let account = &session.account.jid;
    let policy = xep0077_register::Policy {
        registration: node.settings.auth.registration,
        account_changes: true,
        // Who logs in without TLS can do so only where the operator switched it off.
        channel_is_safe: true,
    };
    match xep0077_register::logged_in(stanza, account, policy)? {
        xep0077_register::LoggedIn::State => {
            Ok(Done::Answer(xep0077_register::registered(account)))
        }
        xep0077_register::LoggedIn::ChangePassword(password) => {
            let password = password::Password::new(password.as_str());
            let credentials = node.derive_credentials(password).await?;
            let known = node.storage.set_credentials(account, &credentials).await;
            if known.map_err(|e| reply::storage_error(&e))? {
                audit::of_the_user(account, "user-password");
                Ok(Done::Changed)
            } else {
                Err(Condition::ItemNotFound.into())
            }
        }
        xep0077_register::LoggedIn::Remove => {
            session.shard.cancel_subscriptions(&session.account).await?;
            node.storage
                .delete(account)
                .await
                .map_err(|e| reply::storage_error(&e))?;
            audit::of_the_user(account, "user-delete");
            Ok(Done::Removed)
        }
    }
}
