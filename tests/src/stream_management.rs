//! A client's half of XEP-0198: what it sent and nobody took responsibility for yet, and how much it
//! handled itself. Counting only; [`Client`](crate::Client) does the talking.

use std::collections::VecDeque;

use rookery_proto::xml::Element;

/// Namespace of XEP-0198.
pub const SM: &str = "urn:xmpp:sm:3";

/// The counters of one session, which outlive its connections (XEP-0198 §4, §5).
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// The server's last `h`.
    acknowledged: u32,
    /// Stanzas that were sent after those, oldest first.
    unacknowledged: VecDeque<Element>,
    /// Stanzas that came from the server: our own `h`.
    handled: u32,
}

impl Counts {
    /// A stanza goes out.
    pub fn send(&mut self, stanza: Element) {
        self.unacknowledged.push_back(stanza);
    }

    /// A stanza came in.
    pub fn handle(&mut self) {
        self.handled = self.handled.wrapping_add(1);
    }

    /// The `h` to tell the server.
    pub fn handled(&self) -> u32 {
        self.handled
    }

    /// The server's last `h`.
    pub fn acknowledged(&self) -> u32 {
        self.acknowledged
    }

    /// How many stanzas were sent in all, modulo 2^32.
    pub fn sent(&self) -> u32 {
        let waiting = u32::try_from(self.unacknowledged.len()).expect("a test sends fewer");
        self.acknowledged.wrapping_add(waiting)
    }

    /// The stanzas that the server has not acknowledged.
    pub fn unacknowledged(&self) -> impl Iterator<Item = &Element> {
        self.unacknowledged.iter()
    }

    /// Takes the server's `h`; returns the stanzas that it acknowledges.
    ///
    /// # Errors
    /// It counts more than was sent, or less than it did before.
    pub fn acknowledge(&mut self, h: u32) -> Result<Vec<Element>, String> {
        let more = h.wrapping_sub(self.acknowledged) as usize;
        if more > self.unacknowledged.len() {
            return Err(format!(
                "the server counts {h} stanzas; {} were sent and it counted {} before",
                self.sent(),
                self.acknowledged
            ));
        }
        self.acknowledged = h;
        Ok(self.unacknowledged.drain(..more).collect())
    }
}

/// The `h` of an `<a/>`, a `<resumed/>` or a `<failed/>`.
pub fn h_of(element: &Element) -> Option<u32> {
    element.attr("h")?.parse().ok()
}

/// Whether stream management counts this element.
pub fn is_stanza(element: &Element) -> bool {
    element.ns() == crate::stanza::CLIENT && matches!(element.name(), "message" | "presence" | "iq")
}

/// Asks for an ack.
pub fn request() -> String {
    format!("<r xmlns='{SM}'/>")
}

/// An ack.
pub fn ack(h: u32) -> String {
    format!("<a xmlns='{SM}' h='{h}'/>")
}

/// Asks for a session that went on without a stream.
pub fn resume(previd: &str, h: u32) -> String {
    Element::new("resume", SM)
        .with_attr("previd", previd)
        .with_attr("h", h.to_string())
        .to_xml("")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stanza::presence;

    #[test]
    fn an_ack_takes_what_it_counts() {
        let mut counts = Counts::default();
        for _ in 0..3 {
            counts.send(presence());
        }
        assert_eq!(counts.acknowledge(2).unwrap().len(), 2);
        assert_eq!((counts.sent(), counts.unacknowledged().count()), (3, 1));
        assert!(counts.acknowledge(2).unwrap().is_empty());
        assert!(counts.acknowledge(1).is_err(), "less than before");
        assert!(counts.acknowledge(4).is_err(), "more than was sent");
    }

    #[test]
    fn counters_wrap() {
        let mut counts = Counts {
            acknowledged: u32::MAX,
            handled: u32::MAX,
            ..Counts::default()
        };
        counts.send(presence());
        counts.send(presence());
        counts.handle();
        assert_eq!((counts.sent(), counts.handled()), (1, 0));
        assert_eq!(counts.acknowledge(1).unwrap().len(), 2);
    }
}
