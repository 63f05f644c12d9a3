//! What clients see of one node: one module per section of the RFCs and per XEP.

mod administration;
mod administration_commands;
mod audit;
mod backups;
mod command_line;
mod comparison;
mod documentation;
mod limits;
mod operations;
mod rfc6120_11_xml;
mod rfc6120_4_streams;
mod rfc6120_5_starttls;
mod rfc6120_6_sasl;
mod rfc6120_7_binding;
mod rfc6120_8_stanzas;
mod rfc6121_2_roster;
mod rfc6121_3_subscriptions;
mod rfc6121_4_presence;
mod rfc6121_8_delivery;
mod rfc7395_websocket;
mod server_requests;
mod slixmpp;
mod starting;
mod tracing;
mod xep0030_disco;
mod xep0049_private;
mod xep0054_vcard;
mod xep0077_register;
mod xep0133_administration;
mod xep0160_offline;
mod xep0191_blocking;
mod xep0368_direct_tls;

mod xep0198_stream_management;
mod xep0280_carbons;
mod xep0313_mam;

mod xep0227_portable;
