//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use ::config::ValueKind;
use clap::{Args, Parser, Subcommand};

use crate::backups::{BackupArgs, RestoreArgs};
use crate::config::Value;
use crate::portable::{ExportArgs, ImportArgs};

/// What `--help` ends with.
const FIRST_STEPS: &str = "\
First steps:
  rookery serve                     run the server; data goes to ./data, no settings are needed
  rookery user add ann@localhost    in another terminal, in the same directory
  rookery health                    is it ready?

Commands find the server and its database by the same settings that it was started with:
give them the same --config, --set and ROOKERY__SECTION__KEY variables.

Exit status: 0 when all went well, 2 for a wrong configuration or command line, 1 for all else.";

/// An XMPP server that many identical nodes form together.
#[derive(Debug, Parser)]
#[command(name = "rookery", version, about, propagate_version = true, after_help = FIRST_STEPS)]
pub(crate) struct Cli {
    /// What to do; without a command the server runs.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// Where settings come from.
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
}

/// Where settings come from besides the environment (`ROOKERY__SECTION__KEY`).
#[derive(Debug, Args)]
pub(crate) struct SettingsArgs {
    /// Configuration file (TOML); `rookery config show` prints one with all keys.
    #[arg(long, value_name = "FILE", global = true, env = "ROOKERY_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Sets one key, such as log.level=debug, above file and environment; can be repeated.
    #[arg(long, value_name = "SECTION.KEY=VALUE", global = true, value_parser = key_and_value)]
    pub(crate) set: Vec<(String, String)>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server, until SIGTERM or Ctrl+C
    ///
    /// Without any settings it serves the domain localhost on ports 5222 and 5223, and
    /// keeps its data in ./data. It is up when it logs "ready". SIGHUP makes it read its
    /// certificate again.
    #[command(verbatim_doc_comment)]
    Serve,
    /// Manage accounts, whether the server runs or not.
    User {
        /// What to do with accounts.
        #[command(subcommand)]
        command: UserCommand,
    },
    /// Check the configuration, print it, have the server read it again.
    Config {
        /// What to do with the configuration.
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Say whether the running server takes clients, and if not, why (exit status 0 or 1).
    Health,
    /// Send the clients of the running server to other nodes, before it is stopped
    ///
    /// The server turns not ready (/readyz), so that load balancers send nobody here
    /// any more. After `server.drain_delay` it takes no new clients and sends those
    /// that it has away: sessions with stream management wait until their client
    /// resumes them on another node, the others end.
    ///
    /// The exit status is 0 when no session is left, and 1 if some are when the time
    /// is up. In both cases the server runs on, without new clients, until it is
    /// stopped. Interrupting the command does not interrupt the drain. With --node
    /// another node is drained, and the server here says how far it is.
    #[command(verbatim_doc_comment)]
    Drain {
        /// How long clients may take to go on elsewhere, once they are sent away: 500ms, 60s, 5m.
        #[arg(long, value_name = "TIME", default_value = "60s", value_parser = time)]
        timeout: Duration,
        /// Drain this node, not the one here: its name or its epoch, as `cluster status` has them.
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
    },
    /// Show the way of the stanzas from and to an account or a session, live, on all nodes
    ///
    /// One line for each stage of a stanza's way: when, its number in this trace, on
    /// which node, how long after the stage before, and what has become of it. Of what
    /// stanzas say, only the names of the elements are shown, unless --bodies is given.
    /// Both stand in the audit log. It ends when the time is up, or with Ctrl+C.
    ///
    /// The exit status is 1 if a node did not take part, or not to the end.
    #[command(verbatim_doc_comment)]
    Trace {
        /// An account such as ann@localhost, or a session such as ann@localhost/desk.
        jid: String,
        /// How long, an hour at most: 30s, 5m.
        #[arg(long = "for", value_name = "TIME", default_value = "5m", value_parser = time)]
        time: Duration,
        /// Show what stanzas say, up to 4096 bytes of each, but no passwords.
        #[arg(long)]
        bodies: bool,
        /// Print a JSON object for each line instead.
        #[arg(long)]
        json: bool,
    },
    /// Write accounts with all their data to a file that other servers can read (XEP-0227)
    ///
    /// Whether the server runs or not; what changes meanwhile may be in the file or
    /// not, so stop it before a move. The file holds what proves who users are, and
    /// what they wrote: it is made for its owner alone, keep it so.
    #[command(verbatim_doc_comment)]
    Export(ExportArgs),
    /// Read accounts from a file that another server has written (XEP-0227)
    ///
    /// The file is checked first, and nothing is imported if anything is wrong in it
    /// or an account exists; the options change that. What the file holds and this
    /// server does not keep is counted at the end.
    #[command(verbatim_doc_comment)]
    Import(ImportArgs),
    /// Copy the embedded database to a file, whether the server runs or not
    ///
    /// The copy is one SQLite file with all that was committed when the command
    /// began. It holds what proves who users are, and what they wrote: it is made for
    /// its owner alone, keep it so.
    #[command(verbatim_doc_comment)]
    Backup(BackupArgs),
    /// Put a backup into the place of the embedded database; the server must not run
    ///
    /// The backup is checked first. The database that was there stays beside it under
    /// another name.
    #[command(verbatim_doc_comment)]
    Restore(RestoreArgs),
    /// Look at the sessions of the running server, and end them.
    Session {
        /// What to do with sessions.
        #[command(subcommand)]
        command: SessionCommand,
    },
    /// Look at rosters, and change them as their owners' clients would.
    Roster {
        /// What to do with a roster.
        #[command(subcommand)]
        command: RosterCommand,
    },
    /// Send messages from the server.
    Message {
        /// What to send.
        #[command(subcommand)]
        command: MessageCommand,
    },
    /// Look at what the running server logs, and change it.
    Log {
        /// What to do with the log.
        #[command(subcommand)]
        command: LogCommand,
    },
    /// Look at the certificate that the running server shows.
    Certificate {
        /// What to do with it.
        #[command(subcommand)]
        command: CertificateCommand,
    },
    /// Look at the cluster as the running server sees it.
    Cluster {
        /// What to do with the cluster.
        #[command(subcommand)]
        command: ClusterCommand,
    },
}

/// What to do with sessions.
#[derive(Debug, Subcommand)]
pub(crate) enum SessionCommand {
    /// Print the sessions of all nodes: who, since when, how, from where, what waits
    ///
    /// SINCE is when it came to its node, in UTC. STATE is "waiting" for a session
    /// whose connection broke and that its client may resume; transport and address
    /// are the last ones then. QUEUE is what the client does not have yet or has not
    /// acknowledged. NODE is shown in a cluster. The exit status is 1 if a node did not
    /// answer, whose sessions are missing then.
    #[command(verbatim_doc_comment)]
    List {
        /// Only the sessions of this node; asks no other.
        #[arg(long)]
        this_node: bool,
        /// Print a JSON array instead, one session a line.
        #[arg(long)]
        json: bool,
    },
    /// End a session, or all that an account has, on whichever node
    ///
    /// The client is told `policy-violation`; it may log in again. The exit status is
    /// 1 if there is no such session, or if a node did not answer.
    #[command(verbatim_doc_comment)]
    Kick {
        /// A session such as ann@localhost/desk, or an account such as ann@localhost.
        jid: String,
        /// Only on this node; asks no other.
        #[arg(long)]
        this_node: bool,
    },
}

/// What to do with a roster.
#[derive(Debug, Subcommand)]
pub(crate) enum RosterCommand {
    /// Print the contacts of an account.
    List {
        /// The account's address.
        address: String,
        /// Print a JSON array instead, one contact a line.
        #[arg(long)]
        json: bool,
    },
    /// Add a contact, or replace its name and its groups. The account's clients are told.
    Set {
        /// The account's address.
        address: String,
        /// The contact's address.
        contact: String,
        /// What the account calls the contact.
        #[arg(long)]
        name: Option<String>,
        /// A group that the contact is in; can be repeated.
        #[arg(long, value_name = "GROUP")]
        group: Vec<String>,
    },
    /// Remove a contact and end the subscriptions. Both sides are told.
    Remove {
        /// The account's address.
        address: String,
        /// The contact's address.
        contact: String,
    },
}

/// What to send.
#[derive(Debug, Subcommand)]
pub(crate) enum MessageCommand {
    /// Send a message to one account or session; who is offline gets it later.
    Send {
        /// The recipient's address.
        to: String,
        /// What it says.
        body: String,
        /// Its subject.
        #[arg(long)]
        subject: Option<String>,
    },
    /// Show a message to all who are online, or send it to all accounts of a domain
    ///
    /// Without --accounts it is for this moment: every available client of all nodes
    /// gets it as a headline, and it is not stored.
    #[command(verbatim_doc_comment)]
    Announce {
        /// What it says.
        body: String,
        /// Its subject.
        #[arg(long)]
        subject: Option<String>,
        /// Only to those of one domain.
        #[arg(long)]
        domain: Option<String>,
        /// Send it to all accounts of --domain; who is offline gets it later.
        #[arg(long, requires = "domain")]
        accounts: bool,
    },
}

/// What to do with the log.
#[derive(Debug, Subcommand)]
pub(crate) enum LogCommand {
    /// Print the level, or set it until the configuration is reloaded or the server ends.
    Level {
        /// As in `log.level`, such as `debug` or `info,rookery_actors=debug`.
        level: Option<String>,
        /// On which nodes.
        #[command(flatten)]
        nodes: NodeArgs,
    },
}

/// What to do with the certificate.
#[derive(Debug, Subcommand)]
pub(crate) enum CertificateCommand {
    /// Print the file, how long it is good and for which domains. The exit status is 1 if it has expired.
    Show {
        /// Print a JSON object instead.
        #[arg(long)]
        json: bool,
        /// Of which nodes.
        #[command(flatten)]
        nodes: NodeArgs,
    },
}

/// What to do with the cluster.
#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Print the nodes, whether this one is cut off, and how many sessions it has
    ///
    /// EPOCH names one run of a node, FRAMES is the newest version in which it talks
    /// to other nodes, LEASE is its proof that it lives. The list is what this node
    /// saw last: a second ago or less, unless it is fenced.
    #[command(verbatim_doc_comment)]
    Status {
        /// Print a JSON object instead.
        #[arg(long)]
        json: bool,
    },
}

/// What to do with accounts.
#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Make an account. Asks for the password unless told where it comes from.
    Add {
        /// The account's address, such as ann@localhost.
        address: String,
        /// Where the password comes from.
        #[command(flatten)]
        password: PasswordArgs,
    },
    /// Change the password of an account and end its sessions.
    Passwd {
        /// The account's address.
        address: String,
        /// Where the password comes from.
        #[command(flatten)]
        password: PasswordArgs,
    },
    /// Delete an account with everything that belongs to it; its sessions and subscriptions end.
    Delete {
        /// The account's address.
        address: String,
    },
    /// Disable an account: it keeps all that is its own, nobody can log in, and its sessions end.
    Disable {
        /// The account's address.
        address: String,
    },
    /// Let a disabled account log in again.
    Enable {
        /// The account's address.
        address: String,
    },
    /// Print the addresses of all accounts, one a line.
    List {
        /// Only those of one domain.
        #[arg(long)]
        domain: Option<String>,
        /// Only those that are disabled.
        #[arg(long)]
        disabled: bool,
        /// Print a JSON array instead, one address a line.
        #[arg(long)]
        json: bool,
    },
    /// Print what the running server knows of an account: sessions, contacts, when it was last here.
    Show {
        /// The account's address.
        address: String,
        /// Print a JSON object instead.
        #[arg(long)]
        json: bool,
    },
    /// Write all that is kept of an account to a file (XEP-0227), also its sessions on this node.
    Export {
        /// The account's address.
        address: String,
        /// The file to make; it must not exist. "-" is the standard output.
        file: PathBuf,
    },
    /// Exit with status 0 if the account exists and 1 if it does not.
    Exists {
        /// The account's address.
        address: String,
    },
}

/// Which nodes a command is for, if not the one that runs on this data directory.
#[derive(Debug, Default, Args)]
#[group(multiple = false)]
pub(crate) struct NodeArgs {
    /// Another node: its name or its epoch, as `cluster status` has them.
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,
    /// All nodes; the exit status is 1 if one did not answer or refused.
    #[arg(long)]
    pub(crate) all_nodes: bool,
}

/// Where a password comes from, if not from the keyboard.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct PasswordArgs {
    /// Read the password from the first line of the standard input.
    #[arg(long)]
    pub(crate) password_stdin: bool,
    /// Make up a password and print it.
    #[arg(long)]
    pub(crate) generate: bool,
}

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Say whether the server would start with it; certificates are read as well.
    Check,
    /// Print what is in effect, with comments and without passwords.
    Show,
    /// Have the running server read its configuration again
    ///
    /// It takes over what docs/configuration.md calls live, and says which other
    /// settings differ and need a restart. Its file and its --set options are those
    /// that it was started with. Nothing is changed if any of it is not valid. With
    /// --all-nodes the others are asked if the node here could do it.
    #[command(verbatim_doc_comment)]
    Reload {
        /// Print a JSON object instead.
        #[arg(long)]
        json: bool,
        /// On which nodes.
        #[command(flatten)]
        nodes: NodeArgs,
    },
}

fn time(text: &str) -> Result<Duration, String> {
    let read = Duration::read(&ValueKind::String(text.into()));
    read.ok_or_else(|| format!("expected {}", Duration::allowed()))
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected section.key=value")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn settings_may_stand_before_and_after_the_command() {
        for line in [
            ["rookery", "--set", "c2s.tls=optional", "user", "list"],
            ["rookery", "user", "list", "--set", "c2s.tls=optional"],
        ] {
            let cli = Cli::try_parse_from(line).unwrap();
            assert_eq!(
                cli.settings.set,
                [("c2s.tls".to_owned(), "optional".to_owned())]
            );
        }
    }

    #[test]
    fn a_value_may_hold_an_equals_sign() {
        assert_eq!(key_and_value("a.b=c=d"), Ok(("a.b".into(), "c=d".into())));
        assert!(key_and_value("a.b").is_err());
    }

    #[test]
    fn a_drain_takes_a_time() {
        let drain = |line: &[&str]| match Cli::try_parse_from(line) {
            Ok(Cli {
                command: Some(Command::Drain { timeout, .. }),
                ..
            }) => Some(timeout),
            _ => None,
        };
        let minute = Some(Duration::from_mins(1));
        assert_eq!(drain(&["rookery", "drain"]), minute);
        assert_eq!(drain(&["rookery", "drain", "--timeout", "1m"]), minute);
        assert_eq!(drain(&["rookery", "drain", "--timeout", "60"]), None);
    }

    #[test]
    fn a_password_comes_from_one_place() {
        let line = [
            "rookery",
            "user",
            "add",
            "ann@localhost",
            "--generate",
            "--password-stdin",
        ];
        assert!(Cli::try_parse_from(line).is_err());
    }
}
