//! Shared by the tests.

pub(crate) mod azure;
pub(crate) mod certificates;
pub(crate) mod event_hubs;
pub(crate) mod http_proxy;
pub(crate) mod lookup_events_server;
pub(crate) mod moto;
pub(crate) mod pipeline;
pub(crate) mod program;
pub(crate) mod proxy;
pub(crate) mod schema;
pub(crate) mod server;
pub(crate) mod terraform;
pub(crate) mod trail;
