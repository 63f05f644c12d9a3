//! XEP-0198 Stream Management, version 1.6.3.
//!
//! Supported: the stream feature (§2), enabling (§3), acks both ways (§4), resumption with `max` and
//! `location` (§5), the errors of §6. What is counted, when it counts as handled and what becomes of
//! a queue is for the session to decide; here are the elements and the arithmetic modulo 2^32.
//!
//! SASL2 and BIND2 (§9) are not offered by this server, so nothing is inlined into them.

use std::collections::VecDeque;

use rookery_proto::error::Condition;
use rookery_proto::ns;
use rookery_proto::stream::{StreamCondition, StreamError};
use rookery_proto::xml::Element;

use crate::feature::Feature;
use crate::nonza::local_name;

/// Listed in the README; announced as a stream feature.
pub const FEATURE: Feature = Feature::full(198, "1.6.3", &[]);

/// Namespace of every element in this file.
pub const NS: &str = "urn:xmpp:sm:3";

/// The stream feature (§2): offered after login, when a resource can be bound or a session resumed.
pub fn stream_feature() -> Element {
    Element::new("sm", NS)
}

/// What a client sends about its stream. None of it counts as a stanza (§1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Nonza {
    /// `<enable/>` (§3). Right after binding, and once: before binding the answer is
    /// `failed(UnexpectedRequest)`; so is a second one's, and then the stream should end.
    Enable {
        /// The client wants to be able to resume the session.
        resume: bool,
        /// How long it would like to have time for that, in seconds; not 0.
        max: Option<u32>,
    },
    /// `<resume/>` (§5), instead of binding.
    Resume {
        /// The identifier of the session.
        previd: String,
        /// What the client has handled: see [`acked`].
        h: u32,
    },
    /// `<a/>` (§4).
    Ack {
        /// What the client has handled: see [`acked`].
        h: u32,
    },
    /// `<r/>` (§4): to be answered with [`ack`] at once.
    Request,
}

/// What answers an element that cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Malformed {
    /// [`failed`] with this condition; the stream goes on (§6).
    Failed(Condition),
    /// The end of the stream: nothing is defined that could answer the element.
    Stream(StreamError),
}

impl Nonza {
    /// Reads a first-level element of a stream.
    ///
    /// # Errors
    /// `Failed(BadRequest)` for `<enable/>` and `<resume/>` with attributes that are missing or not of
    /// their type (§6); the stream error `bad-format` for `<a/>` without a number, and
    /// `unsupported-stanza-type` for any other element.
    pub fn parse(element: &Element) -> Result<Self, Malformed> {
        const BAD_REQUEST: Malformed = Malformed::Failed(Condition::BadRequest);
        let name = if element.ns() == NS {
            element.name()
        } else {
            ""
        };
        match name {
            "enable" => Ok(Self::Enable {
                resume: element
                    .attr("resume")
                    .map_or(Some(false), boolean)
                    .ok_or(BAD_REQUEST)?,
                max: element
                    .attr("max")
                    .map(|max| positive(max).ok_or(BAD_REQUEST))
                    .transpose()?,
            }),
            "resume" => Ok(Self::Resume {
                previd: element.attr("previd").ok_or(BAD_REQUEST)?.to_owned(),
                h: h(element).ok_or(BAD_REQUEST)?,
            }),
            "a" => h(element).map(|h| Self::Ack { h }).ok_or_else(|| {
                Malformed::Stream(StreamError::with_text(
                    StreamCondition::BadFormat,
                    "an ack without the number of stanzas",
                ))
            }),
            "r" => Ok(Self::Request),
            _ => Err(Malformed::Stream(
                StreamCondition::UnsupportedStanzaType.into(),
            )),
        }
    }
}

fn h(element: &Element) -> Option<u32> {
    element.attr("h")?.trim().parse().ok()
}

/// The two ways to write each value of `xs:boolean` (§3).
fn boolean(text: &str) -> Option<bool> {
    match text.trim() {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

/// An `xs:positiveInteger`, of which anything that does not fit means very long.
fn positive(text: &str) -> Option<u32> {
    let text = text.trim();
    let digits = text.strip_prefix('+').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse().unwrap_or(u32::MAX)).filter(|&number| number > 0)
}

/// Whether a first-level element, as the framer cuts it out, is named like a [`Nonza`], with or
/// without a prefix. Looks at the element's name only: whether it is one, [`Nonza::parse`] says. No
/// message, presence or IQ is named so.
pub fn is_nonza(raw: &[u8]) -> bool {
    matches!(local_name(raw), Some(b"a" | b"r" | b"enable" | b"resume"))
}

/// How a session can be resumed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Resumption<'a> {
    /// Identifies the session; at most 4000 bytes (§5).
    pub id: &'a str,
    /// How long it waits for that, in seconds; not 0.
    pub max_seconds: u32,
    /// Where the client had better connect to, as `host[:port]`.
    pub location: Option<&'a str>,
}

/// `<enabled/>` (§3): stream management is on. `None` if the session cannot be resumed.
pub fn enabled(resumption: Option<Resumption<'_>>) -> String {
    let mut enabled = Element::new("enabled", NS);
    if let Some(resumption) = resumption {
        enabled.set_attr("id", resumption.id);
        enabled.set_attr("resume", "true");
        enabled.set_attr("max", resumption.max_seconds.to_string());
        if let Some(location) = resumption.location {
            enabled.set_attr("location", location);
        }
    }
    enabled.to_xml("")
}

/// `<resumed/>` (§5): the session goes on; `h` is [`Ledger::h`]. What the client has not acknowledged
/// follows.
pub fn resumed(previd: &str, h: u32) -> String {
    Element::new("resumed", NS)
        .with_attr("h", h.to_string())
        .with_attr("previd", previd)
        .to_xml("")
}

/// `<failed/>` (§6): what `<enable/>` or `<resume/>` asked for is not done. The client may go on
/// without.
///
/// `ItemNotFound` for a session that is not known or not the client's, `UnexpectedRequest` for the
/// wrong moment. `h`: what was handled, where a session is known to have timed out (§5).
pub fn failed(condition: Condition, h: Option<u32>) -> String {
    let mut failed = Element::new("failed", NS);
    if let Some(h) = h {
        failed.set_attr("h", h.to_string());
    }
    failed.push(Element::new(condition.as_str(), ns::STANZA_ERRORS));
    failed.to_xml("")
}

/// `<a/>` (§4): so many stanzas have been handled.
pub fn ack(h: u32) -> String {
    format!("<a xmlns='{NS}' h='{h}'/>")
}

/// `<r/>` (§4): how many have been handled?
pub fn request() -> &'static str {
    "<r xmlns='urn:xmpp:sm:3'/>"
}

/// How many of the oldest unacknowledged stanzas `h` acknowledges (§4).
///
/// `base` is the `h` before this one, 0 at first; `unacked` is how many stanzas were sent since.
///
/// # Errors
/// More than were sent. An `h` below `base` is that, too, as numbers go round.
pub fn acked(base: u32, unacked: usize, h: u32) -> Result<usize, TooHigh> {
    match usize::try_from(h.wrapping_sub(base)) {
        Ok(count) if count <= unacked => Ok(count),
        _ => Err(TooHigh {
            h,
            // Modulo 2^32, as `h` is.
            #[expect(clippy::cast_possible_truncation, reason = "numbers go round")]
            send_count: base.wrapping_add(unacked as u32),
        }),
    }
}

/// A client acknowledged what it was not sent (§6).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("you acknowledged {h} stanzas, but only {send_count} were sent")]
pub struct TooHigh {
    /// What it said.
    pub h: u32,
    /// What it was sent.
    pub send_count: u32,
}

impl From<TooHigh> for StreamError {
    /// The end of the stream: `undefined-condition` with `<handled-count-too-high/>`.
    fn from(error: TooHigh) -> Self {
        let detail = Element::new("handled-count-too-high", NS)
            .with_attr("h", error.h.to_string())
            .with_attr("send-count", error.send_count.to_string());
        Self::with_text(StreamCondition::UndefinedCondition, error.to_string()).with_app(detail)
    }
}

/// Which of the stanzas that a client sent have been handled (§4).
///
/// They may be handled in any order; `h` counts those up to the first that has not been. A ledger
/// needs a byte for each stanza between that one and the last that has been, and no memory beyond
/// itself while all are handled in order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ledger {
    received: u32,
    h: u32,
    /// Whether the stanzas after number `h` have been handled. The first, if any, has not, and the
    /// last has.
    ahead: VecDeque<bool>,
}

impl Ledger {
    /// The ledger of a session whose client was told `h` last, and to which nothing came since.
    pub fn resuming(h: u32) -> Self {
        Self {
            received: h,
            h,
            ahead: VecDeque::new(),
        }
    }

    /// Counts a stanza and returns its number; the first one's is 1.
    pub fn receive(&mut self) -> u32 {
        self.received = self.received.wrapping_add(1);
        self.received
    }

    /// Notes that the stanza with this number has been handled. Does nothing if it had been, or has
    /// not been received.
    pub fn handled(&mut self, number: u32) {
        let place = number.wrapping_sub(self.h).wrapping_sub(1);
        if place >= self.received.wrapping_sub(self.h) {
            return;
        }
        if place == 0 && self.ahead.is_empty() {
            self.h = number;
            return;
        }
        let Ok(place) = usize::try_from(place) else {
            return;
        };
        if self.ahead.len() <= place {
            self.ahead.resize(place + 1, false);
        }
        self.ahead[place] = true;
        while self.ahead.front() == Some(&true) {
            self.ahead.pop_front();
            self.h = self.h.wrapping_add(1);
        }
        if self.ahead.is_empty() {
            self.ahead = VecDeque::new();
        }
    }

    /// How many have been handled without a gap, modulo 2^32: what the client is told.
    pub fn h(&self) -> u32 {
        self.h
    }

    /// How many came, modulo 2^32.
    pub fn received(&self) -> u32 {
        self.received
    }

    /// Whether all that came has been handled.
    pub fn is_complete(&self) -> bool {
        self.h == self.received
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::element;

    fn parse(xml: &str) -> Result<Nonza, Malformed> {
        Nonza::parse(&element(xml))
    }

    /// §3, §4, §5
    #[test]
    fn what_a_client_says_about_its_stream_is_read() {
        let enable = |resume, max| Ok(Nonza::Enable { resume, max });
        for (xml, expected) in [
            ("<enable xmlns='urn:xmpp:sm:3'/>", enable(false, None)),
            (
                "<enable xmlns='urn:xmpp:sm:3' resume='true'/>",
                enable(true, None),
            ),
            (
                "<enable xmlns='urn:xmpp:sm:3' resume='1' max='300'/>",
                enable(true, Some(300)),
            ),
            (
                "<enable xmlns='urn:xmpp:sm:3' resume='0'/>",
                enable(false, None),
            ),
            (
                "<x:enable xmlns:x='urn:xmpp:sm:3' resume='false' max='99999999999'/>",
                enable(false, Some(u32::MAX)),
            ),
            (
                "<resume xmlns='urn:xmpp:sm:3' h='4294967295' previd='a b'/>",
                Ok(Nonza::Resume {
                    previd: "a b".to_owned(),
                    h: u32::MAX,
                }),
            ),
            ("<a xmlns='urn:xmpp:sm:3' h='7'/>", Ok(Nonza::Ack { h: 7 })),
            ("<r xmlns='urn:xmpp:sm:3'/>", Ok(Nonza::Request)),
        ] {
            assert_eq!(parse(xml), expected, "{xml}");
        }
    }

    /// §6
    #[test]
    fn what_cannot_be_read_fails_or_ends_the_stream() {
        for xml in [
            "<enable xmlns='urn:xmpp:sm:3' resume='yes'/>",
            "<enable xmlns='urn:xmpp:sm:3' max='0'/>",
            "<enable xmlns='urn:xmpp:sm:3' max='-1'/>",
            "<enable xmlns='urn:xmpp:sm:3' max='1s'/>",
            "<resume xmlns='urn:xmpp:sm:3' h='1'/>",
            "<resume xmlns='urn:xmpp:sm:3' previd='x'/>",
            "<resume xmlns='urn:xmpp:sm:3' previd='x' h='4294967296'/>",
            "<resume xmlns='urn:xmpp:sm:3' previd='x' h='-1'/>",
        ] {
            assert_eq!(
                parse(xml),
                Err(Malformed::Failed(Condition::BadRequest)),
                "{xml}"
            );
        }
        for (xml, condition) in [
            ("<a xmlns='urn:xmpp:sm:3'/>", StreamCondition::BadFormat),
            (
                "<a xmlns='urn:xmpp:sm:3' h='x'/>",
                StreamCondition::BadFormat,
            ),
            (
                "<enabled xmlns='urn:xmpp:sm:3'/>",
                StreamCondition::UnsupportedStanzaType,
            ),
            (
                "<enable xmlns='urn:xmpp:sm:2'/>",
                StreamCondition::UnsupportedStanzaType,
            ),
        ] {
            match parse(xml) {
                Err(Malformed::Stream(error)) => assert_eq!(error.condition, condition, "{xml}"),
                other => panic!("{xml}: {other:?}"),
            }
        }
    }

    #[test]
    fn names_tell_nonzas_from_stanzas() {
        for raw in [
            "<a h='1' xmlns='urn:xmpp:sm:3'/>",
            "<r xmlns='urn:xmpp:sm:3'/>",
            "<r/>",
            "<r></r>",
            "<sm:a h='1'/>",
            "<sm:r/>",
            "<enable\nxmlns='urn:xmpp:sm:3'/>",
            "<resume\th='1'/>",
        ] {
            assert!(is_nonza(raw.as_bytes()), "{raw}");
        }
        for raw in [
            "",
            "<",
            "<a",
            "<a:",
            "<x:a",
            "a/>",
            "<abc/>",
            "<b:abc/>",
            "<a:b:a",
            "<message/>",
            "<presence to='a'/>",
            "<iq id='r'/>",
            "<c:iq/>",
            "<a:message/>",
            "<auth xmlns='a'/>",
        ] {
            assert!(!is_nonza(raw.as_bytes()), "{raw}");
        }
    }

    /// §2, §3, §4, §5
    #[test]
    fn answers_are_written() {
        assert_eq!(stream_feature().to_xml(""), "<sm xmlns='urn:xmpp:sm:3'/>");
        assert_eq!(enabled(None), "<enabled xmlns='urn:xmpp:sm:3'/>");
        let mut resumption = Resumption {
            id: "a'b",
            max_seconds: 300,
            location: None,
        };
        assert_eq!(
            enabled(Some(resumption)),
            "<enabled xmlns='urn:xmpp:sm:3' id='a&apos;b' resume='true' max='300'/>"
        );
        resumption.location = Some("[2001:db8::1]:5222");
        assert_eq!(
            element(&enabled(Some(resumption))).attr("location"),
            Some("[2001:db8::1]:5222")
        );
        assert_eq!(
            resumed("id", u32::MAX),
            "<resumed xmlns='urn:xmpp:sm:3' h='4294967295' previd='id'/>"
        );
        assert_eq!(ack(0), "<a xmlns='urn:xmpp:sm:3' h='0'/>");
        assert!(element(request()).is("r", NS));
    }

    /// §5, §6
    #[test]
    fn failures_carry_a_condition_and_sometimes_a_count() {
        assert_eq!(
            failed(Condition::UnexpectedRequest, None),
            "<failed xmlns='urn:xmpp:sm:3'>\
             <unexpected-request xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>"
        );
        assert_eq!(
            failed(Condition::ItemNotFound, Some(3)),
            "<failed xmlns='urn:xmpp:sm:3' h='3'>\
             <item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></failed>"
        );
    }

    /// §6
    #[test]
    fn who_acknowledges_too_much_is_told_the_numbers() {
        let error = StreamError::from(acked(0, 8, 10).unwrap_err());
        assert_eq!(
            error.to_xml(),
            "<stream:error>\
             <undefined-condition xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>\
             <text xmlns='urn:ietf:params:xml:ns:xmpp-streams' xml:lang='en'>\
             you acknowledged 10 stanzas, but only 8 were sent</text>\
             <handled-count-too-high xmlns='urn:xmpp:sm:3' h='10' send-count='8'/></stream:error>"
        );
    }

    /// §4
    #[test]
    fn acknowledged_stanzas_are_counted_round_the_end_of_the_numbers() {
        assert_eq!(acked(0, 0, 0), Ok(0));
        assert_eq!(acked(5, 3, 5), Ok(0));
        assert_eq!(acked(5, 3, 8), Ok(3));
        assert_eq!(acked(u32::MAX, 3, 1), Ok(2));
        let too_high = |h, send_count| Err(TooHigh { h, send_count });
        assert_eq!(acked(5, 3, 9), too_high(9, 8));
        assert_eq!(acked(5, 3, 4), too_high(4, 8));
        assert_eq!(acked(u32::MAX, 2, 2), too_high(2, 1));
    }

    /// §4
    #[test]
    fn a_gap_holds_the_count_back() {
        let mut ledger = Ledger::default();
        assert!(ledger.is_complete());
        let numbers = [(); 4].map(|()| ledger.receive());
        assert_eq!(numbers, [1, 2, 3, 4]);
        ledger.handled(3);
        ledger.handled(2);
        assert_eq!((ledger.h(), ledger.is_complete()), (0, false));
        ledger.handled(1);
        assert_eq!((ledger.h(), ledger.received()), (3, 4));
        ledger.handled(4);
        assert_eq!((ledger.h(), ledger.is_complete()), (4, true));
    }

    #[test]
    fn what_was_counted_or_never_came_changes_nothing() {
        let mut ledger = Ledger::default();
        ledger.handled(0);
        ledger.handled(1);
        ledger.receive();
        ledger.receive();
        ledger.handled(3);
        ledger.handled(1);
        ledger.handled(1);
        ledger.handled(0);
        assert_eq!((ledger.h(), ledger.is_complete()), (1, false));
    }

    #[test]
    fn a_ledger_in_order_holds_no_memory() {
        let mut ledger = Ledger::resuming(u32::MAX - 500);
        for _ in 0..1000 {
            let number = ledger.receive();
            ledger.handled(number);
            assert_eq!(ledger.ahead.capacity(), 0);
        }
        assert_eq!((ledger.h(), ledger.is_complete()), (499, true));
        // Nor after a disorder that is over.
        let [first, second] = [ledger.receive(), ledger.receive()];
        ledger.handled(second);
        ledger.handled(first);
        assert_eq!((ledger.h(), ledger.ahead.capacity()), (501, 0));
    }

    proptest! {
        /// Against a plain list, also where the numbers go round.
        #[test]
        fn any_order_of_completion_is_counted(
            start in prop_oneof![any::<u32>(), (u32::MAX - 100)..=u32::MAX],
            order in Just((0..60_u32).collect::<Vec<_>>()).prop_shuffle(),
            handled in 0..=60_usize,
        ) {
            let mut ledger = Ledger::resuming(start);
            for place in 0..60 {
                prop_assert_eq!(ledger.receive(), start.wrapping_add(place + 1));
            }
            let mut done = [false; 60];
            for place in order.into_iter().take(handled) {
                ledger.handled(start.wrapping_add(place + 1));
                done[place as usize] = true;
                let prefix = done.iter().take_while(|&&done| done).count();
                prop_assert_eq!(ledger.h(), start.wrapping_add(u32::try_from(prefix).unwrap()));
                prop_assert_eq!(ledger.is_complete(), prefix == 60);
            }
            prop_assert_eq!(ledger.ahead.is_empty(), handled == 60 || ledger.h() == start.wrapping_add(u32::try_from(handled).unwrap()));
        }

        #[test]
        fn acks_count_what_was_sent_and_no_more(
            base in any::<u32>(), unacked in 0..1000_usize, more in 0..2000_u32,
        ) {
            let expected = usize::try_from(more).unwrap();
            let result = acked(base, unacked, base.wrapping_add(more));
            prop_assert_eq!(result.is_ok(), expected <= unacked);
            prop_assert_eq!(result.unwrap_or(expected), expected);
        }

        #[test]
        fn any_element_is_read_or_refused(
            name in "enable|resume|a|r|sm|[a-z]{1,8}",
            attributes in proptest::collection::vec(
                ("h|max|resume|previd|id", "[0-9]{0,12}|true|false|\\PC{0,12}"), 0..4,
            ),
        ) {
            let mut element = Element::new(&name, NS);
            for (attribute, value) in &attributes {
                element.set_attr(attribute, value);
            }
            let raw = element.to_xml("");
            if Nonza::parse(&element).is_ok() {
                prop_assert!(is_nonza(raw.as_bytes()));
            }
            prop_assert_eq!(Nonza::parse(&crate::testing::element(&raw)), Nonza::parse(&element));
        }

        #[test]
        fn what_a_client_writes_is_read_back(previd in "\\PC{1,40}", h in any::<u32>()) {
            let resume = Element::new("resume", NS)
                .with_attr("previd", &previd)
                .with_attr("h", h.to_string());
            prop_assert_eq!(Nonza::parse(&element(&resume.to_xml(""))), Ok(Nonza::Resume { previd, h }));
            prop_assert_eq!(Nonza::parse(&element(&ack(h))), Ok(Nonza::Ack { h }));
        }
    }
}
