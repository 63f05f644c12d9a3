//! What operators do to accounts while the node runs: the HTTP API, the command line and the commands of
//! XEP-0133 all come here.
//!
//! A change is committed before it is reported, and takes effect on all nodes: sessions of an account
//! whose password changed, or that is gone, end everywhere.

use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rookery_features::password::Password;
use rookery_features::roster::{MAX_GROUP_BYTES, MAX_GROUPS, MAX_NAME_BYTES, RosterSet};
use rookery_proto::credentials::Credentials;
use rookery_proto::error::{Condition, ErrorType, StanzaError};
use rookery_proto::jid::{BareJid, Jid};
use rookery_proto::ns;
use rookery_proto::roster::RosterItem;
use rookery_proto::stanza::{IqType, MessageType, Stanza};
use rookery_proto::xml::Element;
use tokio::sync::oneshot;

use crate::budget::Load;
use crate::node::{NodeShared, account_changed};
use crate::presence_list::RosterOrder;
use crate::receipts::Receipts;
use crate::shard::{Batch, Parcel, Run, Shard, Work};

/// Accounts that are read from the database at a time.
const PAGE: usize = 500;

/// How long messages may take until they are delivered or stored: more than storage may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why an operator's wish is not fulfilled. Nothing was changed then, but for [`Refused::Untold`].
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The address is none of an account here.
    #[error("{address} is no account's address in a served domain ({served})")]
    Address {
        /// The address.
        address: String,
        /// The served domains.
        served: String,
    },
    /// There is one already.
    #[error("{0} exists already")]
    Exists(BareJid),
    /// There is none.
    #[error("there is no account {0}")]
    NoAccount(BareJid),
    /// The text cannot be a password.
    #[error("this cannot be a password: {0}")]
    Password(String),
    /// The contact is not in the roster.
    #[error("{contact} is not in the roster of {account}")]
    NoContact {
        /// Whose roster.
        account: BareJid,
        /// The contact.
        contact: BareJid,
    },
    /// The contact cannot be in the roster like that.
    #[error("this cannot be in a roster: {0}")]
    Contact(String),
    /// The text has characters that XML does not have (RFC 6120 §11.1).
    #[error("this text has characters that a message cannot have")]
    Text,
    /// The message could neither be delivered nor stored: the recipient blocks the server, its store
    /// is full, or the database does not answer.
    #[error("the message to {0} could neither be delivered nor stored")]
    Undelivered(Jid),
    /// The roster is full.
    #[error("the roster is full (limits.roster_items)")]
    Full,
    /// It is done, but sessions that have to end go on on some nodes.
    #[error(
        "it is done, but sessions of {account} go on at nodes that could not be told ({nodes}); end them by \
         `rookery session kick {account}`"
    )]
    Untold {
        /// Whose sessions.
        account: BareJid,
        /// How the nodes are called.
        nodes: String,
    },
    /// The database does not answer, or something else of ours fails.
    #[error("{0}")]
    Failed(String),
}

impl From<rookery_storage::Error> for Refused {
    fn from(error: rookery_storage::Error) -> Self {
        Self::Failed(format!("the database: {error}"))
    }
}

/// What is known of an account.
#[derive(Debug, Clone)]
pub struct AccountInfo {
    /// When its last client left, and the status it left with (XEP-0012).
    pub last: Option<(SystemTime, String)>,
    /// How many contacts its roster has.
    pub contacts: usize,
    /// Whether it is disabled.
    pub is_disabled: bool,
}

/// What a message that an operator sends says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// Its subject, if it has one.
    pub subject: Option<String>,
    /// Its body.
    pub body: String,
}

impl Text {
    /// A message from a domain.
    fn message(&self, kind: MessageType, from: &str, id: &str) -> Option<Stanza> {
        let mut message = Stanza::message(kind)
            .with_from(Jid::parse(from).ok()?)
            .with_id(id);
        if let Some(subject) = &self.subject {
            message.push(Element::new("subject", ns::CLIENT).with_text(subject));
        }
        Some(message.with_child(Element::new("body", ns::CLIENT).with_text(&self.body)))
    }
}

impl NodeShared {
    /// The account of this address, if its domain is served; whether it exists is not looked at.
    ///
    /// # Errors
    /// [`Refused::Address`].
    pub fn account_address(&self, address: &str) -> Result<BareJid, Refused> {
        let parsed = BareJid::parse(address).ok();
        let account = parsed.filter(|jid| jid.local().is_some() && self.serves(jid.domain()));
        account.ok_or_else(|| Refused::Address {
            address: address.to_owned(),
            served: self.settings.domains.join(", "),
        })
    }

    /// # Errors
    /// [`Refused::NoAccount`] if there is none.
    pub(crate) async fn must_exist(&self, account: &BareJid) -> Result<(), Refused> {
        if self.storage.exists(account).await? {
            Ok(())
        } else {
            Err(Refused::NoAccount(account.clone()))
        }
    }

    async fn new_credentials(&self, password: &str) -> Result<Credentials, Refused> {
        let derived = self.derive_credentials(Password::new(password)).await;
        derived.map_err(|error| match (error.condition, error.text) {
            (Condition::NotAcceptable, Some(text)) => Refused::Password(text.into()),
            _ => Refused::Failed("the password's keys could not be made".into()),
        })
    }

    /// Makes an account.
    ///
    /// # Errors
    /// [`Refused::Exists`], [`Refused::Password`], [`Refused::Failed`].
    pub async fn add_account(&self, account: &BareJid, password: &str) -> Result<(), Refused> {
        // Before the hashing, which is slow on purpose.
        if self.storage.exists(account).await? {
            return Err(Refused::Exists(account.clone()));
        }
        let credentials = self.new_credentials(password).await?;
        match self.storage.create(account, &credentials).await {
            Err(rookery_storage::Error::Exists) => Err(Refused::Exists(account.clone())),
            other => Ok(other?),
        }
    }

    /// Gives an account another password and ends its sessions on all nodes.
    ///
    /// # Errors
    /// [`Refused::NoAccount`], [`Refused::Password`], [`Refused::Untold`], [`Refused::Failed`].
    pub async fn change_password(
        self: &Arc<Self>,
        account: &BareJid,
        password: &str,
    ) -> Result<(), Refused> {
        self.must_exist(account).await?;
        let credentials = self.new_credentials(password).await?;
        if !self.storage.set_credentials(account, &credentials).await? {
            return Err(Refused::NoAccount(account.clone()));
        }
        account_changed(self, account, false).await
    }

    /// Disables an account and ends its sessions on all nodes, or enables it again (XEP-0133 §4.3, §4.4).
    /// A disabled account keeps what is stored for it, also messages that come for it meanwhile.
    ///
    /// # Errors
    /// [`Refused::NoAccount`], [`Refused::Untold`], [`Refused::Failed`].
    pub async fn set_disabled(
        self: &Arc<Self>,
        account: &BareJid,
        disabled: bool,
    ) -> Result<(), Refused> {
        if !self.storage.set_disabled(account, disabled).await? {
            return Err(Refused::NoAccount(account.clone()));
        }
        if disabled {
            account_changed(self, account, false).await?;
        }
        Ok(())
    }

    /// Deletes an account with all that is stored for it, tells its contacts that their subscriptions end
    /// (as XEP-0077 §3.2 does), and ends its sessions on all nodes.
    ///
    /// # Errors
    /// [`Refused::NoAccount`], [`Refused::Untold`], [`Refused::Failed`].
    pub async fn delete_account(self: &Arc<Self>, account: &BareJid) -> Result<(), Refused> {
        self.must_exist(account).await?;
        let name = account.clone();
        let told = self.with_shard_of(account, async move |shard| {
            let entry = shard.account(&name);
            let told = shard.cancel_subscriptions(&entry).await;
            shard.tidy(&name);
            told
        });
        told.await?.map_err(|error| failed(&error))?;
        if !self.storage.delete(account).await? {
            return Err(Refused::NoAccount(account.clone()));
        }
        account_changed(self, account, true).await
    }

    /// What is known of an account.
    ///
    /// # Errors
    /// [`Refused::NoAccount`], [`Refused::Failed`].
    pub async fn account_info(&self, account: &BareJid) -> Result<AccountInfo, Refused> {
        let keys = self.storage.login_keys(account).await?;
        let keys = keys.ok_or_else(|| Refused::NoAccount(account.clone()))?;
        Ok(AccountInfo {
            last: self.storage.last(account).await?,
            contacts: self.contacts(account).await?.len(),
            is_disabled: keys.is_disabled,
        })
    }

    /// The contacts in an account's roster, as its clients see them.
    ///
    /// # Errors
    /// [`Refused::NoAccount`], [`Refused::Failed`].
    pub async fn contacts(&self, account: &BareJid) -> Result<Vec<RosterItem>, Refused> {
        self.must_exist(account).await?;
        let mut items = self.storage.roster(account).await?.items;
        items.retain(rookery_features::subscription::is_listed);
        Ok(items)
    }

    /// Changes an account's roster as its own clients do (RFC 6121 §2.3 to §2.5): the contact is told of
    /// a removal, and all clients of the account get a roster push. Returns the item as it is then.
    ///
    /// # Errors
    /// All of [`Refused`] but [`Refused::Exists`], [`Refused::Password`] and [`Refused::Untold`].
    pub async fn change_roster(
        self: &Arc<Self>,
        account: &BareJid,
        set: RosterSet,
    ) -> Result<Option<RosterItem>, Refused> {
        self.must_exist(account).await?;
        let contact = set.jid().clone();
        let set = checked(&set, account)?;
        let name = account.clone();
        let changed = self.with_shard_of(account, async move |shard| {
            let entry = shard.account(&name);
            let list = shard.presence_list(&entry);
            let limit = shard.node().settings.sessions.actor_timeout;
            let changed = tokio::time::timeout(limit, list.send(RosterOrder { set })).await;
            drop(entry);
            shard.tidy(&name);
            match changed {
                Ok(Ok(changed)) => changed,
                Ok(Err(_)) | Err(_) => Err(Condition::InternalServerError.into()),
            }
        });
        changed.await?.map_err(|error| match error.condition {
            Condition::ItemNotFound => Refused::NoContact {
                account: account.clone(),
                contact: contact.clone(),
            },
            Condition::ResourceConstraint if error.kind != ErrorType::Wait => Refused::Full,
            _ => failed(&error),
        })?;
        Ok(self.storage.roster_item(account, &contact).await?)
    }

    /// Sends a message from the recipient's domain to one account or resource, as any message is sent
    /// (RFC 6121 §8.5), and waits until it is delivered or stored.
    ///
    /// # Errors
    /// [`Refused::Address`], [`Refused::NoAccount`], [`Refused::Undelivered`]; [`Refused::Failed`], when
    /// it may arrive all the same.
    pub async fn send_message(&self, to: &Jid, text: &Text) -> Result<(), Refused> {
        let account = self.account_address(to.bare_str())?;
        self.must_exist(&account).await?;
        let message = self.text_message(text, MessageType::Normal, to.domain())?;
        let message = message.with_to(to.clone());
        let receipts = Arc::default();
        self.route_all(vec![message], &Load::new(&self.budget), &receipts)
            .await?;
        match settled(&receipts).await? {
            0 => Ok(()),
            _ => Err(Refused::Undelivered(to.clone())),
        }
    }

    /// Shows a message to all available resources of all nodes, or to those of a domain's accounts. It is
    /// not stored. Returns how many resources got it.
    ///
    /// # Errors
    /// [`Refused::Address`] if the domain is not served.
    pub async fn announce_to_online(
        &self,
        domain: Option<&str>,
        text: &Text,
    ) -> Result<crate::operators::Everywhere<usize>, Refused> {
        let from = match domain {
            Some(domain) => self.served(domain)?,
            None => self.settings.domains.first().map_or("", |domain| domain),
        };
        // Not normal: clients keep nothing of a headline, and it is for this moment (RFC 6121 §5.2.2).
        let message = self.text_message(text, MessageType::Headline, from)?;
        Ok(self.announce(message, domain.map(str::to_owned)).await)
    }

    /// Sends a message to all accounts of a domain; those who are offline get it later. Returns for how
    /// many it is delivered or stored: not for those who block the domain, or whose store is full.
    ///
    /// # Errors
    /// [`Refused::Address`] if the domain is not served; [`Refused::Failed`], when some may have got it.
    pub async fn announce_to_accounts(&self, domain: &str, text: &Text) -> Result<usize, Refused> {
        let from = self.served(domain)?;
        let message = self.text_message(text, MessageType::Normal, from)?;
        let load = Load::new(&self.budget);
        let receipts = Arc::default();
        let mut after: Option<BareJid> = None;
        let mut count = 0;
        loop {
            let last = after.as_ref().map(BareJid::as_str);
            let page = self.storage.accounts(domain, last, PAGE).await?;
            let Some(last) = page.last().cloned() else {
                let bounced = settled(&receipts).await?;
                return Ok(count - usize::try_from(bounced).unwrap_or(count));
            };
            count += page.len();
            let messages = page.into_iter().map(|to| message.clone().with_to(to));
            self.route_all(messages.collect(), &load, &receipts).await?;
            // No more is under way at a time than one sender may have.
            poll_fn(|cx| load.poll_room(cx)).await;
            after = Some(last);
        }
    }

    /// A served domain as it is written in the settings.
    fn served<'d>(&'d self, domain: &str) -> Result<&'d str, Refused> {
        let found = self.settings.domains.iter().find(|d| ***d == *domain);
        found.map(AsRef::as_ref).ok_or_else(|| Refused::Address {
            address: domain.to_owned(),
            served: self.settings.domains.join(", "),
        })
    }

    fn text_message(&self, text: &Text, kind: MessageType, from: &str) -> Result<Stanza, Refused> {
        let all = text
            .body
            .chars()
            .chain(text.subject.iter().flat_map(|s| s.chars()));
        if !all.into_iter().all(is_xml_char) {
            return Err(Refused::Text);
        }
        let mut id = [0; 8];
        self.random(&mut id);
        let id = format!("o{:016x}", u64::from_be_bytes(id));
        let message = text.message(kind, from, &id);
        let message = message.ok_or_else(|| Refused::Failed("no domain is served".into()))?;
        Ok(message)
    }

    /// Routes messages of the server's own, waiting while shards are busy; they count as `load`, and
    /// `receipts` know when they are dealt with.
    async fn route_all(
        &self,
        messages: Vec<Stanza>,
        load: &Arc<Load>,
        receipts: &Arc<Receipts>,
    ) -> Result<(), Refused> {
        let mut by_shard: Vec<Vec<Work>> = self.shards().iter().map(|_| Vec::new()).collect();
        for message in messages {
            let owner = message.to.as_ref().map(|to| self.shard_of(to.bare_str()));
            let share = Some(load.share(message.size()));
            let parcel = Parcel {
                share,
                receipt: Some(receipts.receive()),
                ..Parcel::new(message)
            };
            by_shard[owner.unwrap_or(0)].push(Work::Route(parcel));
        }
        for (shard, work) in self.shards().iter().zip(by_shard) {
            if !work.is_empty() && shard.send(Batch(work)).await.is_err() {
                return Err(Refused::Failed("the server stops".into()));
            }
        }
        Ok(())
    }

    /// Runs something on the shard that owns an account, and waits for it.
    async fn with_shard_of<T: Send + 'static, F: Future<Output = T> + 'static>(
        &self,
        account: &BareJid,
        work: impl FnOnce(Rc<Shard>) -> F + Send + 'static,
    ) -> Result<T, Refused> {
        let (answer, answered) = oneshot::channel();
        let job = Run(Box::new(move |shard: &Rc<Shard>| {
            let work = work(Rc::clone(shard));
            actix_rt::spawn(async move {
                // Nobody waits any more.
                let _ = answer.send(work.await);
            });
        }));
        let stopping = || Refused::Failed("the server stops".into());
        let owner = self.shard(self.shard_of(account.as_str()));
        owner.send(job).await.map_err(|_| stopping())?;
        answered.await.map_err(|_| stopping())
    }
}

/// Waits until messages are dealt with. Returns how many went back.
async fn settled(receipts: &Arc<Receipts>) -> Result<u32, Refused> {
    let settled = tokio::time::timeout(PATIENCE, receipts.settled()).await;
    settled.map_err(|_| {
        Refused::Failed("it is not known whether all of it is delivered or stored".into())
    })?;
    Ok(receipts.bounced())
}

/// XML 1.0 §2.2; surrogates are no `char`.
fn is_xml_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r') || (c >= ' ' && !matches!(c, '\u{fffe}' | '\u{ffff}'))
}

/// The rules that hold for clients hold for operators as well.
fn checked(set: &RosterSet, owner: &BareJid) -> Result<RosterSet, Refused> {
    let mut item = Element::new("item", ns::ROSTER).with_attr("jid", set.jid().as_str());
    match set {
        RosterSet::Update { name, groups, .. } => {
            if let Some(name) = name {
                item.set_attr("name", name);
            }
            for group in groups {
                item.push(Element::new("group", ns::ROSTER).with_text(group));
            }
        }
        RosterSet::Remove { .. } => item.set_attr("subscription", "remove"),
    }
    let query = Element::new("query", ns::ROSTER).with_child(item);
    let request = Stanza::iq(IqType::Set, "o").with_child(query);
    RosterSet::parse(&request, owner).map_err(|condition| {
        Refused::Contact(match condition {
            Condition::NotAllowed => "nobody is their own contact".into(),
            Condition::BadRequest => "a group is named twice".into(),
            Condition::NotAcceptable => format!(
                "a name has {MAX_NAME_BYTES} bytes at most, a group 1 to {MAX_GROUP_BYTES}, and there are \
                 {MAX_GROUPS} groups at most"
            ),
            other => other.as_str().into(),
        })
    })
}

fn failed(error: &StanzaError) -> Refused {
    Refused::Failed(match &error.text {
        Some(text) => format!("{}: {text}", error.condition.as_str()),
        None => error.condition.as_str().into(),
    })
}
