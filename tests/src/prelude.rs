//! What nearly every test uses.

pub use rookery_proto::xml::Element;

pub use crate::archive::Query;
pub use crate::client::managed::{Broken, Refusal};
pub use crate::client::{Client, Login, Security, befriend, subscribe};
pub use crate::cluster::{Plan, TestCluster};
pub use crate::pattern::{
    Pattern, available_from, block_push, carbon, chat_from, error_of, message_from, presence_from,
    pushed_item, result_of, roster_push, unavailable_from,
};
pub use crate::server::TestServer;
pub use crate::stanza::{
    BLOCKING, CARBONS, CLIENT, DELAY, HINTS, PING, ROSTER, STANZA_IDS, chat_to, element, get,
    message, presence, presence_to, priority, roster_item, set, text, unavailable,
};
pub use crate::stream_management::SM;
pub use crate::wire::{Event, SASL, STREAM, STREAM_ERRORS, TLS, Wire};
