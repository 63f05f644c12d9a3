//! One actor per transport stream.
//!
//! Negotiates TLS, login and resource binding (`connection/negotiation.rs`), moves to the arbiter
//! that owns the account, and from then on only moves bytes: parsed stanzas to its [`UserSession`] in
//! batches, and the session's [`Outbox`] to the socket. Started for an accepted socket; stops when the
//! stream is closed, which its session learns by [`Detached`].
//!
//! All of its work is done by one future, the `Pump`: it is polled when the socket, the outbox, a
//! timer or an answer has something. What has arrived is handled in order; the next read waits until
//! the session has dealt with the last one, and not too much of what it sent on is under way
//! (`budget.rs`), which is the back-pressure on the client.

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use actix::prelude::*;
use prometheus::IntGauge;
use rookery_proto::jid::BareJid;
use rookery_proto::stream::{Framer, Framing, StreamCondition, StreamError, StreamScope};
use tokio::time::Instant;

use crate::admission::{Refusal, Ticket};
use crate::budget::Load;
use crate::metrics;
use crate::outbox::{Outbox, Outgoing};
use crate::shard::Shard;
use crate::transport::tcp::TcpWire;
use crate::transport::tls::TlsWire;
use crate::transport::websocket::WebSocketWire;
use crate::transport::{BoxIo, Error, Scratch, WebSocketStream, Wire, WireParts};
use crate::user_session::{Detached, UserSession};

mod ending;
mod input;
mod job;
mod negotiation;
mod output;
mod rules;
mod watch;

use ending::{End, Ending};
use job::Job;
use negotiation::Negotiation;
use rules::{Rules, Security};
use watch::Watch;

/// Largest stanza before a stream has logged in; the least that RFC 6120 §13.12 allows.
pub const MAX_STANZA_BEFORE_LOGIN: usize = 10_000;

/// How long a proxy may take to say whom it speaks for.
const PROXY_HEADER_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);
/// Reads in one turn, after which other connections of the arbiter come first.
const READS_PER_TURN: usize = 8;

/// A transport stream that a listener has accepted.
pub enum Accepted {
    /// A TCP connection.
    Tcp {
        /// The socket; may still be in blocking mode.
        socket: std::net::TcpStream,
        /// The other side: the client, or the proxy in front of it.
        peer: SocketAddr,
        /// Whether TLS comes first (XEP-0368) rather than by STARTTLS.
        direct_tls: bool,
    },
    /// A WebSocket whose HTTP upgrade to the subprotocol `xmpp` is done (RFC 7395 §3.1).
    WebSocket {
        /// The messages; made with [`crate::transport::websocket::config`].
        stream: Box<WebSocketStream<BoxIo>>,
        /// The client.
        peer: SocketAddr,
        /// Whether the bytes were encrypted on their way, by TLS here or at a trusted proxy.
        secure: bool,
    },
}

/// A connection that has logged in, taken apart so that another arbiter can go on with it.
pub struct Parts {
    wire: WireParts,
    peer: SocketAddr,
    account: BareJid,
    security: Security,
    /// What has arrived and was not looked at.
    rest: Vec<u8>,
    deadline: Instant,
    login_began: Option<Instant>,
    gauge: Gauge,
}

/// Ends the stream: with this error, or without one just by `</stream:stream>`.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Close(pub Option<StreamError>);

/// Breaks the transport off without a word, so that the client resumes its session elsewhere
/// (XEP-0198 §5): a stream that is closed in form ends its session.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Cut;

/// The actor of a transport stream.
pub struct Connection {
    /// `None` once the connection has moved to another arbiter.
    wire: Option<Wire>,
    shard: Rc<Shard>,
    peer: SocketAddr,
    framer: Framer,
    state: State,
    job: Option<Job>,
    /// What has arrived and was not looked at yet, because something else has to be done first.
    rest: Vec<u8>,
    /// How the stream ends, once what came before is dealt with.
    end: Option<End>,
    /// Taken from the outbox, and not completely with the socket; with their lengths in bytes.
    in_flight: VecDeque<(Outgoing, usize)>,
    watch: Watch,
    gauge: Gauge,
}

/// What the connection does.
enum State {
    /// Waits for the header of the PROXY protocol.
    Proxied(Box<Proxied>),
    /// Leads the client to a session.
    Negotiating(Box<Negotiating>),
    /// Carries a session's stanzas.
    Bound(Bound),
    /// Says goodbye.
    Ending(Box<Ending>),
}

struct Proxied {
    /// What has arrived.
    header: Vec<u8>,
    direct_tls: bool,
    deadline: Instant,
}

struct Negotiating {
    negotiation: Negotiation,
    /// Whether a TLS handshake is under way, so that nothing can be said.
    in_handshake: bool,
    deadline: Instant,
    /// When the login began that has succeeded.
    login_began: Option<Instant>,
    /// Counts this connection until it has logged in.
    ticket: Option<Ticket>,
}

/// A connection's session. Tells it when the connection is gone, whatever the reason.
struct Bound {
    session: Addr<UserSession>,
    outbox: Rc<Outbox>,
    load: Arc<Load>,
    /// Which of the session's connections this is; a resumed session has had others.
    generation: u32,
    scope: StreamScope,
}

/// Counts an open stream while it lives.
struct Gauge(IntGauge);

/// Why a connection is over without another word.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("the peer is gone")]
    Gone,
    #[error(transparent)]
    Transport(#[from] Error),
    #[error("the peer accepts no data")]
    Stalled,
    #[error("timed out")]
    TimedOut,
    #[error("{0}")]
    Proxy(&'static str),
    #[error("moved to another arbiter")]
    Moved,
    #[error("the client is to go on elsewhere")]
    Cut,
}

thread_local! {
    static RULES: OnceCell<Rc<Rules>> = const { OnceCell::new() };
}

/// The rules of the arbiter's node.
fn rules(shard: &Shard) -> Rc<Rules> {
    RULES.with(|rules| Rc::clone(rules.get_or_init(|| Rc::new(Rules::new(&shard.node().settings)))))
}

impl Connection {
    /// Starts the actor for a new transport stream, on the arbiter that calls.
    pub fn accept(accepted: Accepted) {
        let shard = Shard::current();
        let started = match accepted {
            Accepted::Tcp {
                socket,
                peer,
                direct_tls,
            } => Self::accept_tcp(shard, socket, peer, direct_tls),
            Accepted::WebSocket {
                stream,
                peer,
                secure,
            } => {
                Self::accept_websocket(shard, stream, peer, secure);
                Ok(())
            }
        };
        if let Err(error) = started {
            tracing::debug!(%error, "cannot take a connection");
        }
    }

    /// Tells a new transport stream that too many others want to log in, as far as that can be done at once.
    pub(crate) fn turn_away(shard: &Shard, accepted: &Accepted) {
        match accepted {
            // Behind a proxy its header would have to be read first.
            Accepted::Tcp {
                socket, direct_tls, ..
            } if !shard.node().settings.c2s.proxy_protocol => {
                refuse(shard, socket, *direct_tls, Refusal::TooMany);
            }
            Accepted::Tcp { .. } | Accepted::WebSocket { .. } => count_refusal(Refusal::TooMany),
        }
    }

    fn accept_tcp(
        shard: Rc<Shard>,
        socket: std::net::TcpStream,
        peer: SocketAddr,
        direct_tls: bool,
    ) -> Result<(), Error> {
        let c2s = &shard.node().settings.c2s;
        if c2s.proxy_protocol {
            if !c2s
                .trusted_proxies
                .iter()
                .any(|network| network.contains(peer.ip()))
            {
                metrics::STREAMS_REFUSED
                    .with_label_values(&["untrusted_proxy"])
                    .inc();
                return Ok(());
            }
            let deadline = Instant::now() + PROXY_HEADER_TIMEOUT;
            let proxied = Proxied {
                header: Vec::new(),
                direct_tls,
                deadline,
            };
            let wire = Wire::Tcp(TcpWire::new(socket)?);
            Self::run(
                shard,
                wire,
                peer,
                State::Proxied(Box::new(proxied)),
                Vec::new(),
            );
            return Ok(());
        }
        match shard.node().admission.admit(peer.ip()) {
            Ok(ticket) => {
                let tcp = TcpWire::new(socket)?;
                let (wire, state) = open(&shard, tcp, direct_tls, Vec::new(), Some(ticket))?;
                Self::run(shard, wire, peer, state, Vec::new());
            }
            Err(refusal) => refuse(&shard, &socket, direct_tls, refusal),
        }
        Ok(())
    }

    fn accept_websocket(
        shard: Rc<Shard>,
        stream: Box<WebSocketStream<BoxIo>>,
        peer: SocketAddr,
        secure: bool,
    ) {
        match shard.node().admission.admit(peer.ip()) {
            Ok(ticket) => {
                let negotiation = Negotiation::new(rules(&shard), Framing::WebSocket, secure);
                let state = negotiating(&shard, negotiation, false, Some(ticket));
                let wire = Wire::WebSocket(Box::new(WebSocketWire::new(*stream)));
                Self::run(shard, wire, peer, state, Vec::new());
            }
            Err(refusal) => count_refusal(refusal),
        }
    }

    /// Starts the actor for a stream that authenticated on another arbiter, on the one that calls.
    #[expect(
        clippy::boxed_local,
        reason = "that is how the parts come out of a mailbox"
    )]
    pub fn adopt(parts: Box<Parts>) {
        let Parts {
            wire,
            peer,
            account,
            security,
            rest,
            deadline,
            login_began,
            gauge,
        } = *parts;
        let wire = match wire.into_wire() {
            Ok(wire) => wire,
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection over from another thread");
                return;
            }
        };
        let shard = Shard::current();
        let framing = framing_of(&wire);
        let negotiation = Negotiation::logged_in(rules(&shard), framing, security, account);
        let limits = negotiation.rules().limits();
        let state = Negotiating {
            negotiation,
            in_handshake: false,
            deadline,
            login_began,
            ticket: None,
        };
        let state = State::Negotiating(Box::new(state));
        let mut connection = Self::new(shard, wire, peer, state, rest, gauge);
        connection.framer = Framer::new(limits);
        connection.start();
    }

    fn run(shard: Rc<Shard>, wire: Wire, peer: SocketAddr, state: State, rest: Vec<u8>) {
        metrics::STREAMS_ACCEPTED
            .with_label_values(&[wire.name()])
            .inc();
        let gauge = Gauge::new(wire.name());
        Self::new(shard, wire, peer, state, rest, gauge).start();
    }

    fn new(
        shard: Rc<Shard>,
        wire: Wire,
        peer: SocketAddr,
        state: State,
        rest: Vec<u8>,
        gauge: Gauge,
    ) -> Self {
        let framer = Framer::new(rules(&shard).limits_before_login());
        Self {
            wire: Some(wire),
            shard,
            peer,
            framer,
            state,
            job: None,
            rest,
            end: None,
            in_flight: VecDeque::new(),
            watch: Watch::default(),
            gauge,
        }
    }

    fn wire(&mut self) -> &mut Wire {
        self.wire
            .as_mut()
            .expect("a connection that has moved is not polled again")
    }

    fn framing(&self) -> Framing {
        self.wire.as_ref().map_or(Framing::Tcp, framing_of)
    }

    /// Does what can be done now. Ready when the connection is over.
    fn poll(
        &mut self,
        ctx: &mut Context<Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<Result<(), Lost>> {
        if self.watch.has_fired() && self.is_due(Instant::now()) {
            self.time_out(cx)?;
        }
        for _ in 0..READS_PER_TURN {
            self.write(cx)?;
            if let State::Ending(_) = self.state {
                return self.poll_ending(cx);
            }
            if let Some(job) = &mut self.job {
                let Poll::Ready(done) = job.poll(cx) else {
                    if self.can_end_now()
                        && let Some(end) = self.end.take()
                    {
                        self.job = None;
                        self.begin_end(end, cx)?;
                        continue;
                    }
                    return Poll::Pending;
                };
                self.job = None;
                self.finish_job(done, ctx, cx)?;
                continue;
            }
            if let Some(end) = self.end.take() {
                self.begin_end(end, cx)?;
                continue;
            }
            if self.must_wait_for_writes()
                || self.must_wait_for_room(cx)
                || self.read(ctx, cx)?.is_pending()
            {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether the client has sent so much that is not dealt with that it has to wait: this is the
    /// back-pressure on it.
    fn must_wait_for_room(&self, cx: &mut std::task::Context<'_>) -> bool {
        match &self.state {
            State::Bound(bound) => bound.load.poll_room(cx).is_pending(),
            State::Proxied(_) | State::Negotiating(_) | State::Ending(_) => false,
        }
    }

    /// Whether a stream's end need not wait for the work that is under way: when the session itself
    /// asked for it. A binding is waited for, because it makes a session.
    fn can_end_now(&self) -> bool {
        matches!(self.end, Some(End::Ours(_) | End::Cut))
            && !self.job.as_ref().is_some_and(Job::is_binding)
    }

    /// When something has to have happened, if it has to.
    fn due(&self) -> Option<Instant> {
        let settings = &self.shard.node().settings.c2s;
        let state = match &self.state {
            State::Proxied(proxied) => Some(proxied.deadline),
            // A binding has bounds of its own, and must not be given up half done.
            State::Negotiating(_) if self.job.as_ref().is_some_and(Job::is_binding) => None,
            State::Negotiating(negotiating) => Some(negotiating.deadline),
            State::Bound(_) => self
                .job
                .as_ref()
                .map(|job| job.since() + settings.answer_timeout),
            State::Ending(ending) => Some(ending.deadline()),
        };
        let write = self
            .watch
            .stalled_since()
            .map(|since| since + settings.write_timeout);
        [state, write].into_iter().flatten().min()
    }

    fn is_due(&self, now: Instant) -> bool {
        self.due().is_some_and(|due| due <= now)
    }

    /// Something took too long.
    fn time_out(&mut self, cx: &mut std::task::Context<'_>) -> Result<(), Lost> {
        let settings = &self.shard.node().settings.c2s;
        let stalled = self.watch.stalled_since();
        if stalled.is_some_and(|since| since + settings.write_timeout <= Instant::now()) {
            return Err(Lost::Stalled);
        }
        let condition = match &self.state {
            State::Proxied(_) => {
                metrics::STREAMS_REFUSED
                    .with_label_values(&["proxy_header"])
                    .inc();
                return Err(Lost::TimedOut);
            }
            State::Negotiating(negotiating) if negotiating.in_handshake => {
                return Err(Lost::TimedOut);
            }
            State::Ending(_) => return Err(Lost::TimedOut),
            // RFC 6120 §4.9.3.4
            State::Negotiating(_) => StreamCondition::ConnectionTimeout,
            State::Bound(_) => StreamCondition::ResourceConstraint,
        };
        self.job = None;
        self.begin_end(End::Ours(Some(condition.into())), cx)
    }

    /// The session of this connection, until it knows that the connection is gone.
    fn bound(&self) -> Option<&Bound> {
        match &self.state {
            State::Bound(bound) => Some(bound),
            State::Ending(ending) => ending.bound(),
            State::Proxied(_) | State::Negotiating(_) => None,
        }
    }

    /// Tells the session that the connection is gone.
    fn detach(&mut self) {
        let unsent = std::mem::take(&mut self.in_flight);
        let unsent = unsent.into_iter().map(|(outgoing, _)| outgoing).collect();
        match &mut self.state {
            State::Bound(bound) => bound.tell_session(unsent, false),
            State::Ending(ending) => {
                if let Some((bound, clean)) = ending.release() {
                    bound.tell_session(unsent, clean);
                }
            }
            State::Proxied(_) | State::Negotiating(_) => {}
        }
    }
}

impl Bound {
    /// Gives the session the last message of this connection.
    #[expect(
        clippy::disallowed_methods,
        reason = "a session that misses this message would never end; there is one for each connection"
    )]
    fn tell_session(&self, unsent: Vec<Outgoing>, clean: bool) {
        self.outbox.link_broke(self.generation);
        self.session.do_send(Detached {
            generation: self.generation,
            unsent,
            clean,
        });
    }
}

impl Actor for Connection {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // Only `Close` comes by mail, and one is enough.
        ctx.set_mailbox_capacity(2);
        self.shard.remember(ctx.address().downgrade());
        ctx.spawn(Pump);
    }
}

impl Handler<Close> for Connection {
    type Result = ();

    fn handle(&mut self, Close(error): Close, _: &mut Self::Context) {
        // The pump sees it next; the first reason stands.
        self.end.get_or_insert(End::Ours(error));
    }
}

impl Handler<Cut> for Connection {
    type Result = ();

    fn handle(&mut self, _: Cut, _: &mut Self::Context) {
        self.end.get_or_insert(End::Cut);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Whatever ended the connection, if it was not the end of its stream.
        self.detach();
    }
}

/// Drives a connection; see the module's description.
struct Pump;

impl ActorFuture<Connection> for Pump {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        connection: &mut Connection,
        ctx: &mut Context<Connection>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<()> {
        let polled = catch_unwind(AssertUnwindSafe(|| connection.poll(ctx, cx)));
        let result = match polled {
            Ok(Poll::Pending) => {
                let due = connection.due();
                connection.watch.arm(due, cx);
                return Poll::Pending;
            }
            Ok(Poll::Ready(result)) => result,
            Err(_) => {
                connection.panicked(cx);
                Ok(())
            }
        };
        if let Err(lost) = result {
            tracing::debug!(peer = %connection.peer, reason = %lost, "connection closed");
        }
        // The actor is dropped with that, and its session told.
        ctx.stop();
        Poll::Ready(())
    }
}

impl Gauge {
    fn new(transport: &str) -> Self {
        let gauge = metrics::STREAMS.with_label_values(&[transport]);
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Gauge {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn framing_of(wire: &Wire) -> Framing {
    match wire {
        Wire::Tcp(_) | Wire::Tls(_) => Framing::Tcp,
        Wire::WebSocket(_) => Framing::WebSocket,
    }
}

/// A TCP stream from its first byte. `received` has arrived already.
fn open(
    shard: &Shard,
    tcp: TcpWire,
    direct_tls: bool,
    received: Vec<u8>,
    ticket: Option<Ticket>,
) -> Result<(Wire, State), Error> {
    let negotiation = Negotiation::new(rules(shard), Framing::Tcp, false);
    let state = negotiating(shard, negotiation, direct_tls, ticket);
    let wire = if direct_tls {
        Wire::Tls(TlsWire::new(tcp, shard.node().tls.clone(), received)?)
    } else {
        Wire::Tcp(tcp)
    };
    Ok((wire, state))
}

fn negotiating(
    shard: &Shard,
    negotiation: Negotiation,
    in_handshake: bool,
    ticket: Option<Ticket>,
) -> State {
    let deadline = Instant::now() + shard.node().settings.c2s.negotiation_timeout;
    State::Negotiating(Box::new(Negotiating {
        negotiation,
        in_handshake,
        deadline,
        login_began: None,
        ticket,
    }))
}

fn count_refusal(refusal: Refusal) {
    let reason = match refusal {
        Refusal::TooMany => "limit",
        Refusal::TooManyFromAddress => "address_limit",
    };
    metrics::STREAMS_REFUSED.with_label_values(&[reason]).inc();
}

/// Turns a connection away; one that starts in clear is told why, as far as one write goes.
fn refuse(shard: &Shard, socket: &std::net::TcpStream, direct_tls: bool, refusal: Refusal) {
    count_refusal(refusal);
    if direct_tls {
        return;
    }
    let (condition, text) = match refusal {
        Refusal::TooMany => (StreamCondition::ResourceConstraint, "too many connections"),
        Refusal::TooManyFromAddress => (
            StreamCondition::PolicyViolation,
            "too many connections from your address",
        ),
    };
    let mut scratch = Scratch::borrow();
    let error = StreamError::with_text(condition, text);
    Negotiation::new(rules(shard), Framing::Tcp, false).end(Some(&error), &mut scratch.output);
    count_error(&error);
    let first = scratch
        .output
        .documents()
        .fold(Vec::new(), |all, document| [&all, document].concat());
    // Whether it arrives does not matter; the arbiter must not wait.
    let _ = socket
        .set_nonblocking(true)
        .and_then(|()| std::io::Write::write(&mut &*socket, &first));
}

fn count_error(error: &StreamError) {
    metrics::STREAM_ERRORS
        .with_label_values(&[error.condition.as_str()])
        .inc();
}

#[cfg(test)]
mod tests;
