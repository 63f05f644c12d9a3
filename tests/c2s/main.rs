//! What clients see of one node: one module per section of the RFCs and per XEP.

mod rfc6120_4_streams;
mod rfc6120_5_starttls;
mod rfc6120_6_sasl;
mod rfc6120_7_binding;
mod rfc6120_8_stanzas;
mod xep0368_direct_tls;
