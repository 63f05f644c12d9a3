//! The record of what the server supports: one [`Feature`] per specification.
//!
//! Service discovery announces the namespaces, the README shows the table, and tests compare both
//! with the header of each file, so that the three cannot disagree.

use std::fmt::Write as _;

/// The specification that a feature implements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Specification {
    /// An RFC, by its number.
    Rfc(u16),
    /// A XEP, by its number.
    Xep(u16),
}

/// How much of a specification is implemented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Everything that the specification requires of a server.
    Full,
    /// Less than that; [`Feature::gaps`] says what is missing.
    Partial,
}

/// One supported specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feature {
    /// RFC or XEP.
    pub specification: Specification,
    /// The specification's title; set where the feature is listed, in [`crate::ALL`].
    pub title: &'static str,
    /// The version of the XEP that was implemented; empty for an RFC.
    pub version: &'static str,
    /// Whether all of it is supported.
    pub status: Status,
    /// What is left out, as a phrase for the README; empty if nothing is.
    pub gaps: &'static str,
    /// What service discovery announces for the server (XEP-0030 §3.1).
    pub namespaces: &'static [&'static str],
    /// What it announces for the bare JID of an account.
    pub account_namespaces: &'static [&'static str],
}

impl Feature {
    /// A XEP of which everything required of a server is supported.
    pub const fn full(
        number: u16,
        version: &'static str,
        namespaces: &'static [&'static str],
    ) -> Self {
        Self {
            specification: Specification::Xep(number),
            title: "",
            version,
            status: Status::Full,
            gaps: "",
            namespaces,
            account_namespaces: &[],
        }
    }

    /// A XEP of which only a part is supported.
    pub const fn partial(
        number: u16,
        version: &'static str,
        namespaces: &'static [&'static str],
    ) -> Self {
        let mut feature = Self::full(number, version, namespaces);
        feature.status = Status::Partial;
        feature
    }

    /// An RFC; full until [`Feature::without`] says otherwise.
    pub const fn rfc(number: u16, namespaces: &'static [&'static str]) -> Self {
        let mut feature = Self::full(0, "", namespaces);
        feature.specification = Specification::Rfc(number);
        feature
    }

    /// The same feature with the specification's title.
    #[must_use]
    pub const fn titled(mut self, title: &'static str) -> Self {
        self.title = title;
        self
    }

    /// The same feature with what is announced for the bare JID of an account.
    #[must_use]
    pub const fn on_accounts(mut self, namespaces: &'static [&'static str]) -> Self {
        self.account_namespaces = namespaces;
        self
    }

    /// The same feature as a partial one, saying what is left out.
    #[must_use]
    pub const fn without(mut self, gaps: &'static str) -> Self {
        self.status = Status::Partial;
        self.gaps = gaps;
        self
    }

    /// The short name, `RFC 6121` or `XEP-0191`.
    pub fn name(&self) -> String {
        match self.specification {
            Specification::Rfc(number) => format!("RFC {number}"),
            Specification::Xep(number) => format!("XEP-{number:04}"),
        }
    }

    /// Where the specification can be read.
    fn link(&self) -> String {
        match self.specification {
            Specification::Rfc(number) => format!("https://www.rfc-editor.org/rfc/rfc{number}"),
            Specification::Xep(number) => {
                format!("https://xmpp.org/extensions/xep-{number:04}.html")
            }
        }
    }
}

/// Everything that service discovery announces for the server, sorted as XEP-0115 §5.1 sorts and
/// without repetitions.
pub fn announced(features: &[Feature]) -> Vec<&'static str> {
    sorted(features.iter().map(|feature| feature.namespaces))
}

/// The same for the bare JID of an account.
pub fn announced_on_accounts(features: &[Feature]) -> Vec<&'static str> {
    sorted(features.iter().map(|feature| feature.account_namespaces))
}

fn sorted(lists: impl Iterator<Item = &'static [&'static str]>) -> Vec<&'static str> {
    let mut namespaces: Vec<_> = lists.flatten().copied().collect();
    namespaces.sort_unstable();
    namespaces.dedup();
    namespaces
}

/// The comment in the README after which the feature table starts.
pub const TABLE_BEGIN: &str = "<!-- features:begin -->";

/// The comment in the README before which the feature table ends.
pub const TABLE_END: &str = "<!-- features:end -->";

/// The feature table as Markdown: what stands in the README between [`TABLE_BEGIN`] and
/// [`TABLE_END`].
///
/// `cargo run -p rookery-features --example readme_table` prints it.
pub fn readme_table(features: &[Feature]) -> String {
    let mut table =
        String::from("| Specification | Title | Version | Support |\n|---|---|---|---|\n");
    for feature in features {
        let support = match (feature.status, feature.gaps) {
            (Status::Full, _) => "full".to_owned(),
            (Status::Partial, "") => "partial".to_owned(),
            (Status::Partial, gaps) => format!("partial: {gaps}"),
        };
        let _ = writeln!(
            table,
            "| [{}]({}) | {} | {} | {support} |",
            feature.name(),
            feature.link(),
            feature.title,
            feature.version,
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: [Feature; 2] = [
        Feature::rfc(6121, &["b", "a"]).titled("Instant Messaging"),
        Feature::partial(30, "2.5.0", &["a"])
            .on_accounts(&["d", "c"])
            .titled("Service Discovery")
            .without("walking"),
    ];

    #[test]
    fn announced_namespaces_are_sorted_and_appear_once() {
        assert_eq!(announced(&SAMPLE), ["a", "b"]);
        assert_eq!(announced_on_accounts(&SAMPLE), ["c", "d"]);
    }

    #[test]
    fn the_table_has_one_row_per_feature() {
        assert_eq!(
            readme_table(&SAMPLE),
            "| Specification | Title | Version | Support |\n\
             |---|---|---|---|\n\
             | [RFC 6121](https://www.rfc-editor.org/rfc/rfc6121) | Instant Messaging |  | full |\n\
             | [XEP-0030](https://xmpp.org/extensions/xep-0030.html) | Service Discovery | 2.5.0 \
             | partial: walking |\n"
        );
    }
}
