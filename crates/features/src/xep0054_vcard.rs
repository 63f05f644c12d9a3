//! XEP-0054 vcard-temp, version 1.3.0.
//!
//! Supported: reading one's own vCard (§3.1), replacing it (§3.2), reading that of another account
//! (§3.3). What stands inside a vCard is kept as it was sent and not checked.

use rookery_proto::error::Condition;
use rookery_proto::stanza::Stanza;
use rookery_proto::xml::Element;

use crate::feature::Feature;

/// Announced in service discovery and listed in the README.
pub const FEATURE: Feature = Feature::full(54, "1.3.0", &[NS]).on_accounts(&[NS]);

/// Namespace of `<vCard/>`.
pub const NS: &str = "vcard-temp";

/// The largest vCard that is accepted, in bytes of XML: room for a photo of some 90 KB in base64.
pub const MAX_BYTES: usize = 128 * 1024;

/// Reads a request to replace one's vCard; the result is the XML to store.
///
/// # Errors
/// `BadRequest` if there is no `<vCard/>`, `PolicyViolation` if it is larger than [`MAX_BYTES`].
pub fn replacement(iq: &Stanza) -> Result<String, Condition> {
    let vcard = iq
        .payload()
        .filter(|payload| payload.is("vCard", NS))
        .ok_or(Condition::BadRequest)?;
    let xml = vcard.to_xml("");
    if xml.len() > MAX_BYTES {
        return Err(Condition::PolicyViolation);
    }
    Ok(xml)
}

/// Answers the owner; an empty `<vCard/>` if none is stored (§3.1).
///
/// # Errors
/// `InternalServerError` if what was stored is no XML.
pub fn own(stored: Option<&str>) -> Result<Element, Condition> {
    match stored {
        Some(xml) => parse(xml),
        None => Ok(Element::new("vCard", NS)),
    }
}

/// Answers somebody else, who may be anyone (§5). `stored` is `None` also for an account that
/// does not exist.
///
/// # Errors
/// `ServiceUnavailable` if there is no vCard: the condition that RFC 6121 §8.5.1 demands if there
/// is no such account, so that the answer does not tell which accounts exist (§3.3).
/// `InternalServerError` if what was stored is no XML.
pub fn of_other(stored: Option<&str>) -> Result<Element, Condition> {
    parse(stored.ok_or(Condition::ServiceUnavailable)?)
}

/// Reads back what [`replacement`] returned.
fn parse(stored: &str) -> Result<Element, Condition> {
    Element::parse(stored, "").map_err(|_| Condition::InternalServerError)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{element, iq};

    const VCARD: &str = "<vCard xmlns='vcard-temp'><FN>Peter Saint-Andre</FN><N>\
        <FAMILY>Saint-Andre</FAMILY><GIVEN>Peter</GIVEN><MIDDLE/></N>\
        <DESC>Check out my blog &amp; more at https://stpeter.im/</DESC></vCard>";

    /// §3.1, §3.2, §3.3
    #[test]
    fn what_was_stored_is_what_is_read() {
        let stored = replacement(&iq("set", VCARD)).unwrap();
        assert_eq!(own(Some(&stored)), Ok(element(VCARD)));
        assert_eq!(of_other(Some(&stored)), Ok(element(VCARD)));
    }

    /// §3.1, §3.3
    #[test]
    fn a_missing_vcard_is_empty_to_its_owner_and_an_error_to_others() {
        assert_eq!(own(None), Ok(element("<vCard xmlns='vcard-temp'/>")));
        assert_eq!(of_other(None), Err(Condition::ServiceUnavailable));
    }

    #[test]
    fn a_vcard_may_not_be_too_large_nor_something_else() {
        let vcard = |bytes| {
            format!(
                "<vCard xmlns='vcard-temp'><BINVAL>{}</BINVAL></vCard>",
                "A".repeat(bytes)
            )
        };
        assert!(replacement(&iq("set", &vcard(MAX_BYTES - 100))).is_ok());
        assert_eq!(
            replacement(&iq("set", &vcard(MAX_BYTES))),
            Err(Condition::PolicyViolation)
        );
        for other in ["<vCard xmlns='other'/>", "<VCARD xmlns='vcard-temp'/>"] {
            assert_eq!(
                replacement(&iq("set", other)),
                Err(Condition::BadRequest),
                "{other}"
            );
        }
    }

    #[test]
    fn broken_data_is_an_error_of_the_server() {
        assert_eq!(own(Some("<vCard")), Err(Condition::InternalServerError));
        assert_eq!(of_other(Some("")), Err(Condition::InternalServerError));
    }
}
