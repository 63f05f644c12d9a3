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

/// A message of the type from Ann's desk to Bob.
pub(crate) fn message(kind: &str, children: &str) -> Stanza {
    Stanza::from_xml(&format!(
        "<message xmlns='jabber:client' from='ann@localhost/desk' to='bob@localhost' id='1' \
         type='{kind}'>{children}</message>"
    ))
    .unwrap()
}
