//! XEP-0092 Software Version, version 1.1.
//!
//! Supported: name and version of the server. The operating system is never told, which is the
//! safe choice among those of §5 (`<os/>` is optional).

use rookery_proto::xml::Element;

use crate::feature::Feature;

/// Announced in service discovery and listed in the README.
pub const FEATURE: Feature = Feature::full(92, "1.1", &[NS]);

/// Namespace of the requests.
pub const NS: &str = "jabber:iq:version";

/// The `<query/>` of the result.
pub fn version() -> Element {
    Element::new("query", NS)
        .with_child(Element::new("name", NS).with_text("Rookery"))
        .with_child(Element::new("version", NS).with_text(env!("CARGO_PKG_VERSION")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// §2
    #[test]
    fn name_and_version_are_told_and_no_operating_system() {
        let version = version();
        let texts: Vec<_> = version
            .children()
            .map(|child| (child.name().to_owned(), child.text()))
            .collect();
        assert_eq!(
            texts,
            [
                ("name".to_owned(), "Rookery".to_owned()),
                ("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
            ]
        );
    }
}
