//! What clients see of one node: one module per section of the RFCs and per XEP.

mod rfc6120_4_streams;
mod rfc6120_5_starttls;
mod xep0368_direct_tls;
