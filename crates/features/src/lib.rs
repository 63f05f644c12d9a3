//! The rules of RFC 6121 and of the XEPs: requests are read, decisions taken, answers built.
//!
//! Everything here is pure: no I/O, no clock, no randomness, nothing is awaited. What a decision
//! needs (the roster item, the stored vCard, the time, random bytes) is passed in; what follows
//! from it is returned, and `rookery-actors` carries it out. Addresses, XML and stanzas come from
//! `rookery-proto`.
//!
//! One file per XEP or chapter of an RFC, named after it. The ones to start with:
//!
//! - [`iq::Request`]: which feature an IQ is for. Dispatch is one `match` on it.
//! - [`delivery`]: the table of RFC 6121 §8.5, which says where a stanza goes.
//! - [`subscription`]: the state machine of RFC 6121 Appendix A.
//! - [`sasl`]: how a client proves who it is.
//! - [`Feature`] and [`ALL`]: what the server supports, as service discovery announces it and the
//!   README lists it.
//!
//! A new XEP is a file here, an entry in [`ALL`], a variant of [`iq::Request`] if it has requests,
//! and an arm in the dispatch of `rookery-actors`.

pub mod bind;
pub mod feature;
pub mod iq;
mod nonza;
pub mod stream_features;

pub mod delivery;
pub mod offline;
pub mod password;
pub mod plain;
pub mod presence;
pub mod roster;
pub mod sasl;
pub mod sasl_exchange;
pub mod scram;
pub mod subscription;

pub mod xep0004_data_forms;
pub mod xep0012_last;
pub mod xep0030_disco;
pub mod xep0049_private;
pub mod xep0050_commands;
pub mod xep0054_vcard;
pub mod xep0059_rsm;
pub mod xep0077_register;
pub mod xep0092_version;
pub mod xep0115_caps;
pub mod xep0133_administration;
pub mod xep0191_blocking;
pub mod xep0198_stream_management;
pub mod xep0199_ping;
pub mod xep0202_time;
pub mod xep0227_portable;
pub mod xep0280_carbons;
pub mod xep0297_forwarding;
pub mod xep0313_mam;
pub mod xep0334_hints;
pub mod xep0352_csi;
pub mod xep0359_stanza_ids;
pub mod xep0440_channel_binding;
pub mod xep0441_preferences;

#[cfg(test)]
mod testing;

pub use feature::Feature;

use rookery_proto::ns;

/// What the server supports, RFCs first, each by its number.
pub const ALL: &[Feature] = &[
    Feature::rfc(6120, &[])
        .titled("XMPP: Core")
        .without("no server-to-server streams, no SASL EXTERNAL"),
    Feature::rfc(6121, &[ns::ROSTER]).titled("XMPP: Instant Messaging and Presence"),
    Feature::rfc(7395, &[]).titled("XMPP Subprotocol for WebSocket"),
    Feature::rfc(7622, &[]).titled("XMPP: Address Format"),
    xep0004_data_forms::FEATURE
        .titled("Data Forms")
        .without("only as part of other features' requests"),
    xep0012_last::FEATURE.titled("Last Activity"),
    xep0030_disco::FEATURE.titled("Service Discovery"),
    xep0049_private::FEATURE.titled("Private XML Storage"),
    xep0050_commands::FEATURE
        .titled("Ad-Hoc Commands")
        .without("only commands of one form at most, and nothing is kept in between"),
    xep0054_vcard::FEATURE.titled("vcard-temp"),
    xep0059_rsm::FEATURE.titled("Result Set Management"),
    xep0077_register::FEATURE
        .titled("In-Band Registration")
        .without("no data forms, no redirection, no numeric error codes"),
    Feature::full(82, "1.1.1", &[]).titled("XMPP Date and Time Profiles"),
    xep0092_version::FEATURE.titled("Software Version"),
    xep0115_caps::FEATURE.titled("Entity Capabilities"),
    xep0133_administration::FEATURE
        .titled("Service Administration")
        .without("users, sessions, statistics and announcements, for `admin.jids`"),
    offline::FEATURE.titled("Best Practices for Handling Offline Messages"),
    xep0191_blocking::FEATURE.titled("Blocking Command"),
    xep0198_stream_management::FEATURE.titled("Stream Management"),
    xep0199_ping::FEATURE.titled("XMPP Ping"),
    xep0202_time::FEATURE.titled("Entity Time"),
    offline::DELAY_FEATURE.titled("Delayed Delivery"),
    xep0227_portable::FEATURE
        .titled("Portable Import/Export Format for XMPP-IM Servers")
        .without("PEP nodes, and privacy lists but for blocking, are counted and not imported"),
    xep0280_carbons::FEATURE
        .titled("Message Carbons")
        .without("no copies of errors and of private messages in rooms"),
    xep0297_forwarding::FEATURE.titled("Stanza Forwarding"),
    xep0313_mam::FEATURE
        .titled("Message Archive Management")
        .without("ids are in order, so that they can be predicted"),
    xep0334_hints::FEATURE.titled("Message Processing Hints"),
    xep0359_stanza_ids::FEATURE
        .titled("Unique and Stable Stanza IDs")
        .without("ids are in order, so that they can be predicted"),
    xep0440_channel_binding::FEATURE.titled("SASL Channel-Binding Type Capability"),
    xep0441_preferences::FEATURE.titled("Message Archive Management Preferences"),
];
