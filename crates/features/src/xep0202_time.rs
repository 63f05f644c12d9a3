//! XEP-0202 Entity Time, version 2.0.
//!
//! Supported: the server's time. Its offset from UTC is always given as `Z`, so that it does not
//! tell where the machine stands (§6).

use std::time::SystemTime;

use rookery_proto::datetime;
use rookery_proto::xml::Element;

use crate::feature::Feature;

/// Announced in service discovery and listed in the README.
pub const FEATURE: Feature = Feature::full(202, "2.0", &[NS]);

/// Namespace of `<time/>`.
pub const NS: &str = "urn:xmpp:time";

/// The `<time/>` of the result.
pub fn time(now: SystemTime) -> Element {
    Element::new("time", NS)
        .with_child(Element::new("tzo", NS).with_text("Z"))
        .with_child(Element::new("utc", NS).with_text(&datetime::format(now)))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::testing::element;

    /// §3
    #[test]
    fn the_time_is_told_in_utc() {
        assert_eq!(
            time(UNIX_EPOCH + Duration::from_secs(1_166_551_115)),
            element(
                "<time xmlns='urn:xmpp:time'><tzo>Z</tzo><utc>2006-12-19T17:58:35Z</utc></time>"
            )
        );
    }
}
