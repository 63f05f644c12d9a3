//! `rookery user …`: works on the database, whether a server runs or not, and tells the server that
//! runs here. What is more than a change to one account is left to that server, if there is one.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use ring::rand::{SecureRandom, SystemRandom};
use rookery_features::password::{Password, SALT_LEN, derive_credentials};
use rookery_features::subscription::{self, Change};
use rookery_features::xep0191_blocking::BlockList;
use rookery_proto::credentials::Credentials;
use rookery_proto::jid::{BareJid, Jid};
use rookery_proto::roster::RosterItem;
use rookery_proto::stanza::{PresenceType, Stanza};
use rookery_storage::{Error, RosterDecision, Storage};

use crate::api::encode;
use crate::cli::{PasswordArgs, UserCommand};
use crate::columns::JsonLines;
use crate::config::Config;
use crate::control::{self, AccountChanged, Told};
use crate::{commands, data_dir, password, portable, wiring};

/// How many addresses are read from the database at a time.
const PAGE: usize = 1000;

/// Runs the command.
///
/// # Errors
/// If it could not do what it was asked for.
pub(crate) async fn run(config: &Config, command: UserCommand) -> anyhow::Result<ExitCode> {
    if let UserCommand::Show { address, json } = command {
        return commands::show_user(config, &address, json).await;
    }
    if let Some((address, method, call, done)) = server_does(&command)
        && let Some(account) = by_server(config, address, method, call).await?
    {
        println!("{done} {account}");
        return Ok(ExitCode::SUCCESS);
    }
    data_dir::create(&config.server.data_dir)?;
    let storage = wiring::open_storage(config).await?;
    let result = dispatch(config, &storage, command).await;
    storage.close().await;
    result
}

async fn dispatch(
    config: &Config,
    storage: &Arc<dyn Storage>,
    command: UserCommand,
) -> anyhow::Result<ExitCode> {
    match command {
        UserCommand::Add { address, password } => {
            let account = parse(config, &address)?;
            if storage.exists(&account).await? {
                bail!("{account} exists already; `user passwd` changes its password");
            }
            let credentials = new_credentials(config, &password)?;
            match storage.create(&account, &credentials).await {
                // Somebody was quicker while the password was typed.
                Err(Error::Exists) => bail!("{account} exists already"),
                other => other?,
            }
            println!("added {account}");
            control::tell_of_new_account(&config.server.data_dir, account).await;
        }
        UserCommand::Passwd { address, password } => {
            let account = parse(config, &address)?;
            if !storage.exists(&account).await? {
                bail!("there is no account {account}");
            }
            let credentials = new_credentials(config, &password)?;
            if !storage.set_credentials(&account, &credentials).await? {
                bail!("there is no account {account}");
            }
            println!("changed the password of {account}");
            tell(config, AccountChanged::password(account)).await;
        }
        UserCommand::Delete { address } => {
            let account = BareJid::parse(&address).with_context(|| not_an_address(&address))?;
            if !storage.exists(&account).await? {
                bail!("there is no account {account}");
            }
            cancel_subscriptions(config, storage, &account).await?;
            if !storage.delete(&account).await? {
                bail!("there is no account {account}");
            }
            println!("deleted {account}");
            tell(config, AccountChanged::removed(account)).await;
        }
        UserCommand::Disable { address } => {
            let account = set_disabled(storage, &address, true).await?;
            println!("disabled {account}");
            tell(config, AccountChanged::disabled(account, true)).await;
        }
        UserCommand::Enable { address } => {
            let account = set_disabled(storage, &address, false).await?;
            println!("enabled {account}");
            tell(config, AccountChanged::disabled(account, false)).await;
        }
        UserCommand::Export { address, file } => {
            portable::export_user(config, storage, &address, &file).await?;
        }
        UserCommand::List {
            domain,
            disabled,
            json,
        } => list(config, storage, domain, (disabled, json)).await?,
        // Asked of the running server, before the database was opened.
        UserCommand::Show { .. } => {}
        UserCommand::Exists { address } => {
            let account = BareJid::parse(&address).with_context(|| not_an_address(&address))?;
            let exists = storage.exists(&account).await?;
            return Ok(if exists {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            });
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What the running server does, if there is one: the account, the method and the end of the path of the
/// API's call, and what to say when it is done.
fn server_does(command: &UserCommand) -> Option<(&str, &'static str, &'static str, &'static str)> {
    match command {
        // Contacts are told.
        UserCommand::Delete { address } => Some((address, "DELETE", "", "deleted")),
        UserCommand::Disable { address } => Some((address, "POST", "/disable", "disabled")),
        UserCommand::Enable { address } => Some((address, "POST", "/enable", "enabled")),
        _ => None,
    }
}

/// Has the server that runs here do it. `None` if none runs, or if the account is of a domain that is not
/// served any more: the server refuses those, and is told when it is done.
async fn by_server(
    config: &Config,
    address: &str,
    method: &str,
    call: &str,
) -> anyhow::Result<Option<BareJid>> {
    let account = BareJid::parse(address).with_context(|| not_an_address(address))?;
    if !serves(config, account.domain()) {
        return Ok(None);
    }
    let path = format!("/api/v1/users/{}{call}", encode(account.as_str()));
    let done = control::call_if_running(&config.server.data_dir, method, path, None).await?;
    Ok(done.map(|_| account))
}

async fn set_disabled(
    storage: &Arc<dyn Storage>,
    address: &str,
    disabled: bool,
) -> anyhow::Result<BareJid> {
    let account = BareJid::parse(address).with_context(|| not_an_address(address))?;
    if !storage.set_disabled(&account, disabled).await? {
        bail!("there is no account {account}");
    }
    Ok(account)
}

/// Ends the subscriptions between an account and its contacts in the contacts' rosters, as the server
/// does when it deletes an account (XEP-0077 §3.2). The contacts' clients find it when they log in.
async fn cancel_subscriptions(
    config: &Config,
    storage: &Arc<dyn Storage>,
    account: &BareJid,
) -> anyhow::Result<()> {
    for item in storage.roster(account).await?.items {
        if item.jid == *account || !serves(config, item.jid.domain()) {
            continue;
        }
        let blocked = storage.blocked(&item.jid).await?;
        if BlockList::new(blocked).blocks(&Jid::from(account.clone())) {
            continue;
        }
        let farewell = subscription::farewell(&item);
        let requests = [
            (farewell.unsubscribe, PresenceType::Unsubscribe),
            (farewell.unsubscribed, PresenceType::Unsubscribed),
        ];
        for (_, kind) in requests.into_iter().filter(|(is_sent, _)| *is_sent) {
            let stanza = Stanza::presence(kind)
                .with_from(account.clone())
                .with_to(item.jid.clone());
            let name = account.clone();
            let decide = move |held: Option<&RosterItem>| {
                let request = subscription::Request::of(kind);
                let inbound = request.map(|r| subscription::inbound(r, &name, held, &stanza));
                match inbound.map(|inbound| inbound.change) {
                    Some(Change::Put(item)) => RosterDecision::Put(item),
                    Some(Change::Remove) => RosterDecision::Remove,
                    Some(Change::Keep) | None => RosterDecision::Keep,
                }
            };
            match storage
                .update_roster(&item.jid, account, Box::new(decide))
                .await
            {
                Ok(_) | Err(Error::NoAccount) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

fn serves(config: &Config, domain: &str) -> bool {
    let domains = &config.server.domains;
    domains.iter().any(|served| served.as_str() == domain)
}

/// An address in a served domain.
fn parse(config: &Config, address: &str) -> anyhow::Result<BareJid> {
    let account = BareJid::parse(address).with_context(|| not_an_address(address))?;
    if account.local().is_none() {
        bail!("{}", not_an_address(address));
    }
    if !serves(config, account.domain()) {
        let served = config.server.domains.iter();
        let served: Vec<_> = served.map(ToString::to_string).collect();
        bail!(
            "{} is not a served domain; server.domains has {}",
            account.domain(),
            served.join(", ")
        );
    }
    Ok(account)
}

/// What is wrong with something that should be the address of an account.
pub(crate) fn not_an_address(address: &str) -> String {
    format!("{address:?} is not an account's address; write it like ann@localhost")
}

fn new_credentials(config: &Config, args: &PasswordArgs) -> anyhow::Result<Credentials> {
    let new = password::get(args)?;
    let iterations = wiring::scram_iterations(config)?;
    let random = SystemRandom::new();
    let mut salts = [[0; SALT_LEN]; 2];
    for salt in &mut salts {
        if random.fill(salt).is_err() {
            bail!("the operating system has no random numbers");
        }
    }
    let salts = [salts[0].as_slice(), salts[1].as_slice()];
    let credentials = derive_credentials(&Password::new(&new.text), salts, iterations)?;
    if new.generated {
        println!("password: {}", new.text);
    }
    Ok(credentials)
}

async fn list(
    config: &Config,
    storage: &Arc<dyn Storage>,
    domain: Option<String>,
    (disabled, json): (bool, bool),
) -> anyhow::Result<()> {
    let domains = match domain {
        Some(domain) => vec![domain],
        None => config
            .server
            .domains
            .iter()
            .map(ToString::to_string)
            .collect(),
    };
    let mut out = std::io::stdout().lock();
    let mut lines = JsonLines::new(json);
    for domain in domains {
        let mut after: Option<BareJid> = None;
        loop {
            let last = after.as_ref().map(BareJid::as_str);
            let page = if disabled {
                storage.disabled_accounts(&domain, last, PAGE).await?
            } else {
                storage.accounts(&domain, last, PAGE).await?
            };
            for account in &page {
                if json {
                    lines.item(&mut out, account)?;
                } else {
                    writeln!(out, "{account}")?;
                }
            }
            match page.into_iter().next_back() {
                Some(last) => after = Some(last),
                None => break,
            }
        }
    }
    lines.end(&mut out)?;
    Ok(())
}

/// Tells the server that runs on the same data directory. The change is committed in any case.
pub(crate) async fn tell(config: &Config, change: AccountChanged) {
    let account = change.account.clone();
    let ends_sessions = change.disabled != Some(false);
    match control::tell(&config.server.data_dir, change).await {
        Ok(Told::Nobody) if ends_sessions => warn_of_other_nodes(config, &account),
        Ok(Told::Server | Told::Nobody) => {}
        Err(error) if ends_sessions => eprintln!(
            "rookery: the running server could not end all sessions of {account}: {error:#}"
        ),
        Err(error) => eprintln!("rookery: the running server could not be told: {error:#}"),
    }
}

/// No server runs here; with a shared database, other nodes may have sessions of an account.
fn warn_of_other_nodes(config: &Config, account: &BareJid) {
    if config.cluster.redis.is_some() {
        eprintln!(
            "rookery: no node runs on this data directory; sessions of {account} on other nodes \
             go on until they end by themselves, and clients there see changes of rosters when \
             they log in next"
        );
    }
}
