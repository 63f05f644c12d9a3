//! The stanzas that tests send.

use rookery_proto::xml::Element;

/// Namespace of stanzas.
pub const CLIENT: &str = "jabber:client";

/// `<message type='chat'/>` with a body.
pub fn chat_to(to: &str, body: &str) -> Element {
    message("chat", to).with_child(text("body", CLIENT, body))
}

/// `<message/>` of a type, without content.
pub fn message(kind: &str, to: &str) -> Element {
    element("message")
        .with_attr("to", to)
        .with_attr("type", kind)
}

/// Available presence to nobody in particular.
pub fn presence() -> Element {
    element("presence")
}

/// Available presence with a priority.
pub fn priority(value: i32) -> Element {
    presence().with_child(text("priority", CLIENT, &value.to_string()))
}

/// Unavailable presence to nobody in particular.
pub fn unavailable() -> Element {
    presence().with_attr("type", "unavailable")
}

/// Presence of a type (subscribe, probe, …) to somebody.
pub fn presence_to(kind: &str, to: &str) -> Element {
    presence().with_attr("to", to).with_attr("type", kind)
}

/// `<iq type='get'/>` to nobody in particular; the client gives it an id.
pub fn get(payload: Element) -> Element {
    element("iq").with_attr("type", "get").with_child(payload)
}

/// `<iq type='set'/>` to nobody in particular; the client gives it an id.
pub fn set(payload: Element) -> Element {
    element("iq").with_attr("type", "set").with_child(payload)
}

/// A stanza's element, without attributes.
pub fn element(name: &str) -> Element {
    Element::new(name, CLIENT)
}

/// An element that holds text.
pub fn text(name: &str, ns: &str, content: &str) -> Element {
    Element::new(name, ns).with_text(content)
}

/// `<query xmlns='jabber:iq:roster'/>` with one item.
pub fn roster_item(jid: &str, name: Option<&str>, groups: &[&str]) -> Element {
    let mut item = Element::new("item", ROSTER).with_attr("jid", jid);
    if let Some(name) = name {
        item.set_attr("name", name);
    }
    for group in groups {
        item.push(text("group", ROSTER, group));
    }
    Element::new("query", ROSTER).with_child(item)
}

/// Namespace of rosters.
pub const ROSTER: &str = "jabber:iq:roster";
/// Namespace of XEP-0191.
pub const BLOCKING: &str = "urn:xmpp:blocking";
/// Namespace of XEP-0199.
pub const PING: &str = "urn:xmpp:ping";
/// Namespace of XEP-0203.
pub const DELAY: &str = "urn:xmpp:delay";
/// Namespace of XEP-0334.
pub const HINTS: &str = "urn:xmpp:hints";
/// Namespace of XEP-0359.
pub const STANZA_IDS: &str = "urn:xmpp:sid:0";
/// Namespace of XEP-0280.
pub const CARBONS: &str = "urn:xmpp:carbons:2";
