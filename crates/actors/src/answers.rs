//! A request gets one answer (RFC 6120 §8.2.3).
//!
//! A request to a resource on another node that may have arrived or not is refused, or sent once more, if
//! that node dies or is cut off; then there may be two answers. The first one counts: each resource knows
//! the last requests that were answered, and drops what answers one of them again. A session that moves to
//! another node forgets them.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};

use rookery_proto::jid::Jid;
use rookery_proto::stanza::Stanza;

/// Answers that a resource remembers.
const REMEMBERED: usize = 64;

/// The answers that a client has got to its requests to others.
#[derive(Debug, Default)]
pub struct Answers {
    /// Nothing until there is one.
    state: RefCell<Option<Box<State>>>,
}

#[derive(Debug, Default)]
struct State {
    /// Of whom and to which request, oldest first.
    recent: VecDeque<u64>,
    hasher: RandomState,
}

impl State {
    fn hash(&self, peer: Option<&Jid>, request: &Stanza) -> u64 {
        let peer = peer.map(Jid::as_str);
        self.hasher.hash_one((peer, request.id.as_deref()))
    }
}

impl Answers {
    /// The client sends a request, perhaps with an `id` that it has used before.
    pub(crate) fn asks(&self, request: &Stanza) {
        if let Some(state) = &mut *self.state.borrow_mut() {
            let hash = state.hash(request.to.as_ref(), request);
            state.recent.retain(|answered| *answered != hash);
        }
    }

    /// Takes note of an answer; whether the request was answered before.
    pub(crate) fn is_repeated(&self, answer: &Stanza) -> bool {
        let mut state = self.state.borrow_mut();
        let state = state.get_or_insert_default();
        let hash = state.hash(answer.from.as_ref(), answer);
        if state.recent.contains(&hash) {
            return true;
        }
        if state.recent.len() == REMEMBERED {
            state.recent.pop_front();
        }
        state.recent.push_back(hash);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GONE: &str = "<error type='wait'>\
        <recipient-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>";

    fn iq(kind: &str, peer: &str, id: &str) -> Stanza {
        let (side, payload) = match kind {
            "get" => ("to", "<ping xmlns='urn:xmpp:ping'/>"),
            "error" => ("from", GONE),
            _ => ("from", ""),
        };
        let xml = format!(
            "<iq xmlns='jabber:client' type='{kind}' {side}='{peer}' id='{id}'>{payload}</iq>"
        );
        Stanza::from_xml(&xml).unwrap()
    }

    #[test]
    fn the_first_answer_counts() {
        let answers = Answers::default();
        assert!(!answers.is_repeated(&iq("error", "bob@localhost/a", "1")));
        assert!(answers.is_repeated(&iq("result", "bob@localhost/a", "1")));
        assert!(!answers.is_repeated(&iq("result", "bob@localhost/b", "1")));
        assert!(!answers.is_repeated(&iq("result", "bob@localhost/a", "2")));
    }

    #[test]
    fn an_id_may_be_used_again() {
        let answers = Answers::default();
        answers.asks(&iq("get", "bob@localhost/a", "1"));
        assert!(!answers.is_repeated(&iq("result", "bob@localhost/a", "1")));
        answers.asks(&iq("get", "bob@localhost/a", "1"));
        assert!(!answers.is_repeated(&iq("result", "bob@localhost/a", "1")));
        assert!(answers.is_repeated(&iq("result", "bob@localhost/a", "1")));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let answers = Answers::default();
        for number in 0..=REMEMBERED {
            assert!(!answers.is_repeated(&iq("result", "bob@localhost/a", &number.to_string())));
        }
        assert!(!answers.is_repeated(&iq("result", "bob@localhost/a", "0")));
        let last = REMEMBERED.to_string();
        assert!(answers.is_repeated(&iq("result", "bob@localhost/a", &last)));
    }
}
