//! From the socket to the negotiation or to the session.

use std::task::{Context, Poll, ready};

use actix::prelude::*;
use rookery_features::sasl::Condition;
use rookery_features::xep0198_stream_management as sm;
use rookery_proto::stanza::{Rejected, Stanza};
use rookery_proto::stream::{Frame, Framing, StreamCondition, StreamError, StreamScope, ws_frame};
use rookery_proto::xml::Element;
use tokio::time::Instant;

use super::ending::End;
use super::job::{Done, Found, Job};
use super::negotiation::{Action, FailedLogin, Negotiation, Success};
use super::{Bound, Connection, Lost, Negotiating, Parts, Proxied, State};
use crate::audit;
use crate::metrics;
use crate::resumption::ResumeRequest;
use crate::shard::{self, BindRequest};
use crate::transport::tls::TlsWire;
use crate::transport::{Error, Input, Output, Scratch, Wire, proxy_protocol};
use crate::user_session::{Inbound, Incoming};

/// Stanzas of one batch for the session.
const BATCH_STANZAS: usize = 256;

impl Connection {
    /// Reads once, or takes up what was left over, and handles what has come.
    pub(super) fn read(
        &mut self,
        ctx: &mut actix::Context<Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Lost>> {
        let mut scratch = Scratch::borrow();
        let Scratch { plain, output, .. } = &mut *scratch;
        if !self.rest.is_empty() {
            let rest = std::mem::take(&mut self.rest);
            return Poll::Ready(self.take(&rest, output, ctx, cx));
        }
        plain.clear();
        let wire = self
            .wire
            .as_mut()
            .expect("a connection that has moved is not polled again");
        let input = match ready!(wire.poll_read(cx, &mut scratch)) {
            Ok(input) => input,
            Err(error) => return Poll::Ready(self.cannot_read(error, cx)),
        };
        let Scratch { raw, plain, output } = &mut *scratch;
        let bytes = match input {
            Input::Raw(len) => &raw[..len],
            Input::Plain => &plain[..],
            Input::Handshaken => {
                self.handshaken();
                &plain[..]
            }
            Input::End => return Poll::Ready(Err(Lost::Gone)),
        };
        metrics::BYTES_IN.inc_by(bytes.len() as u64);
        if bytes.is_empty() && input == Input::Handshaken {
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(self.take(bytes, output, ctx, cx))
    }

    /// The transport brought something that is no stream.
    fn cannot_read(&mut self, error: Error, cx: &mut Context<'_>) -> Result<(), Lost> {
        let stream_error = match &error {
            Error::NotText => StreamError::with_text(
                StreamCondition::PolicyViolation,
                "WebSocket messages have to be text",
            ),
            Error::WebSocket(tungstenite::Error::Capacity(_)) => {
                StreamError::with_text(StreamCondition::PolicyViolation, "stanza too big")
            }
            Error::WebSocket(tungstenite::Error::Utf8(_)) => {
                StreamCondition::UnsupportedEncoding.into()
            }
            _ => return Err(error.into()),
        };
        self.begin_end(End::Ours(Some(stream_error)), cx)
    }

    /// The TLS handshake is complete.
    fn handshaken(&mut self) {
        let (State::Negotiating(negotiating), Some(Wire::Tls(tls))) =
            (&mut self.state, &mut self.wire)
        else {
            return;
        };
        negotiating.in_handshake = false;
        negotiating.negotiation.secured(tls.take_channel_binding());
    }

    /// Handles bytes of the stream, or one document of a WebSocket. What cannot be handled yet is kept.
    fn take(
        &mut self,
        bytes: &[u8],
        output: &mut Output,
        ctx: &mut actix::Context<Self>,
        cx: &mut Context<'_>,
    ) -> Result<(), Lost> {
        match &mut self.state {
            State::Proxied(_) => self.take_proxy_header(bytes),
            State::Negotiating(_) => self.negotiate(bytes, output, ctx, cx),
            State::Bound(_) => {
                self.take_stanzas(bytes);
                Ok(())
            }
            State::Ending(_) => Ok(()),
        }
    }

    /// The header of the PROXY protocol; the stream starts behind it.
    fn take_proxy_header(&mut self, bytes: &[u8]) -> Result<(), Lost> {
        let State::Proxied(proxied) = &mut self.state else {
            return Ok(());
        };
        proxied.header.extend_from_slice(bytes);
        let header = match proxy_protocol::parse(&proxied.header) {
            Ok(Some(header)) => header,
            Ok(None) => return Ok(()),
            Err(error) => {
                metrics::STREAMS_REFUSED
                    .with_label_values(&["proxy_header"])
                    .inc();
                tracing::warn!(proxy = %self.peer, %error, "closing a connection");
                return Err(Lost::Proxy("no acceptable PROXY protocol header"));
            }
        };
        let Proxied {
            header: received,
            direct_tls,
            ..
        } = &mut **proxied;
        let (mut received, direct_tls) = (std::mem::take(received), *direct_tls);
        received.drain(..header.len);
        // LOCAL: the proxy itself, as a health check does.
        self.peer = header.client.unwrap_or(self.peer);
        let ticket = self
            .shard
            .node()
            .admission
            .admit(self.peer.ip())
            .map_err(|refusal| {
                super::count_refusal(refusal);
                Lost::Proxy("too many connections")
            })?;
        let Some(Wire::Tcp(tcp)) = self.wire.take() else {
            return Err(Lost::Gone);
        };
        let for_tls = if direct_tls {
            std::mem::take(&mut received)
        } else {
            Vec::new()
        };
        let (wire, state) = super::open(&self.shard, tcp, direct_tls, for_tls, Some(ticket))?;
        self.gauge = super::Gauge::new(wire.name());
        self.wire = Some(wire);
        self.state = state;
        self.rest = received;
        Ok(())
    }

    /// Feeds the negotiation until it has to wait for something.
    fn negotiate(
        &mut self,
        mut bytes: &[u8],
        output: &mut Output,
        ctx: &mut actix::Context<Self>,
        cx: &mut Context<'_>,
    ) -> Result<(), Lost> {
        let framing = self.framing();
        let mut whole = Some(bytes);
        while let State::Negotiating(negotiating) = &mut self.state {
            let negotiation = &mut negotiating.negotiation;
            let frame = match framing {
                Framing::Tcp => self.framer.next(&mut bytes),
                // One document, which is taken at once.
                Framing::WebSocket => {
                    bytes = &[];
                    let limits = if negotiation.has_logged_in() {
                        negotiation.rules().limits()
                    } else {
                        negotiation.rules().limits_before_login()
                    };
                    whole
                        .take()
                        .map(|document| ws_frame(document, &limits))
                        .transpose()
                }
            };
            let action = match frame {
                Ok(Some(frame)) => negotiation.frame(frame, output),
                Ok(None) => break,
                Err(error) => Action::Fail(error),
            };
            self.act(action, &mut bytes, output, ctx, cx)?;
            if self.job.is_some() || self.end.is_some() || self.wire.is_none() {
                break;
            }
        }
        if self.wire.is_some() {
            self.rest = bytes.to_vec();
        }
        self.send_negotiated(output, cx)
    }

    /// Does what the negotiation asks for. `rest` is what has arrived after it.
    fn act(
        &mut self,
        action: Action,
        rest: &mut &[u8],
        output: &mut Output,
        ctx: &mut actix::Context<Self>,
        cx: &mut Context<'_>,
    ) -> Result<(), Lost> {
        match action {
            Action::Continue => {}
            Action::StartTls => {
                *rest = &[];
                self.send_negotiated(output, cx)?;
                self.start_tls()?;
            }
            Action::LookUp(user) => {
                if self.may_log_in(&user, output) {
                    self.job = Some(Job::look_up(self.shard.node().clone(), user));
                }
            }
            Action::Verify(user, password) => {
                if self.may_log_in(&user, output) {
                    self.job = Some(Job::verify(self.shard.node().clone(), user, password));
                }
            }
            Action::LoginFailed(failed) => self.login_failed(&failed),
            Action::LoggedIn(success) => {
                self.send_negotiated(output, cx)?;
                self.logged_in(success, rest)?;
            }
            Action::Register {
                account,
                password,
                iq,
            } => {
                self.job = Some(Job::register(
                    self.shard.node().clone(),
                    account,
                    password,
                    iq,
                ));
            }
            Action::Bind {
                account,
                resource,
                iq,
            } => {
                let request = BindRequest {
                    account,
                    resource,
                    connection: ctx.address(),
                    peer: self.peer,
                    websocket: self.framing() == Framing::WebSocket,
                    login_began: self.login_began(),
                };
                self.job = Some(Job::bind(self.shard.clone(), request, iq));
            }
            Action::Resume { account, previd, h } => {
                let request = ResumeRequest {
                    account,
                    previd,
                    h,
                    connection: ctx.address(),
                    login_began: self.login_began(),
                };
                self.job = Some(Job::resume(self.shard.clone(), request));
            }
            Action::Fail(error) => self.end = Some(End::Ours(Some(error))),
            Action::Close => self.end = Some(End::Ours(None)),
            Action::Closed => self.end = Some(End::Theirs),
        }
        Ok(())
    }

    /// Sends what the negotiation has to say.
    fn send_negotiated(&mut self, output: &mut Output, cx: &mut Context<'_>) -> Result<(), Lost> {
        if !output.is_empty() {
            self.send(output, cx)?;
            output.clear();
        }
        Ok(())
    }

    fn start_tls(&mut self) -> Result<(), Lost> {
        let State::Negotiating(negotiating) = &mut self.state else {
            return Ok(());
        };
        let Some(Wire::Tcp(tcp)) = self.wire.take() else {
            return Err(Lost::Gone);
        };
        let tls = TlsWire::new(tcp, self.shard.node().tls.clone(), Vec::new())?;
        self.wire = Some(Wire::Tls(tls));
        negotiating.in_handshake = true;
        self.framer.restart();
        self.gauge = super::Gauge::new("tls");
        Ok(())
    }

    /// Whether the account has attempts left; fails the login if not.
    fn may_log_in(&mut self, user: &rookery_proto::jid::BareJid, output: &mut Output) -> bool {
        if self
            .shard
            .node()
            .admission
            .may_try(user, std::time::Instant::now())
        {
            return true;
        }
        let State::Negotiating(negotiating) = &mut self.state else {
            return false;
        };
        // Not RFC 6120 §6.5.1 to blame: the password was not looked at.
        let failed = negotiating
            .negotiation
            .fail(Condition::TemporaryAuthFailure.into(), output);
        if let Action::LoginFailed(failed) = failed {
            self.login_failed(&failed);
        }
        false
    }

    fn login_failed(&mut self, failed: &FailedLogin) {
        let mechanism = failed
            .mechanism
            .map_or("unknown", |mechanism| mechanism.name());
        let outcome = failed.condition.name();
        metrics::LOGINS
            .with_label_values(&[mechanism, outcome])
            .inc();
        if let (Some(user), Condition::NotAuthorized) = (&failed.user, failed.condition) {
            self.shard
                .node()
                .admission
                .failed(user, std::time::Instant::now());
        }
        if let Some(user) = &failed.user {
            audit::login_failed(user, self.peer, mechanism, outcome);
        }
        if failed.is_last {
            // RFC 6120 §6.4.5
            self.end = Some(End::Ours(Some(StreamError::with_text(
                StreamCondition::PolicyViolation,
                "too many failed logins",
            ))));
        }
    }

    /// When the login of this stream began.
    fn login_began(&self) -> Instant {
        let began = match &self.state {
            State::Negotiating(negotiating) => negotiating.login_began,
            State::Proxied(_) | State::Bound(_) | State::Ending(_) => None,
        };
        // Nobody asks before there was one.
        began.unwrap_or_else(Instant::now)
    }

    /// The client is who it says. Another arbiter may own the account; then the stream goes there.
    fn logged_in(&mut self, success: Success, rest: &mut &[u8]) -> Result<(), Lost> {
        let Success {
            user,
            mechanism,
            took,
        } = success;
        metrics::LOGINS
            .with_label_values(&[mechanism.name(), "ok"])
            .inc();
        metrics::LOGIN_SECONDS
            .with_label_values(&[mechanism.name()])
            .observe(took.as_secs_f64());
        audit::logged_in(&user, self.peer, mechanism.name());
        self.shard.node().admission.succeeded(&user);
        let State::Negotiating(negotiating) = &mut self.state else {
            return Ok(());
        };
        negotiating.ticket = None;
        let now = Instant::now();
        negotiating.login_began = Some(now.checked_sub(took).unwrap_or(now));
        self.framer
            .set_limits(negotiating.negotiation.rules().limits());
        self.framer.restart();
        let owner = self.shard.index_of(&user);
        if owner == self.shard.index() {
            return Ok(());
        }
        let Some(wire) = self.wire.take() else {
            return Err(Lost::Gone);
        };
        let gauge = super::Gauge::new(wire.name());
        let parts = Parts {
            wire: wire.into_parts().map_err(Error::from)?,
            peer: self.peer,
            account: user,
            security: negotiating.negotiation.security(),
            rest: rest.to_vec(),
            deadline: negotiating.deadline,
            login_began: negotiating.login_began,
            gauge,
        };
        self.shard.hand_over(owner, Box::new(parts));
        Err(Lost::Moved)
    }

    /// Goes on with what was waited for.
    pub(super) fn finish_job(
        &mut self,
        done: Done,
        ctx: &mut actix::Context<Self>,
        cx: &mut Context<'_>,
    ) -> Result<(), Lost> {
        let found = match done {
            Done::Answered => return Ok(()),
            Done::NoSession => return Err(Lost::Gone),
            Done::Found(found) => found,
        };
        let mut scratch = Scratch::borrow();
        let output = &mut scratch.output;
        let State::Negotiating(negotiating) = &mut self.state else {
            return Ok(());
        };
        let Negotiating { negotiation, .. } = &mut **negotiating;
        let action = match found {
            Found::Credentials(Some(keys)) => negotiation.credentials(&keys, output),
            Found::Verified(Some(verdict)) => negotiation.verified(verdict, output),
            Found::Credentials(None) | Found::Verified(None) => {
                negotiation.fail(Condition::TemporaryAuthFailure.into(), output)
            }
            Found::Registered(iq, result) => {
                let outcome = if result.is_ok() { "ok" } else { "failed" };
                metrics::REGISTRATIONS.with_label_values(&[outcome]).inc();
                negotiation.registered(&iq, result, output)
            }
            Found::Bound(iq, Err(error)) => {
                negotiation.not_bound(&iq, &error, output);
                Action::Continue
            }
            Found::Bound(iq, Ok(bound)) => {
                negotiation.bound(&iq, &bound.jid, output);
                tracing::debug!(jid = %bound.jid, peer = %self.peer, "session started");
                self.is_bound(*bound);
                Action::Continue
            }
            Found::Resumed(Ok(bound)) => {
                tracing::debug!(jid = %bound.jid, peer = %self.peer, "session resumed");
                self.is_bound(*bound);
                Action::Continue
            }
            Found::Resumed(Err(refused)) => Negotiation::not_resumed(&refused, output),
        };
        let rest = std::mem::take(&mut self.rest);
        let mut unread = &rest[..];
        self.act(action, &mut unread, output, ctx, cx)?;
        self.send_negotiated(output, cx)?;
        self.rest = if unread.len() == rest.len() {
            rest
        } else {
            unread.to_vec()
        };
        Ok(())
    }

    /// The stream has a session from now on.
    fn is_bound(&mut self, bound: shard::Bound) {
        let State::Negotiating(negotiating) = &self.state else {
            return;
        };
        let scope = negotiating.negotiation.scope().clone();
        let transport = self.wire.as_ref().map_or("tcp", Wire::name);
        let outbox = &bound.outbox;
        outbox.is_linked(bound.generation, transport, self.peer);
        self.state = State::Bound(Bound {
            session: bound.session,
            outbox: bound.outbox,
            load: bound.load,
            generation: bound.generation,
            scope,
        });
        self.watch.rest();
    }

    /// Hands stanzas to the session; the next ones wait until it has dealt with them.
    fn take_stanzas(&mut self, mut bytes: &[u8]) {
        let framing = self.framing();
        let State::Bound(bound) = &self.state else {
            return;
        };
        let limits = super::rules(&self.shard).limits();
        let mut whole = Some(bytes);
        let mut batch = Vec::new();
        while batch.len() < BATCH_STANZAS {
            let frame = match framing {
                Framing::Tcp => self.framer.next(&mut bytes),
                Framing::WebSocket => {
                    bytes = &[];
                    whole
                        .take()
                        .map(|document| ws_frame(document, &limits))
                        .transpose()
                }
            };
            let end = match frame {
                Ok(Some(Frame::Stanza(raw))) if sm::is_nonza(raw) => {
                    match read_nonza(raw, &bound.scope) {
                        Ok(inbound) => {
                            batch.push(inbound);
                            continue;
                        }
                        Err(error) => End::Ours(Some(error)),
                    }
                }
                Ok(Some(Frame::Stanza(raw))) => match Stanza::parse(raw, &bound.scope) {
                    Ok(stanza) => {
                        batch.push(Inbound::Stanza(stanza));
                        continue;
                    }
                    Err(rejected @ Rejected::Stanza(_)) => {
                        batch.push(Inbound::Rejected(rejected));
                        continue;
                    }
                    Err(Rejected::Stream(error)) => End::Ours(Some(error)),
                },
                Ok(None) => break,
                Ok(Some(Frame::Close)) => End::Theirs,
                // Only a WebSocket can: the framer of TCP has seen its header.
                Ok(Some(Frame::Open(_))) => {
                    End::Ours(Some(StreamCondition::UnsupportedStanzaType.into()))
                }
                Err(error) => End::Ours(Some(error)),
            };
            // What came before it is handled first.
            self.end.get_or_insert(end);
            bytes = &[];
            break;
        }
        if !batch.is_empty() {
            let incoming = Incoming {
                generation: bound.generation,
                batch,
            };
            self.job = Some(Job::session(bound.session.send(incoming)));
        }
        self.rest = bytes.to_vec();
    }
}

/// An element of stream management (XEP-0198).
fn read_nonza(raw: &[u8], scope: &StreamScope) -> Result<Inbound, StreamError> {
    let element = Element::from_stream(raw, scope)?;
    match sm::Nonza::parse(&element) {
        Ok(nonza) => Ok(Inbound::Nonza(nonza)),
        Err(sm::Malformed::Failed(condition)) => Ok(Inbound::BadNonza(condition)),
        Err(sm::Malformed::Stream(error)) => Err(error),
    }
}
