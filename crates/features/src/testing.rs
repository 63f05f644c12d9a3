//! Short ways for the tests of this crate to write down stanzas and elements.

use rookery_proto::stanza::Stanza;
use rookery_proto::xml::Element;

/// An IQ of the type, with the payload.
pub(crate) fn iq(kind: &str, payload: &str) -> Stanza {
    Stanza::from_xml(&format!(
        "<iq xmlns='jabber:client' id='1' type='{kind}'>{payload}</iq>"
    ))
    .unwrap()
}

/// An element written as XML.
pub(crate) fn element(xml: &str) -> Element {
    Element::parse(xml, "").unwrap()
}
