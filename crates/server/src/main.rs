//! `rookery`: the server, and the commands to manage it.
//!
//! This crate reads the configuration, opens sockets, certificates and the database, starts the
//! node of `rookery-actors` and stops it again. What streams and sessions do is not decided here.
//!
//! Exit status: 0 after a clean stop, 2 for a bad configuration, 1 for all else.

mod accounts;
mod admin;
mod api;
mod backups;
mod certificates;
mod cli;
mod cluster_status;
mod columns;
mod commands;
mod config;
mod control;
mod data_dir;
mod drain;
mod events;
mod health;
mod host_meta;
mod http;
mod listen;
mod logging;
mod metrics;
mod password;
mod portable;
mod ports_file;
mod printable;
mod serve;
mod service_manager;
mod sessions;
mod status;
mod status_page;
mod tls;
mod traces;
mod web;
mod websocket;
mod wiring;

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;

use crate::cli::{Cli, Command, ConfigCommand};
use crate::config::{Config, Origin, Problems, Sources};
use crate::logging::Logging;

/// jemalloc gives memory back after a peak of connections; see docs/architecture.md.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            let code = if error.is::<Problems>() { 2 } else { 1 };
            eprintln!("rookery: {error:#}");
            ExitCode::from(code)
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let config = Config::load(&Sources {
        file: cli.settings.config.as_deref(),
        environment: None,
        overrides: &cli.settings.set,
    })?;
    match cli.command.unwrap_or(Command::Serve) {
        Command::Serve => {
            let log = Logging::start(&config.log, &config.audit)?;
            let origin = Origin {
                file: cli.settings.config,
                overrides: cli.settings.set,
            };
            actix_rt::System::new()
                .block_on(serve::serve(config, origin, log))
                .map(|()| ExitCode::SUCCESS)
        }
        Command::User { command } => runtime()?.block_on(accounts::run(&config, command)),
        Command::Config {
            command: ConfigCommand::Check,
        } => {
            if let (Some(certificate), Some(key)) = (&config.tls.certificate, &config.tls.key) {
                certificates::load(certificate, key)?;
            }
            for warning in config::warnings(&config) {
                eprintln!("warning: {warning}");
            }
            println!("the configuration is valid");
            Ok(ExitCode::SUCCESS)
        }
        Command::Config {
            command: ConfigCommand::Show,
        } => {
            print!("{}", config.to_toml());
            Ok(ExitCode::SUCCESS)
        }
        Command::Config {
            command: ConfigCommand::Reload { json, nodes },
        } => runtime()?.block_on(commands::reload(&config, json, &nodes)),
        Command::Roster { command } => runtime()?.block_on(commands::roster(&config, command)),
        Command::Message { command } => runtime()?.block_on(commands::message(&config, command)),
        Command::Log { command } => runtime()?.block_on(commands::log(&config, command)),
        Command::Certificate { command } => {
            runtime()?.block_on(commands::certificate(&config, command))
        }
        Command::Health => runtime()?.block_on(health::run(&config)),
        Command::Trace {
            jid,
            time,
            bodies,
            json,
        } => {
            let wanted = traces::Wanted {
                jid,
                time,
                bodies,
                json,
            };
            runtime()?.block_on(traces::run(&config, wanted))
        }
        Command::Drain { timeout, node } => {
            runtime()?.block_on(drain::run(&config, timeout, node.as_deref()))
        }
        Command::Export(args) => runtime()?.block_on(portable::run_export(&config, args)),
        Command::Import(args) => runtime()?.block_on(portable::run_import(&config, args)),
        Command::Backup(args) => backups::run_backup(&config, &args),
        Command::Restore(args) => backups::run_restore(&config, &args),
        Command::Session { command } => runtime()?.block_on(sessions::run(&config, command)),
        Command::Cluster { command } => runtime()?.block_on(cluster_status::run(&config, command)),
    }
}

/// A runtime for commands: one thread is enough.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
}
