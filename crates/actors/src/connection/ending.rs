//! How a stream ends: RFC 6120 §4.4 and §4.9.1.
//!
//! What is ready is still written, then the error if there is one, then the closing tag; then our
//! side of the transport is closed and what the peer still sends is thrown away until it closes its
//! side as well, for a while at most. Without that wait the system would answer late bytes by a
//! reset, and the peer might lose what we said last.

use std::task::{Context, Poll, ready};

use rookery_proto::stream::{StreamCondition, StreamError};
use tokio::time::Instant;

use super::{Bound, Connection, Lost, State, count_error, negotiation};
use crate::transport::{Input, Scratch};

/// Why a stream ends.
#[derive(Debug)]
pub(super) enum End {
    /// The client has sent the closing tag.
    Theirs,
    /// We end it, with or without an error.
    Ours(Option<StreamError>),
    /// We break the transport off.
    Cut,
}

/// The rest of a stream that has ended.
pub(super) struct Ending {
    stage: Stage,
    deadline: Instant,
    /// The session, which is told once it is clear which of its stanzas have gone out.
    bound: Option<Bound>,
    /// Whether the stream is closed in form, by whichever side: the session then ends with it, also one
    /// that could be resumed if its connection broke.
    clean: bool,
}

#[derive(Debug)]
enum Stage {
    /// The socket has not taken our last words.
    Flushing,
    /// Our side is closed, the peer's is not.
    Lingering,
}

impl Ending {
    /// When the peer has had long enough.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The session, if it does not know yet.
    pub(super) fn bound(&self) -> Option<&Bound> {
        self.bound.as_ref()
    }

    /// Takes the session, to tell it that the connection is gone and whether the stream was closed.
    pub(super) fn release(&mut self) -> Option<(Bound, bool)> {
        Some((self.bound.take()?, self.clean))
    }
}

impl Connection {
    /// Says the last words.
    pub(super) fn begin_end(&mut self, end: End, cx: &mut Context<'_>) -> Result<(), Lost> {
        let (error, clean) = match end {
            End::Theirs => (None, true),
            End::Ours(error) => (error, true),
            End::Cut => return Err(Lost::Cut),
        };
        if let Some(error) = &error {
            count_error(error);
            tracing::debug!(peer = %self.peer, %error, "stream error");
        }
        let framing = self.framing();
        let mut scratch = Scratch::borrow();
        match &mut self.state {
            State::Proxied(_) | State::Ending(_) => return Err(Lost::Gone),
            State::Negotiating(negotiating) if negotiating.in_handshake => return Err(Lost::Gone),
            State::Negotiating(negotiating) => {
                negotiating
                    .negotiation
                    .end(error.as_ref(), &mut scratch.output);
            }
            State::Bound(_) => {
                negotiation::end(error.as_ref(), framing, &mut scratch.output);
            }
        }
        self.send(&scratch.output, cx)?;
        drop(scratch);
        self.job = None;
        let deadline = Instant::now() + self.shard.node().settings.c2s.linger;
        let ending = Ending {
            stage: Stage::Flushing,
            deadline,
            bound: None,
            clean,
        };
        let ended = std::mem::replace(&mut self.state, State::Ending(Box::new(ending)));
        if let (State::Bound(bound), State::Ending(ending)) = (ended, &mut self.state) {
            ending.bound = Some(bound);
        }
        Ok(())
    }

    /// Waits until the peer has what we said last.
    pub(super) fn poll_ending(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        loop {
            let State::Ending(ending) = &mut self.state else {
                return Poll::Ready(Ok(()));
            };
            let wire = self
                .wire
                .as_mut()
                .expect("only a connection that has logged in moves");
            match ending.stage {
                Stage::Flushing => {
                    ready!(wire.poll_shutdown(cx))?;
                    ending.stage = Stage::Lingering;
                    self.settle();
                    self.detach();
                }
                Stage::Lingering => {
                    let mut scratch = Scratch::borrow();
                    if let Input::End = ready!(wire.poll_read(cx, &mut scratch))? {
                        return Poll::Ready(Ok(()));
                    }
                }
            }
        }
    }

    /// A mistake of ours: the peer is told that much, and the connection goes.
    pub(super) fn panicked(&mut self, cx: &mut Context<'_>) {
        tracing::error!(peer = %self.peer, "a connection panicked");
        if self.wire.is_some() {
            let error = StreamError::from(StreamCondition::InternalServerError);
            let end = std::panic::AssertUnwindSafe(|| self.begin_end(End::Ours(Some(error)), cx));
            // Both failures mean that there is nobody to tell.
            let _ = std::panic::catch_unwind(end);
        }
    }
}
