//! What the tests share.

pub(crate) mod lookup_events_server;
pub(crate) mod pipeline;
pub(crate) mod schema;
pub(crate) mod server;
