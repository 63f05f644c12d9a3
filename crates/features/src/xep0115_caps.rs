//! XEP-0115 Entity Capabilities, version 1.6.0.
//!
//! Supported: the server's own capabilities as a stream feature (§6.3) and the answers to queries
//! for their node (§6.2). What clients announce in their presence passes through untouched.
//! Not supported: caps optimization (§8.4), so `http://jabber.org/protocol/caps#optimize` is not
//! announced; it is optional.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest;
use rookery_proto::xml::Element;

use crate::feature::Feature;
use crate::xep0030_disco::Info;

/// Announced in service discovery and listed in the README.
pub const FEATURE: Feature = Feature::full(115, "1.6.0", &[NS]);

/// Namespace of `<c/>`.
pub const NS: &str = "http://jabber.org/protocol/caps";

/// The URI that identifies this software (§4).
pub const NODE: &str = "urn:x-rookery:server";

/// The verification string of an entity's disco#info (§5.1), with SHA-1.
///
/// Extended information (XEP-0128) is not part of it, since no entity here has any.
pub fn verification_string(info: &Info) -> String {
    let mut identities = info.identities.clone();
    identities.sort_unstable();
    let mut features = info.features.clone();
    features.sort_unstable();

    let mut hashed = String::new();
    for identity in identities {
        // Between type and name stands xml:lang, which identities here do not have.
        for part in [
            identity.category,
            "/",
            identity.kind,
            "//",
            identity.name,
            "<",
        ] {
            hashed.push_str(part);
        }
    }
    for feature in features {
        hashed.push_str(feature);
        hashed.push('<');
    }
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, hashed.as_bytes());
    STANDARD.encode(hash)
}

/// The `<c/>` of the server, for its stream features (§6.3).
pub fn server_caps() -> Element {
    Element::new("c", NS)
        .with_attr("hash", "sha-1")
        .with_attr("node", NODE)
        .with_attr("ver", server_ver())
}

/// Whether a disco#info node names the server's capabilities: `NODE#ver` (§6.2).
pub fn is_server_node(node: &str) -> bool {
    node.strip_prefix(NODE)
        .and_then(|rest| rest.strip_prefix('#'))
        == Some(server_ver())
}

/// The verification string of the server, computed once.
fn server_ver() -> &'static str {
    static VER: LazyLock<String> = LazyLock::new(|| verification_string(Info::of_server()));
    &VER
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xep0030_disco::{Identity, server_info};

    /// §5.2
    #[test]
    fn the_simple_example_has_its_verification_string() {
        let exodus = Info {
            identities: vec![Identity {
                category: "client",
                kind: "pc",
                name: "Exodus 0.9.1",
            }],
            features: vec![
                "http://jabber.org/protocol/muc",
                "http://jabber.org/protocol/disco#info",
                "http://jabber.org/protocol/disco#items",
                "http://jabber.org/protocol/caps",
            ],
        };
        assert_eq!(verification_string(&exodus), "QgayPKawpkPSDYmwT/WM94uAlu0=");
    }

    /// §6.2, §6.3
    #[test]
    fn the_announced_node_is_answered_with_what_was_hashed() {
        let caps = server_caps();
        assert_eq!(caps.attr("hash"), Some("sha-1"));
        let ver = caps.attr("ver").unwrap();
        assert_eq!(ver, verification_string(Info::of_server()));

        let node = format!("{}#{ver}", caps.attr("node").unwrap());
        let answer = server_info(Some(&node)).unwrap();
        assert_eq!(answer.attr("node"), Some(node.as_str()));
        assert_eq!(
            answer.children().count(),
            server_info(None).unwrap().children().count()
        );
    }

    #[test]
    fn other_nodes_are_not_those_of_the_server() {
        let ver = server_ver();
        for node in [
            NODE,
            "",
            "#",
            &format!("{NODE}#"),
            &format!("other#{ver}"),
            ver,
        ] {
            assert!(!is_server_node(node), "{node}");
        }
    }
}
