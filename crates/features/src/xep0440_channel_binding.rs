//! XEP-0440 SASL Channel-Binding Type Capability, version 1.0.0.
//!
//! Supported: the stream feature (§2), listing what the stream's TLS channel can be bound by.
//! Not supported: `tls-server-end-point`, which §3 asks of every server, because streams provide the
//! data of `tls-exporter` only; TLS 1.2 streams announce nothing.

use rookery_proto::xml::Element;

use crate::feature::Feature;
use crate::scram::ChannelBinding;

/// Listed in the README. A stream feature, so service discovery does not announce it.
pub const FEATURE: Feature =
    Feature::partial(440, "1.0.0", &[]).without("`tls-exporter` on TLS 1.3 only");

/// Namespace of every element in this file.
pub const NS: &str = "urn:xmpp:sasl-cb:0";

/// `<sasl-channel-binding/>`, to stand next to `<mechanisms/>`; `None` if there is nothing to bind
/// to, because the element may not be empty.
pub fn element(bindings: &[ChannelBinding]) -> Option<Element> {
    if bindings.is_empty() {
        return None;
    }
    let mut element = Element::new("sasl-channel-binding", NS);
    for binding in bindings {
        element.push(Element::new("channel-binding", NS).with_attr("type", binding.kind.name()));
    }
    Some(element)
}

#[cfg(test)]
mod tests {
    use rookery_proto::ns;

    use super::*;
    use crate::scram::BindingKind;

    #[test]
    fn the_types_are_listed() {
        let bindings = [BindingKind::TlsExporter, BindingKind::TlsServerEndPoint]
            .map(|kind| ChannelBinding { kind, data: vec![] });
        assert_eq!(
            element(&bindings).unwrap().to_xml(ns::STREAMS),
            "<sasl-channel-binding xmlns='urn:xmpp:sasl-cb:0'>\
             <channel-binding type='tls-exporter'/>\
             <channel-binding type='tls-server-end-point'/></sasl-channel-binding>"
        );
        assert_eq!(element(&[]), None);
    }
}
