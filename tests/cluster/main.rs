//! What clients see of several nodes: as if they were one, also when parts of it die.

mod administration;
mod backpressure;
mod chaos;
mod commands;
mod conversations;
mod failures;
mod log_first;
mod messages;
mod moving;
mod network_cuts;
mod presence;
mod service_faults;
mod sessions;
mod short_outages;
mod slixmpp;
mod status_page;
mod tracing;
