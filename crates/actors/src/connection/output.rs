//! From the outbox to the socket.
//!
//! Each wake-up writes once: all stanzas that wait, up to a bound, go into one buffer of the thread.
//! What the socket does not take is kept, and nothing more is taken from the outbox until it has.

use std::task::{Context, Poll};

use rookery_features::xep0198_stream_management as sm;
use rookery_features::xep0359_stanza_ids as stanza_ids;
use rookery_proto::jid::Jid;
use rookery_proto::stream::Framing;

use super::{Connection, Lost, State};
use crate::metrics;
use crate::outbox::Outgoing;
use crate::transport::{Output, Scratch, Wire};

/// Bytes of stanzas after which a write goes out.
const WRITE_BYTES: usize = 64 * 1024;

impl Connection {
    /// Writes what waits, as far as the socket takes it.
    pub(super) fn write(&mut self, cx: &mut Context<'_>) -> Result<(), Lost> {
        loop {
            match self.wire().poll_flush(cx)? {
                Poll::Ready(()) => {
                    self.watch.all_sent();
                    self.settle();
                }
                Poll::Pending => {
                    let unsent = self.wire().unsent();
                    self.watch.unsent(unsent);
                    return Ok(());
                }
            }
            let State::Bound(bound) = &self.state else {
                return Ok(());
            };
            if !bound.outbox.is_drained_by(bound.generation)
                || bound.outbox.poll_pending(cx).is_pending()
            {
                return Ok(());
            }
            self.drain(cx)?;
        }
    }

    /// Takes stanzas from the outbox and sends them.
    fn drain(&mut self, cx: &mut Context<'_>) -> Result<(), Lost> {
        let framing = self.framing();
        let State::Bound(bound) = &self.state else {
            return Ok(());
        };
        let mut scratch = Scratch::borrow();
        for element in bound.outbox.take_controls() {
            scratch.output.push_bytes(element.as_bytes());
        }
        let controls = scratch.output.len();
        while scratch.output.len() < WRITE_BYTES
            && let Some(outgoing) = bound.outbox.pop()
        {
            let before = scratch.output.len();
            scratch
                .output
                .push(|out| write_stanza(&outgoing, out, framing));
            self.in_flight
                .push_back((outgoing, scratch.output.len() - before));
        }
        if scratch.output.len() > controls && bound.outbox.take_request() {
            scratch.output.push_bytes(sm::request().as_bytes());
        }
        // After a failure all of them count as unsent.
        self.send(&scratch.output, cx)?;
        self.settle();
        Ok(())
    }

    /// Hands output to the transport.
    pub(super) fn send(&mut self, output: &Output, cx: &mut Context<'_>) -> Result<(), Lost> {
        metrics::BYTES_OUT.inc_by(output.len() as u64);
        Ok(self.wire().send(cx, output)?)
    }

    /// Reports the stanzas that are completely with the socket.
    pub(super) fn settle(&mut self) {
        if self.in_flight.is_empty() {
            return;
        }
        let Some(outbox) = self.bound().map(|bound| bound.outbox.clone()) else {
            return;
        };
        let unsent = self.wire.as_ref().map_or(0, Wire::unsent);
        let mut left: usize = self.in_flight.iter().map(|(_, len)| len).sum();
        while let Some((_, len)) = self.in_flight.front() {
            if left - len < unsent {
                return;
            }
            left -= len;
            if let Some((outgoing, _)) = self.in_flight.pop_front() {
                outbox.written(&outgoing);
            }
        }
        // An idle connection keeps no queue.
        self.in_flight = std::collections::VecDeque::new();
    }

    /// Whether the client has to read before more is read from it: what it asks for is not to pile up.
    pub(super) fn must_wait_for_writes(&self) -> bool {
        let has_unsent = self.wire.as_ref().is_some_and(Wire::has_unsent);
        has_unsent
            && match &self.state {
                State::Bound(bound) => {
                    bound.outbox.bytes() > self.shard.node().settings.sessions.outbox_bytes / 4
                }
                _ => true,
            }
    }
}

/// Writes a stanza as its recipient reads it: a message that is in the recipient's archive says under
/// which id (XEP-0359 §3).
fn write_stanza(outgoing: &Outgoing, out: &mut Vec<u8>, framing: Framing) {
    let to = outgoing.to.as_ref();
    let stanza = &outgoing.stanza;
    match outgoing.entry {
        Some(entry) if entry.archived => {
            let account = to.or(stanza.to.as_ref()).map(Jid::to_bare);
            stanza.write_with(out, to.map(Jid::as_str), framing, |out| {
                if let Some(account) = account {
                    let id = stanza_ids::stanza_id_xml(&account, entry.id);
                    out.extend_from_slice(id.as_bytes());
                }
            });
        }
        _ => stanza.write_to(out, to.map(Jid::as_str), framing),
    }
}
