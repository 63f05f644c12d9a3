//! What a test expects to receive: a stanza described as far as it matters.

use rookery_proto::xml::Element;

use crate::client::archive::FORWARD;
use crate::stanza::{BLOCKING, CARBONS, CLIENT, ROSTER};

/// Namespace of the conditions in stanza errors.
const STANZA_ERRORS: &str = "urn:ietf:params:xml:ns:xmpp-stanzas";

type Check = Box<dyn Fn(&Element) -> bool + Send>;

/// A stanza's description. An attribute that is not named may have any value or be absent.
pub struct Pattern {
    name: &'static str,
    claims: Vec<(String, Check)>,
}

impl Pattern {
    /// Any stanza of a name: `message`, `presence` or `iq`.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            claims: Vec::new(),
        }
    }

    /// Any stanza at all.
    pub fn any() -> Self {
        Self::new("")
    }

    /// For which the claim holds.
    #[must_use]
    pub fn that(
        mut self,
        claim: impl Into<String>,
        check: impl Fn(&Element) -> bool + Send + 'static,
    ) -> Self {
        self.claims.push((claim.into(), Box::new(check)));
        self
    }

    /// With an attribute.
    #[must_use]
    pub fn attr(self, name: &'static str, value: &str) -> Self {
        let value = value.to_owned();
        self.that(format!("{name}='{value}'"), move |e| {
            e.attr(name) == Some(&value)
        })
    }

    /// Without an attribute.
    #[must_use]
    pub fn no_attr(self, name: &'static str) -> Self {
        self.that(format!("no {name}"), move |e| e.attr(name).is_none())
    }

    /// From an address.
    #[must_use]
    pub fn from(self, jid: &str) -> Self {
        self.attr("from", jid)
    }

    /// To an address.
    #[must_use]
    pub fn to(self, jid: &str) -> Self {
        self.attr("to", jid)
    }

    /// Of a type. A message of no type is a normal one (RFC 6121 §5.2.2).
    #[must_use]
    pub fn kind(self, kind: &str) -> Self {
        let kind = kind.to_owned();
        self.that(format!("type='{kind}'"), move |e| match e.attr("type") {
            Some(found) => found == kind,
            None => kind == "normal" && e.name() == "message",
        })
    }

    /// With an id.
    #[must_use]
    pub fn id(self, id: &str) -> Self {
        self.attr("id", id)
    }

    /// With a body.
    #[must_use]
    pub fn body(self, body: &str) -> Self {
        self.text("body", CLIENT, body)
    }

    /// With a child that holds exactly this text.
    #[must_use]
    pub fn text(self, name: &'static str, ns: &'static str, text: &str) -> Self {
        let text = text.to_owned();
        self.that(format!("<{name}>{text}</{name}>"), move |e| {
            e.child(name, ns).is_some_and(|child| child.text() == text)
        })
    }

    /// With a child.
    #[must_use]
    pub fn has(self, name: &'static str, ns: &'static str) -> Self {
        self.that(format!("<{name} xmlns='{ns}'/>"), move |e| {
            e.child(name, ns).is_some()
        })
    }

    /// Without a child.
    #[must_use]
    pub fn lacks(self, name: &'static str, ns: &'static str) -> Self {
        self.that(format!("no <{name} xmlns='{ns}'/>"), move |e| {
            e.child(name, ns).is_none()
        })
    }

    /// An error with this condition.
    #[must_use]
    pub fn error(self, condition: &'static str) -> Self {
        self.kind("error")
            .that(format!("the condition {condition}"), move |e| {
                e.child("error", CLIENT)
                    .is_some_and(|error| error.child(condition, STANZA_ERRORS).is_some())
            })
    }

    /// Whether a stanza is as described.
    pub fn matches(&self, stanza: &Element) -> bool {
        self.names(stanza) && self.claims.iter().all(|(_, check)| check(stanza))
    }

    fn names(&self, stanza: &Element) -> bool {
        stanza.ns() == CLIENT && (self.name.is_empty() || stanza.name() == self.name)
    }

    /// The claims that a stanza does not fulfil, for messages.
    pub fn misses(&self, stanza: &Element) -> Vec<String> {
        let wrong_name = (!self.names(stanza)).then(|| format!("<{}/>", self.name));
        let failed = self.claims.iter().filter(|(_, check)| !check(stanza));
        wrong_name
            .into_iter()
            .chain(failed.map(|(claim, _)| claim.clone()))
            .collect()
    }
}

impl std::fmt::Debug for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "<{}/>", self.name)?;
        for (claim, _) in &self.claims {
            write!(f, " with {claim}")?;
        }
        Ok(())
    }
}

/// A chat message from an address, with a body.
pub fn chat_from(from: &str, body: &str) -> Pattern {
    message_from(from).kind("chat").body(body)
}

/// Any message from an address.
pub fn message_from(from: &str) -> Pattern {
    Pattern::new("message").from(from)
}

/// Available presence.
pub fn available_from(from: &str) -> Pattern {
    Pattern::new("presence").from(from).no_attr("type")
}

/// Unavailable presence.
pub fn unavailable_from(from: &str) -> Pattern {
    presence_from("unavailable", from)
}

/// Presence of a type: subscribe, subscribed, …
pub fn presence_from(kind: &str, from: &str) -> Pattern {
    Pattern::new("presence").kind(kind).from(from)
}

/// The result of a request.
pub fn result_of(id: &str) -> Pattern {
    Pattern::new("iq").kind("result").id(id)
}

/// An error that answers a request.
pub fn error_of(id: &str, condition: &'static str) -> Pattern {
    Pattern::new("iq").id(id).error(condition)
}

/// A roster push for a contact with a subscription (RFC 6121 §2.1.6).
pub fn roster_push(contact: &str, subscription: &str) -> Pattern {
    let (jid, state) = (contact.to_owned(), subscription.to_owned());
    Pattern::new("iq").kind("set").that(
        format!("one roster item {contact} subscription={subscription}"),
        move |iq| {
            pushed_item(iq).is_some_and(|item| {
                item.attr("jid") == Some(&jid) && item.attr("subscription") == Some(&state)
            })
        },
    )
}

/// The item of a roster push.
pub fn pushed_item(iq: &Element) -> Option<&Element> {
    let query = iq.child("query", ROSTER)?;
    let mut items = query.children();
    match (items.next(), items.next()) {
        (Some(item), None) if item.is("item", ROSTER) => Some(item),
        _ => None,
    }
}

/// A push of XEP-0191: `block` or `unblock` with the addresses named.
pub fn block_push(kind: &'static str, jids: &[&str]) -> Pattern {
    let jids: Vec<String> = jids.iter().map(|&jid| jid.to_owned()).collect();
    Pattern::new("iq")
        .kind("set")
        .that(format!("{kind} of {jids:?}"), move |iq| {
            iq.child(kind, BLOCKING).is_some_and(|list| {
                list.children()
                    .map(|item| item.attr("jid").unwrap_or_default())
                    .eq(jids.iter())
            })
        })
}

/// A copy of a message for another resource of the account (XEP-0280): `received` or `sent`, and what
/// the message was.
pub fn carbon(account: &str, direction: &'static str, original: Pattern) -> Pattern {
    let claim = format!("a copy, {direction}, of {original:?}");
    message_from(account).that(claim, move |e| {
        e.child(direction, CARBONS)
            .and_then(|copy| copy.child("forwarded", FORWARD))
            .and_then(|forwarded| forwarded.child("message", CLIENT))
            .is_some_and(|message| original.matches(message))
    })
}
