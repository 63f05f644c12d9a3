//! The life of a server: open everything, serve, end cleanly.

use std::net::SocketAddr;
use std::process;
use std::sync::{Arc, Mutex};

use anyhow::Context;
use rookery_storage::Storage;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::admin::{self, AdminSite, Readiness, Stage};
use crate::api::door::Door;
use crate::api::{self, Api, Token};
use crate::certificates::{Certificates, RELOAD_INTERVAL};
use crate::config::{self, Config, Origin};
use crate::control::{self, Desk};
use crate::data_dir::{self, DataDir};
use crate::http::PublicSite;
use crate::listen::{self, Bound, Listener};
use crate::logging::Logging;
use crate::service_manager::{self, Change};
use crate::wiring::{self, NodeHandle};
use crate::{events, metrics, ports_file, status, tls, web};

/// All addresses that the configuration asks for, taken before anything else happens.
struct Sockets {
    admin: Vec<Bound>,
    c2s: Vec<Bound>,
    c2s_direct_tls: Vec<Bound>,
    http: Vec<Bound>,
    http_tls: Vec<Bound>,
}

/// A server that takes connections.
struct Running {
    storage: Arc<dyn Storage>,
    node: NodeHandle,
    tasks: JoinSet<()>,
    /// Goes on while streams end, so that load balancers see why there is no one.
    monitoring: JoinSet<()>,
    data_dir: DataDir,
}

/// Runs the server until it is told to stop.
///
/// # Errors
/// If it cannot start.
pub(crate) async fn serve(config: Config, origin: Origin, log: Logging) -> anyhow::Result<()> {
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "rookery starts");
    let mut stop = StopSignals::new()?;
    metrics::init();
    for warning in config::warnings(&config) {
        tracing::warn!("{warning}");
    }
    if let Some(files) = listen::raise_open_files_limit() {
        tracing::debug!(files, "limit on open files");
    }
    let readiness = Arc::new(Readiness::default());
    let running = tokio::select! {
        running = start(&config, origin, log, &readiness) => running?,
        () = stop.next() => {
            tracing::info!("stopped before the start was complete");
            return Ok(());
        }
    };
    stop.next().await;
    service_manager::tell(Change::Stopping);
    tokio::spawn(async move {
        stop.next().await;
        tracing::warn!("told to stop a second time: ending at once");
        process::exit(1);
    });
    shut_down(&config, &readiness, running).await;
    Ok(())
}

async fn start(
    config: &Config,
    origin: Origin,
    log: Logging,
    readiness: &Arc<Readiness>,
) -> anyhow::Result<Running> {
    let data_dir = DataDir::hold(&config.server.data_dir)?;
    data_dir::create(config.generated_dir())?;
    let certificates = Certificates::open(config)?;
    let token = Arc::new(Token::of(config)?);
    let sockets = Sockets::bind(config)?;
    let addresses = sockets.addresses();
    let tls_port = sockets.http_tls.first().map(|bound| bound.address().port());

    let mut monitoring = JoinSet::new();
    // First of all, so that the process can be seen to live while the database opens.
    let door = Arc::new(Door::new(token.clone()));
    let admin_site = Arc::new(AdminSite::new(readiness.clone(), door.clone()));
    let admin_slots = Arc::new(Semaphore::new(admin::CONNECTIONS));
    for listener in listen(sockets.admin)? {
        monitoring.spawn(web::serve(
            listener,
            admin_site.clone(),
            None,
            admin_slots.clone(),
        ));
    }

    let stream_tls = Arc::new(tls::stream_config(certificates.clone(), wiring::key_log())?);
    let http_tls = TlsAcceptor::from(Arc::new(tls::http_config(certificates.clone())?));
    let storage = wiring::open_storage(config).await?;
    let node = wiring::start(config, storage.clone(), stream_tls).await?;

    let mut tasks = JoinSet::new();
    for (bound, direct_tls) in [(sockets.c2s, false), (sockets.c2s_direct_tls, true)] {
        for listener in listen(bound)? {
            let node = node.clone();
            tasks
                .spawn(listener.run(move |socket, peer| node.accept_tcp(socket, peer, direct_tls)));
        }
    }
    let site = Arc::new(PublicSite::new(config, tls_port, node.clone()));
    let slots = Arc::new(Semaphore::new(config.limits.http_connections.get()));
    for (bound, tls) in [(sockets.http, None), (sockets.http_tls, Some(http_tls))] {
        for listener in listen(bound)? {
            tasks.spawn(web::serve(
                listener,
                site.clone(),
                tls.clone(),
                slots.clone(),
            ));
        }
    }
    let reporter = status::reporter(readiness, log.events().clone());
    node.shared().report_by(reporter);
    node.shared().calls_by(api::nodes::callee(&door));
    let api = Api::new(
        config,
        api::Parts {
            node: node.clone(),
            readiness: readiness.clone(),
            certificates: certificates.clone(),
            log,
            token,
            origin,
            config: Mutex::new(config.clone()),
        },
    );
    // The node starts tasks of its own on this thread.
    tasks.spawn_local(door.open(api.clone()));
    let desk = Desk::new(config, node.clone(), readiness.clone(), api);
    serve_commands(&data_dir, desk, &mut tasks);
    tasks.spawn(follow_certificates(certificates)?);
    if let Some(path) = &config.server.ports_file {
        ports_file::write(path, &addresses)
            .with_context(|| format!("server.ports_file: cannot write {}", path.display()))?;
    }
    readiness.serving(storage.clone(), node.clone());
    announce(config, &addresses, storage.as_ref()).await;
    service_manager::tell(Change::Ready);
    Ok(Running {
        storage,
        node,
        tasks,
        monitoring,
        data_dir,
    })
}

impl Sockets {
    fn bind(config: &Config) -> Result<Self, listen::ListenError> {
        Ok(Self {
            admin: listen::bind("admin.listen", &config.admin.listen)?,
            c2s: listen::bind("c2s.listen", &config.c2s.listen)?,
            c2s_direct_tls: listen::bind("c2s.direct_tls_listen", &config.c2s.direct_tls_listen)?,
            http: listen::bind("http.listen", &config.http.listen)?,
            http_tls: listen::bind("http.tls_listen", &config.http.tls_listen)?,
        })
    }

    fn addresses(&self) -> Vec<(&'static str, SocketAddr)> {
        [
            &self.c2s,
            &self.c2s_direct_tls,
            &self.http,
            &self.http_tls,
            &self.admin,
        ]
        .into_iter()
        .flatten()
        .map(|bound| (bound.key(), bound.address()))
        .collect()
    }
}

fn listen(bound: Vec<Bound>) -> Result<Vec<Listener>, listen::ListenError> {
    bound.into_iter().map(Bound::listen).collect()
}

/// Listens for commands. Without it those that change accounts still take effect at the next login.
fn serve_commands(data_dir: &DataDir, desk: Desk, tasks: &mut JoinSet<()>) {
    match control::listen(data_dir) {
        Ok(listener) => {
            // The node starts tasks of its own on this thread.
            tasks.spawn_local(control::serve(listener, move |request, replies| {
                desk.clone().answer(request, replies)
            }));
        }
        Err(error) => tracing::warn!(
            %error,
            "no control socket: commands cannot reach this server, and sessions of an account go on when \
             one deletes it, disables it or changes its password"
        ),
    }
}

/// Looks for changed certificates now and then, and when asked to by SIGHUP.
fn follow_certificates(
    certificates: Arc<Certificates>,
) -> anyhow::Result<impl Future<Output = ()> + Send> {
    let mut hang_up = signal(SignalKind::hangup()).context("cannot listen for signals")?;
    Ok(async move {
        let mut interval = tokio::time::interval(RELOAD_INTERVAL);
        loop {
            tokio::select! {
                _ = interval.tick() => certificates.reload_if_changed(),
                _ = hang_up.recv() => {
                    service_manager::tell(Change::Reloading);
                    certificates.reload_if_changed();
                    service_manager::tell(Change::Ready);
                }
            }
        }
    })
}

/// Says what listens where, and what to do next.
async fn announce(
    config: &Config,
    addresses: &[(&'static str, SocketAddr)],
    storage: &dyn Storage,
) {
    for (key, address) in addresses {
        tracing::info!(target: events::GREETING, %address, "listening: {key}");
    }
    for domain in &config.server.domains {
        match storage.accounts(domain.as_str(), None, 1).await {
            Ok(accounts) if accounts.is_empty() => {
                let program = std::env::args().next().unwrap_or_else(|| "rookery".into());
                tracing::info!(
                    target: events::GREETING,
                    "nobody has an account in {domain} yet; add the first with: \
                     {program} user add NAME@{domain}"
                );
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "cannot count the accounts"),
        }
    }
    tracing::info!(storage = storage.backend(), "ready");
}

async fn shut_down(config: &Config, readiness: &Readiness, running: Running) {
    let Running {
        storage,
        node,
        mut tasks,
        mut monitoring,
        data_dir,
    } = running;
    tracing::info!(timeout = ?config.server.shutdown_timeout, "stopping");
    let not_ready_since = readiness.leave(Stage::Stopping);
    if config.cluster.redis.is_some() {
        // Clients leave when load balancers know another node for them.
        tokio::time::sleep_until(not_ready_since + config.server.drain_delay).await;
    }
    // The listeners close with their tasks.
    tasks.shutdown().await;
    control::remove(&data_dir);
    node.shutdown(config.server.shutdown_timeout).await;
    storage.close().await;
    monitoring.shutdown().await;
    tracing::info!("stopped");
}

/// SIGTERM and SIGINT.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
