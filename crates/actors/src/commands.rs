//! The commands of XEP-0133 for those who are named in `admin.jids`.
//!
//! Read and written by `features`; what they do is done in `administration.rs`, as for the other ways to
//! administer a server, and noted in the audit log.

use rookery_features::xep0050_commands::{self as adhoc, Command};
use rookery_features::xep0133_administration::{self as admin, Order, Verb};
use rookery_proto::datetime;
use rookery_proto::error::{Condition, ErrorType, StanzaError};
use rookery_proto::jid::{BareJid, Jid};
use rookery_proto::stanza::Stanza;
use rookery_proto::xml::Element;

use crate::administration::{Refused, Text};
use crate::audit::Operator;
use crate::inspect::SessionsOf;
use crate::operators::SessionThere;
use crate::user_session::Session;

/// Sessions and accounts that are asked for at a time.
const PAGE: usize = 500;

/// Whether a node of service discovery is that of a command, or of the list of them.
pub(crate) fn is_node(node: &str) -> bool {
    node == adhoc::NS || node.starts_with(admin::NS)
}

/// Answers disco#info and disco#items for such a node (XEP-0050 §2.2).
pub(crate) fn discover(
    session: &Session,
    stanza: &Stanza,
    node: &str,
    is_info: bool,
) -> Result<Stanza, Condition> {
    if !session.shard.node().is_admin(&session.account.jid) {
        return Err(Condition::Forbidden);
    }
    let domain = stanza.to.as_ref().map_or("", Jid::domain);
    let answer = match (node == adhoc::NS, Verb::of_node(node), is_info) {
        (true, _, true) => adhoc::info(node, None),
        (true, _, false) => {
            let commands = Verb::ALL.iter().map(|verb| (verb.node(), verb.title()));
            adhoc::list(domain, commands)
        }
        (false, Some(verb), true) => adhoc::info(node, Some(verb.title())),
        (false, _, _) => return Err(Condition::ItemNotFound),
    };
    Ok(stanza.reply_result_with(answer))
}

/// Runs a command, or asks for what it needs.
pub(crate) async fn run(
    session: &Session,
    stanza: &Stanza,
) -> Result<Option<Element>, StanzaError> {
    let who = &session.account.jid;
    let node = session.shard.node();
    let operator = Operator {
        via: "xmpp",
        who: who.to_string(),
    };
    let command = Command::parse(stanza)?;
    if !node.is_admin(who) {
        operator.did("command", &command.node, Err(&"forbidden"));
        return Err(Condition::Forbidden.into());
    }
    let verb = Verb::of_node(&command.node).ok_or(Condition::FeatureNotImplemented)?;
    let new_session = session.shard.stanza_id();
    if command.is_cancelled {
        return Ok(Some(command.cancelled(&new_session)));
    }
    let Some(order) = verb.order(&command.element)? else {
        let form = verb.form().ok_or(Condition::InternalServerError)?;
        return Ok(Some(command.executing(&new_session, form)));
    };
    let result = carry_out(session, &operator, order).await?;
    Ok(Some(command.completed(&new_session, result)))
}

async fn carry_out(
    session: &Session,
    operator: &Operator,
    order: Order,
) -> Result<Option<Element>, StanzaError> {
    let node = session.shard.node();
    let domain = session.account.jid.domain();
    let noted = |act: &str, on: &str, outcome: Result<(), Refused>| {
        let seen: Result<(), &dyn std::fmt::Display> = match &outcome {
            Ok(()) => Ok(()),
            Err(refused) => Err(refused),
        };
        operator.did(act, on, seen);
        outcome.map_err(|refused| told(&refused))
    };
    match order {
        Order::AddUser { account, password } => {
            let jid = address(session, &account)?;
            noted(
                "user-add",
                &account,
                node.add_account(&jid, &password).await,
            )?;
        }
        Order::ChangePassword { account, password } => {
            let jid = address(session, &account)?;
            let changed = node.change_password(&jid, &password).await;
            noted("user-password", &account, changed)?;
        }
        Order::SetDisabled { accounts, disabled } => {
            let act = if disabled {
                "user-disable"
            } else {
                "user-enable"
            };
            // All are looked at before the first is changed.
            for jid in addresses(session, &accounts).await? {
                let changed = node.set_disabled(&jid, disabled).await;
                noted(act, jid.as_str(), changed)?;
            }
        }
        Order::DeleteUsers(accounts) => {
            // All are looked at before the first is gone.
            for jid in addresses(session, &accounts).await? {
                noted("user-delete", jid.as_str(), node.delete_account(&jid).await)?;
            }
        }
        Order::EndSessions(sessions) => {
            let jids: Result<Vec<Jid>, _> = sessions.iter().map(|jid| Jid::parse(jid)).collect();
            let jids = jids.map_err(|_| admin::unfit("accountjids", "one is no address"))?;
            for jid in jids {
                let ended = node.kick_everywhere(&jid).await;
                let silent = ended.silent.first().map(|silent| {
                    Refused::Failed(format!("node {} {}", silent.node.name, silent.why))
                });
                noted("session-kick", jid.as_str(), silent.map_or(Ok(()), Err))?;
            }
        }
        Order::Announce(body) => {
            let text = Text {
                subject: None,
                body,
            };
            let shown = node.announce_to_online(None, &text).await;
            noted("message-announce", "online", shown.map(drop))?;
        }
        Order::LastLogin(accounts) => return last_logins(session, &accounts).await.map(Some),
        Order::Statistics(account) => return statistics(session, &account).await.map(Some),
        Order::CountDisabled => {
            let count = listed(session, domain, usize::MAX, Of::Disabled).await?.0;
            return Ok(Some(admin::result(&[(
                "disabledusersnum",
                vec![count.to_string()],
            )])));
        }
        Order::ListDisabled(limit) => {
            let (_, accounts) = listed(session, domain, limit, Of::Disabled).await?;
            return Ok(Some(admin::result(&[("disableduserjids", accounts)])));
        }
        Order::CountRegistered => {
            let count = listed(session, domain, usize::MAX, Of::All).await?.0;
            return Ok(Some(admin::result(&[(
                "registeredusersnum",
                vec![count.to_string()],
            )])));
        }
        Order::ListRegistered(limit) => {
            let (_, accounts) = listed(session, domain, limit, Of::All).await?;
            return Ok(Some(admin::result(&[("registereduserjids", accounts)])));
        }
        Order::CountOnline => {
            let (count, _) = online(session, usize::MAX).await;
            return Ok(Some(admin::result(&[(
                "onlineusersnum",
                vec![count.to_string()],
            )])));
        }
        Order::ListOnline(limit) => {
            let (_, accounts) = online(session, limit).await;
            return Ok(Some(admin::result(&[("onlineuserjids", accounts)])));
        }
    }
    Ok(None)
}

fn address(session: &Session, account: &str) -> Result<BareJid, StanzaError> {
    let found = session.shard.node().account_address(account);
    found.map_err(|refused| told(&refused))
}

/// The accounts of these addresses, which have to exist.
async fn addresses(session: &Session, accounts: &[String]) -> Result<Vec<BareJid>, StanzaError> {
    let mut all = Vec::new();
    for account in accounts {
        let jid = address(session, account)?;
        let found = session.shard.node().must_exist(&jid).await;
        found.map_err(|refused| told(&refused))?;
        all.push(jid);
    }
    Ok(all)
}

/// §4.9: when the newest of its sessions began, or when its last one ended.
async fn last_logins(session: &Session, accounts: &[String]) -> Result<Element, StanzaError> {
    let node = session.shard.node();
    let mut times = Vec::new();
    for account in addresses(session, accounts).await? {
        let sessions = sessions_of(session, &account).await;
        let newest = sessions.iter().map(|there| there.session.since).max();
        let info = node.account_info(&account).await;
        let info = info.map_err(|refused| told(&refused))?;
        let at = newest.or(info.last.map(|(at, _)| at));
        times.push(at.map_or_else(|| "never".into(), datetime::format));
    }
    Ok(admin::result(&[
        ("accountjids", accounts.to_vec()),
        ("lastlogin", times),
    ]))
}

/// §4.10
async fn statistics(session: &Session, account: &str) -> Result<Element, StanzaError> {
    let jid = address(session, account)?;
    let info = session.shard.node().account_info(&jid).await;
    let info = info.map_err(|refused| told(&refused))?;
    let sessions = sessions_of(session, &jid).await;
    let addresses = sessions.iter().map(|s| s.session.address.ip().to_string());
    let resources = sessions.iter().map(|s| s.session.jid.resource().to_owned());
    Ok(admin::result(&[
        ("accountjid", vec![jid.to_string()]),
        ("ipaddresses", addresses.collect()),
        ("rostersize", vec![info.contacts.to_string()]),
        ("onlineresources", resources.collect()),
    ]))
}

async fn sessions_of(session: &Session, account: &BareJid) -> Vec<SessionThere> {
    let of = SessionsOf {
        of: Some(Jid::from(account.clone())),
        after: None,
        limit: PAGE,
    };
    let all = session.shard.node().sessions_everywhere(of).await;
    all.answer.sessions
}

/// Which accounts of a domain are looked at.
#[derive(Debug, Clone, Copy)]
enum Of {
    All,
    Disabled,
}

/// How many accounts a domain has, as far as they are looked at, and the first of them.
async fn listed(
    session: &Session,
    domain: &str,
    limit: usize,
    of: Of,
) -> Result<(usize, Vec<String>), StanzaError> {
    let storage = &session.shard.node().storage;
    let mut first = Vec::new();
    let mut count = 0;
    let mut after: Option<BareJid> = None;
    while count < limit {
        let last = after.as_ref().map(BareJid::as_str);
        let size = PAGE.min(limit - count);
        let page = match of {
            Of::All => storage.accounts(domain, last, size).await,
            Of::Disabled => storage.disabled_accounts(domain, last, size).await,
        };
        let page = page.map_err(|error| told(&error.into()))?;
        let Some(last) = page.last().cloned() else {
            break;
        };
        count += page.len();
        if limit <= admin::MAX_ITEMS {
            first.extend(page.iter().map(ToString::to_string));
        }
        after = Some(last);
    }
    Ok((count, first))
}

/// How many accounts have sessions, as far as they are looked at, and the first of them.
async fn online(session: &Session, limit: usize) -> (usize, Vec<String>) {
    let mut first = Vec::new();
    let mut count = 0;
    let mut last: Option<SessionThere> = None;
    loop {
        let of = SessionsOf {
            of: None,
            after: last.as_ref().map(|last| last.session.jid.to_string()),
            limit: PAGE,
        };
        let page = session.shard.node().sessions_everywhere(of).await;
        let is_last = page.answer.sessions.len() < PAGE;
        for there in page.answer.sessions {
            let known = last.as_ref().map(|last| last.session.jid.bare_str());
            // They come in their order, so that those of an account stand together.
            if known != Some(there.session.jid.bare_str()) {
                if count == limit {
                    return (count, first);
                }
                count += 1;
                if limit <= admin::MAX_ITEMS {
                    first.push(there.session.jid.bare_str().to_owned());
                }
            }
            last = Some(there);
        }
        if is_last {
            return (count, first);
        }
    }
}

/// What the administrator is told.
fn told(refused: &Refused) -> StanzaError {
    let error = StanzaError::new(match refused {
        Refused::Address { .. } | Refused::Password(_) | Refused::Contact(_) | Refused::Text => {
            Condition::NotAcceptable
        }
        Refused::Exists(_) => Condition::Conflict,
        Refused::NoAccount(_) | Refused::NoContact { .. } => Condition::ItemNotFound,
        Refused::Full | Refused::Undelivered(_) | Refused::Untold { .. } | Refused::Failed(_) => {
            Condition::ResourceConstraint
        }
    });
    let error = match refused {
        Refused::Untold { .. } | Refused::Failed(_) => error.with_kind(ErrorType::Wait),
        _ => error,
    };
    error.with_text(refused.to_string())
}
