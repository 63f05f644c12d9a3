//! XEP-0441 Message Archive Management Preferences, version 0.2.0.
//!
//! Supported: reading and changing them (§2.1), matching of addresses (§2.3).
//! Advanced configuration by ad-hoc commands (§2.2, optional) is not offered.

use rookery_proto::error::Condition;
use rookery_proto::jid::Jid;
use rookery_proto::stanza::{IqType, Kind, Stanza};
use rookery_proto::xml::Element;

use crate::feature::Feature;
use crate::xep0313_mam::NS;

/// Listed in the README; announced by the archive.
pub const FEATURE: Feature = Feature::full(441, "0.2.0", &[]);

/// Addresses that each of the two lists may have.
pub const MAX_JIDS: usize = 1000;

/// What is archived of messages with somebody about whom nothing else is said (§2.1.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ByDefault {
    /// Everything.
    #[default]
    Always,
    /// Nothing.
    Never,
    /// What is from or to a contact in the roster.
    Roster,
}

impl ByDefault {
    /// The value of the attribute `default`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Never => "never",
            Self::Roster => "roster",
        }
    }

    /// Reads the attribute `default`. `None` for an unknown one.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "always" => Some(Self::Always),
            "never" => Some(Self::Never),
            "roster" => Some(Self::Roster),
            _ => None,
        }
    }
}

/// What a user wants archived; everything, unless told otherwise.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Preferences {
    /// For addresses in neither list.
    pub default: ByDefault,
    /// Whose messages are archived (§2.1.2); each address once.
    pub always: Vec<Jid>,
    /// Whose messages are not (§2.1.3); each address once.
    pub never: Vec<Jid>,
}

impl Preferences {
    /// Reads the preferences in a set (§2.1). A list that is missing is empty.
    ///
    /// # Errors
    /// `BadRequest` for another payload, or a `default` that is missing or unknown; `JidMalformed`;
    /// `PolicyViolation` for a list of more than [`MAX_JIDS`].
    pub fn parse(iq: &Stanza) -> Result<Self, Condition> {
        let prefs = iq
            .payload()
            .filter(|payload| iq.kind == Kind::Iq(IqType::Set) && payload.is("prefs", NS))
            .ok_or(Condition::BadRequest)?;
        Self::from_element(prefs)
    }

    /// Reads a `<prefs/>`. A list that is missing is empty.
    ///
    /// # Errors
    /// As those of [`Self::parse`].
    pub fn from_element(prefs: &Element) -> Result<Self, Condition> {
        Ok(Self {
            default: prefs
                .attr("default")
                .and_then(ByDefault::from_name)
                .ok_or(Condition::BadRequest)?,
            always: jids(prefs, "always")?,
            never: jids(prefs, "never")?,
        })
    }

    /// The `<prefs/>` that answers both get and set (§2.1).
    pub fn to_element(&self) -> Element {
        let list = |name, jids: &[Jid]| {
            let jids = jids
                .iter()
                .map(|jid| Element::new("jid", NS).with_text(jid.as_str()));
            Element::new(name, NS).with_children(jids)
        };
        Element::new("prefs", NS)
            .with_attr("default", self.default.as_str())
            .with_child(list("always", &self.always))
            .with_child(list("never", &self.never))
    }

    /// Whether messages from or to `peer` are archived (§2.3). Of two entries the one with a resource
    /// counts, and of two equal ones that in `never`.
    ///
    /// `in_roster` tells whether the peer's bare JID is in the roster; it is asked only if that
    /// matters.
    pub fn archives(&self, peer: &Jid, in_roster: impl FnOnce() -> bool) -> bool {
        let lists = |jid: &str| {
            let listed = |jids: &[Jid]| jids.iter().any(|listed| listed.as_str() == jid);
            if listed(&self.never) {
                Some(false)
            } else {
                listed(&self.always).then_some(true)
            }
        };
        lists(peer.as_str())
            .or_else(|| lists(peer.bare_str()))
            .unwrap_or_else(|| match self.default {
                ByDefault::Always => true,
                ByDefault::Never => false,
                ByDefault::Roster => in_roster(),
            })
    }
}

fn jids(prefs: &Element, list: &str) -> Result<Vec<Jid>, Condition> {
    let mut jids = Vec::new();
    let Some(list) = prefs.child(list, NS) else {
        return Ok(jids);
    };
    for (index, jid) in list
        .children()
        .filter(|child| child.is("jid", NS))
        .enumerate()
    {
        if index == MAX_JIDS {
            return Err(Condition::PolicyViolation);
        }
        jids.push(Jid::parse(jid.text().trim()).map_err(|_| Condition::JidMalformed)?);
    }
    jids.sort_unstable();
    jids.dedup();
    Ok(jids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{element, iq};

    fn parse(attributes: &str, children: &str) -> Result<Preferences, Condition> {
        Preferences::parse(&iq(
            "set",
            &format!("<prefs xmlns='urn:xmpp:mam:2' {attributes}>{children}</prefs>"),
        ))
    }

    fn jid(text: &str) -> Jid {
        Jid::parse(text).unwrap()
    }

    /// §2.1
    #[test]
    fn preferences_are_read() {
        assert_eq!(
            parse(
                "default='roster'",
                "<always><jid>Romeo@montague.lit</jid><jid> romeo@montague.lit</jid></always>\
                 <never><jid>montague@montague.lit/x</jid></never>"
            ),
            Ok(Preferences {
                default: ByDefault::Roster,
                always: vec![jid("romeo@montague.lit")],
                never: vec![jid("montague@montague.lit/x")],
            })
        );
        assert_eq!(
            parse("default='never'", ""),
            Ok(Preferences {
                default: ByDefault::Never,
                ..Preferences::default()
            })
        );
    }

    #[test]
    fn bad_preferences_are_refused() {
        assert_eq!(parse("", ""), Err(Condition::BadRequest));
        assert_eq!(parse("default='some'", ""), Err(Condition::BadRequest));
        assert_eq!(
            parse("default='never'", "<never><jid>@</jid></never>"),
            Err(Condition::JidMalformed)
        );
        let get = iq("get", "<prefs xmlns='urn:xmpp:mam:2' default='never'/>");
        assert_eq!(Preferences::parse(&get), Err(Condition::BadRequest));
        let many = |count: usize| -> String {
            let jids: Vec<_> = (0..count).map(|n| format!("<jid>a{n}@x</jid>")).collect();
            format!("<always>{}</always>", jids.concat())
        };
        assert!(parse("default='never'", &many(MAX_JIDS)).is_ok());
        assert_eq!(
            parse("default='never'", &many(MAX_JIDS + 1)),
            Err(Condition::PolicyViolation)
        );
    }

    /// §2.1
    #[test]
    fn both_lists_are_always_written() {
        assert_eq!(
            Preferences::default().to_element(),
            element("<prefs xmlns='urn:xmpp:mam:2' default='always'><always/><never/></prefs>")
        );
    }

    /// §2.1.1 to §2.1.3, §2.3
    #[test]
    fn addresses_match_by_their_form() {
        let mut preferences = Preferences {
            default: ByDefault::Never,
            always: vec![jid("ann@x"), jid("bob@x/desk"), jid("both@x")],
            never: vec![jid("ann@x/desk"), jid("both@x")],
        };
        let unasked = || -> bool { panic!("the roster does not matter") };
        for (peer, expected) in [
            ("ann@x", true),
            ("ann@x/phone", true),
            ("ann@x/desk", false),
            ("bob@x/desk", true),
            ("bob@x", false),
            ("bob@x/phone", false),
            ("both@x/a", false),
            ("eve@x", false),
        ] {
            assert_eq!(
                preferences.archives(&jid(peer), unasked),
                expected,
                "{peer}"
            );
        }
        preferences.default = ByDefault::Always;
        assert!(preferences.archives(&jid("eve@x"), unasked));
        preferences.default = ByDefault::Roster;
        assert!(preferences.archives(&jid("eve@x"), || true));
        assert!(!preferences.archives(&jid("eve@x"), || false));
        assert!(preferences.archives(&jid("ann@x"), unasked));
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read_back(
            default in 0..3_usize,
            lists in proptest::collection::vec(proptest::collection::btree_set("[a-c]@[x-z](/[a-c])?", 0..5), 2),
        ) {
            let list = |index: usize| -> Vec<Jid> { lists[index].iter().map(|text| jid(text)).collect() };
            let preferences = Preferences {
                default: [ByDefault::Always, ByDefault::Never, ByDefault::Roster][default],
                always: list(0),
                never: list(1),
            };
            let set = Stanza::iq(IqType::Set, "1").with_child(preferences.to_element());
            proptest::prop_assert_eq!(Preferences::parse(&set), Ok(preferences));
        }

        #[test]
        fn any_preferences_are_read_or_refused(default in "always|\\PC{0,8}", text in "\\PC{0,20}") {
            let list = Element::new("never", NS).with_child(Element::new("jid", NS).with_text(&text));
            let prefs = Element::new("prefs", NS).with_attr("default", &default).with_child(list);
            let parsed = Preferences::parse(&Stanza::iq(IqType::Set, "1").with_child(prefs));
            if let Ok(preferences) = parsed {
                proptest::prop_assert_eq!(preferences.default.as_str(), default);
                proptest::prop_assert_eq!(preferences.never.len(), 1);
            }
        }
    }
}
