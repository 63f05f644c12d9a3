//! What clients see of several nodes: as if they were one, also when parts of it die.

mod conversations;
mod failures;
mod messages;
mod network_cuts;
mod presence;
mod service_faults;
mod sessions;
mod slixmpp;

// To come with issue 3; they compile, and fail until the server can do it:
// mod chaos;
// mod log_first;
// mod moving;
