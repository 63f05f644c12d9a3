//! What clients see of several nodes: as if they were one, also when parts of it die.

mod failures;
mod messages;
mod network_cuts;
mod presence;
mod sessions;
mod slixmpp;

mod moving;
